"""Stratified batches and the augmentation of images."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wafer.classifier.batches import augmented, drawn_images, stratified_batches


@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    batch=st.integers(1, 20),
    seed=st.integers(0, 99),
)
def test_every_image_comes_once_and_each_class_in_proportion(
    counts: list[int], batch: int, seed: int
) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    batches = stratified_batches(labels, batch=batch, random=np.random.default_rng(seed))
    assert sorted(np.concatenate(batches)) == list(range(len(labels)))
    assert min(map(len, batches)) >= min(batch, len(labels))
    for label, number in enumerate(counts):
        seen = [int((labels[each] == label).sum()) for each in batches]
        for found, each in zip(seen, batches, strict=True):
            share = number * len(each) / len(labels)
            assert abs(found - share) <= 1 + len(counts)  # others may crowd in at the ends


def test_a_rare_class_is_in_every_batch_as_long_as_it_has_images() -> None:
    labels = np.array([0] * 96 + [1] * 4)
    batches = stratified_batches(labels, batch=25, random=np.random.default_rng(0))
    assert [int((labels[each] == 1).sum()) for each in batches] == [1, 1, 1, 1]


def test_the_order_is_a_matter_of_the_seed() -> None:
    labels = np.arange(40) % 3
    one, same, other = (
        np.concatenate(stratified_batches(labels, batch=8, random=np.random.default_rng(seed)))
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("channels", [(), (3,)])
@pytest.mark.parametrize("still", [True, False])
def test_what_is_still_is_only_mirrored_and_made_brighter(
    channels: tuple[int, ...], still: bool
) -> None:
    random = np.random.default_rng(0)
    images = random.integers(100, 140, size=(40, 16, 16, *channels)).astype(np.uint8)
    kept = images.copy()
    changed = augmented(images, still=still, random=random)
    np.testing.assert_array_equal(images, kept)
    assert (changed.shape, changed.dtype) == (images.shape, np.uint8)

    def is_scaled(new: np.ndarray, old: np.ndarray) -> bool:
        ratio = new / old
        return bool(np.ptp(ratio) < 0.02 and 0.78 < ratio.mean() < 1.21)

    plain = [
        is_scaled(new, old) or is_scaled(new, old[:, ::-1])
        for new, old in zip(changed, images, strict=True)
    ]
    assert plain == [still] * 40


def test_a_balanced_epoch_shows_all_classes_alike_but_no_image_too_often() -> None:
    labels = np.repeat([0, 1, 4], [60, 27, 3])
    random = np.random.default_rng(0)
    drawn = drawn_images(labels, sampler="balanced", random=random)
    assert np.bincount(labels[drawn]).tolist() == [30, 30, 0, 0, 30]
    assert np.bincount(drawn)[:60].max() == 1
    assert np.bincount(drawn)[60:87].tolist().count(2) == 3
    assert np.bincount(drawn)[87:].tolist() == [10, 10, 10]
    for batch in stratified_batches(labels[drawn], batch=15, random=random):
        assert np.bincount(labels[drawn][batch], minlength=5).tolist() == [5, 5, 0, 0, 5]
    alone = drawn_images(np.repeat([0, 1], [50, 1]), sampler="balanced", random=random)
    assert np.bincount(alone, minlength=51)[50] == 10
    once = drawn_images(labels, sampler="proportional", random=random)
    assert once.tolist() == list(range(90))
