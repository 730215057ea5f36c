from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wafer.datasets.records import Box
from wafer.inference.preprocess import (
    PADDING,
    Letterboxed,
    letterbox,
    resize_long_side,
    to_original,
)

SIDES = st.integers(1, 700)


def noise(height: int, width: int, *channels: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    generator = np.random.default_rng((height, width))
    return generator.integers(0, 256, (height, width, *channels), dtype=np.uint8)


@pytest.fixture(scope="module")
def validation_path() -> Any:
    """The validation images of ultralytics: `BaseDataset.load_image`, then `LetterBox`."""
    from wafer.detector.ultralytics_adapter import YOLODataset, augment

    class OneImage(YOLODataset):  # type: ignore[misc]
        def __init__(self, size: int) -> None:
            self.imgsz, self.augment, self.rect, self.cache = size, False, False, False
            self.ims, self.im_hw0, self.im_hw = [None], [None], [None]
            self.im_files, self.npy_files = ["image.png"], [_Absent()]
            self.buffer: list[int] = []
            self.max_buffer_length, self.cv2_flag, self.channels, self.prefix = 0, 0, 1, ""

    class _Absent:
        def exists(self) -> bool:
            return False

    def run(image: Any, size: int, monkeypatch: pytest.MonkeyPatch) -> Any:
        monkeypatch.setattr("ultralytics.data.base.imread", lambda path, flags: image)
        resized, _, _ = OneImage(size).load_image(0)
        box = augment.LetterBox(new_shape=(size, size), scaleup=False)
        squared = box(image=np.ascontiguousarray(resized))
        return squared[..., 0] if image.ndim == 2 else squared

    return run


SIZES = [
    (680, 680),
    (480, 640),
    (640, 480),
    (200, 200),
    (256, 256),
    (255, 256),
    (257, 256),
    (1, 700),
    (700, 1),
    (1, 1),
    (333, 97),
    *np.random.default_rng(7).integers(2, 900, (40, 2)).tolist(),
]


@pytest.mark.parametrize("size", [64, 256])
@pytest.mark.parametrize("channels", [(), (3,)], ids=["grey", "colour"])
def test_letterbox_equals_ultralytics_validation(
    size: int,
    channels: tuple[int, ...],
    validation_path: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for height, width in SIZES:
        image = noise(height, width, *channels)
        expected = validation_path(image, size, monkeypatch)
        np.testing.assert_array_equal(letterbox(image, size).image, expected, f"{height}x{width}")


@pytest.mark.parametrize(
    ("shape", "size", "resized", "left", "top"),
    [
        ((680, 680), 256, (256, 256), 0, 0),
        ((340, 680), 256, (256, 128), 0, 64),
        ((680, 340), 256, (128, 256), 64, 0),
        ((100, 101), 101, (101, 100), 0, 0),  # the odd row of padding lies below
        ((98, 101), 101, (101, 98), 0, 1),
        ((1, 1000), 256, (256, 1), 0, 127),
    ],
)
def test_where_the_image_lies(
    shape: tuple[int, int], size: int, resized: tuple[int, int], left: int, top: int
) -> None:
    boxed = letterbox(np.full(shape, 7, np.uint8), size)
    assert (boxed.resized_size, boxed.pad_left, boxed.pad_top) == (resized, left, top)
    assert boxed.original_size == shape[::-1]
    assert boxed.image.shape == (size, size)
    inside = boxed.image[top : top + resized[1], left : left + resized[0]]
    assert (inside == 7).all()
    assert (boxed.image == PADDING).sum() == size * size - inside.size


def test_an_image_of_the_right_size_is_not_copied() -> None:
    image = noise(64, 32)
    assert resize_long_side(image, 64) is image


def to_letterboxed(box: Box, boxed: Letterboxed) -> tuple[float, float, float, float]:
    scale_x, scale_y = boxed.scale
    return (
        box.xmin * scale_x + boxed.pad_left,
        box.ymin * scale_y + boxed.pad_top,
        box.xmax * scale_x + boxed.pad_left,
        box.ymax * scale_y + boxed.pad_top,
    )


@settings(max_examples=200, deadline=None)
@given(data=st.data(), height=SIDES, width=SIDES, size=st.sampled_from([32, 256, 640]))
def test_a_box_comes_back(data: st.DataObject, height: int, width: int, size: int) -> None:
    boxed = letterbox(np.zeros((height, width), np.uint8), size)
    xmin = data.draw(st.floats(0, width - 1))
    ymin = data.draw(st.floats(0, height - 1))
    xmax = data.draw(st.floats(xmin + 1, width))
    ymax = data.draw(st.floats(ymin + 1, height))
    back = to_original(to_letterboxed(Box(xmin, ymin, xmax, ymax), boxed), boxed)
    np.testing.assert_allclose(back.corners, (xmin, ymin, xmax, ymax), rtol=0, atol=1e-6)


@given(
    corners=st.tuples(*[st.floats(-1e6, 1e6)] * 4),
    height=SIDES,
    width=SIDES,
)
def test_any_finite_box_ends_inside_the_frame(
    corners: tuple[float, float, float, float], height: int, width: int
) -> None:
    boxed = letterbox(np.zeros((height, width), np.uint8), 64)
    box = to_original(corners, boxed)
    assert box.xmin >= 0 and box.ymin >= 0
    assert box.xmax <= width and box.ymax <= height
    assert box.width >= 1 - 1e-9 and box.height >= 1 - 1e-9


@pytest.mark.parametrize(
    ("corners", "expected"),
    [
        ((-10, -10, 300, 300), (0, 0, 680, 340)),  # larger than the frame
        ((10, 0, 20, 20), (26.5625, 0, 53.125, 1)),  # in the padding above
        ((128, 128, 128, 128), (339.5, 169.5, 340.5, 170.5)),  # without area
    ],
)
def test_boxes_that_need_clipping(corners: tuple[float, ...], expected: tuple[float, ...]) -> None:
    boxed = letterbox(np.zeros((340, 680), np.uint8), 256)
    assert to_original(corners, boxed).corners == expected


def test_no_negative_zero_reaches_the_output() -> None:
    boxed = letterbox(np.zeros((64, 64), np.uint8), 64)
    assert f"{to_original((-0.0, -3, 5, 5), boxed).xmin:.2f}" == "0.00"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_box_that_is_no_number_is_refused(bad: float) -> None:
    boxed = letterbox(np.zeros((64, 64), np.uint8), 64)
    with pytest.raises(ValueError, match="finite"):
        to_original((0, bad, 5, 5), boxed)
