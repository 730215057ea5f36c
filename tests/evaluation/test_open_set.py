"""Figures of a score for unknown classes, against scikit-learn and by hand."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from wafer.evaluation.open_set import open_set


def test_auroc_is_scikit_learns_with_ties() -> None:
    random = np.random.default_rng(0)
    known, unknown = random.integers(0, 8, 90) / 8, random.integers(3, 12, 40) / 8
    found = open_set(known, unknown, right=np.ones(90, bool))
    truth = np.repeat([0, 1], [90, 40])
    assert found.auroc == pytest.approx(roc_auc_score(truth, np.concatenate([known, unknown])))


def test_figures_that_can_be_counted_by_hand() -> None:
    known = np.arange(20.0)
    right = known != 0
    found = open_set(known, np.array([0.5, 18.0, 18.5, 30.0]), right=right)
    assert found.fpr95 == 0.5  # 0 to 18 are 95 % of the known ones
    assert found.auroc == pytest.approx((1 + 18.5 + 19 + 20) / 80)
    # an unknown image is accepted at 0.5, 18, 18.5 and 30, where so many right ones are:
    steps = [(0, 0), (18, 18), (18, 18), (19, 19)]
    steps[1] = (17, 18)  # between 17 and 18 both come at once
    area = sum((a + b) / 2 for a, b in steps) / 20 / 4
    assert found.oscr == pytest.approx(area)


def test_a_perfect_score_has_the_accuracy_as_its_area() -> None:
    known, unknown = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.8, 0.9])
    found = open_set(known, unknown, right=np.array([True, True, False, True]))
    assert (found.auroc, found.fpr95, found.oscr) == (1.0, 0.0, 0.75)


@pytest.mark.parametrize(
    ("known", "unknown", "said"),
    [([], [1.0], "are needed"), ([1.0], [], "are needed"), ([np.nan], [1.0], "finite")],
)
def test_what_has_no_figures_is_refused(
    known: list[float], unknown: list[float], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        open_set(np.array(known), np.array(unknown), right=np.ones(len(known), bool))
