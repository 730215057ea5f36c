from pathlib import Path
from typing import Any

import pytest
import torch

from wafer.datasets.errors import WeightsError
from wafer.weights.convert import architecture_of, convert_yolov5
from wafer.weights.loading import load_tensors

OFFICIAL = Path(__file__).resolve().parents[3] / (
    "shared/weights/yolov5n_v70_coco_fp16.safetensors"
)
needs_official = pytest.mark.skipif(not OFFICIAL.is_file(), reason=f"{OFFICIAL.name} is not here")

STEM = torch.arange(16 * 3 * 6 * 6).reshape(16, 3, 6, 6).half() / 512
SOURCE = {
    "model.0.conv.weight": STEM,
    "model.0.bn.weight": torch.ones(16),
    "model.0.bn.num_batches_tracked": torch.tensor(5),
    "model.24.anchors": torch.ones(3, 3, 2),
}
TARGET: dict[str, tuple[int, ...]] = {
    "model.0.conv.weight": (16, 3, 6, 6),
    "model.0.bn.weight": (16,),
    "model.0.bn.num_batches_tracked": (),
    "model.24.cv2.0.0.conv.weight": (64, 64, 3, 3),
}


def shapes(architecture: str, *, classes: int, channels: int) -> dict[str, tuple[int, ...]]:
    from wafer.detector.architecture import build_model, tensor_shapes

    names = [str(number) for number in range(classes)]
    return tensor_shapes(build_model(architecture, names=names, channels=channels))


@pytest.mark.parametrize("prefix", ["", "model.", "module.", "module.model.model."])
def test_what_fits_is_taken_in_float32(prefix: str) -> None:
    source = {f"{prefix}{name}": tensor for name, tensor in SOURCE.items()}
    report = convert_yolov5(source, TARGET)
    assert report.matched == 3
    assert torch.equal(report.tensors["model.0.conv.weight"], STEM.float())
    assert report.tensors["model.0.conv.weight"].dtype == torch.float32
    assert report.tensors["model.0.bn.num_batches_tracked"] == 5
    assert report.skipped == {f"{prefix}model.24.anchors": "the target has no tensor of this name"}
    assert report.untouched == ("model.24.cv2.0.0.conv.weight",)


def test_a_grey_stem_is_the_same_convolution_on_grey_images() -> None:
    report = convert_yolov5(SOURCE, {**TARGET, "model.0.conv.weight": (16, 1, 6, 6)})
    grey = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.conv2d(grey.expand(2, 3, 32, 32), STEM.float(), stride=2)
    found = torch.nn.functional.conv2d(grey, report.tensors["model.0.conv.weight"], stride=2)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-3)


def test_a_colour_stem_is_the_same_convolution_on_grey_images() -> None:
    stem = STEM[:, :1]
    report = convert_yolov5({**SOURCE, "model.0.conv.weight": stem}, TARGET)
    assert report.tensors["model.0.conv.weight"].shape == (16, 3, 6, 6)
    grey = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.conv2d(grey, stem.float(), stride=2)
    colour = grey.expand(2, 3, 32, 32)
    found = torch.nn.functional.conv2d(colour, report.tensors["model.0.conv.weight"], stride=2)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-3)


def test_a_stem_of_another_width_is_not_summed() -> None:
    source = {
        **SOURCE,
        "model.0.bn.bias": torch.ones(16),
        "model.0.bn.running_mean": torch.ones(16),
    }
    target = {
        **TARGET,
        "model.0.conv.weight": (32, 1, 6, 6),
        "model.0.bn.bias": (16,),
        "model.0.bn.running_mean": (16,),
    }
    report = convert_yolov5(source, target)
    assert report.skipped["model.0.conv.weight"] == (
        "shape (16, 3, 6, 6), the target has (32, 1, 6, 6)"
    )


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({}, "0 of 0 tensors fit"),
        ({"fc.weight": torch.ones(3, 3)}, r"0 of 1 tensors fit \(fc.weight\)"),
        (
            {"model.0.conv.weight": torch.ones(32, 3, 6, 6), "model.0.bn.weight": torch.ones(32)},
            r"0 of 2 tensors fit \(model.0.conv.weight: shape \(32, 3, 6, 6\), "
            r"the target has \(16, 3, 6, 6\); .*--model",
        ),
        (
            {**SOURCE, "model.0.bn.weight": torch.tensor([float("nan")] * 16)},
            "model.0.bn.weight holds NaN",
        ),
        (
            {**SOURCE, "model.0.bn.weight": torch.ones(16, dtype=torch.complex64)},
            "model.0.bn.weight holds complex numbers",
        ),
    ],
)
def test_weights_that_are_refused(source: dict[str, Any], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        convert_yolov5(source, TARGET)


def test_a_file_of_hardly_anything_is_refused() -> None:
    names = [f"model.{layer}.conv.weight" for layer in range(1, 10)]
    target = {**TARGET, **dict.fromkeys(names, (16, 16, 3, 3))}
    with pytest.raises(WeightsError, match="of 2 tensors, and the model has 11 below its head"):
        convert_yolov5(SOURCE, target)
    backbone = {**SOURCE, names[0]: torch.ones(16, 16, 3, 3)}
    assert convert_yolov5(backbone, target).matched == 4


@pytest.mark.parametrize(("filters", "name"), [(16, "yolov5n"), (32, "yolov5s"), (80, "yolov5x")])
def test_the_architecture_by_its_stem(filters: int, name: str) -> None:
    assert architecture_of({"model.model.0.conv.weight": torch.ones(filters, 3, 6, 6)}) == name


@pytest.mark.parametrize(
    "tensors", [{}, {"model.0.conv.weight": torch.ones(17, 3, 6, 6)}, {"a": torch.ones(1)}]
)
def test_other_models_have_no_architecture(tensors: dict[str, torch.Tensor]) -> None:
    with pytest.raises(WeightsError, match="yolov5n, yolov5s, yolov5m, yolov5l, yolov5x"):
        architecture_of(tensors)


@pytest.mark.shared
@needs_official
@pytest.mark.parametrize(("classes", "channels"), [(8, 1), (80, 3)])
def test_342_of_349_official_tensors_fit(classes: int, channels: int) -> None:
    tensors, metadata = load_tensors(OFFICIAL)
    assert (len(tensors), metadata["nc"]) == (349, "80")
    target = shapes("yolov5n", classes=classes, channels=channels)
    report = convert_yolov5(tensors, target)
    assert report.matched == 342
    assert sorted(report.skipped) == [
        "model.24.anchors",
        *(f"model.24.m.{level}.{kind}" for level in range(3) for kind in ("bias", "weight")),
    ]
    assert all(name.startswith("model.24.") for name in report.untouched)
    assert target["model.24.cv3.0.0.conv.weight"][0] == max(64, min(classes, 100))
    for name, tensor in report.tensors.items():
        assert tuple(tensor.shape) == target[name]
    stem = tensors["model.0.conv.weight"].float()
    expected = stem if channels == 3 else stem.sum(1, keepdim=True)
    assert torch.equal(report.tensors["model.0.conv.weight"], expected)


@pytest.mark.shared
@needs_official
def test_official_weights_of_another_size_are_refused() -> None:
    tensors, _ = load_tensors(OFFICIAL)
    with pytest.raises(WeightsError, match=r"another architecture: .*shape \(16,\), the target"):
        convert_yolov5(tensors, shapes("yolov5s", classes=8, channels=1))
