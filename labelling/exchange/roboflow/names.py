"""What an image is called on Roboflow, and which image a name there means.

An export calls ``scratch 1.png`` something like ``scratch-1_png.rf.0a1b2c….jpg``. The names given
here end with digits of the image's SHA-256, which survive that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from wafer.datasets.scanning import ImageCache

__all__ = ["LocalNames", "remote_name"]

DIGITS = 12
LONGEST_STEM = 80
UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")
EXPORTED = re.compile(r"\.rf\.[0-9A-Za-z]+$")
SUFFIX = re.compile(r"[_.](png|jpg|jpeg|bmp|tif|tiff|webp)$", re.IGNORECASE)
DIGEST = re.compile(rf"-([0-9a-f]{{{DIGITS}}})$")


def remote_name(image: str, *, sha256: str, suffix: str) -> str:
    """Return the name an image is uploaded under: letters, digits, ``-``, ``_`` and a suffix.

    Example:
        >>> remote_name("lot 1/w#3.tif", sha256="0123456789abcdef", suffix=".png")
        'lot-1-w-3-0123456789ab.png'
    """
    stem = UNSAFE.sub("-", PurePosixPath(image).with_suffix("").as_posix()).strip("-")
    return f"{stem[:LONGEST_STEM]}-{sha256[:DIGITS]}{suffix}".lstrip("-")


class LocalNames:
    """The images of a workspace, to be found by what an export calls them."""

    def __init__(self, images: Iterable[str], *, cache: ImageCache) -> None:
        self._by_digest: dict[str, list[str]] = {}
        self._by_words: dict[str, list[str]] = {}
        for image in images:
            self._by_digest.setdefault(cache.sha256(image)[:DIGITS], []).append(image)
            path = PurePosixPath(image)
            for words in {_words(path.with_suffix("").as_posix()), _words(path.stem)}:
                self._by_words.setdefault(words, []).append(image)

    def find(self, exported: str) -> str:
        """Return the image that a file of an export shows.

        By the digits of its content, where the name has them; else by the letters and digits of
        its path or name, which is all that Roboflow is sure to keep.

        Raises:
            LookupError: no image or more than one; the message is the problem in words.
        """
        stem = SUFFIX.sub("", EXPORTED.sub("", PurePosixPath(exported).stem))
        digest = DIGEST.search(stem)
        of_content = self._by_digest.get(digest[1], []) if digest else []
        plain = DIGEST.sub("", stem) if of_content else stem
        named = self._by_words.get(_words(plain), [])
        found = [image for image in of_content if image in named] or of_content or named
        if len(found) == 1:
            return found[0]
        if found:
            raise LookupError(f"{exported!r} may be {found[0]} or {found[1]}")
        raise LookupError(f"no image for {exported!r}")


def _words(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).casefold()
