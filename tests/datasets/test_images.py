import io
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from wafer.datasets.errors import ImageError
from wafer.datasets.images import (
    decode_bytes,
    decode_image,
    header_size,
    image_size,
    is_image_start,
)

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (23, 37), dtype=np.uint8)
RGB = RNG.integers(0, 256, (23, 37, 3), dtype=np.uint8)
GREY16 = RNG.integers(0, 65536, (23, 37), dtype=np.uint16)
RGB16 = RNG.integers(0, 65536, (23, 37, 3), dtype=np.uint16)


def saved(pixels: NDArray[np.generic], kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()


def encoded(pixels: NDArray[np.generic], suffix: str) -> bytes:
    return bytes(cv2.imencode(suffix, pixels)[1].tobytes())


LOSSLESS = {
    "png": lambda p: saved(p, "PNG"),
    "tiff": lambda p: saved(p, "TIFF"),
    "tiff_lzw": lambda p: saved(p, "TIFF", compression="tiff_lzw"),
    "bmp": lambda p: saved(p, "BMP"),
}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_kinds_give_the_very_pixels(kind: str) -> None:
    save = LOSSLESS[kind]
    np.testing.assert_array_equal(decode_bytes(save(GREY), "a"), GREY)
    np.testing.assert_array_equal(decode_bytes(save(RGB), "a", colour=True), RGB)
    grey_as_rgb = decode_bytes(save(GREY), "a", colour=True)
    np.testing.assert_array_equal(grey_as_rgb, np.dstack([GREY] * 3))
    luma = RGB @ np.array([0.299, 0.587, 0.114])
    assert np.abs(decode_bytes(save(RGB), "a") - luma).max() < 1


@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_is_decoded_as_opencv_does(progressive: bool) -> None:
    data = saved(RGB, "JPEG", quality=90, progressive=progressive)
    raw = np.frombuffer(data, np.uint8)
    bgr = cv2.imdecode(raw, cv2.IMREAD_COLOR)
    grey = cv2.imdecode(raw, cv2.IMREAD_GRAYSCALE)
    assert bgr is not None
    np.testing.assert_array_equal(decode_bytes(data, "a", colour=True), bgr[..., ::-1])
    np.testing.assert_array_equal(decode_bytes(data, "a"), grey)


@pytest.mark.parametrize("white", [65535, 4095, 1])
@pytest.mark.parametrize(
    "data", [encoded(GREY16, ".png"), encoded(GREY16, ".tif"), saved(GREY16, "TIFF")]
)
def test_16_bit_grey_is_scaled_by_the_white_level(data: bytes, white: int) -> None:
    expected = np.rint(GREY16.astype(np.float64) * 255 / white).clip(0, 255)
    np.testing.assert_array_equal(decode_bytes(data, "a", white_level=white), expected)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_colour_is_scaled_by_the_white_level(suffix: str) -> None:
    data = encoded(np.ascontiguousarray(RGB16[..., ::-1]), suffix)
    expected = np.rint(RGB16.astype(np.float64) * 255 / 4095).clip(0, 255)
    decoded = decode_bytes(data, "a", colour=True, white_level=4095)
    np.testing.assert_array_equal(decoded, expected)
    luma = expected @ np.array([0.299, 0.587, 0.114])
    assert np.abs(decode_bytes(data, "a", white_level=4095) - luma).max() < 1


@pytest.mark.parametrize("white", [0, 65536, -1])
def test_a_white_level_out_of_range_is_the_callers_fault(white: int) -> None:
    with pytest.raises(ValueError, match="white_level must lie between 1 and 65535"):
        decode_bytes(saved(GREY, "PNG"), "a", white_level=white)


def test_one_bit_and_palette_images_are_grey_or_colour() -> None:
    bits = GREY > 127
    np.testing.assert_array_equal(decode_bytes(saved(bits, "PNG"), "a"), bits * np.uint8(255))
    palette = Image.fromarray(RGB).quantize(64)
    out = io.BytesIO()
    palette.save(out, "PNG")
    expected = np.asarray(palette.convert("RGB"))
    np.testing.assert_array_equal(decode_bytes(out.getvalue(), "a", colour=True), expected)


def test_an_opaque_alpha_channel_is_dropped() -> None:
    alpha = np.full((23, 37, 1), 255, np.uint8)
    data = saved(np.dstack([RGB, alpha]), "PNG")
    np.testing.assert_array_equal(decode_bytes(data, "a", colour=True), RGB)


def test_the_orientation_written_in_a_file_is_ignored() -> None:
    exif = Image.Exif()
    exif[274] = 6
    for kind in ("JPEG", "PNG"):
        plain, turned = saved(GREY, kind), saved(GREY, kind, exif=exif)
        np.testing.assert_array_equal(decode_bytes(turned, "a"), decode_bytes(plain, "a"))


def test_the_content_decides_not_the_suffix(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(saved(GREY, "PNG"))
    np.testing.assert_array_equal(decode_image(path), GREY)
    assert image_size(path) == (37, 23)


def cmyk() -> bytes:
    out = io.BytesIO()
    Image.fromarray(RGB).convert("CMYK").save(out, "JPEG")
    return out.getvalue()


def two_pages() -> bytes:
    out = io.BytesIO()
    page = Image.fromarray(GREY)
    page.save(out, "TIFF", save_all=True, append_images=[page])
    return out.getvalue()


def png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + chunk + b"\x00\x00\x00\x00IEND\xaeB`\x82"


BAD = {
    "empty": (b"", "an empty file (0 bytes)"),
    "text": (b"not an image at all", "not a PNG, JPEG, TIFF or BMP image"),
    "gif": (saved(GREY, "GIF"), "not a PNG, JPEG, TIFF or BMP image"),
    "webp": (saved(GREY, "WEBP"), "not a PNG, JPEG, TIFF or BMP image"),
    "only magic": (b"\xff\xd8\xff", "damaged or cut off"),
    "bomb": (png_header(60_000, 60_000), "60000 x 60000 pixels, more than the limit 100,000,000"),
    "half jpeg": (saved(GREY, "JPEG")[:-300], "cut off before its end"),
    "zeros at the end": (saved(GREY, "JPEG")[:-300] + bytes(300), "cut off before its end"),
    "cmyk": (cmyk(), "pixels of kind CMYK"),
    "float": (saved(GREY.astype(np.float32), "TIFF"), "pixels of kind F"),
    "two pages": (two_pages(), "2 images in one file"),
    "transparent": (saved(np.dstack([RGB, GREY]), "PNG"), "transparent pixels"),
    "turned": (saved(GREY, "TIFF", tiffinfo={274: 6}), "orientation tag"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_with_file_and_reason(tmp_path: Path, name: str) -> None:
    data, reason = BAD[name]
    path = tmp_path / "wafer 7.png"
    path.write_bytes(data)
    with pytest.raises(ImageError) as caught:
        decode_image(path)
    assert caught.value.path == str(path)
    assert reason in caught.value.reason
    assert "\n" not in str(caught.value)


def test_the_pixel_limit_is_exact() -> None:
    data = saved(GREY, "PNG")
    assert decode_bytes(data, "a", max_pixels=23 * 37).shape == (23, 37)
    with pytest.raises(ImageError, match="more than the limit"):
        decode_bytes(data, "a", max_pixels=23 * 37 - 1)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="No such file"):
        decode_image(tmp_path / "none.png")
    with pytest.raises(ImageError, match="not a regular file"):
        decode_image(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="not a regular file"):
        decode_image(tmp_path / "pipe.png")
    with pytest.raises(ImageError):
        image_size(tmp_path / "none.png")


VALID = {
    "jpeg": saved(GREY, "JPEG"),
    "progressive": saved(RGB, "JPEG", progressive=True),
    "png": saved(GREY, "PNG"),
    "png16": encoded(GREY16, ".png"),
    "tiff": saved(GREY, "TIFF"),
    "lzw": saved(RGB, "TIFF", compression="tiff_lzw"),
    "tiff16": encoded(GREY16, ".tif"),
    "bmp": saved(RGB[:, :36], "BMP"),  # rows without padding, of which the end says nothing
}


@pytest.mark.parametrize("name", VALID)
def test_a_file_cut_at_any_byte_is_an_error(name: str) -> None:
    data = VALID[name]
    for length in range(len(data)):
        with pytest.raises(ImageError):
            decode_bytes(data[:length], name)


SMOOTH = cv2.GaussianBlur(RNG.integers(0, 256, (200, 160), dtype=np.uint8), (0, 0), 3)


@pytest.mark.parametrize("options", [{}, {"restart_marker_rows": 1}, {"subsampling": 2}])
@given(place=st.floats(0.1, 0.9), length=st.integers(64, 2000))
def test_a_jpeg_with_a_hole_is_an_error(
    options: dict[str, object], place: float, length: int
) -> None:
    data = saved(np.dstack([SMOOTH] * 3), "JPEG", quality=90, **options)
    scans = data.index(b"\xff\xda") + 20
    start = scans + int(place * (len(data) - scans))
    zeroed = data[:start] + bytes(min(length, len(data) - 2 - start)) + data[start + length : -2]
    for damaged in (zeroed + b"\xff\xd9", data[:start] + b"\xff\xd9"):
        with pytest.raises(ImageError, match="damaged or cut off"):
            decode_bytes(damaged, "a")


def test_a_progressive_jpeg_without_its_middle_is_an_error() -> None:
    """A short hole may happen to be a sound refinement: no decoder can tell."""
    data = saved(SMOOTH, "JPEG", quality=90, progressive=True)
    with pytest.raises(ImageError, match="damaged or cut off"):
        decode_bytes(data[: len(data) // 4] + data[-200:], "a")


@given(st.sampled_from(sorted(set(VALID) - {"tiff16"})), st.data())
def test_damage_gives_an_image_of_some_size_or_an_image_error(
    name: str, data: st.DataObject
) -> None:
    damaged = bytearray(VALID[name])
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = decode_bytes(bytes(damaged), name, max_pixels=10_000)
    except ImageError:
        return
    assert decoded.ndim == 2
    assert decoded.size <= 10_000


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "GIF"])
def test_bytes_are_known_by_their_start_and_measured_by_their_header(kind: str) -> None:
    file = io.BytesIO()
    Image.new("L", (37, 23), 90).save(file, kind)
    content = file.getvalue()
    assert is_image_start(content[:8]) == (kind != "GIF")
    if kind == "GIF":
        with pytest.raises(ImageError, match="a: not a PNG, JPEG, TIFF or BMP image"):
            header_size(content, "a")
    else:
        assert header_size(content, "a") == (37, 23)
        with pytest.raises(ImageError, match="a: damaged or cut off"):
            header_size(content[:12], "a")
