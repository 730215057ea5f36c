"""Boxes of several views become one; what is true of the boxes is true of the clusters."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wafer.datasets.records import Box
from wafer.labelling.propagation.fusion import fuse, pairwise_iou

CORNERS = st.tuples(st.floats(0, 50), st.floats(0, 50), st.floats(1, 30), st.floats(1, 30)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


@given(some=st.lists(CORNERS, max_size=5), others=st.lists(CORNERS, max_size=5))
def test_the_overlaps_are_those_of_single_boxes(
    some: list[tuple[float, ...]], others: list[tuple[float, ...]]
) -> None:
    found = pairwise_iou(np.array(some).reshape(-1, 4), np.array(others).reshape(-1, 4))
    for row, one in enumerate(some):
        for column, other in enumerate(others):
            assert found[row, column] == pytest.approx(Box(*one).iou(Box(*other)))


def test_views_that_agree_make_one_box_between_them() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 12, 10], [40, 40, 50, 50]])
    scores = np.array([0.6, 0.3, 0.3])
    first, second = fuse(boxes, scores, np.array([0, 1, 1]), number=3)
    assert first.box == pytest.approx((0, 0, 10 + 2 / 3, 10), abs=1e-6)
    assert first.score == pytest.approx(0.3)  # the view that saw nothing counts as 0
    assert first.votes == pytest.approx(2 / 3)
    assert first.spread == pytest.approx(1 - np.mean([10 / (32 / 3), (32 / 3) / 12]))
    assert (second.score, second.votes, second.spread) == (pytest.approx(0.1), 1 / 3, 0.0)


def test_a_view_gives_one_box_to_a_place() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 11], [0, 0, 11, 10]])
    (only,) = fuse(boxes, np.array([0.5, 0.4, 0.3]), np.zeros(3, int), number=2)
    assert (only.box, only.score, only.votes) == ((0, 0, 10, 10), 0.25, 0.5)


def test_nothing_is_nothing() -> None:
    assert fuse(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int), number=3) == ()


@given(rows=st.lists(st.tuples(CORNERS, st.floats(0.01, 1), st.integers(0, 2)), max_size=12))
def test_clusters_are_apart_in_order_and_within_their_members(
    rows: list[tuple[tuple[float, ...], float, int]],
) -> None:
    boxes = np.array([row[0] for row in rows]).reshape(-1, 4)
    found = fuse(
        boxes, np.array([r[1] for r in rows]), np.array([r[2] for r in rows], int), number=3
    )
    scores = [cluster.score for cluster in found]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < c.votes <= 1 and 0 <= c.spread <= 1 and 0 < c.score <= 1 for c in found)
    if rows:
        for cluster in found:
            assert np.all(np.array(cluster.box) >= boxes.min(axis=0) - 1e-6)
            assert np.all(np.array(cluster.box) <= boxes.max(axis=0) + 1e-6)
        assert sum(c.votes * 3 for c in found) <= len(rows) + 1e-9
