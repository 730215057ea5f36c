"""Hyperparameters: what auto stands for, what is refused, files of them."""

from pathlib import Path

import pytest

from wafer.datasets.errors import DataError, TrainingError
from wafer.detector.architecture import build_model
from wafer.detector.hyperparameters import (
    HYPERPARAMETERS,
    RANGES,
    Hyp,
    automatic,
    faults_of,
    given_by_user,
    read_hyp,
    resolve,
)
from wafer.detector.ultralytics_adapter import DetectionTrainer


@pytest.mark.parametrize("steps", [500, 10_000, 10_001])
def test_auto_is_the_choice_of_ultralytics(steps: int) -> None:
    trainer = object.__new__(DetectionTrainer)
    trainer.args = type("Args", (), {"lr0": 0.01, "warmup_bias_lr": 0.1})()
    trainer.data = {"nc": 7}
    model = build_model("yolov5n", names=["a"], channels=1)
    theirs = trainer.build_optimizer(model, name="auto", iterations=steps)
    name, chosen = automatic(steps=steps, classes=7)
    assert name == type(theirs).__name__
    assert chosen["lr0"] == trainer.args.lr0
    assert chosen["warmup_bias_lr"] == trainer.args.warmup_bias_lr
    group = theirs.param_groups[0]
    assert chosen["momentum"] == group.get("momentum", group.get("betas", (None,))[0])


def test_every_default_is_in_its_range() -> None:
    assert faults_of("SGD", HYPERPARAMETERS) == []
    assert RANGES.keys() == HYPERPARAMETERS.keys()


def test_what_is_given_goes_before_what_auto_chooses_and_the_defaults() -> None:
    optimizer, hyp = resolve("auto", {"box": 5.0}, steps=100, classes=6)
    assert optimizer == "AdamW"
    assert (hyp["box"], hyp["lr0"], hyp["momentum"]) == (5.0, 0.001, 0.9)
    optimizer, hyp = resolve("SGD", {}, steps=100, classes=6)
    assert (optimizer, hyp["lr0"], hyp["momentum"]) == ("SGD", 0.01, 0.937)
    assert hyp["warmup_bias_lr"] == 0.1
    assert resolve("AdamW", {}, steps=100, classes=6)[1]["warmup_bias_lr"] == 0
    given = {"warmup_bias_lr": 0.05}
    assert resolve("AdamW", given, steps=100, classes=6)[1]["warmup_bias_lr"] == 0.05


def test_a_learning_rate_beside_auto_is_refused() -> None:
    (fault,) = faults_of("auto", {"lr0": 0.01, "box": 7.5})
    assert fault.startswith("the optimizer auto chooses lr0 itself")


def test_a_file_is_read_with_its_optimizer(tmp_path: Path) -> None:
    path = tmp_path / "hyp.yaml"
    path.write_text("# evolved\noptimizer: SGD\nlr0: 2e-2\nmixup: 0\n")
    assert read_hyp(path) == Hyp({"lr0": 0.02, "mixup": 0.0}, "SGD")


def test_the_command_line_goes_before_the_file(tmp_path: Path) -> None:
    path = tmp_path / "hyp.yaml"
    path.write_text("optimizer: SGD\nlr0: 0.02\nbox: 5\n")
    assert given_by_user(path, optimizer="AdamW", lr0=0.001) == Hyp(
        {"lr0": 0.001, "box": 5.0}, "AdamW"
    )
    assert given_by_user(None, optimizer=None, lr0=None) == Hyp({}, None)


def test_all_faults_of_a_file_are_named_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "hyp.yaml"
    path.write_text("optimizer: sgd\nlr0: 0.1\nrect: true\nmosaic: 1.5\nbox: wide\ndfl: .nan\n")
    with pytest.raises(DataError) as caught:
        read_hyp(path)
    assert [(fault.line, fault.problem) for fault in caught.value.faults] == [
        (1, "--optimizer must be one of auto, SGD, Adam, AdamW, MuSGD"),
        (3, "no hyperparameter is called rect"),
        (4, "mosaic must be a number from 0 to 1, not 1.5"),
        (5, "box must be a number from 0 to 100, not 'wide'"),
        (6, "dfl must be a number from 0 to 100, not nan"),
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("- 1\n- 2\n", "no hyperparameters in it"),
        ("", "no hyperparameters"),
        ("a: [", "not valid YAML"),
        ("lr0: 2024-13-45\n", "not valid YAML"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "hyp.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match=problem):
        read_hyp(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"gone\.yaml: no such file of hyperparameters"):
        read_hyp(tmp_path / "gone.yaml")
