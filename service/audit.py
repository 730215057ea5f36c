"""The audit log: every answer that was given, line by line, each bound to the one before.

`wafer serve` and `wafer watch` write one, each its own. A line is on disk before its answer is sent
or published. Its head (``audit.head`` of ``audit.jsonl``, ``<name>.head`` of a log by another
suffix) holds the number and the hash of a line that is at most a second old, so that cut-off lines
show too; copy it elsewhere now and then.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import Any

from wafer.datasets.chain import GENESIS, chained_line, parse_line
from wafer.datasets.errors import DataError, Fault, WaferError
from wafer.datasets.files import write_bytes, write_text

__all__ = ["AUDIT", "AuditLog", "Verified", "audit_file", "read_audit", "verify_audit"]

log = logging.getLogger(__name__)

AUDIT = "audit.jsonl"
HEAD_SECONDS = 1.0
LONGEST = 1 << 20
SUFFIX = ".jsonl"
REMEDY = "put the log back from a copy"
NO_HEAD = "bring it back; where the log was renamed, give its head this name"


@dataclass(frozen=True, slots=True)
class Verified:
    """A log that is whole: its lines, and the hash of the last one."""

    lines: int
    digest: str


class AuditLog:
    """An audit log, open for more lines; nobody else writes to it meanwhile.

    What a kill has left of a line is put aside (``<name>.torn-N``).

    Args:
        path: the log, made where needed.

    Raises:
        WaferError: another process writes to it.
        DataError: its last line was changed, or its last lines were cut off.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._length, self._number, self._digest, self._head_at = 0, 0, GENESIS, 0.0
        # Unbuffered: what a full disk did not take must not be tried again by the next write.
        with ExitStack() as stack:
            self._file = stack.enter_context(path.open("a+b", buffering=0))
            self._begin()
            stack.pop_all()

    @property
    def lines(self) -> int:
        """Return how many lines there are."""
        return self._number

    def append(self, records: Sequence[Mapping[str, object]]) -> None:
        """Write down some answers; they are on disk when this returns, or none of them is.

        Raises:
            OSError: the disk is full or fails. Where that is so of the head alone it is logged.
        """
        lines, number, before = [], self._number, self._digest
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        for record in records:
            number += 1
            line, before = chained_line({"number": number, "time": now, **record}, before=before)
            lines.append(line)
        content = b"".join(lines)
        try:
            _write_all(self._file, content)
            os.fsync(self._file.fileno())
        except OSError:
            self._file.truncate(self._length)
            raise
        self._length += len(content)
        self._number, self._digest = number, before
        if time.monotonic() - self._head_at > HEAD_SECONDS:
            self._follow_with_head()

    def close(self) -> None:
        """Write the head, and let others write."""
        self._write_head()
        self._file.close()

    def _begin(self) -> None:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise WaferError(f"{self.path}: another process writes to it already") from error
        last, torn = _last_line(self._file)
        if torn:
            self._put_aside(torn)
        self._length = self._file.seek(0, os.SEEK_END)
        self._number, self._digest = _place(last, self.path)
        head = _read_head(_head(self.path))
        if head is not None and head[0] > self._number:
            problem = f"the last {head[0] - self._number} of {head[0]} lines are cut off"
            raise DataError([Fault(file=str(self.path), problem=problem, remedy=REMEDY)])
        self._write_head()

    def _put_aside(self, torn: bytes) -> None:
        number = 1
        while (free := self.path.with_name(f"{self.path.name}.torn-{number}")).exists():
            number += 1
        write_bytes(free, torn)
        self._file.truncate(self._file.seek(0, os.SEEK_END) - len(torn))
        os.fsync(self._file.fileno())

    def _follow_with_head(self) -> None:
        """Write the head; where it cannot be written the lines are still on disk, so go on."""
        try:
            self._write_head()
        except OSError as error:
            fields = {"file": str(_head(self.path)), "error": str(error)}
            log.error("head of the audit log cannot be written", extra={"fields": fields})

    def _write_head(self) -> None:
        self._head_at = time.monotonic()
        content = json.dumps({"count": self._number, "hash": self._digest})
        write_text(_head(self.path), content + "\n")


def audit_file(root: Path | None, *, audit: Path | None) -> Path | None:
    """Return the log that is named, else that of the workspace in ``root``."""
    return root / AUDIT if audit is None and root is not None else audit


def verify_audit(path: Path) -> Verified:
    """Check that no line of a log was changed, moved, added or taken away.

    Raises:
        DataError: the lines that were, or no such file.
    """
    number, digest = 0, GENESIS
    for number, (_, digest) in enumerate(_sound_lines(path), 1):  # noqa: B007
        pass
    return Verified(number, digest)


def read_audit(path: Path) -> Iterator[dict[str, Any]]:
    """Yield what each line of a log says; that nothing was changed is known after the last one.

    Raises:
        DataError: as `verify_audit`, after the last line.
    """
    return (values for values, _ in _sound_lines(path))


def _sound_lines(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield what each line says, and its hash; raise at the end where some are not sound."""
    if not path.is_file():
        raise DataError([Fault(file=str(path), problem="no such file", remedy="name a log")])
    faults, number, before, hashes_at = [], 0, GENESIS, None
    head = _read_head(_head(path))
    with path.open("rb") as handle:
        for line in handle:
            if not line.endswith(b"\n"):  # being written, or left by a kill
                break
            number += 1
            values, problem, before = _checked(line, number, before)
            if problem:
                faults.append(_fault(path, number, problem))
            else:
                yield values, before
            if head is not None and number == head[0]:
                hashes_at = before
    if head is None and number:
        problem = f"{_head(path).name} is missing"
        faults.append(Fault(file=str(path), problem=problem, remedy=NO_HEAD))
    elif head is not None and head[0] > number:
        faults.append(_fault(path, None, f"the last {head[0] - number} lines are cut off"))
    elif head is not None and head[0] and hashes_at != head[1]:
        faults.append(_fault(path, head[0], f"not the line that {_head(path).name} names"))
    if faults:
        raise DataError(faults)


def _checked(line: bytes, number: int, before: str) -> tuple[dict[str, Any], str, str]:
    """Return what a line says, what is wrong with it, empty where nothing is, and its hash."""
    try:
        values, said, digest = parse_line(line[:-1])
    except (ValueError, TypeError, KeyError):
        return {}, "changed, or no line of an audit log", ""
    if values.get("number") != number or (before and said != before):
        return {}, "it does not follow from the line before", digest
    return values, "", digest


def _write_all(handle: FileIO, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[handle.write(left) :]


def _last_line(handle: FileIO) -> tuple[bytes, bytes]:
    """Return the last whole line, without its end, and what comes after it."""
    length = handle.seek(0, os.SEEK_END)
    handle.seek(max(0, length - LONGEST))
    *whole, torn = handle.read().split(b"\n")
    return (whole[-1] if whole else b""), torn


def _place(last: bytes, path: Path) -> tuple[int, str]:
    if not last:
        return 0, GENESIS
    try:
        values, _, digest = parse_line(last)
        return int(values["number"]), digest
    except (ValueError, TypeError, KeyError) as error:
        raise DataError([_fault(path, None, "its last line was changed")]) from error


def _read_head(path: Path) -> tuple[int, str] | None:
    try:
        raw = json.loads(path.read_bytes())
        return int(raw["count"]), str(raw["hash"])
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise DataError([_fault(path, None, "not the head of an audit log")]) from error


def _head(path: Path) -> Path:
    # What follows another dot tells one log from another: `audit.8080` and `audit.8081`.
    name = path.stem if path.suffix == SUFFIX else path.name
    return path.with_name(f"{name}.head")


def _fault(path: Path, line: int | None, problem: str) -> Fault:
    return Fault(file=str(path), line=line, problem=problem, remedy=REMEDY)
