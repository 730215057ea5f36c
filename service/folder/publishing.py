"""The output of the watched folder, made from the state: whole files, the same when made again."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from pathlib import Path, PurePosixPath

from wafer.datasets.errors import ImageError
from wafer.datasets.files import atomic_file, write_bytes, write_text
from wafer.inference.output import csv_header
from wafer.inference.pipeline import read_bytes
from wafer.service.folder.state import Seen, State, Stored

__all__ = ["DEAD_LETTERS", "TABLE", "Output"]

TABLE = "predictions.csv"
DEAD_LETTERS = "dead-letter"
DIGITS = 12
MOST = 220
LEFTOVER = re.compile(r"\..+\.tmp-[0-9a-f]{12}", re.DOTALL)
"""The names that `atomic_file` gives, and no others."""


class Output:
    """Writes results.

    Args:
        folder: where they go: for each lot a folder with a table and a JSON file for each image.
        source: the watched folder.
    """

    def __init__(self, folder: Path, *, source: Path) -> None:
        self._folder = folder
        self._source = source

    def publish(self, state: State, most: int) -> int:
        """Bring some results from the state into the output; return how many."""
        stored = state.unpublished(most)
        for each in stored:
            if each.error:
                self._bury(each)
            else:
                self._write_answer(each)
        for lot in sorted({each.lot for each in stored if not each.error}):
            with atomic_file(self._folder / lot / TABLE) as table:
                table.write(csv_header())
                table.writelines(line.encode() for line in state.lines(lot))
        state.publish(stored)
        return len(stored)

    def remove_leftovers(self) -> None:
        """Remove the temporary files of a process that was killed."""
        for found in self._folder.rglob(".*.tmp-*"):
            if LEFTOVER.fullmatch(found.name) and stat.S_ISREG(found.lstat().st_mode):
                found.unlink()

    def _write_answer(self, stored: Stored) -> None:
        content = json.loads(stored.answer)
        if stored.path != stored.first:
            content |= {"image": stored.path, "copy_of": stored.first}
        path = PurePosixPath(stored.path)
        _write_json(self._folder / path.parent / f"{_fitting(path.name, stored.key)}.json", content)

    def _bury(self, stored: Stored) -> None:
        """Copy a broken file, and say why; a later one of the same name gets a place of its own."""
        path = PurePosixPath(stored.path)
        place = self._folder / DEAD_LETTERS / path.parent
        name = f"{_fitting(path.stem, stored.key)}.{stored.key[:DIGITS]}"
        _write_json(place / f"{name}.json", json.loads(stored.answer))
        copy = place / f"{name}{path.suffix}"
        if (content := self._content(stored)) is not None and not copy.exists():
            write_bytes(copy, content)

    def _content(self, stored: Stored) -> bytes | None:
        """Return what was looked at; None where it is another by now, or cannot be read."""
        path = self._source / stored.path
        try:
            content = read_bytes(path)
            unread = Seen.of(path.lstat()).key(stored.path)
        except (ImageError, OSError):
            return None
        return content if stored.key in (hashlib.sha256(content).hexdigest(), unread) else None


def _fitting(name: str, key: str) -> str:
    """Return a name to which a little can be added; one that is too long goes on with its key."""
    return name if len(os.fsencode(name)) <= MOST else f"{name[: MOST // 5]}.{key[:DIGITS]}"


def _write_json(path: Path, content: object) -> None:
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
