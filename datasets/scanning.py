"""Finding files below a folder, and what is remembered about images from one run to the next."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from wafer.datasets.errors import Fault
from wafer.datasets.files import sha256_file, write_text
from wafer.datasets.images import image_size

__all__ = ["ImageCache", "find_files", "stem_faults"]

RENAME = "rename the file"
REMOVE_LINK = "remove the link, or mend what it points to"


def find_files(
    root: Path, *, suffixes: Collection[str], exclude: Collection[Path] = ()
) -> tuple[tuple[str, ...], list[Fault]]:
    """Return the files below a folder by their paths relative to it, sorted, and bad names.

    Hidden files and folders are left out; links are followed, each folder once.

    Args:
        root: the folder; one that does not exist holds nothing.
        suffixes: lower-case file endings to take, such as ``.png``.
        exclude: absolute folders not to look into.

    Returns:
        Paths with forward slashes, and a fault for each name that cannot be written in UTF-8 or
        has a control character or backslash, and for each link that leads in a circle.
    """
    names: list[str] = []
    faults: list[Fault] = []
    for path in _walk(root, set(map(str, exclude)), faults):
        name = path.relative_to(root).as_posix()
        if path.suffix.lower() not in suffixes:
            continue
        problem = _name_problem(name)
        if problem is None:
            names.append(name)
        else:
            shown = os.fsencode(name).decode("utf-8", "backslashreplace")
            faults.append(Fault(file=ascii(shown)[1:-1], problem=problem, remedy=RENAME))
    return tuple(sorted(names)), faults


def _walk(root: Path, exclude: set[str], faults: list[Fault]) -> Iterator[Path]:
    seen: set[tuple[int, int]] = set()
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            status = folder.stat()
        except OSError:
            continue
        if not stat.S_ISDIR(status.st_mode) or (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.path in exclude:
                    continue
                try:
                    is_folder, is_file = entry.is_dir(), entry.is_file()
                except OSError as error:  # a link that leads in a circle
                    shown = os.fsencode(entry.path).decode("utf-8", "backslashreplace")
                    problem = f"cannot be followed ({error.strerror})"
                    faults.append(Fault(file=shown, problem=problem, remedy=REMOVE_LINK))
                    continue
                if is_folder:
                    waiting.append(Path(entry.path))
                elif is_file:
                    yield Path(entry.path)


def _name_problem(name: str) -> str | None:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return "a file name that is not UTF-8"
    if any(ord(c) < 32 or ord(c) == 127 for c in name):
        return "a control character in the file name"
    if "\\" in name:
        return "a backslash in the file name"
    return None


def stem_faults(names: Iterable[str]) -> list[Fault]:
    """Return a fault for each image that differs from another of its folder in the suffix alone.

    They would share one label file.
    """
    first: dict[PurePosixPath, str] = {}
    faults = []
    for name in names:
        other = first.setdefault(PurePosixPath(name).with_suffix(""), name)
        if other != name:
            problem = f"the same name as {other} but for the suffix"
            faults.append(Fault(file=name, problem=problem, remedy="rename or remove one of them"))
    return faults


class ImageCache:
    """Sizes and digests of images, kept in a file so that a second opening need not read them.

    An entry holds as long as the image's time of change and length do. The file may be deleted
    at any time.
    """

    def __init__(self, path: Path, *, images: Path) -> None:
        self._path = path
        self._images = images
        self._entries = _read_entries(path)
        self._changed = False

    def size(self, name: str) -> tuple[int, int]:
        """Return (width, height) of an image in pixels.

        Raises:
            ImageError: as `wafer.datasets.images.image_size`.
        """
        entry = self._entry(name)
        if "size" not in entry:
            entry["size"] = list(image_size(self._images / name))
            self._changed = True
        width, height = entry["size"]
        return int(width), int(height)

    def sha256(self, name: str) -> str:
        """Return the SHA-256 of an image file as 64 hexadecimal digits."""
        entry = self._entry(name)
        if "sha256" not in entry:
            entry["sha256"] = sha256_file(self._images / name)
            self._changed = True
        return str(entry["sha256"])

    def save(self) -> None:
        """Write what is new; a folder that cannot be written to costs only time."""
        if self._changed:
            with suppress(OSError):
                write_text(self._path, json.dumps(self._entries))
            self._changed = False

    def _entry(self, name: str) -> dict[str, Any]:
        try:
            status = (self._images / name).stat()
        except OSError:  # the reading that follows says what is wrong
            return {}
        state = [status.st_mtime_ns, status.st_size]
        entry = self._entries.get(name)
        if entry is None or entry.get("state") != state:
            entry = self._entries[name] = {"state": state}
        return entry


def _read_entries(path: Path) -> dict[str, dict[str, Any]]:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(document, dict):
        return {}
    return {name: entry for name, entry in document.items() if isinstance(entry, dict)}
