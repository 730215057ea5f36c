"""Image weights against the formulas of yolov5 v7.0, and what is different here on purpose."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wafer.detector.image_weights import (
    MODES,
    Mode,
    class_weights,
    draw_epoch,
    draw_partners,
    epoch_length,
    image_probabilities,
    instance_counts,
    repeat_factors,
    smooth_maps,
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
    ours = image_probabilities(instance_counts(labels, classes=4), np.array(maps), cap=None)
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


@given(labels_without_backgrounds, st.integers(0, 40), some_maps, st.sampled_from(MODES))
def test_backgrounds_keep_the_share_they_have_of_the_data(
    labels: list[list[int]], backgrounds: int, maps: list[float], mode: Mode
) -> None:
    counts = instance_counts([*labels, *[[]] * backgrounds], classes=4)
    probabilities = image_probabilities(counts, np.array(maps), mode=mode)
    assert probabilities.sum() == pytest.approx(1)
    share = backgrounds / (len(labels) + backgrounds)
    assert probabilities[len(labels) :].sum() == pytest.approx(share)


@given(
    labels_without_backgrounds,
    some_maps,
    st.sampled_from(MODES),
    st.floats(1, 4),
    st.integers(0, 10),
)
def test_no_image_exceeds_the_cap_and_those_below_keep_their_proportions(
    labels: list[list[int]], maps: list[float], mode: Mode, cap: float, backgrounds: int
) -> None:
    counts = instance_counts([*labels, *[[]] * backgrounds], classes=4)
    free = image_probabilities(counts, np.array(maps), mode=mode, cap=None)
    capped = image_probabilities(counts, np.array(maps), mode=mode, cap=cap)
    limit = cap / len(counts)
    assert capped.sum() == pytest.approx(1)
    assert capped.max() <= max(limit, 1 / len(counts)) * (1 + 1e-9)
    below = (capped < limit * (1 - 1e-6)) & (counts.sum(axis=1) > 0) & (free > 0)
    ratios = capped[below] / free[below]
    np.testing.assert_allclose(ratios, ratios[:1].repeat(len(ratios)), rtol=1e-6)


def test_the_cap_holds_an_image_at_ten_draws_an_epoch() -> None:
    counts = instance_counts([[0]] * 99 + [[1]], classes=2)
    assert image_probabilities(counts, cap=None)[-1] == pytest.approx(0.5)
    assert image_probabilities(counts)[-1] == pytest.approx(10 / 100)


def test_effective_numbers_are_those_of_the_paper() -> None:
    counts = instance_counts([[0]] * 90 + [[1]] * 10, classes=2)
    beta = 99 / 100
    expected = np.array([(1 - beta) / (1 - beta**90), (1 - beta) / (1 - beta**10)])
    np.testing.assert_allclose(
        class_weights(counts, mode="effective"), expected / expected.sum(), rtol=1e-12
    )


@given(labels_without_backgrounds)
def test_effective_numbers_lie_between_equal_weights_and_inverse_frequency(
    labels: list[list[int]],
) -> None:
    counts = instance_counts(labels, classes=4)
    inverse, effective = class_weights(counts), class_weights(counts, mode="effective")
    assert 1 - 1e-9 <= effective.max() / effective.min() <= inverse.max() / inverse.min() + 1e-9


def test_repeat_factors_are_those_of_lvis_at_the_median_frequency() -> None:
    labels = [[0]] * 16 + [[1]] * 8 + [[2]] * 2 + [[0, 2]] + [[]]
    factors = repeat_factors(instance_counts(labels, classes=3))
    median = 8 / 28
    np.testing.assert_allclose(factors[:16], 1)
    np.testing.assert_allclose(factors[16:24], 1)
    np.testing.assert_allclose(factors[24:27], np.sqrt(median / (3 / 28)))
    assert factors[27] == 1


def test_repeat_factors_ignore_how_well_a_class_is_found() -> None:
    counts = instance_counts([[0]] * 9 + [[1]] * 2, classes=2)
    np.testing.assert_array_equal(
        image_probabilities(counts, np.array([0.9, 0.1]), mode="rfs"),
        image_probabilities(counts, None, mode="rfs"),
    )


def test_maps_are_smoothed_over_validations() -> None:
    first = smooth_maps(None, np.array([0.4, 0.0]))
    np.testing.assert_array_equal(first, [0.4, 0.0])
    np.testing.assert_allclose(smooth_maps(first, np.array([0.8, 0.2])), [0.6, 0.1])


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


@given(labels_without_backgrounds, st.integers(0, 9), st.sampled_from(MODES), st.integers(0, 99))
def test_every_image_comes_as_often_as_its_weight_says_rounded(
    labels: list[list[int]], backgrounds: int, mode: Mode, epoch: int
) -> None:
    counts = instance_counts([*labels, *[[]] * backgrounds], classes=4)
    probabilities = image_probabilities(counts, mode=mode)
    length = epoch_length(counts, mode=mode)
    drawn = draw_epoch(length, seed=1, epoch=epoch, probabilities=probabilities)
    assert len(drawn) == length
    times = np.bincount(drawn, minlength=len(counts))
    expected = length * probabilities
    assert (times >= np.floor(expected - 1e-6)).all()
    assert (times <= np.ceil(expected + 1e-6)).all()


def test_repeat_factors_lengthen_an_epoch_and_leave_no_image_out() -> None:
    counts = instance_counts([[0]] * 16 + [[1]] * 4 + [[2]] + [[]] * 9, classes=3)
    factors = repeat_factors(counts)[:21]
    assert epoch_length(counts, mode="rfs") == int(np.ceil(30 * factors.mean()))
    assert epoch_length(counts, mode="yolov5") == epoch_length(counts, mode=None) == 30
    probabilities = image_probabilities(counts, mode="rfs")
    for epoch in range(20):
        drawn = draw_epoch(
            epoch_length(counts, mode="rfs"), seed=0, epoch=epoch, probabilities=probabilities
        )
        assert set(drawn) == set(range(30))


def test_partners_follow_the_weights_and_never_have_weight_zero() -> None:
    weights = np.array([0.0, 0.5, 0.0, 0.25, 0.0])
    drawn = draw_partners(np.cumsum(weights), 20_000, random=np.random.default_rng(0))
    shares = np.bincount(drawn, minlength=5) / len(drawn)
    np.testing.assert_allclose(shares, [0, 2 / 3, 0, 1 / 3, 0], atol=0.01)
