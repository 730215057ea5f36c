"""An output that is not complete yet: kept when a run is killed, gone on with by the same command.

Two hidden files lie beside the output. ``.NAME.rows`` is its beginning; ``.NAME.journal`` says how
much of it is certain: a JSON line that names the run, then one for each piece, with the rows,
bytes, errors and rows to review up to its end, and a digest of its inputs (names, sizes, times of
change). Rows reach the disk before the line that vouches for them. An output in several files has
one journal, beside the first of them, and a ``.NAME.rows`` for each.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO

from wafer.datasets.errors import WaferError
from wafer.datasets.files import sync_folder
from wafer.inference.sources import ImageInput

__all__ = ["Growing", "Piece", "Unfinished", "held", "unfinished_output"]

PIECE_SECONDS = 1.0
"""So much work is lost at a kill, and what is in flight."""


@dataclass(frozen=True, slots=True)
class Growing:
    """A file of an output: its place, its first bytes, and what makes it of its rows.

    ``finished`` is given the rows, complete, and returns the file that becomes the output, the
    rows themselves or another one beside them.
    """

    path: Path
    header: bytes = b""
    finished: Callable[[Path], Path] | None = None

    @property
    def rows(self) -> Path:
        """Return the place of its beginning."""
        return self.path.with_name(f".{self.path.name}.rows")


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Totals at the end of a piece, bytes by file, and a digest of its own inputs."""

    rows: int = 0
    sizes: Sequence[int] = ()
    errors: int = 0
    review: int = 0
    inputs: str = ""


class Unfinished:
    """The beginning of an output, to which rows are added in the order of the inputs.

    ``done`` are the totals so far, ``before`` the rows that an earlier run had left.
    """

    def __init__(
        self,
        files: Sequence[Growing],
        handles: Sequence[BinaryIO],
        journal: BinaryIO,
        run: str,
        batch: int,
    ) -> None:
        self._files, self._handles = files, handles
        self._journal, self._batch = journal, batch
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

    def go_on(self, inputs: Iterator[ImageInput]) -> Iterator[ImageInput]:
        """Return the inputs without a row, each noted as it is taken.

        Args:
            inputs: all inputs of the run.
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
        self._cut(kept)
        self.before = self.done.rows
        return self._noting(chain(again, inputs))

    def add(self, texts: Sequence[bytes], *, error: bool, review: bool) -> None:
        """Add what each file says of the next input; it counts as soon as its piece is on disk."""
        for handle, text in zip(self._handles, texts, strict=True):
            handle.write(text)
        self._digest.update(self._pulled.popleft())
        done = self.done
        self.done = replace(
            done,
            rows=done.rows + 1,
            sizes=[size + len(text) for size, text in zip(done.sizes, texts, strict=True)],
            errors=done.errors + error,
            review=done.review + review,
        )
        # Pieces end where batches do, so that the batches after them are the same ones again.
        if not self.done.rows % self._batch and time.monotonic() - self._noted >= PIECE_SECONDS:
            self._note()

    def complete(self) -> None:
        """Make the files of all their rows, and rename them to the output, the first one last."""
        for handle in self._handles:
            _flush(handle)
        made = [f.rows if f.finished is None else f.finished(f.rows) for f in self._files]
        for file, source in reversed(list(zip(self._files, made, strict=True))):
            source.replace(file.path)
            sync_folder(file.path.parent)
        _journal(self._files[0].path).unlink()
        for file in self._files:
            file.rows.unlink(missing_ok=True)

    def _note(self) -> None:
        for handle in self._handles:
            _flush(handle)
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
        there = [os.fstat(handle.fileno()).st_size for handle in self._handles]
        self._journal.seek(0)
        lines = self._journal.read().split(b"\n")[:-1]  # what has no line end was cut off
        if not lines or lines[0] + b"\n" != self._first:
            return
        for line in lines[1:]:
            try:
                piece = Piece(**json.loads(line))
            except (ValueError, TypeError):  # a disk that lost what it had promised to keep
                return
            if any(size > found for size, found in zip(piece.sizes, there, strict=True)):
                return
            yield piece

    def _cut(self, kept: Sequence[Piece]) -> None:
        """Leave nothing behind the last piece that is kept."""
        lines = [self._first, *(_line(asdict(piece)) for piece in kept)]
        self._journal.truncate(sum(map(len, lines)) if kept else 0)
        _flush(self._journal)
        self.done = kept[-1] if kept else Piece(sizes=[len(file.header) for file in self._files])
        for file, handle, size in zip(self._files, self._handles, self.done.sizes, strict=True):
            handle.truncate(size if kept else 0)
            if not kept:
                handle.write(file.header)
        if not kept:
            self._journal.write(self._first)


@contextmanager
def unfinished_output(
    files: Sequence[Growing], *, run: Sequence[object], batch: int
) -> Iterator[Unfinished]:
    """Open the beginning of an output, or what an earlier run left of it.

    It is left where it is unless `Unfinished.complete` was reached, or it holds no row.

    Args:
        files: at least one; their folders are made where needed.
        run: what decides about the rows besides the inputs; an output of another run is begun anew.
        batch: inputs a call of the network.

    Raises:
        WaferError: another process is writing this output.
        OSError: the disk is full or fails.
    """
    name = hashlib.sha256(json.dumps(run).encode()).hexdigest()
    with ExitStack() as opened:
        journal = opened.enter_context(held(_journal(files[0].path), files[0].path))
        handles = [opened.enter_context(held(file.rows, file.path)) for file in files]
        unfinished = Unfinished(files, handles, journal, name, batch)
        try:
            yield unfinished
        finally:
            if not unfinished.holds_pieces:
                for hidden in (*(file.rows for file in files), _journal(files[0].path)):
                    hidden.unlink(missing_ok=True)


@contextmanager
def held(hidden: Path, path: Path) -> Iterator[BinaryIO]:
    """Open a hidden file of an output for this process alone; an empty one does not stay.

    Raises:
        WaferError: another process has opened it.
    """
    hidden.parent.mkdir(parents=True, exist_ok=True)
    with hidden.open("a+b") as handle:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(handle.fileno()), hidden.stat()):
                raise BlockingIOError  # another process began and ended in between
        except OSError as error:
            raise WaferError(f"{path}: another process is writing it; name another") from error
        try:
            yield handle
        finally:
            if not os.fstat(handle.fileno()).st_size:
                hidden.unlink(missing_ok=True)


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
