"""What a reader should notice in an evaluation, as plain sentences."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from wafer.evaluation.metrics import golden_set_size, mean_confidence
from wafer.evaluation.results import Evaluation
from wafer.evaluation.tables import percent

__all__ = ["remarks"]

SHOWN_RECALL = 0.9
WORTH_A_WORD = 0.02
CONFUSIONS = 3


def remarks(evaluation: Evaluation) -> tuple[str, ...]:
    """Return what limits the figures and where the mistakes are, the gravest first."""
    return (
        *_optimism(evaluation),
        *_killers(evaluation),
        *_confusions(evaluation),
        *_calibration(evaluation),
        *_support(evaluation),
        *_excluded(evaluation),
    )


def _optimism(evaluation: Evaluation) -> Iterator[str]:
    if evaluation.trained_on:
        yield (
            f"Optimistic: {evaluation.trained_on} of these images, or copies of them, are among "
            "those the model was trained on. After a new split, train again; put copies into one "
            "group."
        )
    elif evaluation.optimistic:
        yield "Optimistic: includes training images. New images will do worse than these figures."


def _killers(evaluation: Evaluation) -> Iterator[str]:
    killers = evaluation.killers
    if killers.escape is None or killers.escape_upper is None:
        return
    escaped = round(killers.escape * killers.images)
    yield (
        f"{escaped} of {killers.images} images of killer classes were automatically given a class "
        f"that is no killer; with so many images the true escape rate may be up to "
        f"{percent(killers.escape_upper)} % (one-sided 95 %)."
    )


def _confusions(evaluation: Evaluation) -> Iterator[str]:
    wrong = evaluation.confusion.copy()
    np.fill_diagonal(wrong, 0)
    names = evaluation.classes.names
    order = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSIONS]
    rows, columns = np.unravel_index(order, wrong.shape)
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        if wrong[row, column]:
            yield (
                f"{names[row]} was taken for {names[column]} in {wrong[row, column]} of "
                f"{evaluation.rates[row].support} images."
            )


def _calibration(evaluation: Evaluation) -> Iterator[str]:
    confidence = mean_confidence(evaluation.answers.confidence)
    if confidence is None or evaluation.accuracy is None:
        return
    gap = confidence - evaluation.accuracy
    if abs(gap) >= WORTH_A_WORD:
        yield (
            f"On average the model is too {'sure' if gap > 0 else 'cautious'}: its mean "
            f"confidence is {percent(confidence)} %, its accuracy {percent(evaluation.accuracy)} %."
        )


def _support(evaluation: Evaluation) -> Iterator[str]:
    needed = golden_set_size(SHOWN_RECALL)
    named = list(zip(evaluation.classes.names, evaluation.rates, strict=True))
    few = [f"{name} ({rates.support})" for name, rates in named if rates.support < needed]
    if few:
        yield (
            f"Fewer than {needed} images, too few to show a recall of {SHOWN_RECALL * 100:.0f} % "
            f"even without a single error: {', '.join(few)}."
        )
    silent = [name for name, rates in named if rates.support and not rates.predicted]
    if silent:
        yield f"Never answered, though there are images of it: {', '.join(silent)}."


def _excluded(evaluation: Evaluation) -> Iterator[str]:
    left_out = {reason: count for reason, count in evaluation.excluded.items() if count}
    if left_out:
        parts = [
            f"{reason.removeprefix('excluded_').replace('_', ' ')} {count}"
            for reason, count in left_out.items()
        ]
        yield f"Images left out: {', '.join(parts)}."
