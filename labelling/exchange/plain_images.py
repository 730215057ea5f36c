"""Image files as every other program shows them."""

from __future__ import annotations

import io

from PIL import Image

from wafer.datasets.images import decode_image, is_plain
from wafer.datasets.workspace import Workspace

__all__ = ["plain_image"]

TYPES = {b"\xff\xd8": "image/jpeg", b"\x89P": "image/png", b"BM": "image/bmp"}


def plain_image(workspace: Workspace, image: str) -> tuple[str, bytes]:
    """Return the media type and bytes of an image of the workspace for another program.

    These are the file's own where other programs show it as it is read here, else those of an
    8-bit PNG of what is read: a 16-bit image would be black, a TIFF or a turned JPEG wrong.

    Raises:
        ImageError: the image cannot be decoded.
    """
    path = workspace.image_path(image)
    pixels = decode_image(path, colour=workspace.colour, white_level=workspace.white_level)
    if is_plain(path):
        data = path.read_bytes()
        return TYPES[data[:2]], data
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return "image/png", out.getvalue()
