"""Hyperparameters of a training: their defaults, their ranges, and files of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wafer.datasets.errors import DataError, Fault, TrainingError
from wafer.datasets.yaml_document import NotYamlError, yaml_document

__all__ = [
    "CHOSEN_BY_AUTO",
    "HYPERPARAMETERS",
    "OPTIMIZERS",
    "RANGES",
    "Hyp",
    "automatic",
    "faults_of",
    "given_by_user",
    "read_hyp",
    "resolve",
]

OPTIMIZERS = ("auto", "SGD", "Adam", "AdamW", "MuSGD")

HYPERPARAMETERS: Mapping[str, float] = {
    "lr0": 0.01,
    "lrf": 0.01,
    "momentum": 0.937,
    "weight_decay": 0.0005,
    "warmup_epochs": 3.0,
    "warmup_momentum": 0.8,
    "warmup_bias_lr": 0.1,
    "box": 7.5,
    "cls": 0.5,
    "dfl": 1.5,
    "hsv_h": 0.0,
    "hsv_s": 0.0,
    "hsv_v": 0.4,
    "degrees": 0.0,
    "translate": 0.1,
    "scale": 0.5,
    "shear": 0.0,
    "perspective": 0.0,
    "flipud": 0.5,
    "fliplr": 0.5,
    "mosaic": 1.0,
    "mixup": 0.0,
    "close_mosaic": 10,
}
"""YOLOv5's hyperparameters under ultralytics' names. Ours differ in two: no hue or saturation,
because the images are grey, and vertical flips, because a microscope image has no upper side."""

RANGES: Mapping[str, tuple[float, float]] = {
    **dict.fromkeys(HYPERPARAMETERS, (0.0, 1.0)),
    **dict.fromkeys(("box", "cls", "dfl"), (0.0, 100.0)),
    "warmup_epochs": (0.0, 100.0),
    "degrees": (0.0, 180.0),
    "shear": (0.0, 89.0),
    "perspective": (0.0, 0.001),
    "close_mosaic": (0.0, 10_000.0),
    "momentum": (0.001, 0.999),
}
"""The smallest and the largest value of each that ultralytics and the optimizers take."""

CHOSEN_BY_AUTO = ("lr0", "momentum", "warmup_bias_lr")
"""What the optimizer ``auto`` sets itself."""

# ultralytics' rule for `auto`: https://docs.ultralytics.com/usage/cfg, engine/trainer.py.
LONG_TRAINING = 10_000


@dataclass(frozen=True, slots=True)
class Hyp:
    """What a file of hyperparameters says; None where it does not name the optimizer."""

    values: Mapping[str, float]
    optimizer: str | None


def automatic(*, steps: int, classes: int) -> tuple[str, Mapping[str, float]]:
    """Return the optimizer that ``auto`` stands for, with the hyperparameters it sets.

    It is ultralytics' choice: AdamW with ``lr0 = 0.002 x 5 / (4 + classes)``, or MuSGD for a
    training of more than 10,000 steps.

    Args:
        steps: of the optimizer in the whole training.
        classes: that the detector learns.

    Example:
        >>> automatic(steps=750, classes=6)
        ('AdamW', {'lr0': 0.001, 'momentum': 0.9, 'warmup_bias_lr': 0.0})
    """
    if steps > LONG_TRAINING:
        return "MuSGD", {"lr0": 0.01, "momentum": 0.9, "warmup_bias_lr": 0.0}
    lr0 = round(0.002 * 5 / (4 + classes), 6)
    return "AdamW", {"lr0": lr0, "momentum": 0.9, "warmup_bias_lr": 0.0}


def resolve(
    optimizer: str, given: Mapping[str, float], *, steps: int, classes: int
) -> tuple[str, dict[str, float]]:
    """Return the optimizer and every hyperparameter of a training, nothing left to ``auto``.

    Args:
        optimizer: one of ``OPTIMIZERS``.
        given: values that replace the defaults.
        steps: of the optimizer in the whole training.
        classes: that the detector learns.
    """
    chosen: Mapping[str, float] = {}
    if optimizer.startswith("Adam"):
        chosen = {"warmup_bias_lr": 0.0}  # the default is a hundred times Adam's usual lr0
    if optimizer == "auto":
        optimizer, chosen = automatic(steps=steps, classes=classes)
    return optimizer, {**HYPERPARAMETERS, **chosen, **given}


def faults_of(optimizer: str, given: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with an optimizer and hyperparameters that a user gave."""
    faults = []
    if optimizer not in OPTIMIZERS:
        faults.append(f"--optimizer must be one of {', '.join(OPTIMIZERS)}")
    if optimizer == "auto" and (chosen := [name for name in CHOSEN_BY_AUTO if name in given]):
        faults.append(
            f"the optimizer auto chooses {', '.join(chosen)} itself; name another with --optimizer"
        )
    return [*faults, *filter(None, (_fault(name, value) for name, value in given.items()))]


def _fault(name: str, value: object) -> str | None:
    if name not in RANGES:
        return f"no hyperparameter is called {name}"
    low, high = RANGES[name]
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not low <= float(str(value)) <= high:
        return f"{name} must be a number from {low:g} to {high:g}, not {value!r}"
    return None


def read_hyp(path: Path) -> Hyp:
    """Read a YAML file of hyperparameters, ``name: value`` a line, such as evolve writes.

    A line ``optimizer: NAME`` names the optimizer that they belong to.

    Raises:
        TrainingError: there is no such file.
        DataError: it is not such a file, or values are out of range; all faults together.
    """
    if not path.is_file():
        raise TrainingError(f"{path}: no such file of hyperparameters")
    text = path.read_text(encoding="utf-8", errors="replace")
    remedy = "write `name: number`, one a line, as in hyp_evolve.yaml"
    try:
        content = yaml_document(text)
    except NotYamlError as error:
        fault = Fault(file=str(path), line=error.line, problem=str(error), remedy=remedy)
        raise DataError([fault]) from error
    if not isinstance(content, dict):
        raise DataError([Fault(file=str(path), problem="no hyperparameters in it", remedy=remedy)])
    optimizer = content.pop("optimizer", None)
    content = {name: _number(value) for name, value in content.items()}
    problems = faults_of("SGD" if optimizer is None else str(optimizer), content)
    if problems:
        raise DataError(
            Fault(file=str(path), line=_line_of(text, problem), problem=problem, remedy=remedy)
            for problem in problems
        )
    return Hyp({name: float(value) for name, value in content.items()}, optimizer)


def _number(value: object) -> object:
    """Return a number that YAML takes for text, such as 1e-4, as a number."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def given_by_user(path: Path | None, *, optimizer: str | None, lr0: float | None) -> Hyp:
    """Return what a user chose, on the command line before what a file says.

    Raises:
        TrainingError: there is no such file.
        DataError: it is not such a file, or values are out of range; all faults together.
    """
    hyp = Hyp({}, None) if path is None else read_hyp(path)
    values = dict(hyp.values) if lr0 is None else {**hyp.values, "lr0": lr0}
    return Hyp(values, optimizer or hyp.optimizer)


def _line_of(text: str, problem: str) -> int | None:
    """Return the line of a YAML mapping whose key the problem names."""
    words = set(problem.replace(",", " ").split())
    for number, line in enumerate(text.splitlines(), start=1):
        key = line.partition(":")[0].strip()
        if key in words or (key == "optimizer" and "--optimizer" in words):
            return number
    return None
