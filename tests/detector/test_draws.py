"""The table of draws: what was drawn, and the maps that a killed training reads from it."""

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from wafer.detector.draws import (
    BACKGROUND,
    ClassDraw,
    count_draws,
    draws_figure,
    maps_after,
    read_draws,
    write_draws,
    write_figure,
)

COUNTS = np.array([[2, 0], [1, 1], [0, 0]])


def test_images_and_boxes_are_counted_as_often_as_they_are_drawn() -> None:
    rows = count_draws(
        np.array([0, 0, 1, 2, 2, 2]),
        COUNTS,
        epoch=3,
        names=["spot", "line"],
        ap=np.array([0.5, 0.1]),
        smoothed=np.array([0.4, 0.2]),
    )
    assert rows == (
        ClassDraw(3, "spot", images=3, boxes=5, ap=0.5, smoothed=0.4),
        ClassDraw(3, "line", images=1, boxes=1, ap=0.1, smoothed=0.2),
        ClassDraw(3, BACKGROUND, images=3, boxes=0),
    )


@given(
    st.lists(
        st.builds(
            ClassDraw,
            epoch=st.integers(1, 300),
            name=st.sampled_from(["a", "b, c", 'say "d"', "Kratzer ü"]),
            images=st.integers(0, 10**6),
            boxes=st.integers(0, 10**6),
            ap=st.none() | st.floats(0, 1),
            smoothed=st.none() | st.floats(0, 1),
        ),
        max_size=20,
    )
)
def test_a_table_comes_back_bit_for_bit(rows: list[ClassDraw]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image_weights.csv"
        write_draws(rows, path)
        assert read_draws(path) == tuple(rows)


def test_a_table_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert read_draws(tmp_path / "none.csv") == ()


def test_maps_are_those_after_the_epoch() -> None:
    rows = [
        ClassDraw(1, "spot", 1, 1, 0.1, 0.1),
        ClassDraw(1, "line", 1, 1, 0.2, 0.2),
        ClassDraw(1, BACKGROUND, 1, 0),
        ClassDraw(2, "spot", 1, 1, 0.3, 0.2),
        ClassDraw(2, "line", 1, 1, 0.4, 0.3),
    ]
    assert maps_after(rows, epoch=2) is not None
    np.testing.assert_array_equal(maps_after(rows, epoch=2), [0.2, 0.3])
    assert maps_after(rows, epoch=3) is None


def test_the_figure_shows_every_class_share_and_ap(tmp_path: Path) -> None:
    rows = [
        ClassDraw(epoch, name, images, images, ap, ap and ap / 2)
        for epoch in (1, 2)
        for name, images, ap in (("spot", 6, 0.5), ("line", 2, 0.25), (BACKGROUND, 2, None))
    ]
    figure = draws_figure(rows)
    share, ap = figure.axes
    drawn = [list(line.get_ydata()) for line in share.lines]
    assert drawn == [[0.6, 0.6], [0.2, 0.2], [0.2, 0.2]]
    assert [list(line.get_ydata()) for line in ap.lines[:2]] == [[0.5, 0.5], [0.25, 0.25]]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["spot", "line", BACKGROUND]
    write_figure(figure, tmp_path / "draws.png")
    assert (tmp_path / "draws.png").read_bytes().startswith(b"\x89PNG")


def test_a_single_epoch_can_be_seen() -> None:
    one = [ClassDraw(1, name, 4, 4, 0.5, 0.5) for name in ("spot", "line")]
    share, ap = draws_figure(one).axes
    assert {line.get_marker() for line in share.lines} == {"o"}
    assert "o" in {line.get_marker() for line in ap.lines}
    assert all(tick == round(tick) for tick in share.xaxis.get_major_locator()())
    two = [ClassDraw(epoch, "spot", 4, 4, 0.5, 0.5) for epoch in (1, 2)]
    assert {line.get_marker() for line in draws_figure(two).axes[0].lines} == {"None"}
