"""Two models on the same images."""

import numpy as np
import pytest
from scipy.stats import binom

from wafer.evaluation.metrics import weighted_accuracy
from wafer.evaluation.paired import compare_paired, corrected, resampled_interval
from wafer.evaluation.reliability import calibration_error, equal_mass_bins


def test_images_that_only_one_of_them_has_right_decide() -> None:
    first = np.array([True] * 90 + [True] * 8 + [False] * 2)
    second = np.array([True] * 90 + [False] * 8 + [True] * 2)
    found = compare_paired(first, second)
    assert (found.images, found.only_first, found.only_second) == (100, 8, 2)
    assert found.difference == pytest.approx(0.06)
    # 8 or more of 10 tosses of a coin, or 2 or fewer
    assert found.p_value == pytest.approx(2 * binom.cdf(2, 10, 0.5))
    assert found.interval[0] <= 0 < 0.06 < found.interval[1]
    turned = compare_paired(second, first)
    assert (turned.difference, turned.p_value) == (-found.difference, found.p_value)


def test_equal_answers_are_no_evidence() -> None:
    right = np.array([True, False, True])
    found = compare_paired(right, right)
    assert (found.difference, found.interval, found.p_value) == (0, (0, 0), 1)


def test_the_interval_of_a_difference_covers_it_as_often_as_it_says() -> None:
    random = np.random.default_rng(5)
    covered = 0
    for trial in range(200):
        first, second = random.random((2, 300)) < np.array([[0.8], [0.7]])
        low, high = compare_paired(first, second, seed=trial).interval
        covered += low <= 0.1 <= high
    assert 180 <= covered <= 199


def test_corrected_p_values_are_holm_s() -> None:
    assert corrected([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert corrected([0.9, 0.8]) == [1.0, 1.0]
    assert corrected([]) == []


@pytest.mark.slow
def test_the_interval_of_a_figure_lies_around_it() -> None:
    random = np.random.default_rng(0)
    confidence = random.uniform(0.5, 1, 400)
    correct = random.random(400) < confidence

    def ece(c: np.ndarray, k: np.ndarray) -> float | None:
        return calibration_error(equal_mass_bins(c, k))

    value, interval = ece(confidence, correct), resampled_interval(ece, confidence, correct)
    assert value is not None
    assert interval is not None
    # plain percentiles of the resamples would lie above a small calibration error
    assert 0 <= interval[0] < value < interval[1] < 3 * value
    assert resampled_interval(ece, confidence, correct) == interval
    few = resampled_interval(ece, confidence[:50], correct[:50])
    assert few is not None
    assert few[1] - few[0] > interval[1] - interval[0]
    assert resampled_interval(weighted_accuracy, np.zeros(3), np.ones(3, bool)) is None
