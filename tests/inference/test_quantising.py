"""Eight bits: what is computed in them, and that no processor clips a sum."""

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wafer.inference.engines.open_vino import OpenVinoEngine, openvino, save
from wafer.inference.engines.quantising import quantise

pytestmark = pytest.mark.slow

SIZE, CHANNELS = 16, 32


def network(path: Path) -> None:
    """Two convolutions whose weights and inputs are all as large as they get, with SiLU between."""
    openvino()
    from openvino import opset13 as op

    images = op.parameter([-1, SIZE, SIZE], np.uint8, name="images")
    stacked = op.unsqueeze(images, op.constant(np.int64(1)))
    scaled = op.divide(op.convert(stacked, "f32"), op.constant(np.float32(255)))
    kernel = np.random.default_rng(0).uniform(0.9, 1, (CHANNELS, 1, 3, 3)).astype(np.float32)
    wide = _convolution(op, scaled, kernel, "body/first")
    sigmoid = op.sigmoid(wide, name="body/sigmoid")
    active = op.multiply(wide, sigmoid, name="body/silu")
    kernel = np.random.default_rng(1).uniform(0.9, 1, (4, CHANNELS, 3, 3)).astype(np.float32)
    deep = _convolution(op, active, kernel, "body/second")
    head = _convolution(op, deep, np.eye(4, dtype=np.float32)[:, :, None, None], "head/conv")
    pooled = op.reduce_mean(head, op.constant(np.int64([2, 3])))
    outputs = [op.result(op.multiply(pooled, op.constant(np.float32(1)))) for _ in range(3)]
    for result, name in zip(outputs, ("boxes", "scores", "features"), strict=True):
        result.get_output_tensor(0).set_names({name})
    save(openvino().Model(outputs, [images], "network"), path)


def _convolution(op: Any, data: Any, kernel: np.ndarray, name: str) -> Any:
    padding = [kernel.shape[-1] // 2] * 2
    return op.convolution(data, op.constant(kernel), [1, 1], padding, padding, [1, 1], name=name)


@pytest.fixture(scope="module")
def bright() -> np.ndarray:
    return np.random.default_rng(2).integers(240, 256, (8, SIZE, SIZE)).astype(np.uint8)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, bright: np.ndarray) -> Path:
    folder = tmp_path_factory.mktemp("networks")
    network(folder / "f32.xml")
    for name in ("int8.xml", "again.xml"):
        quantise(
            folder / "f32.xml",
            folder / name,
            bright,
            may_be_int8=lambda operation: operation.startswith("body/"),
        )
    return folder


def inputs_of(model: Any) -> dict[str, set[str]]:
    """Return the kinds of operation that feed each named one."""
    return {
        node.get_friendly_name(): {
            port.get_source_output().get_node().get_type_name() for port in node.inputs()
        }
        for node in model.get_ops()
    }


def test_the_body_is_in_eight_bits_and_sigmoids_and_head_are_not(made: Path) -> None:
    model = openvino().Core().read_model(made / "int8.xml")
    feeding = inputs_of(model)
    assert "FakeQuantize" in feeding["body/first"]
    assert "FakeQuantize" in feeding["body/second"]
    assert feeding["body/sigmoid"] == {"Convolution"}
    assert feeding["head/conv"] == {"Convolution", "Constant"}


def test_weights_use_half_of_their_range(made: Path) -> None:
    model = openvino().Core().read_model(made / "int8.xml")
    weights = [
        node.data
        for node in model.get_ops()
        if node.get_type_name() == "Constant" and node.get_element_type().get_type_name() == "i8"
    ]
    assert sorted(array.shape for array in weights) == [(4, CHANNELS, 3, 3), (CHANNELS, 1, 3, 3)]
    assert [int(np.abs(array.astype(int)).max()) for array in weights] == [64, 64]


def test_no_sum_is_clipped_where_all_is_as_large_as_it_gets(made: Path, bright: np.ndarray) -> None:
    answers = []
    for name in ("f32.xml", "int8.xml"):
        with closing(OpenVinoEngine(made / name, batch=4, precision="int8")) as engine:
            answers.append(engine.infer(bright).scores)
    assert answers[0].min() > 100
    np.testing.assert_allclose(answers[1], answers[0], rtol=0.01)


def test_the_same_images_give_the_same_files(made: Path) -> None:
    for end in ("xml", "bin"):
        first, second = ((made / f"{name}.{end}").read_bytes() for name in ("int8", "again"))
        assert first == second


def test_nothing_is_printed_where_results_go(
    tmp_path: Path, bright: np.ndarray, capfd: pytest.CaptureFixture[str]
) -> None:
    network(tmp_path / "f32.xml")
    quantise(tmp_path / "f32.xml", tmp_path / "int8.xml", bright, may_be_int8=lambda name: True)
    assert capfd.readouterr() == ("", "")
