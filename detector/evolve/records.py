"""The records of an evolution: its settings, its trials, how each ended, the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

__all__ = ["MODES", "EvolveMode", "Settings", "Trial", "TrialState", "Verdict"]

EvolveMode = Literal["genetic", "halving", "classic"]
MODES: tuple[EvolveMode, ...] = get_args(EvolveMode)

CONFIRMED_ABOVE = 3
"""With more trainings than this the last two are winner and defaults on a fresh seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What decides an evolution: with the same settings the same candidates come.

    ``trainings`` is its cost in full trainings of ``epochs`` epochs, ``defaults`` the complete
    hyperparameters of candidate 0.
    """

    mode: EvolveMode
    trainings: int
    epochs: int
    seed: int
    optimizer: str
    colour: bool
    defaults: Mapping[str, float]

    @property
    def confirmed(self) -> bool:
        """Return whether winner and defaults are trained again on a fresh seed."""
        return self.mode != "classic" and self.trainings > CONFIRMED_ABOVE

    @property
    def searching(self) -> int:
        """Return how many full trainings the search may cost."""
        return self.trainings - 2 if self.confirmed else self.trainings


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One training: a candidate's hyperparameters for so many epochs on one seed.

    Candidate 0 are the defaults. ``rung`` counts up where a candidate is trained for longer after
    it did well (``halving``), within its ``bracket``; else both are 0.
    """

    number: int
    candidate: int
    hyp: Mapping[str, float]
    epochs: int
    seed: int
    stage: Literal["search", "confirm"] = "search"
    bracket: int = 0
    rung: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialState:
    """A trial and how it ended.

    ``fitness`` is ``0.1 x mAP50 + 0.9 x mAP50-95`` on val (YOLOv5), ``metrics`` what the last
    validation measured; a failed trial has neither but a reason. ``folder`` is its run, relative
    to the folder of the evolution.
    """

    trial: Trial
    status: Literal["open", "finished", "failed"] = "open"
    fitness: float | None = None
    metrics: Mapping[str, float] | None = None
    folder: str | None = None
    seconds: float | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How an evolution ended: the trial whose training is the result, and why.

    ``adopted`` tells that its hyperparameters are not the defaults.
    """

    trial: int
    adopted: bool
    reason: str
