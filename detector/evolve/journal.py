"""The journal of an evolution: one line of JSON for every change of state, only ever appended.

Several processes, also on several machines that share the folder, read and append under a lock
of the file system. What a process was writing when it was killed is no whole line and is cut off.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from wafer.datasets.errors import DataError, Fault
from wafer.detector.evolve.records import Trial, TrialState, Verdict

__all__ = ["JOURNAL", "History", "Journal"]

JOURNAL = "evolve.ndjson"
"""The name of the journal in the folder of an evolution."""


class History:
    """What the lines of a journal add up to: the trials in order, and the verdict."""

    def __init__(self) -> None:
        self.trials: list[TrialState] = []
        self.verdict: Verdict | None = None

    def apply(self, event: Mapping[str, Any]) -> None:
        """Take in one line.

        Raises:
            KeyError, TypeError, IndexError: it is not such a line.
        """
        kind = event["event"]
        if kind == "proposed":
            self.trials.append(TrialState(trial=Trial(**event["trial"])))
        elif kind == "finished":
            done = {key: event[key] for key in ("fitness", "metrics", "folder", "seconds")}
            self._change(event["trial"], status="finished", **done)
        elif kind == "failed":
            self._change(event["trial"], status="failed", reason=event["reason"])
        elif kind == "reopened":
            self._change(event["trial"], status="open", reason=None)
        elif kind == "verdict":
            self.verdict = Verdict(**event["verdict"])

    def _change(self, number: int, **changes: Any) -> None:
        self.trials[number] = replace(self.trials[number], **changes)


class Journal:
    """A journal whose lock this process holds; see ``Journal.locked``."""

    def __init__(self, handle: BinaryIO, path: Path) -> None:
        self._handle = handle
        self.history = _replay(handle, path)

    @staticmethod
    @contextmanager
    def locked(folder: Path) -> Iterator[Journal]:
        """Hold the journal of a folder: read it, and let no one else append.

        Raises:
            DataError: a line is not of this journal.
        """
        path = folder / JOURNAL
        with path.open("a+b") as handle:
            fcntl.lockf(handle, fcntl.LOCK_EX)
            yield Journal(handle, path)

    def append(self, event: str, **entries: Any) -> None:
        """Append one line and wait until the disk has it."""
        line = {"time": datetime.now(UTC).isoformat(), "event": event, **entries}
        self._handle.write(json.dumps(line).encode() + b"\n")
        self._handle.flush()
        os.fsync(self._handle.fileno())
        self.history.apply(line)

    def propose(self, trial: Trial) -> None:
        """Append a new trial."""
        self.append("proposed", trial=asdict(trial))


def _replay(handle: BinaryIO, path: Path) -> History:
    handle.seek(0)
    content = handle.read()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        handle.truncate(whole)
    history = History()
    for number, line in enumerate(content[:whole].splitlines(), start=1):
        try:
            history.apply(json.loads(line))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            fault = Fault(
                file=str(path),
                line=number,
                problem=f"this is no line of a journal ({error})",
                remedy="take the line out, or move the folder away and start anew",
            )
            raise DataError([fault]) from error
    return history
