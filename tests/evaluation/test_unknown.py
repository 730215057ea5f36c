"""Unknown classes: scores against direct formulas and scikit-learn, and alone as in a batch."""

import math

import numpy as np
import pytest
from scipy.stats import weibull_min
from sklearn.neighbors import NearestNeighbors

from wafer.evaluation.unknown import (
    fit_conformal,
    fit_openmax,
    fit_relative_mahalanobis,
    nearest_distance,
    unit_length,
)


def clouds(number: int = 40, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Points around one corner for each class."""
    random = np.random.default_rng(5)
    labels = np.arange(number * classes) % classes
    return 8 * np.eye(classes)[labels] + random.normal(size=(len(labels), classes)), labels


def test_openmax_is_the_formula_of_the_paper() -> None:
    logits, labels = clouds()
    fitted = fit_openmax(logits, labels, ranks=2)
    image = np.array([6.0, 3.0, -1.0])
    members = [logits[(labels == k) & (logits.argmax(axis=1) == k)] for k in range(3)]
    weights = []
    for k, rank in ((0, 0), (1, 1)):
        mean = members[k].mean(axis=0)
        distances = sorted(math.dist(row, mean) for row in members[k])
        shape, _, scale = weibull_min.fit(distances[-5:], floc=0)
        beyond = 1 - math.exp(-((math.dist(image, mean) / scale) ** shape))
        weights.append(1 - (2 - rank) / 2 * beyond)
    revised = [6 * weights[0], 3 * weights[1], -1.0]
    exponents = np.exp([*revised, 6 * (1 - weights[0]) + 3 * (1 - weights[1])])
    found = fitted.probabilities(image[None])[0]
    np.testing.assert_allclose(found, exponents / exponents.sum(), rtol=1e-9)


def test_openmax_knows_its_classes_and_doubts_what_lies_elsewhere() -> None:
    logits, labels = clouds()
    fitted = fit_openmax(logits, labels)
    known = fitted.probabilities(logits)
    assert (known.argmax(axis=1) == labels).mean() > 0.9
    assert fitted.probabilities(np.array([[20.0, 18.0, 15.0]])).argmax() == 3


def test_openmax_never_doubts_a_class_of_fewer_than_five_right_images() -> None:
    logits, labels = clouds()
    few = (labels != 2) | (np.arange(len(labels)) < 12)
    fitted = fit_openmax(logits[few], labels[few], ranks=1)
    assert np.isnan(fitted.shape).tolist() == [False, False, True]
    far = fitted.probabilities(np.array([[0.0, 0.0, 90.0]]))
    assert far.argmax() == 2
    equal = fit_openmax(np.repeat(np.eye(3), 6, axis=0), np.repeat(np.arange(3), 6))
    assert np.isnan(equal.shape).all()
    assert np.isfinite(equal.probabilities(logits)).all()


@pytest.mark.parametrize("ranks", [0, 4])
def test_openmax_refuses_more_ranks_than_classes(ranks: int) -> None:
    with pytest.raises(ValueError, match="ranks must lie between 1 and 3"):
        fit_openmax(*clouds(), ranks=ranks)


def test_the_nearest_neighbour_is_scikit_learns() -> None:
    random = np.random.default_rng(2)
    known, asked = random.normal(size=(50, 6)), random.normal(size=(20, 6))
    wanted, _ = NearestNeighbors(n_neighbors=1, metric="cosine").fit(known).kneighbors(asked)
    np.testing.assert_allclose(nearest_distance(known, asked), wanted[:, 0], atol=1e-12)
    assert nearest_distance(known, np.zeros((1, 6))).tolist() == [1.0]


def test_relative_mahalanobis_is_the_difference_of_two_distances() -> None:
    features, labels = clouds()
    fitted = fit_relative_mahalanobis(features, labels)
    image = np.array([2.0, 5.0, 1.0])
    near = min((image - m) @ fitted.within @ (image - m) for m in fitted.means)
    centre = image - features.mean(axis=0)
    wanted = near - centre @ fitted.overall @ centre
    assert fitted.distance(image[None])[0] == pytest.approx(wanted)
    assert fitted.distance(features).max() < fitted.distance(np.full((1, 3), 30.0))[0]


def test_with_few_images_what_is_unlike_all_of_them_is_still_the_farthest() -> None:
    # Positive features of unit length, as a network gives them, and more of them than images.
    random = np.random.default_rng(0)
    labels = np.arange(300) % 4
    means = np.abs(random.normal(size=(4, 400)))
    known, new = (
        unit_length(means[labels] + random.normal(size=(300, 400)) * 0.3) for _ in range(2)
    )
    mixed = random.dirichlet(np.ones(4), size=60) @ means
    unlike = unit_length(mixed + np.abs(random.normal(size=(60, 400))))
    fitted = fit_relative_mahalanobis(known, labels)
    assert fitted.distance(new).max() < fitted.distance(unlike).min()


def test_more_features_than_images_still_have_a_distance() -> None:
    random = np.random.default_rng(3)
    fitted = fit_relative_mahalanobis(random.normal(size=(6, 40)), np.arange(6) % 2)
    assert np.isfinite(fitted.distance(random.normal(size=(3, 40)))).all()


def test_no_score_depends_on_the_other_images() -> None:
    logits, labels = clouds()
    asked = np.random.default_rng(9).normal(size=(12, 3)) * 6
    openmax, gauss = fit_openmax(logits, labels), fit_relative_mahalanobis(logits, labels)
    for score in (
        lambda x: openmax.probabilities(x)[:, -1],
        gauss.distance,
        lambda x: nearest_distance(logits, x),
    ):
        alone = np.concatenate([score(row[None]) for row in asked])
        np.testing.assert_allclose(alone, score(asked), atol=1e-12)


def test_p_values_count_the_calibration_images_that_are_no_nearer() -> None:
    scores, answered = np.array([0.1, 0.2, 0.2, 0.9, 0.5]), np.array([0, 0, 0, 0, 1])
    fitted = fit_conformal(scores, answered, classes=3, level=0.25)
    assert (fitted.needed, fitted.few) == (3, (1, 2))
    found = fitted.p_values(np.array([0.2, 1.0, 0.5, 0.05]), np.array([0, 0, 1, 2]))
    np.testing.assert_allclose(found, [4 / 5, 1 / 5, 3 / 6, 1.0])
    with pytest.raises(ValueError, match="level must lie between 0 and 1"):
        fit_conformal(scores, answered, classes=3, level=0)


def test_no_more_known_images_are_rejected_than_was_promised() -> None:
    random = np.random.default_rng(0)
    rejected = []
    for _ in range(300):
        scores = random.exponential(size=50)
        fitted = fit_conformal(scores[:39], np.zeros(39, np.int64), classes=1, level=0.1)
        rejected.append(fitted.p_values(scores[39:], np.zeros(11, np.int64)) <= 0.1)
    assert 0.08 < np.mean(rejected) < 0.115
