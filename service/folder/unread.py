"""The files of a watched folder that could not be read for now."""

from __future__ import annotations

import time
from pathlib import Path

from wafer.service.again import Again, Clock

__all__ = ["Unread"]


class Unread:
    """The files of a folder that could not be read, each with its reason, until they can.

    Args:
        folder: where they are.
        now: the clock.
    """

    def __init__(self, folder: Path, *, now: Clock = time.monotonic) -> None:
        self._folder = folder
        self._now = now
        self._files: dict[str, tuple[str, Again]] = {}

    @property
    def reasons(self) -> dict[str, str]:
        """Return why each file could not be read, by its path below the folder."""
        return {path: reason for path, (reason, _) in self._files.items()}

    def is_due(self, path: str) -> bool:
        """Return whether a file may be read; one that never failed may."""
        return path not in self._files or self._files[path][1].is_due

    def add(self, path: str, reason: str) -> bool:
        """Let a file wait; return False where it is gone, so that nothing is left to read."""
        if self._is_gone(path):
            self.remove(path)
            return False
        _, again = self._files.get(path, (reason, Again(self._now)))
        again.later()
        self._files[path] = reason, again
        return True

    def remove(self, path: str) -> None:
        """Know nothing of a file any more, where anything was known."""
        self._files.pop(path, None)

    def forget_gone(self) -> None:
        """Know nothing of files any more that are gone."""
        for path in [path for path in self._files if self._is_gone(path)]:
            self.remove(path)

    def _is_gone(self, path: str) -> bool:
        try:
            (self._folder / path).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return self._folder.is_dir()  # else all of it is away, and may come back
        except OSError:
            return False
        return False
