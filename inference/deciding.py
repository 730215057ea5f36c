"""The rule of a model as the function that the pipeline calls."""

from __future__ import annotations

from functools import partial

from wafer.datasets.classes import ClassTable
from wafer.evaluation.calibration import PlattMap, decide, decide_class
from wafer.inference.records import Decide
from wafer.weights.decision_rule import DecisionRule

__all__ = ["class_decision_of", "decision_of"]


def decision_of(classes: ClassTable, rule: DecisionRule) -> Decide:
    """Return the function that turns a best box into the answer, by the rule of a model."""
    none = classes.none_class
    return partial(
        decide,
        platt=None if rule.platt is None else PlattMap(*rule.platt),
        none_class=None if none is None else none.name,
        none_review_above=rule.none_review_above,
    )


def class_decision_of(classes: ClassTable, rule: DecisionRule) -> Decide:
    """Return the function that turns the most probable class of an image into the answer."""
    none = classes.none_class
    return partial(
        decide_class,
        none_class=None if none is None else none.name,
        none_review_above=rule.none_review_above,
    )
