"""Which image a user means: a path below the image root, or a name where it is unique."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

__all__ = ["ImageNames", "safe_name"]

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


class ImageNames:
    r"""The images of a folder, to be found by what a table or list calls them.

    Example:
        >>> names = ImageNames(["lot1/a.png", "lot2/a.png", "lot2/b.png"])
        >>> names.find("./lot2\\a.png"), names.find("b.png"), names.find("b", stems=True)
        ('lot2/a.png', 'lot2/b.png', 'lot2/b.png')
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._by_path: dict[str, list[str]] = {}
        self._by_name: dict[str, list[str]] = {}
        self._by_path_stem: dict[str, list[str]] = {}
        self._by_stem: dict[str, list[str]] = {}
        for name in names:
            path = PurePosixPath(name)
            self._by_path[name] = [name]
            self._by_name.setdefault(path.name, []).append(name)
            self._by_path_stem.setdefault(path.with_suffix("").as_posix(), []).append(name)
            self._by_stem.setdefault(path.stem, []).append(name)

    def find(self, text: str, *, stems: bool = False) -> str:
        """Return the image that ``text`` names; with ``stems`` its suffix may be left out.

        A path is looked for before a bare name, and a whole name before a stem.

        Raises:
            LookupError: no image or more than one; the message is the problem in words.
        """
        wanted = _normalised(text)
        if wanted not in self._by_path:  # a name may begin or end with a space, a cell mostly not
            wanted = wanted.strip()
        tables = (self._by_path, self._by_name, self._by_path_stem, self._by_stem)
        for table in tables if stems else tables[:2]:
            matches = table.get(wanted, [])
            if len(matches) == 1:
                return matches[0]
            if matches:
                raise LookupError(f"{text!r} may be {matches[0]} or {matches[1]}")
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
