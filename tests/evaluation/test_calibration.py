"""From the best score to an answer: the fitted map, the killer limit, the rule."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.metrics import log_loss

from wafer.datasets.records import Box
from wafer.evaluation.calibration import (
    PlattMap,
    decide,
    decide_class,
    fit_platt,
    killer_escape_limit,
)

BOX = Box(10, 20, 30, 40)
scores = st.lists(st.floats(0, 1), min_size=1, max_size=30)


def simulated(count: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    defect = random.random(count) < 0.6
    logits = random.normal(np.where(defect, 1.0, -3.0), 1.5)
    return 1 / (1 + np.exp(-logits)), defect


def test_the_map_is_the_logistic_function_of_the_logit() -> None:
    fitted = PlattMap(slope=2.0, intercept=-1.0)
    assert fitted.probability(0.5) == pytest.approx(1 / (1 + math.e))
    assert fitted.probability(0.8) == pytest.approx(1 / (1 + math.exp(-(2 * math.log(4) - 1))))


def test_the_map_holds_at_both_ends_and_for_steep_slopes() -> None:
    for steep in (1.0, 1e4):
        fitted = PlattMap(slope=steep, intercept=0.0)
        assert 0 <= fitted.probability(0.0) < 0.001
        assert 0.999 < fitted.probability(1.0) <= 1


@pytest.mark.parametrize("values", [(math.nan, 0.0), (0.0, math.inf), (-0.1, 0.0)])
def test_a_map_that_could_mislead_is_refused(values: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="slope"):
        PlattMap(*values)


def test_the_fit_is_the_optimum_of_platts_loss() -> None:
    score, defect = simulated(200)
    positive, negative = defect.sum(), (~defect).sum()
    target = np.where(defect, (positive + 1) / (positive + 2), 1 / (negative + 2))
    logit = np.log(score / (1 - score))

    def loss(parameters: np.ndarray) -> float:
        z = parameters[0] * logit + parameters[1]
        return float((np.logaddexp(0, z) - target * z).sum())

    best = minimize(loss, [1.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-9})
    fitted = fit_platt(score.tolist(), defect.tolist())
    assert fitted is not None
    assert (fitted.slope, fitted.intercept) == pytest.approx(tuple(best.x), abs=1e-4)


def test_the_fit_lowers_the_loss_on_other_images() -> None:
    fitted = fit_platt(*(values.tolist() for values in simulated(400, seed=1)))
    assert fitted is not None
    score, defect = simulated(4000, seed=2)
    probability = [fitted.probability(s) for s in score]
    assert log_loss(defect, probability) < log_loss(defect, score) - 0.02


@pytest.mark.parametrize(
    ("scores", "is_defect"), [([0.1, 0.2], [False, False]), ([0.1], [True]), ([], [])]
)
def test_nothing_is_fitted_without_both_kinds_of_image(
    scores: list[float], is_defect: list[bool]
) -> None:
    assert fit_platt(scores, is_defect) is None


def test_separable_scores_give_a_finite_map_that_separates() -> None:
    fitted = fit_platt([0.01, 0.02, 0.03, 0.9, 0.95], [False, False, False, True, True])
    assert fitted is not None
    assert fitted.probability(0.03) < 0.5 < fitted.probability(0.9)
    assert fitted.probability(0.01) == pytest.approx(1 / 5, abs=0.1)


def test_one_image_of_each_kind_is_enough_for_a_cautious_map() -> None:
    fitted = fit_platt([0.0, 1.0], [False, True])
    assert fitted is not None
    assert fitted.probability(0.0) == pytest.approx(1 / 3, abs=1e-4)
    assert fitted.probability(1.0) == pytest.approx(2 / 3, abs=1e-4)


@pytest.mark.parametrize("scores", [[0.9, 0.9, 0.1, 0.1], [0.4, 0.4, 0.4, 0.4]])
def test_scores_that_say_nothing_give_the_smoothed_share_of_defects(scores: list[float]) -> None:
    fitted = fit_platt(scores, [False, False, False, True])
    assert fitted is not None
    assert fitted.slope == 0
    assert fitted.probability(0.99) == pytest.approx((3 * 1 / 5 + 2 / 3) / 4)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=2, max_size=25))
def test_the_map_never_decreases(rows: list[tuple[float, bool]]) -> None:
    fitted = fit_platt([s for s, _ in rows], [d for _, d in rows])
    if fitted is None:
        return
    values = [fitted.probability(s) for s in (0.0, 0.001, 0.3, 0.5, 0.9, 1.0)]
    assert values == sorted(values)
    assert all(0 <= value <= 1 for value in values)


@pytest.mark.parametrize("score", [-0.1, 1.1, math.nan])
def test_a_score_that_is_no_score_is_refused(score: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        fit_platt([score, 0.5], [True, False])


def test_as_many_scores_as_images() -> None:
    with pytest.raises(ValueError, match="as many scores"):
        fit_platt([0.5], [True, False])


@pytest.mark.parametrize(
    ("probabilities", "limit", "expected"),
    [
        ([], 0.01, 0.0),  # nothing known: everything to review
        ([0.7, 0.9], 0.01, 0.5),  # none of them would be dismissed anyway
        ([0.04, 0.3, 0.9], 0.01, 0.04),  # three images: not one may escape
        ([0.9, 0.3, 0.04], 0.34, 0.3),  # one of three may
        ([0.04, 0.04, 0.9], 0.34, 0.04),  # two at the same value would both escape
        ([0.1] * 2 + [0.9] * 198, 0.01, 0.5),  # exactly 1 %
        ([0.1] * 3 + [0.9] * 197, 0.01, 0.1),  # 1.5 %
        ([0.1] * 29 + [0.9] * 71, 0.29, 0.5),  # 0.29 * 100 is 28.999... in floating point
        ([0.1, 0.2], 1.0, 0.5),
    ],
)
def test_the_killer_limit_by_hand(
    probabilities: list[float], limit: float, expected: float
) -> None:
    assert killer_escape_limit(probabilities, limit=limit) == expected


@settings(deadline=None)
@given(scores, st.floats(0, 1))
def test_no_more_killers_than_the_limit_lie_below_it(values: list[float], limit: float) -> None:
    threshold = killer_escape_limit(values, limit=limit)
    assert threshold <= 0.5
    assert sum(value < threshold for value in values) <= limit * len(values) + 1e-6
    if threshold < 0.5:  # and it is the largest such value
        assert sum(value <= threshold for value in values) > limit * len(values)


def test_a_limit_is_a_share() -> None:
    with pytest.raises(ValueError, match="limit must lie between 0 and 1"):
        killer_escape_limit([0.5], limit=5)


IDENTITY = PlattMap(slope=1.0, intercept=0.0)


@pytest.mark.parametrize(
    ("score", "platt", "none_class", "above", "expected"),
    [
        # With a map and a class for no defect, P(defect) decides; here it equals the score.
        (0.5, IDENTITY, "clean", None, ("scratch", BOX, 0.5, "auto", "")),
        (0.9, IDENTITY, "clean", 0.0, ("scratch", BOX, 0.9, "auto", "")),
        (0.2, IDENTITY, "clean", None, ("clean", None, 0.8, "auto", "")),
        (0.2, IDENTITY, "clean", 0.3, ("clean", None, 0.8, "auto", "")),
        (0.2, IDENTITY, "clean", 0.1, ("clean", None, 0.8, "review", "killer escape limit")),
        (0.2, IDENTITY, "clean", 0.0, ("clean", None, 0.8, "review", "killer escape limit")),
        # Without either, there is always a box.
        (0.25, None, "clean", None, ("scratch", BOX, 0.25, "auto", "")),
        (0.24, None, "clean", None, ("scratch", BOX, 0.24, "review", "low score")),
        (0.24, IDENTITY, None, None, ("scratch", BOX, 0.24, "review", "low score")),
        (0.0, None, None, 0.1, ("scratch", BOX, 0.0, "review", "low score")),
    ],
)
def test_the_rule(score, platt, none_class, above, expected) -> None:  # type: ignore[no-untyped-def]
    answer = decide(
        score, "scratch", BOX, platt=platt, none_class=none_class, none_review_above=above
    )
    assert answer._replace(confidence=round(answer.confidence, 12)) == expected


def test_the_lowest_killer_image_itself_goes_to_review() -> None:
    limit = killer_escape_limit([IDENTITY.probability(score) for score in (0.2, 0.7)])
    rule = {"platt": IDENTITY, "none_class": "clean", "none_review_above": limit}
    assert decide(0.2, "scratch", BOX, **rule).decision == "review"
    assert decide(0.199, "scratch", BOX, **rule).decision == "auto"


def test_a_sure_detector_is_not_overruled_by_its_low_scores() -> None:
    lenient = PlattMap(slope=1.0, intercept=5.0)
    answer = decide(0.1, "scratch", BOX, platt=lenient, none_class="clean", none_review_above=None)
    assert answer == ("scratch", BOX, 0.1, "auto", "")


@pytest.mark.parametrize(
    ("probability", "name", "above", "decision", "reason"),
    [
        (0.5, "scratch", None, "auto", ""),
        (0.49, "scratch", None, "review", "low confidence"),
        (0.49, "clean", 0.1, "review", "low confidence"),
        (0.76, "clean", 0.25, "auto", ""),
        (0.75, "clean", 0.25, "review", "killer escape limit"),
        (0.9, "clean", None, "auto", ""),
        (0.9, "scratch", 0.1, "auto", ""),
        (1.0, "clean", 0.0, "review", "killer escape limit"),
    ],
)
def test_the_rule_of_a_classifier(
    probability: float, name: str, above: float | None, decision: str, reason: str
) -> None:
    answer = decide_class(probability, name, None, none_class="clean", none_review_above=above)
    assert answer == (name, None, probability, decision, reason)
