"""An output that is not complete yet: kept when a run is killed, gone on with by the same command.

Two hidden files lie beside the output. ``.NAME.rows`` is its beginning; ``.NAME.journal`` says how
much of it is certain: a JSON line that names the run, then one for each piece, with the rows,
bytes, errors and rows to review up to its end, and a digest of its inputs (names, sizes, times of
change). Rows reach the disk before the line that vouches for them.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO

from wafer.datasets.errors import WaferError
from wafer.datasets.files import sync_folder
from wafer.inference.sources import ImageInput

__all__ = ["Piece", "Unfinished", "unfinished_output"]

PIECE_SECONDS = 1.0
"""So much work is lost at a kill, and what is in flight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Totals at the end of a piece, and a digest of its own inputs."""

    rows: int = 0
    bytes: int = 0
    errors: int = 0
    review: int = 0
    inputs: str = ""


class Unfinished:
    """The beginning of an output, to which rows are added in the order of the inputs.

    ``done`` are the totals so far, ``before`` the rows that an earlier run had left.
    """

    def __init__(self, path: Path, rows: BinaryIO, journal: BinaryIO, run: str, batch: int) -> None:
        self.path = path
        self._rows, self._journal, self._batch = rows, journal, batch
        self._first = _line({"run": run})
        self._pulled: deque[bytes] = deque()
        self._digest = hashlib.sha256()
        self._noted = time.monotonic()
        self.done = Piece()
        self.before = 0

    @property
    def holds_pieces(self) -> bool:
        """Return whether the journal vouches for any row."""
        return os.fstat(self._journal.fileno()).st_size > len(self._first)

    def go_on(self, inputs: Iterator[ImageInput], header: bytes) -> Iterator[ImageInput]:
        """Return the inputs without a row, each noted as it is taken.

        Args:
            inputs: all inputs of the run.
            header: the first bytes of the output.
        """
        kept: list[Piece] = []
        again: Sequence[ImageInput] = ()
        for piece in self._pieces():
            before = kept[-1].rows if kept else 0
            again = list(islice(inputs, piece.rows - before))
            if piece.inputs != _digest(again):
                break  # an image came, went or changed: from here on it is another output
            kept.append(piece)
            again = ()
        self._cut(kept, header)
        self.before = self.done.rows
        return self._noting(chain(again, inputs))

    def add(self, row: bytes, *, error: bool, review: bool) -> None:
        """Add the row of the next input; it counts as soon as its piece is on disk."""
        self._rows.write(row)
        self._digest.update(self._pulled.popleft())
        done = self.done
        self.done = replace(
            done,
            rows=done.rows + 1,
            bytes=done.bytes + len(row),
            errors=done.errors + error,
            review=done.review + review,
        )
        # Pieces end where batches do, so that the batches after them are the same ones again.
        if not self.done.rows % self._batch and time.monotonic() - self._noted >= PIECE_SECONDS:
            self._note()

    def complete(self) -> None:
        """Rename the rows, all of them, to the output."""
        _flush(self._rows)
        _rows(self.path).replace(self.path)
        sync_folder(self.path.parent)
        _journal(self.path).unlink()

    def _note(self) -> None:
        _flush(self._rows)
        self.done = replace(self.done, inputs=self._digest.hexdigest())
        self._journal.write(_line(asdict(self.done)))
        _flush(self._journal)
        self._digest = hashlib.sha256()
        self._noted = time.monotonic()

    def _noting(self, inputs: Iterator[ImageInput]) -> Iterator[ImageInput]:
        for item in inputs:
            self._pulled.append(_identity(item))
            yield item

    def _pieces(self) -> Iterator[Piece]:
        """Yield the pieces that are on disk in full, if they are of this run."""
        size = _rows(self.path).stat().st_size
        self._journal.seek(0)
        lines = self._journal.read().split(b"\n")[:-1]  # what has no line end was cut off
        if not lines or lines[0] + b"\n" != self._first:
            return
        for line in lines[1:]:
            try:
                piece = Piece(**json.loads(line))
            except (ValueError, TypeError):  # a disk that lost what it had promised to keep
                return
            if piece.bytes > size:
                return
            yield piece

    def _cut(self, kept: Sequence[Piece], header: bytes) -> None:
        """Leave nothing behind the last piece that is kept."""
        lines = [self._first, *(_line(asdict(piece)) for piece in kept)]
        self._journal.truncate(sum(map(len, lines)) if kept else 0)
        _flush(self._journal)
        if kept:
            self.done = kept[-1]
            self._rows.truncate(self.done.bytes)
            return
        self.done = Piece(bytes=len(header))
        self._rows.truncate(0)
        self._rows.write(header)
        self._journal.write(self._first)


@contextmanager
def unfinished_output(path: Path, *, run: Sequence[object], batch: int) -> Iterator[Unfinished]:
    """Open the beginning of an output, or what an earlier run left of it.

    It is left where it is unless `Unfinished.complete` was reached, or it holds no row.

    Args:
        path: the output; its folder is made where needed.
        run: what decides about the rows besides the inputs; an output of another run is begun anew.
        batch: inputs a call of the network.

    Raises:
        WaferError: another process is writing this output.
        OSError: the disk is full or fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(json.dumps(run).encode()).hexdigest()
    with _journal(path).open("a+b") as journal, _rows(path).open("a+b") as rows:
        try:
            fcntl.lockf(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(journal.fileno()), _journal(path).stat()):
                raise BlockingIOError  # another process began and ended in between
        except OSError as error:
            raise WaferError(f"{path}: another process is writing it; name another") from error
        unfinished = Unfinished(path, rows, journal, name, batch)
        try:
            yield unfinished
        finally:
            if not unfinished.holds_pieces:
                _rows(path).unlink(missing_ok=True)
                _journal(path).unlink(missing_ok=True)


def _rows(path: Path) -> Path:
    return path.with_name(f".{path.name}.rows")


def _journal(path: Path) -> Path:
    return path.with_name(f".{path.name}.journal")


def _line(content: object) -> bytes:
    return json.dumps(content).encode() + b"\n"


def _digest(items: Sequence[ImageInput]) -> str:
    digest = hashlib.sha256()
    for item in items:
        digest.update(_identity(item))
    return digest.hexdigest()


def _identity(item: ImageInput) -> bytes:
    """Return what tells whether an input is still the same one."""
    try:
        status = item.path.stat()
        file = f"{status.st_size} {status.st_mtime_ns}"
    except (OSError, ValueError):
        file = "-"
    text = json.dumps([item.name, file, item.error])  # surrogates of odd names are escaped
    return text.encode("ascii") + b"\n"


def _flush(handle: BinaryIO) -> None:
    handle.flush()
    os.fsync(handle.fileno())
