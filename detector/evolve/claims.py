"""Who works on a trial: a file whose time of change is the heartbeat of its owner.

A claim is dead when its owner was a process of this machine that has ended, or when its heart has
not beaten for a minute. Claims are made and taken over only under the lock of the journal.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import threading
from pathlib import Path

import psutil

from wafer.datasets.files import write_text

__all__ = ["BEAT", "STALE", "Claim", "is_alive", "owner"]

BEAT = 5.0
"""Seconds between heartbeats."""
STALE = 60.0
"""Seconds without one after which another process may take a trial over."""
NAME = "claim.json"
# Seconds: the system derives the start of a process from a clock that may be set.
SAME_START = 2.0


class Claim:
    """This process's claim on the folder of a trial, kept alive by a thread until released."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._token = secrets.token_hex(8)
        self._stop = threading.Event()
        write_text(self.path, json.dumps({"token": self._token, **_this_process()}) + "\n")
        self._heart = threading.Thread(target=self._beat, daemon=True)
        self._heart.start()

    @property
    def held(self) -> bool:
        """Return whether no one else has taken the trial over."""
        return _read(self.path).get("token") == self._token

    def release(self) -> None:
        """Give the trial up, or note that it is done."""
        self._stop.set()
        self._heart.join()
        if self.held:
            self.path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._stop.wait(BEAT):
            if not self.held:
                return
            os.utime(self.path)


def is_alive(folder: Path) -> bool:
    """Return whether someone works on the trial of a folder."""
    claim = _read(folder / NAME)
    if not claim:
        return False
    if claim.get("machine") == _machine():
        return _runs(claim)
    try:
        age = _now_there(folder) - (folder / NAME).stat().st_mtime
    except FileNotFoundError:  # released meanwhile
        return False
    return age < STALE


def owner(folder: Path) -> str | None:
    """Return who works on the trial of a folder, as ``host:pid``."""
    claim = _read(folder / NAME)
    return f"{claim['host']}:{claim['pid']}" if claim else None


def _read(path: Path) -> dict[str, object]:
    try:
        content: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return content


def _this_process() -> dict[str, object]:
    process = psutil.Process()
    return {
        "host": platform.node(),
        "machine": _machine(),
        "pid": process.pid,
        "started": process.create_time(),
    }


def _machine() -> str:
    """Name this machine as far as process numbers reach: a container has its own."""
    space = Path("/proc/self/ns/pid")
    boot = Path("/proc/sys/kernel/random/boot_id")
    inside = space.readlink() if space.is_symlink() else ""
    started = boot.read_text(encoding="ascii").strip() if boot.is_file() else ""
    return f"{platform.node()} {started} {inside}"


def _runs(claim: dict[str, object]) -> bool:
    try:
        started: float = psutil.Process(int(str(claim["pid"]))).create_time()
    except psutil.NoSuchProcess:
        return False
    return abs(started - float(str(claim["started"]))) < SAME_START


def _now_there(folder: Path) -> float:
    """Return the time by the clock of the disk, which several machines may share."""
    probe = folder / f".now-{secrets.token_hex(4)}"
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink()
