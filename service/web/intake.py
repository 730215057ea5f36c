"""From a request to the images in it: little is read, and nothing decoded, before it must be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path

from starlette.requests import ClientDisconnect, Request

from wafer.datasets.errors import ImageError
from wafer.datasets.images import header_size, is_image_start
from wafer.inference.sources import ImageInput
from wafer.service.web.refusals import Refused, busy

__all__ = ["MAX_IMAGE", "MAX_IMAGES", "MAX_PIXELS", "Intake"]

MAX_IMAGE = 10 << 20
"""Bytes of an image."""
MAX_IMAGES = 32
"""Images in one request."""
MAX_BODY = 4 * MAX_IMAGE
"""Bytes of a request of several images."""
MAX_PIXELS = 16_000_000
"""Pixels of an image, by its header."""
MAX_HELD = 256 << 20
"""Bytes of all requests that are in work."""
MAX_NAME = 200
MAX_HEADERS = 4096
PATIENCE = 10.0
"""Seconds in which a body has to arrive."""
START = 8

UNREADABLE = (ValueError, TypeError)
"""What the email package raises for parameters with an odd encoding or an odd numbering."""

NAME = "image"
"""What an image without a name is called."""


class Intake:
    """Reads the images of requests, and knows how many bytes all of them hold."""

    def __init__(self) -> None:
        self._held = 0

    @contextmanager
    def holding(self) -> Iterator[list[int]]:
        """Give back what a request held, at its end."""
        held = [0]
        try:
            yield held
        finally:
            self._held -= held[0]

    async def images(self, request: Request, held: list[int]) -> list[ImageInput]:
        """Return the images of a request: its body, or the files of a form.

        Of several files one that is refused has ``error`` in place of its content.

        Args:
            request: whose body was not read.
            held: from `holding`.

        Raises:
            Refused: too long, too slow, not an image, or too many pixels.
        """
        boundary = _boundary(request)
        try:
            async with asyncio.timeout(PATIENCE):
                if boundary is None:
                    body = await self._read(request, held, most=MAX_IMAGE, first=True)
                    found = [ImageInput(Path(NAME), NAME, content=body)]
                else:
                    body = await self._read(request, held, most=MAX_BODY, first=False)
                    found = list(_parts(body, boundary))
        except TimeoutError as error:
            text = f"the body did not arrive within {PATIENCE:g} s"
            raise Refused(408, "slow", text) from error
        except ClientDisconnect as error:
            raise Refused(400, "gone", "the client has gone") from error
        alone = len(found) == 1
        return [await asyncio.to_thread(_checked, item, alone=alone) for item in found]

    async def _read(self, request: Request, held: list[int], *, most: int, first: bool) -> bytes:
        """Return the body; whatever its length is said to be, no more than ``most`` is kept.

        Args:
            request: whose body was not read.
            held: grows by its bytes.
            most: bytes.
            first: it begins as an image does, or the rest of it is not read.
        """
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) > most:
            raise _too_long(most)
        body = bytearray()
        async for chunk in _chunks(request):
            body += chunk
            if len(body) > most:
                raise _too_long(most)
            if first and len(body) >= START:
                _check_start(bytes(body[:START]))
                first = False
            held[0] += len(chunk)
            self._held += len(chunk)
            if self._held > MAX_HELD:
                raise busy("memory", "too many images at once; try again later")
        return bytes(body)


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    async for chunk in request.stream():
        if chunk:
            yield chunk


def _too_long(most: int) -> Refused:
    return Refused(413, "too_long", f"more than {most:,} bytes; send less at once")


def _check_start(start: bytes) -> None:
    if not is_image_start(start):
        text = "not a PNG, JPEG, TIFF or BMP image, whatever its name; send the file itself"
        raise Refused(415, "not_an_image", text)


def _checked(item: ImageInput, *, alone: bool) -> ImageInput:
    """Return an image that may be decoded, or why it may not: that costs no other its answer.

    Raises:
        Refused: it may not, and there is no other.
    """
    try:
        _check(item)
    except Refused as refused:
        if alone:
            raise
        return replace(item, error=str(refused), content=b"")
    return item


def _check(item: ImageInput) -> None:
    """Look at the first bytes and the header of an image."""
    assert item.content is not None
    if not item.content:
        raise Refused(400, "empty", "no image; send the bytes of an image file")
    if len(item.content) > MAX_IMAGE:
        raise _too_long(MAX_IMAGE)
    _check_start(item.content[:START])
    try:
        width, height = header_size(item.content, item.name)
    except ImageError as error:
        raise Refused(422, "damaged", error.reason) from error
    if width * height > MAX_PIXELS:
        text = f"{width} x {height} pixels, more than {MAX_PIXELS:,}"
        raise Refused(413, "too_many_pixels", text)


def _boundary(request: Request) -> bytes | None:
    """Return what parts the files of a form, None where the body is no form."""
    kind = Message()
    kind["content-type"] = request.headers.get("content-type", "")
    if kind.get_content_maintype() != "multipart":
        return None
    try:
        boundary = kind.get_boundary()
    except UNREADABLE:
        boundary = None
    if kind.get_content_subtype() != "form-data" or not boundary or len(boundary) > 70:
        raise Refused(415, "form", "a form without a usable boundary")
    return boundary.encode("latin-1", "replace")


def _parts(body: bytes, boundary: bytes) -> Iterator[ImageInput]:
    """Yield the files of a form."""
    delimiter = b"\r\n--" + boundary
    whole = b"\r\n" + body
    if whole.count(delimiter) > MAX_IMAGES + 1:
        raise Refused(413, "too_many_images", f"more than {MAX_IMAGES} images in one request")
    _, *parts = whole.split(delimiter)
    if len(parts) < 2 or not parts[-1].startswith(b"--"):
        raise Refused(400, "form", "a form without a file, or cut off before its end")
    for number, part in enumerate(parts[:-1], 1):
        head, blank, content = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        text = head.decode("utf-8", "replace") if len(head) <= MAX_HEADERS else ""
        name = _filename(text)
        if not blank or name is None:
            raise Refused(400, "form", f"part {number} of the form is not a file")
        yield ImageInput(Path(NAME), _plain(name) or f"{NAME}-{number}", content=content)


def _filename(head: str) -> str | None:
    """Return the name of a file as the head of its part says it, None where that says none."""
    try:
        return HeaderParser().parsestr(head).get_filename()
    except UNREADABLE:
        return None


def _plain(name: str) -> str:
    """Return the name of a file as it may stand in an answer; nothing is ever opened by it."""
    text = name.encode("utf-8", "replace").decode("utf-8")
    return "".join(c for c in text if c.isprintable())[:MAX_NAME]
