"""CutMix: no known defect is cut or covered, and an image counts with what is left of it."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wafer.classifier.cutmix import Boxes, cutmix
from wafer.classifier.images import choose_images, load_images
from wafer.datasets.workspace import Workspace

SIDE = 32
NONE = np.empty((0, 4))

corner = st.integers(0, SIDE - 2)


@st.composite
def known(draw: st.DrawFn) -> Boxes:
    left, top = draw(corner), draw(corner)
    right, bottom = draw(st.integers(left + 1, SIDE)), draw(st.integers(top + 1, SIDE))
    return np.array([[left, top, right, bottom]], float)


def pair(
    one: Boxes | None,
    two: Boxes | None,
    *,
    seed: int = 0,
    whole: tuple[bool, bool] = (False, False),
) -> tuple[np.ndarray, np.ndarray]:
    """Mix an image of 10 and class 0 with one of 20 and class 1, where both get the chance."""
    images = np.stack([np.full((SIDE, SIDE), grey, np.uint8) for grey in (10, 20)])
    return cutmix(
        images,
        np.eye(2, dtype=np.float32),
        [one, two],
        np.array(whole),
        probability=1.0,
        random=np.random.default_rng(seed),
    )


def inside(image: np.ndarray, boxes: Boxes) -> np.ndarray:
    (left, top, right, bottom) = boxes[0].astype(int)
    return image[top:bottom, left:right]


@given(one=known(), two=known(), seed=st.integers(0, 999))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_mixed_image_shows_both_known_defects_in_full(one: Boxes, two: Boxes, seed: int) -> None:
    images, shares = pair(one, two, seed=seed)
    if (images[0] == 10).all():  # no piece was found, or the image was its own partner
        np.testing.assert_array_equal(shares[0], [1, 0])
    else:
        assert (inside(images[0], one) == 10).all()
        assert (inside(images[0], two) == 20).all()
        np.testing.assert_array_equal(shares[0], [0.5, 0.5])


@given(one=known(), seed=st.integers(0, 999))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_nothing_is_left_of_no_defect_beside_a_known_one(one: Boxes, seed: int) -> None:
    images, shares = pair(one, NONE, seed=seed)
    assert (inside(images[0], one) == 10).all()
    np.testing.assert_array_equal(shares[0], [1, 0])
    if (images[1] == 10).any():
        assert (inside(images[1], one) == 10).all()
        np.testing.assert_array_equal(shares[1], [1, 0])


def test_without_boxes_an_image_counts_with_its_area() -> None:
    areas = []
    for seed in range(60):
        images, shares = pair(None, None, seed=seed)
        pasted = float((images[0] == 20).mean())
        np.testing.assert_allclose(shares[0], [1 - pasted, pasted], atol=1e-6)
        areas.append(pasted)
    assert max(areas) > 0.5
    assert 0.05 < np.mean(areas) < 0.5


def test_a_whole_image_is_neither_cut_nor_pasted() -> None:
    for whole in ((True, False), (False, True)):
        for seed in range(5):
            images, shares = pair(None, None, seed=seed, whole=whole)
            assert [set(np.unique(image)) for image in images] == [{10}, {20}]
            np.testing.assert_array_equal(shares, np.eye(2))


@pytest.mark.parametrize(("probability", "least", "most"), [(0.0, 0, 0), (0.3, 50, 130)])
def test_so_many_images_are_mixed(probability: float, least: int, most: int) -> None:
    images = np.repeat(np.arange(200, dtype=np.uint8), SIDE * SIDE).reshape(200, SIDE, SIDE, 1)
    images = np.repeat(images, 3, axis=3)
    kept = images.copy()
    changed, shares = cutmix(
        images,
        np.eye(200, dtype=np.float32),
        [None] * 200,
        np.zeros(200, bool),
        probability=probability,
        random=np.random.default_rng(1),
    )
    np.testing.assert_array_equal(images, kept)
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-6)
    assert least <= int((changed != images).any(axis=(1, 2, 3)).sum()) <= most


def test_boxes_come_with_the_images_in_pixels_of_the_input(made: Workspace) -> None:
    chosen = choose_images(made, made.samples(), "train")
    images = load_images(made, chosen, image_size=32)  # of images of 64 px
    assert len(images.boxes) == len(chosen.samples)
    seen = set()
    for sample, name, boxes in zip(chosen.samples, chosen.names, images.boxes, strict=True):
        kind = made.classes[name].kind
        seen.add(kind)
        if kind == "none":
            assert boxes is not None
            assert boxes.shape == (0, 4)
        else:
            assert sample.annotations
            wanted = [np.array(each.box.corners) / 2 for each in sample.annotations]
            np.testing.assert_allclose(boxes, wanted)
    assert seen == {"none", "box", "whole_image"}
