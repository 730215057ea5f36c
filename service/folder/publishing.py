"""The output of the watched folder, made from the state: whole files, the same when made again."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from wafer.datasets.errors import ImageError
from wafer.datasets.files import atomic_file, write_bytes, write_text
from wafer.datasets.image_names import safe_name
from wafer.inference.output import csv_header
from wafer.inference.pipeline import read_bytes
from wafer.service.folder.state import Seen, State, Stored

__all__ = ["DEAD_LETTERS", "ORIGIN", "TABLE", "Output", "origin_of"]

TABLE = "predictions.csv"
DEAD_LETTERS = "dead-letter"
ORIGIN = ("tool", "step")
"""Levels of folders that say where images come from, as drift has it."""
DIGITS = 12
MOST = 220
LEFTOVER = re.compile(r"\..+\.tmp-[0-9a-f]{12}", re.DOTALL)
"""The names that `atomic_file` gives, and no others."""


class Output:
    """Writes results.

    Args:
        folder: where they go: for each lot a folder with a table and a JSON file for each image.
        source: the watched folder.
        levels: what the folders in it are, from the outermost.
    """

    def __init__(self, folder: Path, *, source: Path, levels: Sequence[str] = ()) -> None:
        self._folder = folder
        self._source = source
        self._levels = levels

    def publish(self, state: State, most: int) -> int:
        """Bring some results from the state into the output; return how many."""
        stored = state.unpublished(most)
        for each in stored:
            if each.error:
                self._bury(each)
            else:
                self._write_answer(each)
        for lot in sorted({each.lot for each in stored if self._has_table(each)}):
            with atomic_file(self._folder / lot / TABLE) as table:
                table.write(csv_header())
                table.writelines(_line_of(*known).encode() for known in state.lines(lot))
        state.publish(stored)
        return len(stored)

    def remove_leftovers(self) -> None:
        """Remove the temporary files of a process that was killed."""
        for found in self._folder.rglob(".*.tmp-*"):
            if LEFTOVER.fullmatch(found.name) and stat.S_ISREG(found.lstat().st_mode):
                found.unlink()

    def _has_table(self, stored: Stored) -> bool:
        """Return whether a file's lot has a table; a broken one may have had a row in it before."""
        return not stored.error or (self._folder / stored.lot / TABLE).exists()

    def _write_answer(self, stored: Stored) -> None:
        _write_json(self._answer_file(stored), self._said(stored))

    def _answer_file(self, stored: Stored) -> Path:
        path = PurePosixPath(stored.path)
        return self._folder / path.parent / f"{_fitting(path.name, stored.key)}.json"

    def _said(self, stored: Stored) -> dict[str, Any]:
        """Return what was said about a content, as of this file."""
        said: dict[str, Any] = json.loads(stored.answer)
        if stored.path == stored.first:
            return said
        said = {name: value for name, value in said.items() if name not in ORIGIN}
        own = {"image": stored.path, "copy_of": stored.first}
        return {**said, **own, **origin_of(stored.path, self._levels)}

    def _bury(self, stored: Stored) -> None:
        """Copy a broken file, and say why; a later one of the same name gets a place of its own."""
        path = PurePosixPath(stored.path)
        place = self._folder / DEAD_LETTERS / path.parent
        name = f"{_fitting(path.stem, stored.key)}.{stored.key[:DIGITS]}"
        self._answer_file(stored).unlink(missing_ok=True)  # of what the file was before
        _write_json(place / f"{name}.json", self._said(stored))
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


def origin_of(path: str, levels: Sequence[str]) -> dict[str, str]:
    """Return the tool and the step of a file, where its folders say them.

    Example:
        >>> origin_of("sem-1/lot 7/a.png", ("tool", "lot"))
        {'tool': 'sem-1'}
    """
    # A file that lies less deep says nothing of the levels below it.
    named = dict(zip(levels, PurePosixPath(path).parent.parts, strict=False))
    return {level: named[level] for level in ORIGIN if level in named}


def _line_of(path: str, first: str, line: str) -> str:
    """Return the line of a file, from that of the file that brought its content first."""
    if path == first:
        return line
    _, *cells = next(csv.reader([line]))
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerow([safe_name(path), *cells])  # as `csv_row`
    return text.getvalue().removesuffix("\r\n") + "\n"


def _fitting(name: str, key: str) -> str:
    """Return a name to which a little can be added; one that is too long goes on with its key."""
    return name if len(os.fsencode(name)) <= MOST else f"{name[: MOST // 5]}.{key[:DIGITS]}"


def _write_json(path: Path, content: object) -> None:
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
