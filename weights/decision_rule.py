"""How a best box becomes an answer, as model files and bundles keep it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["DecisionRule"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRule:
    """How a best box becomes an answer; fitted on validation images at the end of training.

    ``platt`` is (slope, intercept) of P(defect) over logit(score), None where nothing could be
    fitted; ``none_review_above`` the P(defect) from which on "no defect" goes to review, None
    where no class is a killer. ``reject`` is the method by which images of no class are told where
    a command names none (`wafer.evaluation.rejecting`), None for not at all.
    """

    platt: tuple[float, float] | None = None
    none_review_above: float | None = None
    reject: Literal["softmax", "openmax", "nn", "mahalanobis"] | None = None
