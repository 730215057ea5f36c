"""Reading image files strictly and with limits: a damaged file is an error, never half an image."""

from __future__ import annotations

import io
import stat
import struct
from functools import lru_cache
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from wafer.datasets.errors import ImageError

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "decode_bytes",
    "decode_image",
    "header_size",
    "image_size",
    "is_image_start",
    "is_plain",
]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp"})
MAX_PIXELS = 100_000_000

# The readers are called directly: `Image.open` would add a pixel limit that is global state.
READERS: tuple[tuple[bytes, type[ImageFile]], ...] = (
    (b"\xff\xd8\xff", JpegImageFile),
    (b"\x89PNG\r\n\x1a\n", PngImageFile),
    (b"II*\x00", TiffImageFile),
    (b"MM\x00*", TiffImageFile),
    (b"II+\x00", TiffImageFile),
    (b"MM\x00+", TiffImageFile),
    (b"BM", BmpImageFile),
)
# What Pillow's parsers let through on damaged bytes besides OSError.
PARSER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    OverflowError,
    AttributeError,
    struct.error,
    UnidentifiedImageError,
    Image.DecompressionBombError,
    Warning,  # where warnings are raised as errors
)
PLAIN_MODES = frozenset({"1", "L", "P", "RGB", "LA", "PA", "RGBA", "YCbCr"})
PNG_END = b"IEND\xaeB`\x82"
JPEG_SCAN, JPEG_END = b"\xff\xda", b"\xff\xd9"
TIFF_BITS, TIFF_PHOTOMETRIC, TIFF_ORIENTATION = 258, 262, 274
TIFF_STRIPS = ((273, 279), (324, 325))  # offsets and byte counts of strips, of tiles


def decode_image(
    path: Path, *, colour: bool = False, white_level: int = 65535, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """Decode an image file into bytes of grey or RGB.

    PNG, JPEG, TIFF and BMP with 8 or 16 bits a channel; the content decides, not the suffix.
    A colour image is made grey by its luma, a grey one gets three equal channels. An orientation
    written in the file is ignored: boxes are in pixels as they are stored.

    Args:
        path: the file.
        colour: return RGB instead of grey.
        white_level: the value of 16-bit images that becomes 255, 1 to 65535:
            ``round(value * 255 / white_level)``, clipped. 8-bit images stay as they are.
        max_pixels: a larger image is refused, by its header, before anything is decoded.

    Returns:
        Shape (height, width), or (height, width, 3) with ``colour``; not to be written to.

    Raises:
        ImageError: no such file, not an image, damaged or cut off, too large, or of a kind that
            has no one meaning here (several images in one file, CMYK, transparent pixels).
    """
    data = _read_file(path, max_bytes=max(64 << 20, 8 * max_pixels))
    return decode_bytes(
        data, str(path), colour=colour, white_level=white_level, max_pixels=max_pixels
    )


def decode_bytes(
    data: bytes,
    name: str,
    *,
    colour: bool = False,
    white_level: int = 65535,
    max_pixels: int = MAX_PIXELS,
) -> NDArray[np.uint8]:
    """Decode the bytes of an image file; as `decode_image`, with ``name`` used in errors.

    Raises:
        ImageError: as `decode_image`.
    """
    levels = _levels(white_level)
    try:
        image = _open(io.BytesIO(data), name)
        width, height = image.size
        if width * height > max_pixels:
            raise ImageError(name, f"{width} x {height} pixels, more than the limit {max_pixels:,}")
        _check_kind(image, name)
        _check_complete(image, data, name)
        if isinstance(image, JpegImageFile):
            return _decode_jpeg(data, colour)
        if _bits(image) == 16:
            pixels = _decode_16(image, data, name, levels)
        else:
            image.load()
            pixels = image
    except PARSER_ERRORS as error:
        raise ImageError(name, f"damaged or cut off ({error})") from error
    pixels, mode = _opaque(pixels, name), "RGB" if colour else "L"
    return np.asarray(pixels if pixels.mode == mode else pixels.convert(mode))


def image_size(path: Path) -> tuple[int, int]:
    """Return the (width, height) in pixels that the header of an image file states.

    Raises:
        ImageError: no such file, or no header of a PNG, JPEG, TIFF or BMP image.
    """
    try:
        with path.open("rb") as handle:
            return _open(handle, str(path)).size
    except PARSER_ERRORS as error:
        raise ImageError(path, f"damaged or cut off ({error})") from error


def is_image_start(start: bytes) -> bool:
    """Return whether the first 8 bytes of a file are those of a PNG, JPEG, TIFF or BMP image."""
    return any(start.startswith(magic) for magic, _ in READERS)


def header_size(data: bytes, name: str) -> tuple[int, int]:
    """Return the (width, height) in pixels that the header of an image file's bytes states.

    Raises:
        ImageError: no header of a PNG, JPEG, TIFF or BMP image.
    """
    try:
        return _open(io.BytesIO(data), name).size
    except PARSER_ERRORS as error:
        raise ImageError(name, f"damaged or cut off ({error})") from error


def is_plain(path: Path) -> bool:
    """Return whether other programs show an image file as `decode_image` reads it.

    That is an 8-bit PNG, JPEG or BMP without an orientation that turns it.

    Raises:
        ImageError: as `image_size`.
    """
    try:
        with path.open("rb") as handle:
            image = _open(handle, str(path))
            if isinstance(image, TiffImageFile) or _bits(image) != 8:
                return False
            return bool(image.getexif().get(TIFF_ORIENTATION, 1) == 1)
    except PARSER_ERRORS as error:
        raise ImageError(path, f"damaged or cut off ({error})") from error


def _read_file(path: Path, *, max_bytes: int) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(path, "not a regular file")
        if status.st_size > max_bytes:
            raise ImageError(path, f"{status.st_size:,} bytes, more than the limit {max_bytes:,}")
        return path.read_bytes()
    except OSError as error:
        raise ImageError(path, f"cannot be read ({error.strerror or error})") from error


def _open(handle: IO[bytes], name: str) -> ImageFile:
    start = handle.read(8)
    handle.seek(0)
    if not start:
        raise ImageError(name, "an empty file (0 bytes)")
    reader = next((reader for magic, reader in READERS if start.startswith(magic)), None)
    if reader is None:
        raise ImageError(name, "not a PNG, JPEG, TIFF or BMP image")
    image = reader(handle)
    if isinstance(image, TiffImageFile) and image.tag_v2.get(TIFF_ORIENTATION, 1) != 1:
        raise ImageError(name, "a TIFF whose orientation tag turns it; save it upright")
    return image


def _check_kind(image: ImageFile, name: str) -> None:
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise ImageError(name, f"{frames} images in one file; save each in a file of its own")
    if image.mode not in PLAIN_MODES and not image.mode.startswith("I;16"):
        raise ImageError(name, f"pixels of kind {image.mode}; save it as 8- or 16-bit grey or RGB")
    inverted = isinstance(image, TiffImageFile) and image.tag_v2.get(TIFF_PHOTOMETRIC) == 0
    if inverted and image.mode.startswith("I;16"):
        raise ImageError(name, "16-bit TIFF with white as 0; save it with black as 0")


def _check_complete(image: ImageFile, data: bytes, name: str) -> None:
    """Look for the end that every complete file has; a decoder may fill up what is missing."""
    if isinstance(image, PngImageFile):
        complete = PNG_END in data[-1024:] or PNG_END in data
    elif isinstance(image, JpegImageFile):  # a thumbnail has an end too, but before the scans
        complete = data.rfind(JPEG_END) > data.rfind(JPEG_SCAN)
    elif isinstance(image, TiffImageFile):
        complete = all(
            offset + count <= len(data)
            for offsets, counts in TIFF_STRIPS
            for offset, count in zip(
                image.tag_v2.get(offsets, ()), image.tag_v2.get(counts, ()), strict=True
            )
        )
    else:
        complete = True  # raw rows: the decoder misses what is not there
    if not complete:
        raise ImageError(name, "cut off before its end; copy it again")


def _bits(image: ImageFile) -> int:
    if isinstance(image, PngImageFile):
        return 16 if any(";16" in str(tile.args) for tile in image.tile) else 8
    if isinstance(image, TiffImageFile):
        return 16 if image.mode.startswith("I;16") else max(image.tag_v2.get(TIFF_BITS, (8,)))
    return 8


def _decode_jpeg(data: bytes, colour: bool) -> NDArray[np.uint8]:
    """Decode without what Pillow and OpenCV do: fill what is missing with grey and say nothing."""
    import simplejpeg

    # JPEG keeps luma apart from colour: for grey the rest is not decoded
    pixels = simplejpeg.decode_jpeg(data, "RGB" if colour else "GRAY", strict=True)
    return np.asarray(pixels if colour else pixels[:, :, 0])


def _decode_16(image: ImageFile, data: bytes, name: str, levels: NDArray[np.uint8]) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray(levels[np.asarray(image).astype(np.uint16)])
    import cv2  # Pillow drops the low byte of 16-bit colour

    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 3:
        raise ImageError(name, "16-bit pixels of a kind that cannot be decoded")
    alpha = np.right_shift(pixels[..., 3:], 8).astype(np.uint8)
    return Image.fromarray(np.dstack([levels[pixels[..., 2::-1]], alpha]))


@lru_cache(maxsize=8)
def _levels(white_level: int) -> NDArray[np.uint8]:
    if not 1 <= white_level <= 65535:
        raise ValueError(f"white_level must lie between 1 and 65535, not {white_level}")
    levels = np.rint(np.arange(65536) * 255 / white_level).clip(0, 255).astype(np.uint8)
    levels.setflags(write=False)
    return levels


def _opaque(image: Image.Image, name: str) -> Image.Image:
    """Drop a transparency that hides nothing; what would show through is not in the file."""
    if not image.has_transparency_data:
        return image
    rgba = image.convert("RGBA")
    if rgba.getchannel("A").getextrema() != (255, 255):
        raise ImageError(name, "transparent pixels; save it without transparency")
    return rgba.convert("RGB")
