"""Which image a user means: a path below the image root, or a name where it is unique."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

__all__ = ["ImageNames", "safe_name"]

FORMULA_STARTS = ("=", "+", "-", "@")


class ImageNames:
    r"""The images of a folder, to be found by what a table or list calls them.

    Example:
        >>> names = ImageNames(["lot1/a.png", "lot2/a.png", "lot2/b.png"])
        >>> names.find("./lot2\\a.png"), names.find("b.png"), names.find("b", stems=True)
        ('lot2/a.png', 'lot2/b.png', 'lot2/b.png')
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._by_path: dict[str, list[str]] = {}
        self._by_stem: dict[str, list[str]] = {}
        for name in names:
            path = PurePosixPath(name)
            for key in {name, path.name}:
                self._by_path.setdefault(key, []).append(name)
            for key in {path.with_suffix("").as_posix(), path.stem}:
                self._by_stem.setdefault(key, []).append(name)

    def find(self, text: str, *, stems: bool = False) -> str:
        """Return the image that ``text`` names; with ``stems`` its suffix may be left out.

        Raises:
            LookupError: no image or more than one; the message is the problem in words.
        """
        wanted = _normalised(text)
        for table in (self._by_path, self._by_stem) if stems else (self._by_path,):
            matches = table.get(wanted, [])
            if wanted in matches:
                return wanted
            if len(matches) == 1:
                return matches[0]
            if matches:
                first, second = matches[:2]
                raise LookupError(f"{text!r} may be {first} or {second}")
        raise LookupError(f"no image {text!r}")


def _normalised(text: str) -> str:
    path = text.replace("\\", "/")
    while path.startswith("./"):
        path = path[2:]
    return path


def safe_name(name: str) -> str:
    """Return an image path as a table shows it: never read as a formula by a spreadsheet.

    Example:
        >>> safe_name("=a.png"), safe_name("a.png")
        ('./=a.png', 'a.png')
    """
    return f"./{name}" if name.startswith(FORMULA_STARTS) else name
