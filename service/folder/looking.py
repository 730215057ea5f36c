"""Which files of a folder are complete: they have not changed for a while, or a mark says so."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from wafer.datasets.errors import DataError
from wafer.inference.sources import ImageInput, list_inputs
from wafer.service.folder.state import Seen

__all__ = ["DONE", "Found", "Looking"]

DONE = ".done"
"""A file of this name after that of an image says that the image is complete."""


@dataclass(frozen=True, slots=True)
class Found:
    """A file to look at: where it is, its path below the folder as text, and how it was.

    ``nowhere`` says that it is a link that leads nowhere, and that ``seen`` is of the link.
    """

    item: ImageInput
    path: str
    seen: Seen
    nowhere: bool = False


class Looking:
    """Looks through a folder again and again.

    Args:
        folder: with all that is below it.
        settle: seconds without a change after which a file is complete.
        now: seconds on a clock that never goes back; the times of files may be anything.
    """

    def __init__(
        self, folder: Path, *, settle: float, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder = folder
        self._settle = settle
        self._now = now
        self._changing: dict[str, tuple[Seen, float]] = {}

    @property
    def changing(self) -> int:
        """Return how many files were not complete yet when they were last looked at."""
        return len(self._changing)

    def complete(self, known: Mapping[str, Seen]) -> Iterator[Found]:
        """Yield the files that are complete, without those that are as they were known.

        Args:
            known: files by their path below the folder.
        """
        before, self._changing = self._changing, {}
        for item in self._items():
            path = os.fsencode(item.name).decode("utf-8", "backslashreplace")
            seen, nowhere = _seen(item.path)
            if seen is None or known.get(path) == seen:
                continue
            was, since = before.get(path, (seen, self._now()))
            since = since if was == seen else self._now()
            if self._now() - since >= self._settle or _is_marked(item.path):
                yield Found(item, path, seen, nowhere)
            else:
                self._changing[path] = seen, since

    def _items(self) -> Iterator[ImageInput]:
        with suppress(DataError):  # no image at all
            yield from list_inputs([self._folder], recursive=True)


def _seen(path: Path) -> tuple[Seen | None, bool]:
    """Return how a file is, and whether it is a link that leads nowhere; None where it has gone."""
    with suppress(OSError):
        return Seen.of(path.stat()), False
    with suppress(OSError):
        status = path.lstat()
        return Seen.of(status), stat.S_ISLNK(status.st_mode)
    return None, False


def _is_marked(path: Path) -> bool:
    return path.with_name(path.name + DONE).exists()
