"""Who works on a trial: a file whose time of change is the heartbeat of its owner.

A claim is dead when its heart has not beaten for a minute, or at once when its owner was a process
of this machine that has ended. Claims are made and taken over only under the lock of the journal.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import threading
from pathlib import Path

from wafer.datasets.files import write_text

__all__ = ["BEAT", "STALE", "Claim", "is_alive", "owner"]

BEAT = 5.0
"""Seconds between heartbeats."""
STALE = 60.0
"""Seconds without one after which another process may take a trial over."""
NAME = "claim.json"
# Places in /proc/PID/stat after the name of the process, see proc_pid_stat(5).
STATE = 0
START_TICKS = 19


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
            try:
                if self.held:
                    os.utime(self.path)
            except OSError:  # a shared disk that is away for a while
                continue


def is_alive(folder: Path) -> bool:
    """Return whether someone works on the trial of a folder."""
    claim = _read(folder / NAME)
    if not claim:
        return False
    if claim.get("machine") == _machine() and _started(int(str(claim["pid"]))) != claim["started"]:
        return False
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
    return {
        "host": platform.node(),
        "machine": _machine(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
    }


def _machine() -> str:
    """Name this machine as far as process numbers reach: a container has its own."""
    space = Path("/proc/self/ns/pid")
    boot = Path("/proc/sys/kernel/random/boot_id")
    inside = space.readlink() if space.is_symlink() else ""
    started = boot.read_text(encoding="ascii").strip() if boot.is_file() else ""
    return f"{platform.node()} {started} {inside}"


def _started(pid: int) -> int | None:
    """Return when a process was started, in ticks since the start of the machine.

    None for one that has ended, also where nobody has taken note of its end yet (a zombie).
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[STATE] in "ZX" else int(fields[START_TICKS])


def _now_there(folder: Path) -> float:
    """Return the time by the clock of the disk, which several machines may share."""
    probe = folder / f".now-{secrets.token_hex(4)}"
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink()
