"""Pictures of rows, in folders of the user: numbered files, the same ones after a stop.

A folder is new or empty when a run begins. Until the run is complete a hidden file in it says whose
it is, by a word that the journal of the output knows too. The same command goes on with it; another
one begins the folder anew under another word, so that neither takes the other's pictures for its
own.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from wafer.datasets.errors import ImageError, WaferError
from wafer.datasets.files import write_bytes
from wafer.inference.cores import core_count
from wafer.inference.pipeline import read_bytes
from wafer.inference.records import Row
from wafer.inference.sources import ImageInput
from wafer.inference.unfinished import held

__all__ = ["Album", "Draw", "Picture", "Pictures", "album", "check_pictures", "plain_name"]

MARK = ".unfinished"
NUMBERED = re.compile(r"(\d{6,})_.*\.png")
TEMPORARY = re.compile(r"\.\d{6,}_.*\.tmp-")
LONGEST_NAME = 120
AHEAD = 64
"""So many rows wait for their pictures, at most."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Picture:
    """A PNG, and the sub-folder it belongs into, a plain name; empty for the folder itself."""

    png: bytes
    folder: str = ""


Draw = Callable[[Row, Pixels], Picture | None]
"""Returns the picture of a row, from the original image; None where it has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """What is drawn of each row, by folder.

    ``decode`` is given the content of a file and a name for errors, and returns the image in its
    full size as the model was shown it.
    """

    draws: Mapping[Path, Draw]
    decode: Callable[[bytes, str], Pixels]


def check_pictures(folders: Iterable[Path]) -> None:
    """Refuse folders for pictures before any work is done for them.

    Raises:
        WaferError: one is a file, or holds something else than what an unfinished run has left.
    """
    for folder in folders:
        if folder.exists() and not folder.is_dir():
            raise WaferError(f"{folder} is a file; name a new folder for pictures")
        if folder.is_dir() and not (folder / MARK).is_file() and any(folder.iterdir()):
            raise WaferError(f"{folder} is not empty; name a new folder for pictures")


@contextmanager
def album(pictures: Pictures | None, *, run: Sequence[object]) -> Iterator[Album]:
    """Open the folders for pictures, which `check_pictures` has let pass, for this process alone.

    Args:
        pictures: those that are wanted, None for none.
        run: what tells the run from others.

    Raises:
        WaferError: another process is filling one of them, or it cannot be made.
    """
    draws = {} if pictures is None else pictures.draws
    owner = hashlib.sha256(json.dumps(run).encode()).hexdigest()
    with ExitStack() as stack:
        folders = [stack.enter_context(_opened(folder, owner)) for folder in draws]
        yield Album(pictures, folders)


class Album:
    """The folders for pictures of a run, which are being filled."""

    def __init__(self, pictures: Pictures | None, folders: Sequence[_Folder]) -> None:
        self._pictures, self._folders = pictures, folders

    @property
    def words(self) -> tuple[str, ...]:
        """Return what tells these folders from those of every other run, and from empty ones."""
        return tuple(folder.word for folder in self._folders)

    def outside(self, inputs: Iterator[ImageInput]) -> Iterator[ImageInput]:
        """Leave out inputs in these folders: a run does not look at its own pictures."""
        if not self._folders:
            return inputs
        roots = [os.path.realpath(each.path) for each in self._folders]
        return (item for item in inputs if not _lies_in(item.path, roots))

    def rows(
        self,
        inputs: Iterable[ImageInput],
        classify: Callable[[Iterable[ImageInput]], Generator[Row, None, None]],
        *,
        before: int,
        wanted: Callable[[Row], bool],
    ) -> Generator[Row, None, None]:
        """Yield the rows of inputs in their order, each once its pictures are written.

        Args:
            inputs: those without a row so far.
            classify: gives the rows.
            before: inputs that have a row already; pictures of later ones are removed first.
            wanted: of which rows there are pictures.

        Raises:
            WaferError: a picture cannot be written, or an image was changed since its row was made.
        """
        for folder in self._folders:
            folder.cut(before)
        if not self._folders:
            with closing(classify(inputs)) as rows:
                yield from rows
            return
        taken: deque[ImageInput] = deque()

        def noting() -> Iterator[ImageInput]:
            for item in inputs:
                taken.append(item)
                yield item

        pool = ThreadPoolExecutor(core_count())
        waiting: deque[tuple[Row, Future[None] | None]] = deque()
        try:
            with closing(classify(noting())) as rows:
                for number, row in enumerate(rows, before + 1):
                    item = taken.popleft()
                    drawn = None
                    if row.prediction is not None and wanted(row):
                        drawn = pool.submit(self._draw, number, item, row)
                    waiting.append((row, drawn))
                    while waiting and (len(waiting) > AHEAD or _is_done(waiting[0][1])):
                        yield _drawn(*waiting.popleft())
            while waiting:
                yield _drawn(*waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def complete(self) -> None:
        """Let the folders be the user's."""
        for folder in self._folders:
            (folder.path / MARK).unlink(missing_ok=True)

    def _draw(self, number: int, item: ImageInput, row: Row) -> None:
        assert self._pictures is not None
        pixels = _original(item, row, self._pictures.decode)
        for folder, draw in zip(self._folders, self._pictures.draws.values(), strict=True):
            picture = draw(row, pixels)
            if picture is not None:
                folder.write(number, row, picture)


class _Folder:
    """A folder that is being filled; ``word`` tells it from every other one."""

    def __init__(self, path: Path, word: str) -> None:
        self.path, self.word = path, word

    def cut(self, kept: int) -> None:
        """Remove the pictures of inputs behind the first ``kept``, and half-written ones."""
        folders = [self.path, *(f for f in self.path.iterdir() if _is_plain_folder(f))]
        for path in (path for folder in folders for path in folder.iterdir()):
            number = NUMBERED.fullmatch(path.name)
            if TEMPORARY.match(path.name) or (number is not None and int(number[1]) > kept):
                path.unlink()

    def write(self, number: int, row: Row, picture: Picture) -> None:
        """Write the picture of an input, whose place among the inputs is ``number``, from 1."""
        stem = row.image.removesuffix(PurePosixPath(row.image).suffix)
        path = self.path / picture.folder / f"{number:06d}_{plain_name(stem)}.png"
        if os.path.lexists(path):
            raise WaferError(f"{path} was put there meanwhile; move it away")
        try:
            write_bytes(path, picture.png)
        except OSError as error:
            raise WaferError(
                f"{path} cannot be written ({error.strerror or error}); free the disk and start "
                "the same command again"
            ) from error


@contextmanager
def _opened(path: Path, owner: str) -> Iterator[_Folder]:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise WaferError(f"{path} cannot be made ({reason}); name another folder") from error
    with held(path / MARK, path) as mark:
        mark.seek(0)
        word = mark.read().decode("ascii", "replace")
        if not word.startswith(owner):
            word = f"{owner} {secrets.token_hex(8)}"
            mark.truncate(0)
            mark.write(word.encode("ascii"))
            mark.flush()
            os.fsync(mark.fileno())
        yield _Folder(path, word)


def plain_name(name: str) -> str:
    """Return a name as a file on every system may have it: its end, without what is special.

    Example:
        >>> plain_name("../lots/7 a/=x:y")
        'lots_7 a_=x_y'
    """
    plain = "".join(c if c.isalnum() or c in " -+=()" else "_" for c in name)
    return plain.encode()[-LONGEST_NAME:].decode("utf-8", "ignore").strip("_ ") or "_"


def _lies_in(path: Path, roots: Sequence[str]) -> bool:
    try:
        folder = Path(os.path.realpath(path.parent))
    except ValueError:  # a zero byte in a line of a list file
        return False
    return any(folder.is_relative_to(root) for root in roots)


def _original(item: ImageInput, row: Row, decode: Callable[[bytes, str], Pixels]) -> Pixels:
    """Return the image that a row is about, which must not be another one by now."""
    try:
        data = read_bytes(item.path)
        if hashlib.sha256(data).hexdigest() == row.sha256:
            return decode(data, row.image)
    except ImageError:
        pass
    raise WaferError(
        f"{item.path} was changed while it was looked at; start the same command again"
    )


def _is_done(drawn: Future[None] | None) -> bool:
    return drawn is None or drawn.done()


def _drawn(row: Row, drawn: Future[None] | None) -> Row:
    if drawn is not None:
        drawn.result()
    return row


def _is_plain_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
