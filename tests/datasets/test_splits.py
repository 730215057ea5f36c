import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wafer.datasets.duplicates import near_duplicates, perceptual_hash
from wafer.datasets.errors import WaferError
from wafer.datasets.records import Annotation, Box, Sample
from wafer.datasets.splits import missing_classes, split_samples

PARTS = ("train", "val", "test")


def counts(samples: Sequence[Sample]) -> dict[str, list[int]]:
    names = sorted({str(s.image_class) for s in samples})
    found = Counter((s.image_class, s.split) for s in samples)
    return {name: [found[name, part] for part in PARTS] for name in names}


def lots(groups: int, a_group: int, classes: str, seed: int = 0) -> list[Sample]:
    rng = random.Random(seed)
    return [
        Sample(f"{g}/{i}.png", rng.choice(classes), group=str(g))
        for g in range(groups)
        for i in range(a_group)
    ]


@pytest.mark.slow
def test_shares_hold_in_every_class() -> None:
    samples = [Sample(f"{name}{i}.png", name) for name in "ab" for i in range(100)]
    assert counts(split_samples(samples)) == {"a": [65, 15, 20], "b": [65, 15, 20]}


@pytest.mark.slow
def test_other_shares() -> None:
    samples = [Sample(f"{i}.png", "a") for i in range(100)]
    assert counts(split_samples(samples, train=0.8, val=0.2, test=0))["a"] == [80, 20, 0]


@pytest.mark.slow
def test_a_group_is_in_one_split_and_shares_are_near() -> None:
    result = split_samples(lots(60, 10, "aaaaabbc"))
    splits = {group: {s.split for s in result if s.group == group} for group in map(str, range(60))}
    assert all(len(found) == 1 for found in splits.values())
    for name, found in counts(result).items():
        shares = np.array(found) / sum(found)
        assert np.abs(shares - [0.65, 0.15, 0.2]).max() < 0.05, name


@pytest.mark.slow
@pytest.mark.parametrize("shares", [(0.98, 0.01, 0.01), (0.9, 0.02, 0.08)])
def test_shares_finer_than_a_fold_hold_for_many_groups(shares: tuple[float, ...]) -> None:
    samples = [
        Sample(f"{g}/{i}.png", "ab"[g % 2], group=str(g)) for g in range(300) for i in range(3)
    ]
    train, val, test = shares
    result = split_samples(samples, train=train, val=val, test=test)
    found = counts(result)
    assert np.sum(list(found.values()), axis=0).tolist() == [round(900 * s) for s in shares]
    for name in "ab":
        assert np.abs(np.array(found[name]) - np.multiply(450, shares)).max() <= 1.5, name
    assert len({(s.group, s.split) for s in result}) == 300


@pytest.mark.slow
def test_shares_hold_for_thousands_of_groups_of_several_classes() -> None:
    samples = lots(3000, 3, "aaaaaabbbc")
    result = split_samples(samples, train=0.97, val=0.01, test=0.02)
    assert len({(s.group, s.split) for s in result}) == 3000
    for name, found in counts(result).items():
        shares = np.array(found) / sum(found)
        assert np.abs(shares - [0.97, 0.01, 0.02]).max() < 0.002, name


def test_one_split_takes_every_image_even_of_one_group() -> None:
    samples = [Sample("a.png", "x", group="g"), Sample("b.png", group="g")]
    result = split_samples(samples, train=1, val=0, test=0)
    assert result == tuple(replace(sample, split="train") for sample in samples)


@pytest.mark.slow
def test_the_order_of_the_samples_does_not_matter_but_the_seed_does() -> None:
    samples = lots(30, 5, "aab")
    shuffled = random.Random(1).sample(samples, len(samples))
    splits = {s.image: s.split for s in split_samples(samples)}
    assert {s.image: s.split for s in split_samples(shuffled)} == splits
    assert [s.image for s in split_samples(shuffled)] == [s.image for s in shuffled]
    assert {s.image: s.split for s in split_samples(samples, seed=1)} != splits


@pytest.mark.slow
@given(st.integers(0, 2**32), st.lists(st.integers(1, 6), min_size=1, max_size=8))
@settings(max_examples=15, deadline=None)
def test_a_class_of_three_groups_is_in_every_split(seed: int, groups: list[int]) -> None:
    rng = random.Random(seed)
    samples = [
        Sample(f"{c}-{g}-{i}.png", str(c), group=f"{c}-{g}")
        for c, count in enumerate(groups)
        for g in range(count)
        for i in range(rng.randint(1, 4))
    ]
    if sum(groups) < 3:
        return
    result = split_samples(samples, seed=seed)
    missing, filled = missing_classes(result), {s.split for s in result}
    for c, count in enumerate(groups):
        absent = missing.get(str(c), ())
        if max(groups) < 3:  # no class fills all three splits; which one a class misses is open
            assert len(absent) <= 3 - count
        elif count >= 3:
            assert absent == ()
        elif count == 2:
            assert absent == ("val",)
        else:
            assert absent == tuple(p for p in ("val", "test") if p in filled)


@pytest.mark.slow
def test_wafers_with_several_classes_each_still_give_every_class_to_every_split() -> None:
    rare = [Sample(f"{g}/rare.png", "rare", group=str(g)) for g in (3, 17, 28)]
    result = split_samples(lots(40, 8, "aaab") + rare)
    assert missing_classes(result) == {}


@pytest.mark.slow
def test_images_without_a_class_are_split_by_the_rarest_of_their_boxes() -> None:
    box = Box(0, 0, 1, 1)

    def boxed(name: str, *classes: str) -> Sample:
        return Sample(name, None, tuple(Annotation(box, c) for c in classes))

    samples = [boxed(f"a{i}.png", "a") for i in range(97)]
    samples += [boxed(f"b{i}.png", "a", "b") for i in range(3)]
    samples += [Sample(f"u{i}.png") for i in range(20)]
    result = split_samples(samples)
    rare = {s.split for s in result if s.image.startswith("b")}
    unlabelled = Counter(s.split for s in result if s.image.startswith("u"))
    assert rare == set(PARTS)
    assert unlabelled == {"train": 13, "val": 3, "test": 4}


def test_named_groups_hold_for_images_without_one() -> None:
    samples = [Sample(f"{i:02}.png", "a") for i in range(40)]
    groups = {f"{i:02}.png": f"{i // 8}" for i in range(40)}
    for start in range(0, 40, 8):
        result = split_samples(samples, groups=groups)
        assert len({s.split for s in result[start : start + 8]}) == 1


@pytest.mark.parametrize("samples", [[], [Sample("a.png")], lots(2, 50, "ab")])
def test_too_few_groups_are_an_error_that_says_what_to_do(samples: list[Sample]) -> None:
    with pytest.raises(WaferError, match=r"cannot fill 3 splits: add images of other groups, or"):
        split_samples(samples)


@pytest.mark.parametrize(
    "shares", [(0.5, 0.2, 0.2), (1.2, -0.1, -0.1), (0, 0.5, 0.5), (float("nan"), 0, 1)]
)
def test_shares_that_make_no_sense(shares: tuple[float, float, float]) -> None:
    train, val, test = shares
    with pytest.raises(WaferError, match="sum to 1"):
        split_samples(lots(9, 1, "a"), train=train, val=val, test=test)


@pytest.mark.slow
def test_ten_thousand_images_are_split_by_the_shares() -> None:
    samples = [Sample(f"{i}.png", "abc"[i % 3]) for i in range(10_000)]
    assert counts(split_samples(samples))["a"] == pytest.approx([2167, 500, 667], abs=25)


RNG = np.random.default_rng(0)


def texture() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    noise = RNG.integers(0, 256, (200, 200), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 4), None, 0, 255, cv2.NORM_MINMAX)  # type: ignore[return-value, call-overload, no-any-return]


def test_copies_are_near_and_others_far() -> None:
    images = [texture() for _ in range(30)]
    hashes = np.array([perceptual_hash(image) for image in images])
    for image, own in zip(images, hashes, strict=True):
        jpeg = cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], 0)
        brighter = np.clip(image * 0.8 + 20, 0, 255).astype(np.uint8)
        smaller = cv2.resize(image, (140, 140), interpolation=cv2.INTER_AREA)
        for copy in (jpeg, brighter, smaller):
            assert (perceptual_hash(copy) != own).sum() <= 24  # type: ignore[arg-type]
    distances = (hashes[:, None] != hashes[None]).sum(axis=2)
    assert distances[np.triu_indices(30, 1)].min() > 60


def test_near_duplicates_are_named_after_their_first_image() -> None:
    images = {f"{i}.png": texture() for i in range(6)}
    images["copy.png"] = images["4.png"]
    images["again.png"] = np.clip(images["4.png"].astype(int) + 3, 0, 255).astype(np.uint8)
    names = list(images)
    groups = near_duplicates(names, load=images.__getitem__)
    assert groups == {"4.png": "4.png", "copy.png": "4.png", "again.png": "4.png"}
    assert near_duplicates([], load=images.__getitem__) == {}
