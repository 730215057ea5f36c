"""The models folder of a workspace: bundles by digest, and the one that is promoted.

``models/current`` is a text file with a line for every promotion and every rollback; the last word
of its last line is the promoted bundle. Pointer and history are one file, so that one rename moves
both.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from wafer.datasets.errors import DataError, Fault, WaferError, WeightsError
from wafer.datasets.files import sync_folder, write_text
from wafer.datasets.workspace import Workspace
from wafer.inference.bundle import FILES, SUMS, Bundle, bundle_name, is_bundle, open_bundle, sums_of

__all__ = [
    "CURRENT",
    "Entry",
    "add_bundle",
    "current_bundle",
    "find_bundle",
    "history",
    "named_bundle",
    "promote",
    "rollback",
]

log = logging.getLogger(__name__)

CURRENT = "current"
# Two locks, because an export takes minutes, for which no promotion and no rollback has to wait.
EXPORT_LOCK = ".lock"
POINTER_LOCK = ".current.lock"
UNFINISHED = ".export-"
DAMAGED = "damaged"
"""Begins the name of a bundle that is put aside, under which no command finds it."""

Check = Callable[[Bundle], object]
"""Raises where a bundle does not give its golden answers."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the history: when (ISO 8601, UTC), what was done, and the bundle it led to."""

    time: str
    action: Literal["promote", "rollback"]
    name: str

    def __str__(self) -> str:
        return f"{self.time} {self.action} {self.name}"


def add_bundle(models: Path, fill: Callable[[Path], None]) -> Bundle:
    """Make a bundle in a folder of bundles; a sound one of the same content stays as it is.

    Until it is complete it lies under a hidden name, which the next call removes after a kill. A
    damaged one in its place is put aside. Of several calls at once each waits for the one before.

    Args:
        models: the folder of bundles, made where needed.
        fill: writes all files of the bundle but SHA256SUMS into the folder it is given.

    Raises:
        OSError: the disk is full or fails; nothing is kept.
    """
    models.mkdir(parents=True, exist_ok=True)
    with _locked(models / EXPORT_LOCK):
        for leftover in models.glob(f"{UNFINISHED}*"):
            shutil.rmtree(leftover)
        folder = models / f"{UNFINISHED}{secrets.token_hex(6)}"
        folder.mkdir()
        try:
            fill(folder)
            (folder / SUMS).write_bytes(sums := sums_of(folder))
            for name in (*FILES, SUMS):
                _sync(folder / name)
            sync_folder(folder)
            return _placed(folder, models / bundle_name(hashlib.sha256(sums).hexdigest()))
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _placed(made: Path, final: Path) -> Bundle:
    """Return the sound bundle that is in a place, or else move one there that was made for it."""
    if os.path.lexists(final):
        try:
            return open_bundle(final)
        except (WaferError, OSError):
            aside = final.with_name(f"{DAMAGED}-{secrets.token_hex(3)}-{final.name}")
            final.rename(aside)
            log.warning("%s is damaged; it is put aside as %s", final, aside.name)
    made.rename(final)
    sync_folder(final.parent)
    return open_bundle(final)


def find_bundle(models: Path, name: str) -> Path:
    """Return the folder of a bundle by its name or the first digits of its digest.

    Args:
        models: the folder of bundles.
        name: ``sha256-…``, its digest, or at least 4 first digits of it; or the folder's path.

    Raises:
        WeightsError: none, or several.
    """
    given = Path(name)
    if given.name != name and given.parent.resolve() == models.resolve():
        return find_bundle(models, given.name)
    digits = name.removeprefix("sha256-")
    if len(digits) < 4 or given.name != name:
        raise WeightsError(
            f"{name}: no bundle in {models}; copy it there, or name 4 or more of its digits"
        )
    found = [f for f in sorted(models.glob("sha256-*")) if f.name[7:].startswith(digits)]
    if not found:
        raise WeightsError(f"{name}: no bundle of this name in {models}; `wafer export` makes one")
    if len(found) > 1:
        raise WeightsError(
            f"{name}: {len(found)} bundles of this name in {models}; name more digits"
        )
    return found[0]


def current_bundle(models: Path) -> Path | None:
    """Return the folder of the promoted bundle, None where none was ever promoted.

    Raises:
        DataError: ``current`` is damaged.
    """
    entries = history(models)
    return models / entries[-1].name if entries else None


def named_bundle(workspace: Workspace | None, *, weights: Path | None) -> Path | None:
    """Return the folder of the bundle that a command uses, None where it uses another model.

    That is ``weights`` where it is a bundle, else the promoted bundle of the workspace.

    Raises:
        DataError: ``models/current`` is damaged.
        WeightsError: ``weights`` is ``models/current``.
    """
    if weights is not None:
        _check_no_pointer(weights)
        return weights if is_bundle(weights) else None
    return None if workspace is None else current_bundle(workspace.models)


def _check_no_pointer(weights: Path) -> None:
    """Refuse the pointer as a model: it names one, and who reads it as one finds it damaged."""
    if weights.name != CURRENT:
        return
    try:
        promoted = current_bundle(weights.parent)
    except DataError:  # a model file may be called so too
        return
    if promoted is not None:
        raise WeightsError(
            f"{weights}: this is the pointer to the promoted bundle; name none, or name "
            f"the bundle, {promoted}"
        )


def history(models: Path) -> tuple[Entry, ...]:
    """Return what was promoted and rolled back, oldest first.

    Raises:
        DataError: lines of ``current`` that are none of ours.
    """
    path = models / CURRENT
    if not path.is_file():
        return ()
    entries, faults = [], []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        match line.split():
            case [time, "promote" | "rollback" as action, name] if name.startswith("sha256-"):
                entries.append(Entry(time, action, name))
            case _:
                problem = "not a time, promote or rollback, and a bundle"
                remedy = "remove the line, or promote a bundle after removing the file"
                faults.append(Fault(file=str(path), line=number, problem=problem, remedy=remedy))
    if faults:
        raise DataError(faults)
    return tuple(entries)


def promote(models: Path, name: str, *, check: Check) -> Bundle:
    """Make a bundle the one that commands use, after it gave its golden answers.

    Args:
        models: the folder of bundles.
        name: as for ``find_bundle``.
        check: called with the bundle.

    Raises:
        DataError: files of the bundle that are missing or altered.
        WeightsError: no such bundle, or what ``check`` raises.
    """
    return _move(models, find_bundle(models, name), "promote", check)


def rollback(models: Path, *, check: Check) -> Bundle:
    """Go back to the bundle that was promoted before the current one; again, to the one before.

    Raises:
        DataError: files of that bundle that are missing or altered.
        WeightsError: there is none before, or what ``check`` raises.
    """
    before = _stack(models)[:-1]
    if not before:
        raise WeightsError(f"{models / CURRENT}: nothing was promoted before; promote a bundle")
    return _move(models, models / before[-1], "rollback", check)


def _move(
    models: Path, folder: Path, action: Literal["promote", "rollback"], check: Check
) -> Bundle:
    if not is_bundle(folder):
        raise WeightsError(f"{folder}: no bundle; copy it there again, or promote another one")
    bundle = open_bundle(folder)
    check(bundle)
    with _locked(models / POINTER_LOCK):
        entries = history(models)
        if action == "rollback" and _stack(models)[-2:-1] != [folder.name]:
            raise WeightsError(f"{models / CURRENT}: it was moved meanwhile; look, and try again")
        if action == "rollback" or not entries or entries[-1].name != folder.name:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            lines = [*map(str, entries), str(Entry(now, action, folder.name))]
            write_text(models / CURRENT, "\n".join(lines) + "\n")
        else:
            os.utime(models / CURRENT)  # who could not use it when it was promoted looks again
    return bundle


def _stack(models: Path) -> list[str]:
    """Return the promoted bundles that a rollback has not taken back, the current one last."""
    stack: list[str] = []
    for entry in history(models):
        if entry.action == "promote":
            stack.append(entry.name)
        else:
            del stack[-1:]
    return stack


@contextmanager
def _locked(lock: Path) -> Iterator[None]:
    with lock.open("w") as handle:
        fcntl.lockf(handle, fcntl.LOCK_EX)
        yield


def _sync(path: Path) -> None:
    with path.open("rb") as handle:
        os.fsync(handle.fileno())
