"""The decision `unknown`: each image by itself, each class by its threshold, never more auto."""

import pickle

import numpy as np
import pytest
from scipy.special import softmax

from wafer.evaluation.calibration import KILLER_REASON, Answer
from wafer.evaluation.rejecting import (
    METHODS,
    Known,
    Method,
    Rejection,
    Seen,
    fit_known,
    kept_images,
    rejection_by,
    scores_by,
)
from wafer.evaluation.unknown import fit_conformal, nearest_distance

CLASSES, FEATURES = 3, 12


def images(number: int, *, seed: int, labels: np.ndarray | None = None) -> tuple[Seen, np.ndarray]:
    """Images of classes that lie along an axis each, some of them hard to tell."""
    random = np.random.default_rng(seed)
    labels = np.arange(number) % CLASSES if labels is None else labels
    features = 3 * np.eye(FEATURES)[labels] + random.normal(size=(number, FEATURES)) * 0.4
    logits = 2 * features[:, :CLASSES]
    return seen(logits, features), labels


def seen(logits: np.ndarray, features: np.ndarray) -> Seen:
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    return Seen.of(softmax(logits, axis=1), unit)


@pytest.fixture(scope="module")
def known() -> Known:
    (train, labels), (val, _) = images(120, seed=1), images(150, seed=2)
    return fit_known(train, labels, val=val, classes=CLASSES)


def answers(rejection: Rejection, shown: Seen) -> list[Answer]:
    return [
        rejection.judge(Answer("x", None, confidence, "auto", ""), scores, features, label=label)
        for label, confidence, scores, features in zip(
            shown.answered, shown.confidence, shown.scores, shown.features, strict=True
        )
    ]


def only(shown: Seen, some: slice) -> Seen:
    return Seen.of(shown.scores[some], shown.features[some])


@pytest.mark.parametrize("method", METHODS)
def test_few_known_images_are_rejected_and_most_of_a_new_class(
    known: Known, method: Method
) -> None:
    rejection = rejection_by(method, known)
    ours, _ = images(600, seed=3)
    rejected = [answer.decision == "unknown" for answer in answers(rejection, ours)]
    assert 0.01 < np.mean(rejected) < 0.1
    new, _ = images(60, seed=4, labels=np.full(60, 7))
    found = [answer.decision == "unknown" for answer in answers(rejection, new)]
    assert np.mean(found) > (0.8 if method in ("nn", "mahalanobis") else 0.3)


@pytest.mark.parametrize("method", METHODS)
def test_no_score_depends_on_the_other_images_of_its_batch(known: Known, method: Method) -> None:
    shown, _ = images(6, seed=5)
    together = scores_by(method, known, shown)
    alone = [scores_by(method, known, only(shown, slice(i, i + 1)))[0] for i in range(6)]
    backwards = scores_by(method, known, only(shown, slice(None, None, -1)))
    assert together.tolist() == alone == backwards[::-1].tolist()


@pytest.mark.parametrize("method", METHODS)
def test_a_threshold_is_where_the_p_value_of_its_class_reaches_the_level(
    known: Known, method: Method
) -> None:
    (val, _), (shown, _) = images(150, seed=2), images(300, seed=6)
    fitted = fit_conformal(
        scores_by(method, known, val),
        val.answered,
        classes=CLASSES,
        level=0.05,
    )
    usual = fitted.p_values(scores_by(method, known, shown), shown.answered)
    rejected = [a.decision == "unknown" for a in answers(rejection_by(method, known), shown)]
    assert rejected == (usual <= 0.05).tolist()
    assert any(rejected)


def test_the_nearest_neighbour_is_that_of_the_plain_formula(known: Known) -> None:
    shown, _ = images(20, seed=7)
    wanted = nearest_distance(known.features.astype(float), shown.features.astype(float))
    np.testing.assert_allclose(scores_by("nn", known, shown), wanted, atol=1e-6)


def test_too_few_validation_images_reject_nothing() -> None:
    (train, labels), (val, _), (new, _) = (
        images(60, seed=1),
        images(18, seed=2),
        images(9, seed=3, labels=np.full(9, 7)),
    )
    few = fit_known(train, labels, val=val, classes=CLASSES)
    assert all(np.isinf(few.thresholds[method]).all() for method in METHODS)
    assert {answer.decision for answer in answers(rejection_by("nn", few), new)} == {"auto"}
    enough = fit_known(train, labels, val=images(19, seed=2)[0], classes=CLASSES)
    assert np.isfinite(enough.thresholds["nn"]).all()


def test_a_class_of_few_right_images_is_never_doubted_by_openmax() -> None:
    train, labels = images(64, seed=1, labels=np.array([0] * 30 + [1] * 30 + [2] * 4))
    known = fit_known(train, labels, val=images(60, seed=2)[0], classes=CLASSES)
    far = seen(np.array([[0.0, 0.0, 90.0]]), np.eye(FEATURES)[7:8])
    assert scores_by("openmax", known, far)[0] < 1e-9
    assert scores_by("nn", known, far)[0] > 0.5


def test_a_class_without_a_tail_is_not_judged_by_the_threshold_of_all() -> None:
    random = np.random.default_rng(0)

    def sure(labels: np.ndarray, margin: float) -> Seen:
        logits = random.normal(size=(len(labels), CLASSES)) / 2 + margin * np.eye(CLASSES)[labels]
        return seen(logits, random.random((len(labels), FEATURES)))

    labels = np.array([0, 1] * 300 + [2] * 3)
    train, val = sure(labels, 6), sure(np.arange(120) % 2, 6)
    known = fit_known(train, labels, val=val, classes=CLASSES, methods=("openmax",))
    scores = scores_by("openmax", known, val)
    usual = fit_conformal(scores, val.answered, classes=CLASSES, level=0.05).thresholds(0.05)
    assert known.thresholds["openmax"].tolist() == [*usual[:2], np.inf]
    shown = sure(np.full(60, 2), 3)
    unusual = (shown.answered == 2) & (scores_by("openmax", known, shown) > usual[2])
    assert unusual.sum() > 10
    rejection = rejection_by("openmax", known)
    found = [answer.decision for answer in answers(rejection, shown)]
    assert {decision for decision, rare in zip(found, unusual, strict=True) if rare} == {"auto"}


def test_an_image_of_one_grey_without_features_is_unlike_all(known: Known) -> None:
    nothing = Seen.of(np.full((1, CLASSES), 1 / 3), np.zeros((1, FEATURES)))
    assert scores_by("nn", known, nothing).tolist() == [1.0]
    assert answers(rejection_by("nn", known), nothing)[0].decision == "unknown"


@pytest.mark.parametrize("method", METHODS)
def test_features_that_are_no_numbers_are_never_automatic(known: Known, method: Method) -> None:
    broken = Seen.of(np.full((1, CLASSES), np.nan), np.full((1, FEATURES), np.nan))
    assert answers(rejection_by(method, known), broken)[0].decision == "unknown"
    train, labels = images(60, seed=1)
    with pytest.raises(ValueError, match="no numbers"):
        fit_known(train, labels, val=broken, classes=CLASSES)


def test_an_answer_is_never_made_automatic(known: Known) -> None:
    shown, _ = images(200, seed=8)
    rejection = rejection_by("nn", known)
    review = Answer("none", None, 0.9, "review", KILLER_REASON)
    decisions = set()
    for label, scores, features in zip(shown.answered, shown.scores, shown.features, strict=True):
        found = rejection.judge(review, scores, features, label=label)
        assert found._replace(decision="review", reason=KILLER_REASON) == review
        decisions.add((found.decision, found.reason))
    assert decisions == {("review", KILLER_REASON), ("unknown", "unlike any class")}


def test_large_classes_are_thinned_and_small_ones_kept_whole() -> None:
    labels = np.array([0] * 500 + [1] * 7)
    kept = kept_images(labels, seed=3)
    assert np.bincount(labels[kept]).tolist() == [300, 7]
    assert kept.tolist() == sorted(set(kept))
    assert kept.tolist() == kept_images(labels, seed=3).tolist()
    assert kept.tolist() != kept_images(labels, seed=4).tolist()


@pytest.mark.parametrize("method", METHODS)
def test_a_method_reaches_other_processes_as_it_is(known: Known, method: Method) -> None:
    shown, _ = images(9, seed=9)
    again = pickle.loads(pickle.dumps(rejection_by(method, known)))
    assert answers(again, shown) == answers(rejection_by(method, known), shown)
