"""An output that is not complete yet: kept when a run is killed, gone on with by the same command.

Two hidden files lie beside the output. ``.NAME.rows`` is its beginning; ``.NAME.journal`` says how
much of it is certain: a JSON line that names the run, then one for each piece, with the rows,
bytes, errors and rows to review up to its end, and a digest of its inputs (names, sizes, times of
change). Rows reach the disk before the line that vouches for them.

An output in several files has both for each. All journals begin with the same line, in which a word
is drawn whenever an output is begun anew, so that rows which another run has written meanwhile are
never taken for its own; what follows stands in the journal of the first file alone. Its last line,
written when all files are made, says what they look like: the first one gets its name last, and
until then the others are known by that as this run's own.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

from wafer.datasets.errors import WaferError
from wafer.datasets.files import sync_folder
from wafer.inference.sources import ImageInput

__all__ = ["Growing", "Piece", "Unfinished", "files_put", "held", "unfinished_output"]

PIECE_SECONDS = 1.0
"""So much work is lost at a kill, and what is in flight."""

MADE = "made"
TAKEN = "another process is writing it; name another"


@dataclass(frozen=True, slots=True)
class Growing:
    """A file of an output: its place, its first bytes, and what makes it of its rows.

    ``finished`` is given the rows, complete, and returns the file that becomes the output: another
    one beside them, on disk in full. Without it the rows themselves do, which only the first file
    of an output can afford: it gets its name when nothing is left to go on with.
    """

    path: Path
    header: bytes = b""
    finished: Callable[[Path], Path] | None = None

    @property
    def rows(self) -> Path:
        """Return the place of its beginning."""
        return self.path.with_name(f".{self.path.name}.rows")

    @property
    def journal(self) -> Path:
        """Return the place of what says whose beginning it is."""
        return _journal(self.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Totals at the end of a piece, bytes by file, and a digest of its own inputs."""

    rows: int = 0
    sizes: Sequence[int] = ()
    errors: int = 0
    review: int = 0
    inputs: str = ""


@dataclass(frozen=True, slots=True)
class _Told:
    """What a journal tells.

    ``first`` is its first line, ``named`` what that says, ``made`` the stamps of the files that
    have been made of the rows; empty until the last row is there.
    """

    first: bytes = b""
    named: Mapping[str, object] = field(default_factory=dict)
    pieces: Sequence[Mapping[str, Any]] = ()
    made: Sequence[str] = ()


class Unfinished:
    """The beginning of an output, to which rows are added in the order of the inputs.

    ``done`` are the totals so far, ``before`` the rows that an earlier run had left.
    """

    def __init__(
        self,
        files: Sequence[Growing],
        handles: Sequence[BinaryIO],
        journals: Sequence[BinaryIO],
        named: Mapping[str, object],
        batch: int,
    ) -> None:
        self._files, self._handles = files, handles
        self._journals, self._journal = journals, journals[0]
        self._named, self._batch = named, batch
        self._first = b""
        self._pulled: deque[bytes] = deque()
        self._digest = hashlib.sha256()
        self._noted = time.monotonic()
        self.done = Piece()
        self.before = 0

    @property
    def is_worthless(self) -> bool:
        """Return whether it was begun, and the journal vouches for no row."""
        size = os.fstat(self._journal.fileno()).st_size
        return bool(self._first) and size <= len(self._first)

    def go_on(self, inputs: Iterator[ImageInput]) -> Iterator[ImageInput]:
        """Return the inputs without a row, each noted as it is taken.

        Args:
            inputs: all inputs of the run.
        """
        told = _told_by(self._journal)
        kept: list[Piece] = []
        again: Sequence[ImageInput] = ()
        for piece in self._pieces(told):
            before = kept[-1].rows if kept else 0
            again = list(islice(inputs, piece.rows - before))
            if piece.inputs != _digest(again):
                break  # an image came, went or changed: from here on it is another output
            kept.append(piece)
            again = ()
        # Taken back while the journal still says whose they are, lest a second kill make them
        # files that only --force replaces.
        for path in _put([file.path for file in self._files], told, str(self._named["run"])):
            path.unlink()
            sync_folder(path.parent)
        if kept:
            self._cut(told.first, kept)
        else:
            self._begin()
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
        """Make the files of all their rows, and rename them to the output, the first one last.

        Raises:
            WaferError: the rows are not where they were.
        """
        self._flush_rows()
        made = [f.rows if f.finished is None else f.finished(f.rows) for f in self._files]
        self._journal.write(_line({MADE: [_stamp(path) for path in made]}))
        _flush(self._journal)
        for file, source in reversed(list(zip(self._files, made, strict=True))):
            source.replace(file.path)
            sync_folder(file.path.parent)
        for hidden in _hidden(self._files):
            hidden.unlink(missing_ok=True)

    def _note(self) -> None:
        self._flush_rows()
        self.done = replace(self.done, inputs=self._digest.hexdigest())
        self._journal.write(_line(asdict(self.done)))
        _flush(self._journal)
        self._digest = hashlib.sha256()
        self._noted = time.monotonic()

    def _flush_rows(self) -> None:
        """Let the rows reach the disk, at the place where the next run looks for them."""
        for file, handle in zip(self._files, self._handles, strict=True):
            if not _is_at(handle, file.rows):
                raise WaferError(
                    f"{file.path} cannot be written ({file.rows.name} beside it is gone); bring "
                    "the folder back and start the same command again"
                )
            _flush(handle)

    def _noting(self, inputs: Iterator[ImageInput]) -> Iterator[ImageInput]:
        for item in inputs:
            self._pulled.append(_identity(item))
            yield item

    def _pieces(self, told: _Told) -> Iterator[Piece]:
        """Yield the pieces that are on disk in full, if they are of this run."""
        others = self._journals[1:]
        if not self._named.items() <= told.named.items():
            return
        if any(_told_by(each).first != told.first for each in others):
            return  # another run has begun that file anew
        there = [os.fstat(handle.fileno()).st_size for handle in self._handles]
        for each in told.pieces:
            piece = Piece(**each)
            if any(size > found for size, found in zip(piece.sizes, there, strict=True)):
                return
            yield piece

    def _cut(self, first: bytes, kept: Sequence[Piece]) -> None:
        """Leave nothing behind the last piece that is kept."""
        self._first, self.done = first, kept[-1]
        lines = [first, *(_line(asdict(piece)) for piece in kept)]
        self._journal.truncate(sum(map(len, lines)))
        _flush(self._journal)
        for handle, size in zip(self._handles, self.done.sizes, strict=True):
            handle.truncate(size)

    def _begin(self) -> None:
        """Leave nothing of what was there, which first is said to be of this run from now on."""
        self._first = _line({**self._named, "word": secrets.token_hex(8)})
        self.done = Piece(sizes=[len(file.header) for file in self._files])
        for journal in self._journals:
            journal.truncate(0)
            journal.write(self._first)
            _flush(journal)
        for file, handle in zip(self._files, self._handles, strict=True):
            handle.truncate(0)
            handle.write(file.header)


@contextmanager
def unfinished_output(
    files: Sequence[Growing], *, run: Sequence[object], batch: int, words: Sequence[str] = ()
) -> Iterator[Unfinished]:
    """Open the beginning of an output, or what an earlier run left of it.

    It is left where it is unless `Unfinished.complete` was reached, or it holds no row.

    Args:
        files: at least one; their folders are made where needed.
        run: what decides about the rows besides the inputs; an output of another run is begun anew.
        batch: inputs a call of the network.
        words: what tells folders that are filled meanwhile from others; with other ones the output
            is begun anew.

    Raises:
        WaferError: another process is writing this output.
        OSError: the disk is full or fails.
    """
    with ExitStack() as opened:
        journals = [opened.enter_context(held(file.journal, file.path)) for file in files]
        handles = [opened.enter_context(held(file.rows, file.path)) for file in files]
        named = {"run": _name(run), "words": list(words)}
        unfinished = Unfinished(files, handles, journals, named, batch)
        try:
            yield unfinished
        finally:
            if unfinished.is_worthless:
                for hidden in _hidden(files):
                    hidden.unlink(missing_ok=True)


def files_put(files: Sequence[Path], run: Sequence[object] | None = None) -> list[Path]:
    """Return the files that have their names already of an output whose first one has not.

    Args:
        files: of the output, as a run that was killed at its very end had them.
        run: the one that is meant; None for whichever it was.
    """
    try:
        told = _told(_journal(files[0]).read_bytes())
    except OSError:
        return []
    return _put(files, told, None if run is None else _name(run))


@contextmanager
def held(hidden: Path, path: Path) -> Iterator[BinaryIO]:
    """Open a hidden file of an output for this process alone; an empty one does not stay.

    Raises:
        WaferError: another process has opened it, or it cannot be locked.
    """
    hidden.parent.mkdir(parents=True, exist_ok=True)
    with hidden.open("a+b") as handle:
        _lock(handle, path)
        if not _is_at(handle, hidden):  # another process began and ended in between
            raise WaferError(f"{path}: {TAKEN}")
        try:
            yield handle
        finally:
            if not os.fstat(handle.fileno()).st_size:
                hidden.unlink(missing_ok=True)


def _lock(handle: BinaryIO, path: Path) -> None:
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:  # systems say the one or the other
        raise WaferError(f"{path}: {TAKEN}") from error
    except OSError as error:
        reason = error.strerror or error
        raise WaferError(f"{path} cannot be locked ({reason}); name one on another disk") from error


def _is_at(handle: BinaryIO, path: Path) -> bool:
    """Return whether an open file has this name still."""
    try:
        return os.path.samestat(os.fstat(handle.fileno()), path.stat())
    except OSError:
        return False


def _hidden(files: Sequence[Growing]) -> Iterator[Path]:
    """Yield what lies beside an output, the journal that says most at the end."""
    yield from (file.rows for file in files)
    yield from (file.journal for file in reversed(files))


def _journal(path: Path) -> Path:
    return path.with_name(f".{path.name}.journal")


def _name(run: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(run).encode()).hexdigest()


def _told_by(journal: BinaryIO) -> _Told:
    journal.seek(0)
    return _told(journal.read())


def _told(content: bytes) -> _Told:
    lines = content.split(b"\n")[:-1]  # what has no line end was cut off
    said = list(_said(lines))
    if not said:
        return _Told()
    named, *rest = said
    pieces = [each for each in rest if MADE not in each]
    made = next((each[MADE] for each in rest if MADE in each), ())
    return _Told(lines[0] + b"\n", named, pieces, made)


def _said(lines: Sequence[bytes]) -> Iterator[dict[str, Any]]:
    """Yield what lines say, up to one that a disk has lost which had promised to keep it."""
    for line in lines:
        try:
            content = json.loads(line)
        except ValueError:
            return
        if not isinstance(content, dict):
            return
        yield content


def _put(files: Sequence[Path], told: _Told, run: str | None) -> list[Path]:
    if len(told.made) != len(files) or run not in (None, told.named.get("run")):
        return []
    behind = list(zip(files, told.made, strict=True))[1:]
    return [path for path, stamp in behind if _stamp(path) == stamp]


def _line(content: object) -> bytes:
    return json.dumps(content).encode() + b"\n"


def _digest(items: Sequence[ImageInput]) -> str:
    digest = hashlib.sha256()
    for item in items:
        digest.update(_identity(item))
    return digest.hexdigest()


def _identity(item: ImageInput) -> bytes:
    """Return what tells whether an input is still the same one."""
    text = json.dumps([item.name, _stamp(item.path), item.error])  # surrogates are escaped
    return text.encode("ascii") + b"\n"


def _stamp(path: Path) -> str:
    """Return what tells whether a file is still the same one, a dash where there is none."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return "-"
    return f"{status.st_size} {status.st_mtime_ns}"


def _flush(handle: BinaryIO) -> None:
    handle.flush()
    os.fsync(handle.fileno())
