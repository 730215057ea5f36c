"""Image weights against the formulas of yolov5 v7.0, and what is different here on purpose."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wafer.detector.image_weights import (
    class_weights,
    draw_epoch,
    draw_partners,
    image_probabilities,
    instance_counts,
)


def yolov5_class_weights(labels: list[list[int]], nc: int) -> np.ndarray:
    """utils/general.py, labels_to_class_weights, v7.0."""
    classes = np.concatenate([np.asarray(image, int) for image in labels])
    weights = np.bincount(classes, minlength=nc)
    weights[weights == 0] = 1
    weights = 1 / weights
    return weights / weights.sum()


def yolov5_image_weights(labels: list[list[int]], nc: int, maps: np.ndarray) -> np.ndarray:
    """train.py at the start of an epoch, and labels_to_image_weights, v7.0."""
    attached = yolov5_class_weights(labels, nc) * nc
    cw = attached * (1 - maps) ** 2 / nc
    counts = np.array([np.bincount(np.asarray(image, int), minlength=nc) for image in labels])
    return (cw.reshape(1, nc) * counts).sum(1)


labels_without_backgrounds = st.lists(
    st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=30
)
some_maps = st.lists(st.floats(0, 0.99), min_size=4, max_size=4)


@given(labels_without_backgrounds, some_maps)
def test_without_backgrounds_it_is_yolov5(labels: list[list[int]], maps: list[float]) -> None:
    weights = yolov5_image_weights(labels, 4, np.array(maps))
    ours = image_probabilities(instance_counts(labels, classes=4), np.array(maps))
    np.testing.assert_allclose(ours, weights / weights.sum(), rtol=1e-12)


@given(labels_without_backgrounds)
def test_class_weights_are_those_of_yolov5(labels: list[list[int]]) -> None:
    ours = class_weights(instance_counts(labels, classes=4))
    np.testing.assert_allclose(ours, yolov5_class_weights(labels, 4), rtol=1e-12)


def test_the_first_epoch_is_pure_inverse_frequency() -> None:
    counts = instance_counts([[0], [0], [0], [1]], classes=2)
    np.testing.assert_allclose(image_probabilities(counts), [1 / 6, 1 / 6, 1 / 6, 1 / 2])


def test_a_class_without_a_box_counts_as_one() -> None:
    counts = instance_counts([[0], [0]], classes=2)
    np.testing.assert_allclose(class_weights(counts), [1 / 3, 2 / 3])


def test_instances_are_counted_not_images() -> None:
    counts = instance_counts([[0, 0, 0], [0], [1, 1]], classes=2)
    np.testing.assert_allclose(image_probabilities(counts), [3 / 8, 1 / 8, 1 / 2])


@given(labels_without_backgrounds, st.integers(0, 40), some_maps)
def test_backgrounds_keep_the_share_they_have_of_the_data(
    labels: list[list[int]], backgrounds: int, maps: list[float]
) -> None:
    counts = instance_counts([*labels, *[[]] * backgrounds], classes=4)
    probabilities = image_probabilities(counts, np.array(maps))
    assert probabilities.sum() == pytest.approx(1)
    share = backgrounds / (len(labels) + backgrounds)
    assert probabilities[len(labels) :].sum() == pytest.approx(share)


def test_perfect_maps_fall_back_to_inverse_frequency() -> None:
    counts = instance_counts([[0], [0], [0], [1], []], classes=2)
    np.testing.assert_array_equal(
        image_probabilities(counts, np.ones(2)), image_probabilities(counts)
    )


def test_only_backgrounds_are_drawn_evenly() -> None:
    np.testing.assert_allclose(image_probabilities(instance_counts([[], []], classes=1)), [0.5] * 2)


def test_without_weights_every_image_comes_once() -> None:
    drawn = draw_epoch(50, seed=1, epoch=0, probabilities=None)
    assert sorted(drawn) == list(range(50))


def test_a_draw_is_a_function_of_seed_epoch_and_weights() -> None:
    weights = image_probabilities(instance_counts([[0], [1], [1]] * 30, classes=2))

    def draw(seed: int, epoch: int) -> list[int]:
        return list(draw_epoch(90, seed=seed, epoch=epoch, probabilities=weights))

    assert draw(3, 7) == draw(3, 7)
    assert draw(3, 7) != draw(3, 8)
    assert draw(3, 7) != draw(4, 7)


def test_draws_follow_the_weights() -> None:
    probabilities = np.array([0.7, 0.2, 0.1, 0.0])
    drawn = np.concatenate(
        [draw_epoch(4, seed=0, epoch=e, probabilities=probabilities) for e in range(5000)]
    )
    shares = np.bincount(drawn, minlength=4) / len(drawn)
    np.testing.assert_allclose(shares, probabilities, atol=0.01)


def test_partners_follow_the_weights_and_never_have_weight_zero() -> None:
    weights = np.array([0.0, 0.5, 0.0, 0.25, 0.0])
    drawn = draw_partners(np.cumsum(weights), 20_000, random=np.random.default_rng(0))
    shares = np.bincount(drawn, minlength=5) / len(drawn)
    np.testing.assert_allclose(shares, [0, 2 / 3, 0, 1 / 3, 0], atol=0.01)
