"""The gate: only an engine that gives the golden answers is used, and a crash is only a line."""

import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wafer.datasets.errors import WeightsError
from wafer.detector.classification import classify_images
from wafer.inference.bundle import Bundle
from wafer.inference.engines.backend import Backend, in_batches
from wafer.inference.engines.choosing import BACKENDS, choose_backend
from wafer.inference.engines.probe import Verdict, probe

Make = Callable[..., Bundle]

# A backend in a module of its own, as a child process runs it. Its engine does what FAULT says.
MODULE = """
import os, signal, sys, time
import numpy as np
from pathlib import Path
from wafer.datasets.errors import WeightsError
from wafer.inference.engines.backend import Backend
from wafer.inference.engines.probe import answer_probe
from wafer.inference.records import TopOne

class Brightness:
    def __init__(self, bundle, batch):
        with Path("asked").open("a") as asked:
            asked.write("x")
        if "FAULT" == "refuse":
            raise WeightsError("not on this processor")

    def infer(self, images):
        if "FAULT" == "divide":
            os.kill(os.getpid(), signal.SIGFPE)
        if "FAULT" == "memory":
            os.kill(os.getpid(), signal.SIGKILL)
        if "FAULT" == "raise":
            raise RuntimeError("no kernel for this")
        if "FAULT" == "slow":
            sum(range(5_000_000))
        bright = images.mean((1, 2), dtype=np.float32) / 255
        scores = np.stack([bright, 1 - bright], axis=1)
        if "FAULT" == "wrong":
            scores = scores[:, ::-1].copy()
        boxes = np.stack([bright, bright, bright + 9, bright + 9], axis=1)
        return TopOne.of(boxes, scores, bright[:, None])

    def close(self):
        pass

BACKEND = Backend(
    name="NAME", distribution="numpy", module="NAME", precisions=frozenset({"f32"}), open=Brightness
)
if __name__ == "__main__":
    answer_probe(BACKEND)
"""


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Backend]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{':'.join(sys.path)}")

    def made(fault: str, *, reserve: bool = False) -> Backend:
        name = f"brightness_{fault}"
        (tmp_path / f"{name}.py").write_text(MODULE.replace("FAULT", fault).replace("NAME", name))
        return Backend(
            name=name,
            distribution="numpy",
            module=name,
            precisions=frozenset({"f32"}),
            open=lambda bundle, batch: pytest.fail("opened in the parent"),
            reserve=reserve,
        )

    return made


def asked(tmp_path: Path) -> int:
    return len((tmp_path / "asked").read_text())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "refusal", "times"),
    [
        ("none", "", 1),
        ("wrong", "a score is 0.843 away from the golden one, over 0.001", 1),
        ("refuse", "not on this processor", 1),
        ("divide", "it ends the process with SIGFPE", 1),
        ("memory", "it ends the process with SIGKILL", 2),
        ("raise", "it fails with exit code 1: RuntimeError: no kernel for this", 2),
    ],
)
def test_what_comes_out_is_remembered_unless_it_may_be_chance(
    make: Make,
    backend: Callable[..., Backend],
    tmp_path: Path,
    fault: str,
    refusal: str,
    times: int,
) -> None:
    bundle, engine = make(), backend(fault)
    first = probe(engine, bundle, batch=4)
    assert first.refusal == refusal
    assert (first.seconds > 0) == (not refusal)
    second = probe(engine, bundle, batch=4)
    assert second.refusal == refusal
    assert asked(tmp_path) == times
    probe(engine, bundle, batch=5)
    probe(engine, make(b"other"), batch=4)
    assert asked(tmp_path) == times + 2


def test_an_engine_of_another_precision_or_not_installed_is_not_even_started(
    make: Make, backend: Callable[..., Backend], tmp_path: Path
) -> None:
    engine = backend("none")
    assert probe(engine, make(precision="bf16"), batch=4) == Verdict(
        refusal="does not compute in bf16"
    )
    gone = replace(engine, distribution="no-such-package")
    assert probe(gone, make(), batch=4).refusal == "the package no-such-package is not installed"
    assert not (tmp_path / "asked").exists()


@pytest.mark.slow
def test_a_damaged_memory_is_asked_for_again(
    make: Make, backend: Callable[..., Backend], tmp_path: Path
) -> None:
    bundle, engine = make(), backend("none")
    probe(engine, bundle, batch=4)
    (memory,) = (tmp_path / "cache").rglob("*.json")
    memory.write_text("{")
    assert probe(engine, bundle, batch=4).refusal == ""
    assert asked(tmp_path) == 2


@pytest.mark.slow
def test_auto_takes_the_fastest_that_passes_and_says_why_not_the_others(
    make: Make, backend: Callable[..., Backend], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    backends = [backend(fault) for fault in ("divide", "slow", "none", "wrong")]
    bundle = make()
    assert choose_backend(bundle, backends).name == "brightness_none"
    assert "engine brightness_divide not used: it ends the process with SIGFPE" in caplog.text
    assert "engine brightness_wrong not used: a score is" in caplog.text
    assert choose_backend(bundle, backends, engine="brightness_slow").name == "brightness_slow"


@pytest.mark.slow
def test_a_reserve_is_asked_only_where_no_other_passes(
    make: Make, backend: Callable[..., Backend], tmp_path: Path
) -> None:
    reserve = backend("none", reserve=True)
    slow = backend("slow")
    assert choose_backend(make(), [reserve, slow]) == slow
    assert asked(tmp_path) == 1
    assert choose_backend(make(), [reserve, backend("wrong")]) == reserve


@pytest.mark.slow
def test_where_none_passes_every_reason_is_said(
    make: Make, backend: Callable[..., Backend]
) -> None:
    backends = [backend("wrong"), backend("refuse")]
    with pytest.raises(WeightsError) as caught:
        choose_backend(make(), backends)
    assert "brightness_wrong: a score is" in str(caught.value)
    assert "brightness_refuse: not on this processor" in str(caught.value)
    with pytest.raises(WeightsError, match="choose auto or one of brightness_wrong"):
        choose_backend(make(), backends, engine="tensorrt")


def test_a_gpu_does_not_change_the_precision_of_a_bundle(make: Make, tmp_path: Path) -> None:
    folder = make(precision="bf16").folder
    with pytest.raises(WeightsError, match="is of bf16, for the CPU"):
        classify_images(["a"], weights=folder, output=tmp_path / "p.csv", device="cuda:0")
    with pytest.raises(WeightsError, match="--engine openvino runs on the CPU"):
        classify_images(
            ["a"],
            weights=folder,
            output=tmp_path / "p.csv",
            device="cuda:0",
            engine="openvino",
        )


@pytest.mark.slow
def test_files_that_are_no_network_are_refused_by_the_real_engines(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(WeightsError) as caught:
        choose_backend(make(), BACKENDS)
    assert "openvino: OpenVINO refuses" in str(caught.value)
    assert "onnxruntime: ONNX Runtime refuses" in str(caught.value)


@settings(deadline=None)
@given(number=st.integers(1, 40), batch=st.integers(1, 17), colour=st.booleans())
def test_any_number_of_images_is_answered_in_batches_of_one_size(
    number: int, batch: int, colour: bool
) -> None:
    shape = (number, 4, 4, 3) if colour else (number, 4, 4)
    images = np.random.default_rng(number).integers(0, 256, shape, np.uint8)
    sizes = []

    def run(part: np.ndarray) -> list[np.ndarray]:
        sizes.append(part.shape)
        flat = part.reshape(len(part), -1).astype(np.float32)
        return [flat[:, :4], flat[:, :2] / 255, flat[:, :1]]

    found = in_batches(images, batch, run)
    flat = images.reshape(number, -1)
    np.testing.assert_array_equal(found.boxes, flat[:, :4])
    np.testing.assert_array_equal(found.classes, flat[:, :2].argmax(axis=1))
    np.testing.assert_array_equal(found.features, flat[:, :1])
    assert set(sizes) == {(batch, *shape[1:])}
