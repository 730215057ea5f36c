"""Counts, rates and intervals against hand-computed values and scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, f1_score, precision_recall_fscore_support

from wafer.datasets.classes import ClassTable, DefectClass
from wafer.datasets.records import Sample
from wafer.evaluation.answers import pair_answers
from wafer.evaluation.metrics import (
    class_rates,
    clopper_pearson,
    confusion_counts,
    golden_set_size,
    killer_rates,
    lower_bound,
    macro_f1,
    mean_confidence,
    weighted_accuracy,
    weighted_f1,
)
from wafer.evaluation.records import Decision, Prediction

answers_of_four_classes = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60
)
confident_answers = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60)


def test_the_test_vector_of_the_definitions() -> None:
    confidence, correct = np.array([1, 0.5, 0.5]), np.array([True, False, True])
    assert mean_confidence(confidence) == pytest.approx(2 / 3)
    assert correct.mean() == pytest.approx(2 / 3)
    assert weighted_accuracy(confidence, correct) == 0.75


def test_weighted_accuracy_is_null_without_any_confidence() -> None:
    assert weighted_accuracy(np.zeros(3), np.array([True, False, True])) is None
    assert weighted_accuracy(np.zeros(0), np.zeros(0, dtype=bool)) is None
    assert mean_confidence(np.zeros(0)) is None


@settings(deadline=None)
@given(confident_answers)
def test_weighted_accuracy_is_accuracy_plus_covariance_over_mean(
    answers: list[tuple[float, bool]],
) -> None:
    confidence = np.array([c for c, _ in answers])
    correct = np.array([k for _, k in answers])
    if confidence.mean() < 1e-6:
        return
    covariance = np.cov(confidence, correct, bias=True)[0, 1]
    expected = correct.mean() + covariance / confidence.mean()
    assert weighted_accuracy(confidence, correct) == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
@settings(deadline=None)
@given(answers_of_four_classes)
def test_class_rates_agree_with_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    truth, predicted = np.array(pairs).T
    counts = confusion_counts(truth, predicted, classes=4)
    assert counts.tolist() == confusion_matrix(truth, predicted, labels=range(4)).tolist()
    rates = class_rates(counts)
    precision, recall, f1, support = precision_recall_fscore_support(
        truth, predicted, labels=range(4), zero_division=np.nan
    )
    for index, rate in enumerate(rates):
        assert rate.support == support[index]
        assert (np.nan if rate.precision is None else rate.precision) == pytest.approx(
            precision[index], nan_ok=True
        )
        assert (np.nan if rate.recall is None else rate.recall) == pytest.approx(
            recall[index], nan_ok=True
        )
        assert (np.nan if rate.f1 is None else rate.f1) == pytest.approx(f1[index], nan_ok=True)
    assert macro_f1(rates) == pytest.approx(f1_score(truth, predicted, average="macro"))
    assert weighted_f1(rates) == pytest.approx(f1_score(truth, predicted, average="weighted"))


def test_a_class_never_predicted_has_no_precision_and_an_absent_class_no_recall() -> None:
    counts = confusion_counts(np.array([0, 0, 1]), np.array([0, 2, 0]), classes=4)
    first, never_predicted, absent, unheard_of = class_rates(counts)
    assert (first.precision, first.recall, first.f1) == (0.5, 0.5, 0.5)
    assert (never_predicted.precision, never_predicted.precision_interval) == (None, None)
    assert (never_predicted.recall, never_predicted.f1) == (0.0, 0.0)
    assert (absent.recall, absent.recall_interval, absent.recall_lower) == (None, None, None)
    assert (absent.precision, absent.f1) == (0.0, 0.0)
    assert (unheard_of.precision, unheard_of.recall, unheard_of.f1) == (None, None, None)
    assert macro_f1(class_rates(counts)) == pytest.approx(0.5 / 3)


def test_44_of_44_right_prove_no_more_than_93_percent() -> None:
    assert lower_bound(44, 44) == pytest.approx(0.05 ** (1 / 44))
    assert lower_bound(44, 44) == pytest.approx(0.934, abs=5e-4)


@pytest.mark.parametrize(
    ("successes", "trials"), [(0, 1), (1, 1), (0, 44), (44, 44), (43, 44), (8, 10), (900, 1000)]
)
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_clopper_pearson_agrees_with_scipy(successes: int, trials: int, confidence: float) -> None:
    expected = binomtest(successes, trials).proportion_ci(confidence, method="exact")
    assert clopper_pearson(successes, trials, confidence=confidence) == pytest.approx(
        (expected.low, expected.high)
    )


def test_no_trials_no_interval() -> None:
    assert clopper_pearson(0, 0) is None
    assert lower_bound(0, 0) is None


@pytest.mark.parametrize(
    ("target", "sizes"),
    [
        (0.90, (29, 46, 61)),
        (0.95, (59, 93, 124)),
        (0.98, (149, 236, 313)),
        (0.99, (299, 473, 628)),
    ],
)
def test_golden_set_sizes(target: float, sizes: tuple[int, int, int]) -> None:
    assert tuple(golden_set_size(target, errors=errors) for errors in range(3)) == sizes
    for errors, size in enumerate(sizes):
        below = lower_bound(size - 1 - errors, size - 1)
        assert below is not None
        assert below < target


KILLERS = ClassTable(
    (
        DefectClass(0, "clean", "none"),
        DefectClass(1, "open", killer=True),
        DefectClass(2, "bridge", killer=True),
        DefectClass(3, "dust"),
    )
)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        # truth, answer, decision -> images, escape, dismissed, overkill
        ([("open", "clean", "auto"), ("open", "open", "auto")], (2, 0.5, 0.5, None)),
        ([("open", "dust", "auto"), ("open", "open", "auto")], (2, 0.5, 0.0, None)),
        ([("open", "clean", "review"), ("open", "clean", "unknown")], (2, 0.0, 0.0, None)),
        ([("open", "bridge", "auto")], (1, 0.0, 0.0, None)),
        ([("dust", "open", "auto"), ("clean", "clean", "auto")], (0, None, None, 0.5)),
        ([("dust", "open", "review")], (0, None, None, 0.0)),
    ],
)
def test_killer_escape_and_overkill(
    rows: list[tuple[str, str, Decision]], expected: tuple[float | None, ...]
) -> None:
    samples = [Sample(f"{i}.png", truth) for i, (truth, _, _) in enumerate(rows)]
    predictions = [
        Prediction(f"{i}.png", None, answer, 0.9, decision)
        for i, (_, answer, decision) in enumerate(rows)
    ]
    rates = killer_rates(pair_answers(samples, predictions, classes=KILLERS), classes=KILLERS)
    assert (rates.images, rates.escape, rates.dismissed, rates.overkill) == expected


def test_no_escape_among_few_killers_leaves_a_wide_upper_bound() -> None:
    samples = [Sample(f"{i}.png", "open") for i in range(10)]
    predictions = [Prediction(f"{i}.png", None, "open", 0.9, "auto") for i in range(10)]
    rates = killer_rates(pair_answers(samples, predictions, classes=KILLERS), classes=KILLERS)
    assert rates.escape == 0.0
    assert rates.escape_upper == pytest.approx(1 - 0.05 ** (1 / 10))
