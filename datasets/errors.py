"""The one tree of errors; the command line turns each into plain lines and exit code 1.

WaferError
├── DataError        faults in the user's files, all faults of one input together
├── ImageError       one image that cannot be decoded
├── WorkspaceError   no workspace, a broken wafer.toml, something that must not be overwritten
├── ConflictError    somebody else changed the same thing meanwhile
├── WeightsError     a model file that is missing, altered, or of another architecture
├── ExchangeError    a labelling service that refuses, cannot be reached, or answers amiss
└── TrainingError    a training that cannot start or had to stop
    ├── DivergedError numbers that grew beyond all bounds
    └── StorageError a disk that is full or fails: the training is sound, and goes on later
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "ConflictError",
    "DataError",
    "DivergedError",
    "ExchangeError",
    "Fault",
    "ImageError",
    "StorageError",
    "TrainingError",
    "WaferError",
    "WeightsError",
    "WorkspaceError",
]

SHOWN_FAULTS = 50


class WaferError(Exception):
    """Something the user can mend; the text says how."""


class WorkspaceError(WaferError):
    """The workspace is missing, incomplete, or would be overwritten."""


class ConflictError(WaferError):
    """Somebody else changed the same thing since it was read."""


class WeightsError(WaferError):
    """A model file is missing, altered, or does not fit."""


class ExchangeError(WaferError):
    """A labelling service refuses, cannot be reached, or answers amiss."""


class TrainingError(WaferError):
    """A training cannot start or had to stop."""


class DivergedError(TrainingError):
    """The numbers of a training grew beyond all bounds; a smaller rate may help."""


class StorageError(TrainingError):
    """A disk is full or fails; what was saved before is still there."""


class ImageError(WaferError):
    """One image file cannot be decoded."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = str(path)
        self.reason = reason

    def fault(self) -> Fault:
        """Return it as one of several faults of a workspace's images."""
        remedy = "replace the file or set its split to `unused`"
        return Fault(file=self.path, problem=self.reason, remedy=remedy)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One fault of an input: where it is, what is wrong, and how to mend it."""

    file: str
    line: int | None = None
    problem: str
    remedy: str

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{where}: {self.problem}; {self.remedy}"


class DataError(WaferError):
    """All faults found in one input, one line each."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        if not self.faults:
            raise ValueError("a DataError needs at least one fault")
        shown = [str(fault) for fault in self.faults[:SHOWN_FAULTS]]
        hidden = len(self.faults) - len(shown)
        if hidden:
            shown.append(f"... and {hidden} more faults of this input")
        super().__init__("\n".join(shown))
