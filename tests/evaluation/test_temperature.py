"""Temperature scaling: it finds the temperature that made the labels, and never certainty."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import log_loss as log_loss_of_sklearn

from wafer.evaluation.temperature import fit_temperature, log_loss, probabilities

RANDOM = np.random.default_rng(0)


def test_log_loss_is_that_of_scikit_learn() -> None:
    logits = RANDOM.normal(size=(50, 4)) * 3
    labels = RANDOM.integers(4, size=50)
    wanted = log_loss_of_sklearn(labels, softmax(logits, axis=1), labels=range(4))
    assert log_loss(logits, labels) == pytest.approx(wanted)


@pytest.mark.parametrize("true", [0.5, 1.0, 4.0])
def test_the_temperature_that_made_the_labels_is_found(true: float) -> None:
    logits = RANDOM.normal(size=(20_000, 3)) * 4
    chances = probabilities(logits, temperature=true)
    labels = (RANDOM.random((len(logits), 1)) > chances.cumsum(axis=1)).sum(axis=1)
    assert fit_temperature(logits, labels) == pytest.approx(true, rel=0.05)


def test_huge_logits_that_know_nothing_become_no_certainty() -> None:
    """A network that ran away: with a bound of 100 its answers had confidence 1."""
    logits = RANDOM.normal(size=(200, 4)) * 1e4
    labels = RANDOM.integers(4, size=200)
    found = fit_temperature(logits, labels)
    assert probabilities(logits, temperature=found).max(axis=1).mean() < 0.4


def test_ten_images_all_right_give_no_certainty() -> None:
    labels = np.arange(10) % 2
    logits = np.eye(2)[labels] * 50
    found = fit_temperature(logits, labels)
    top = probabilities(logits, temperature=found).max(axis=1)
    np.testing.assert_allclose(top, 11 / 12, atol=1e-3)


def test_the_class_stays_and_rows_sum_to_one() -> None:
    logits = RANDOM.normal(size=(30, 5))
    found = probabilities(logits, temperature=7.0)
    assert (found.argmax(axis=1) == logits.argmax(axis=1)).all()
    np.testing.assert_allclose(found.sum(axis=1), 1)
