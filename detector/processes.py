"""Work in processes of their own: what they report, and that none outlives who started it.

A child writes its progress and its errors as lines on stdout, and ends when its stdin does: that
is when the parent has ended, however it did.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from wafer.datasets.errors import StorageError, TrainingError, WaferError

__all__ = ["Progress", "child_process", "report_progress", "run_child"]

Progress = Callable[[int, int, int, int], None]
"""Called after each batch with epoch, epochs, batch, batches; epoch and batch count from 1."""

PROGRESS = "wafer-progress "
FAULT = "wafer-fault "
COUNTS = re.compile(PROGRESS + r"(\d+) (\d+) (\d+) (\d+)")
LINES_KEPT = 100
LINES_SAID = 5
# How Python says what went wrong, with the mark that torch's launcher may set before it.
ERROR_LINE = re.compile(r"(?:\[rank\d+\]: ?)?[\w.]*(?:Error|Exception|Interrupt)\b")
ENDED = 3


def run_child(command: Sequence[str], *, progress: Progress | None = None) -> None:
    """Run a command as a child process and wait for its end.

    Args:
        command: that runs inside ``child_process``, itself or in processes of its own.
        progress: called with what the child reports; where it raises, the child is ended.

    Raises:
        StorageError: the child found a disk full or failing.
        TrainingError: what else the child found wrong, or how it ended and its last lines.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "PYTHONSAFEPATH": "1"},
    )
    try:
        fault, lines = _follow(process, progress)
        code = process.wait()
    except BaseException:
        process.kill()
        process.wait()
        raise
    finally:
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
    if code:
        raise fault or TrainingError(_last_words(code, lines))


def _follow(
    process: subprocess.Popen[str], progress: Progress | None
) -> tuple[TrainingError | None, deque[str]]:
    fault: TrainingError | None = None
    lines: deque[str] = deque(maxlen=LINES_KEPT)
    for line in process.stdout or ():
        if counts := COUNTS.fullmatch(line.rstrip()):
            if progress is not None:
                epoch, epochs, batch, batches = map(int, counts.groups())
                progress(epoch, epochs, batch, batches)
        elif line.startswith(FAULT):
            fault = _fault(line)
        elif line.strip():
            lines.append(line.rstrip())
    return fault, lines


def _fault(line: str) -> TrainingError | None:
    try:
        kind, message = json.loads(line.removeprefix(FAULT))
    except ValueError:
        return None  # some other line that happens to begin so
    return StorageError(message) if kind == "storage" else TrainingError(message)


def _last_words(code: int, lines: deque[str]) -> str:
    how = f"exit code {code}" if code > 0 else f"signal {signal.Signals(-code).name}"
    errors = [line for line in lines if ERROR_LINE.match(line)] or list(lines)
    said = "; it said: " + " / ".join(errors[-LINES_SAID:]) if errors else ""
    hint = " (often a lack of memory: try a smaller --batch)" if code == -signal.SIGKILL else ""
    return f"the training process ended with {how}{hint}{said}"


def report_progress(epoch: int, epochs: int, batch: int, batches: int) -> None:
    """Tell the parent how far this process is."""
    _tell(f"{PROGRESS}{epoch} {epochs} {batch} {batches}")


@contextmanager
def child_process() -> Iterator[None]:
    """Be a child: end with the parent, and hand on what the user can mend as one message."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        yield
    except (WaferError, OSError) as error:
        kind = "storage" if isinstance(error, (StorageError, OSError)) else "training"
        _tell(FAULT + json.dumps([kind, str(error)]))
        sys.exit(1)


def _tell(line: str) -> None:
    sys.stdout.write(f"\n{line}\n")  # a line of its own, whatever was printed before
    sys.stdout.flush()


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os._exit(ENDED)
