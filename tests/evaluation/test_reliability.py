"""Calibration error, Brier score and the risk-coverage curve against hand-computed values."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss

from wafer.evaluation.reliability import (
    ReliabilityBin,
    brier_score,
    calibration_error,
    coverage_at_accuracy,
    equal_mass_bins,
    equal_width_bins,
    risk_coverage,
)

answers = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.5000001, 0.9, 1.0]), st.booleans()),
    min_size=1,
    max_size=50,
)


def arrays(pairs: list[tuple[float, bool]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([c for c, _ in pairs]), np.array([k for _, k in pairs])


@pytest.mark.parametrize(
    ("confidence", "correct", "expected"),
    [
        ([1.0, 1.0], [True, True], 0.0),
        ([1.0, 1.0], [True, False], 0.5),
        ([0.9, 0.9, 0.9, 0.9], [True, True, False, False], 0.4),  # one bin: equal confidences
        ([0.2, 0.8], [False, True], 0.2),  # (|0 - .2| + |1 - .8|) / 2
        ([0.2, 0.8], [True, False], 0.8),
    ],
)
def test_calibration_error_by_hand(
    confidence: list[float], correct: list[bool], expected: float
) -> None:
    c, k = np.array(confidence), np.array(correct)
    assert calibration_error(equal_mass_bins(c, k)) == pytest.approx(expected)
    assert calibration_error(equal_width_bins(c, k)) == pytest.approx(expected)


def test_distinct_confidences_fall_into_bins_of_equal_mass() -> None:
    confidence = np.linspace(0.5, 0.99, 45)
    bins = equal_mass_bins(confidence, confidence > 0)
    assert [b.count for b in bins] == [3] * 15
    assert bins[0].confidence == pytest.approx(confidence[:3].mean())
    assert len(equal_width_bins(confidence, confidence > 0)) == 8  # 0.5 .. 0.99 in fifteenths


def test_the_upper_end_belongs_to_the_last_bin_of_equal_width() -> None:
    bins = equal_width_bins(np.array([1.0, 0.94]), np.array([True, False]))
    assert bins == (ReliabilityBin(count=2, confidence=0.97, accuracy=0.5),)


@settings(deadline=None)
@given(answers, st.sampled_from([1, 2, 15]))
def test_calibration_error_is_at_least_the_gap_of_the_means(
    pairs: list[tuple[float, bool]], bins: int
) -> None:
    confidence, correct = arrays(pairs)
    gap = abs(confidence.mean() - correct.mean())
    for made in (equal_mass_bins, equal_width_bins):
        error = calibration_error(made(confidence, correct, bins=bins))
        assert error is not None
        assert gap - 1e-9 <= error <= 1


@settings(deadline=None)
@given(answers, st.randoms())
def test_no_figure_depends_on_the_order_of_the_images(pairs, random) -> None:  # type: ignore[no-untyped-def]
    shuffled = list(pairs)
    random.shuffle(shuffled)
    one, other = arrays(pairs), arrays(shuffled)
    assert calibration_error(equal_mass_bins(*one)) == pytest.approx(
        calibration_error(equal_mass_bins(*other))
    )
    np.testing.assert_allclose(risk_coverage(*one).risk, risk_coverage(*other).risk)


@pytest.mark.slow
@settings(deadline=None)
@given(answers)
def test_the_brier_score_is_that_of_scikit_learn(pairs: list[tuple[float, bool]]) -> None:
    confidence, correct = arrays(pairs)
    assert brier_score(confidence, correct) == pytest.approx(
        brier_score_loss(correct, confidence, labels=[False, True])
    )


def test_risk_and_coverage_by_hand() -> None:
    curve = risk_coverage(np.array([0.9, 0.6, 0.8, 0.7]), np.array([True, True, False, True]))
    assert curve.coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert curve.risk == pytest.approx([0, 1 / 2, 1 / 3, 1 / 4])
    assert curve.area == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert [coverage_at_accuracy(curve, accuracy=a) for a in (0.75, 0.9, 1.0)] == [1.0, 0.25, 0.25]


def test_a_threshold_cannot_cut_between_equal_confidences() -> None:
    curve = risk_coverage(np.array([0.9, 0.9, 0.5]), np.array([True, False, True]))
    assert curve.risk == pytest.approx([0.5, 0.5, 1 / 3])
    assert curve.complete.tolist() == [False, True, True]
    assert coverage_at_accuracy(curve, accuracy=0.95) == 0.0
    curve = risk_coverage(
        np.array([0.9, 0.5, 0.5, 0.5, 0.5]), np.array([1, 1, 1, 1, 0], dtype=bool)
    )
    assert curve.risk[1] == pytest.approx(0.125)
    assert coverage_at_accuracy(curve, accuracy=0.85) == 0.2


def test_without_answers_there_is_nothing_to_say() -> None:
    none, nothing = np.zeros(0), np.zeros(0, dtype=bool)
    assert calibration_error(equal_mass_bins(none, nothing)) is None
    assert calibration_error(equal_width_bins(none, nothing)) is None
    assert brier_score(none, nothing) is None
    curve = risk_coverage(none, nothing)
    assert curve.area is None
    assert coverage_at_accuracy(curve, accuracy=0.95) == 0.0
