"""What has been answered: a database that says so even after a power cut.

An image is known by its content. Its answer is written down once, in one transaction with the file
that brought it; everything else in the output is made from here, and can be made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from wafer.datasets.errors import WaferError

__all__ = ["Answer", "Seen", "State", "Stored", "open_state"]

FORMAT = 1
TABLES = """
CREATE TABLE images (
    number INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    path TEXT NOT NULL,
    lot TEXT NOT NULL, -- read by earlier versions alone
    line TEXT NOT NULL,
    answer TEXT NOT NULL,
    error TEXT NOT NULL
) STRICT;
CREATE TABLE files (
    path TEXT PRIMARY KEY,
    size INTEGER NOT NULL,
    changed INTEGER NOT NULL,
    key TEXT NOT NULL REFERENCES images (key),
    published INTEGER NOT NULL
) STRICT;
CREATE INDEX files_to_publish ON files (published) WHERE published = 0;
"""


@dataclass(frozen=True, slots=True)
class Seen:
    """How a file was when it was read: bytes, and the nanoseconds of its last change."""

    size: int
    changed: int

    @classmethod
    def of(cls, status: os.stat_result) -> Seen:
        """Return how a file of this status is."""
        return cls(status.st_size, status.st_mtime_ns)

    def key(self, path: str) -> str:
        """Return what stands for the content of a file that nobody could read: it, as it is now."""
        return hashlib.sha256(f"{path}:{self.size}:{self.changed}".encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A file that was looked at, and what came out.

    ``path`` is that below the watched folder, ``lot`` the folder it is in. ``key`` stands for the
    content. ``line`` is that of the CSV, ``answer`` JSON, ``error`` empty where there is an answer.
    """

    path: str
    lot: str
    seen: Seen
    key: str
    line: str
    answer: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A file whose results are not in the output yet.

    ``first`` is the file that brought the same content first, which may be the same; ``answer`` is
    what was said about that one.
    """

    path: str
    key: str
    first: str
    answer: str
    error: str

    @property
    def lot(self) -> str:
        """Return the folder that the file is in."""
        return PurePosixPath(self.path).parent.as_posix()


class State:
    """The database, open."""

    def __init__(self, database: sqlite3.Connection, path: Path) -> None:
        self._database = database
        self._path = path

    def files(self) -> dict[str, Seen]:
        """Return all files that were looked at, as they were."""
        rows = self._database.execute("SELECT path, size, changed FROM files")
        return {path: Seen(size, changed) for path, size, changed in rows}

    def add(self, answers: Iterable[Answer]) -> None:
        """Write down some files with what came out, all or none; known content keeps its answer."""
        with self._database:
            for a in answers:
                image = (a.key, a.path, a.lot, a.line, a.answer, a.error)
                self._database.execute(
                    "INSERT INTO images (key, path, lot, line, answer, error) "
                    "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING",
                    image,
                )
                self._database.execute(
                    "INSERT OR REPLACE INTO files (path, size, changed, key, published) "
                    "VALUES (?, ?, ?, ?, 0)",
                    (a.path, a.seen.size, a.seen.changed, a.key),
                )

    def unpublished(self, most: int) -> list[Stored]:
        """Return files whose results are not in the output yet, a few at once."""
        rows = self._database.execute(
            "SELECT files.path, files.key, images.path, images.answer, images.error "
            "FROM files JOIN images USING (key) WHERE published = 0 ORDER BY number LIMIT ?",
            (most,),
        )
        names = ("path", "key", "first", "answer", "error")
        return [Stored(**dict(zip(names, row, strict=True))) for row in rows]

    def lines(self, lot: str) -> Iterator[tuple[str, str, str]]:
        """Return the files of a lot that have an answer, in the order in which they came.

        Each is its path, the file that brought its content first, and the CSV line of that one.
        """
        # A range of paths, for which there is an index: "0" is the character after "/".
        before, after = ("", "\U0010ffff") if lot == "." else (f"{lot}/", f"{lot}0")
        return self._database.execute(
            "SELECT files.path, images.path, line FROM files JOIN images USING (key) "
            "WHERE files.path > ? AND files.path < ? AND instr(substr(files.path, ?), '/') = 0 "
            "AND error = '' ORDER BY files.rowid",
            (before, after, len(before) + 1),
        )

    def publish(self, stored: Iterable[Stored]) -> None:
        """Write down that the results of files are in the output."""
        with self._database:
            self._database.executemany(
                "UPDATE files SET published = 1 WHERE path = ? AND key = ?",
                [(each.path, each.key) for each in stored],
            )

    def contents(self) -> int:
        """Return how many contents have been answered, broken ones too."""
        (number,) = self._database.execute("SELECT count(*) FROM images").fetchone()
        return int(number)

    def answers(self, *, after: int, most: int) -> list[dict[str, Any]]:
        """Return what was answered for each content, broken ones too, in that order.

        Args:
            after: leave out so many of the first.
            most: return so many.
        """
        rows = self._database.execute(
            "SELECT answer FROM images WHERE number > ? ORDER BY number LIMIT ?", (after, most)
        )
        return [json.loads(answer) for (answer,) in rows]

    def counts(self) -> tuple[int, int, int]:
        """Return how many images were answered, how many were broken, and how many were copies."""
        answered, broken = self._database.execute(
            "SELECT count(*) FILTER (WHERE error = ''), count(*) FILTER (WHERE error != '') "
            "FROM images"
        ).fetchone()
        (copies,) = self._database.execute(
            "SELECT count(*) FROM files JOIN images USING (key) WHERE files.path != images.path"
        ).fetchone()
        return answered, broken, copies


@contextmanager
def open_state(path: Path) -> Iterator[State]:
    """Open the database, made where there is none.

    Raises:
        WaferError: it is damaged, of a newer wafer, or cannot be written.
    """
    try:
        database = sqlite3.connect(path, timeout=10)
        try:
            _prepare(database, path)
            yield State(database, path)
        finally:
            database.close()
    except sqlite3.Error as error:
        raise WaferError(
            f"{path}: {error}; free the disk, or bring back a copy of this file"
        ) from error


def _prepare(database: sqlite3.Connection, path: Path) -> None:
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    (found,) = database.execute("PRAGMA user_version").fetchone()
    if found > FORMAT:
        raise WaferError(f"{path}: written by a newer wafer; update this one")
    if found == 0:
        database.executescript(f"BEGIN; {TABLES} PRAGMA user_version = {FORMAT}; COMMIT;")
