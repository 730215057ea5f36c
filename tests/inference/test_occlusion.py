"""Heat, for an engine whose score is known to come from one place."""

import numpy as np
import pytest
from numpy.typing import NDArray

from wafer.inference.occlusion import heat_map
from wafer.inference.preprocess import PADDING, letterbox
from wafer.inference.records import TopOne

SIZE = 64


class Looks:
    """Scores are the share of pixels that are white in one place; class 1 sees the rest."""

    def __init__(self, top: int, left: int, bottom: int, right: int) -> None:
        self.place = np.zeros((SIZE, SIZE), np.bool_)
        self.place[top:bottom, left:right] = True
        self.copies = 0

    def infer(self, images: NDArray[np.uint8], /) -> TopOne:
        assert len(images) <= 32
        self.copies += len(images)
        grey = images if images.ndim == 3 else images[..., 1]
        inside = (grey[:, self.place] == 255).mean(axis=1)
        outside = (grey[:, ~self.place] == 255).mean(axis=1)
        return TopOne.of(np.zeros((len(images), 4)), np.stack([inside, outside], axis=1))

    def close(self) -> None:
        pass


@pytest.mark.parametrize("channels", [(), (3,)], ids=["grey", "colour"])
def test_heat_is_where_the_score_comes_from_and_nowhere_else(channels: tuple[int, ...]) -> None:
    pixels = letterbox(np.full((SIZE, SIZE, *channels), 255, np.uint8), SIZE)
    engine = Looks(16, 32, 24, 40)
    before = pixels.image.copy()
    heat = heat_map(engine, pixels, label=0, score=1.0)
    np.testing.assert_array_equal(pixels.image, before)
    assert heat.shape == (SIZE, SIZE)
    assert engine.copies == 15 * 15
    # Squares of 8 pixels, 4 further on each: a pixel of the place is in 4, which hide all of it,
    # half of it on one side or the other, or a quarter.
    np.testing.assert_allclose(heat[16:24, 32:40], (1 + 0.5 + 0.5 + 0.25) / 4)
    cold = np.ones((SIZE, SIZE), np.bool_)
    cold[12:28, 28:44] = False
    assert (heat[cold] == 0).all()
    assert (heat[12:28, 28:44] > 0).all()


def test_only_the_image_is_hidden_and_not_its_padding() -> None:
    pixels = letterbox(np.full((20, SIZE), 255, np.uint8), SIZE)
    assert (pixels.pad_top, pixels.resized_size) == (22, (SIZE, 20))
    heat = heat_map(Looks(22, 0, 42, 4), pixels, label=0, score=1.0)
    assert heat.shape == (20, SIZE)
    np.testing.assert_allclose(heat[:, :4].mean(axis=1)[[0, 19]], 8 / 20)
    assert (heat[:, 8:] == 0).all()
    narrow = letterbox(np.full((SIZE, 3), PADDING, np.uint8), SIZE)
    assert heat_map(Looks(0, 0, 8, 8), narrow, label=0, score=0.0).shape == (SIZE, 3)


def test_a_score_that_rises_is_no_heat() -> None:
    pixels = letterbox(np.full((SIZE, SIZE), 255, np.uint8), SIZE)
    assert not heat_map(Looks(0, 0, 8, 8), pixels, label=0, score=-1.0).any()
