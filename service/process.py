"""A process that runs a model, asked again where it ends: nobody's image is lost with it."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from subprocess import Popen

from wafer.datasets.errors import WeightsError
from wafer.inference.records import Predictor, Row
from wafer.inference.sources import ImageInput
from wafer.inference.workers import start_worker

__all__ = ["Answered", "ModelProcess"]

log = logging.getLogger(__name__)

PATIENCE = 120.0
"""Seconds without a word from a process before it is taken to hang."""
NICE = 5
"""The process that answers everybody, and refuses at once, goes before those that compute."""
TRIES = 2
"""So many processes may end over one image alone, before it is given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """The row of an image, and the seconds it took to decode it and to run the network.

    The network runs for all images of a question at once; each has the seconds of all.
    """

    row: Row
    decode: float = 0.0
    infer: float = 0.0


class _Ended(Exception):
    """The process has ended, or hangs."""


@dataclass(slots=True)
class _Clock:
    """When each image was begun, and the network."""

    begun: list[float] = field(default_factory=list)
    network: float = 0.0


class ModelProcess:
    """A model in a process of its own, for one thread at a time.

    Args:
        opened: opens the model; it has to be picklable.
        model: its label, for the rows of images that end a process.
    """

    def __init__(self, opened: Callable[[], Predictor], *, model: str) -> None:
        self._opened = opened
        self._model = model
        self._running: tuple[Popen[bytes], Connection] | None = None
        self.starts = 0

    def ask(self, items: Sequence[ImageInput]) -> list[Answered]:
        """Answer for some images; a process that ends over them is replaced.

        Args:
            items: any number; none at all opens the model.

        Raises:
            WeightsError: the model cannot be opened, its process cannot be started, or it gives no
                usable numbers.
        """
        try:
            return self._asked(items)
        except _Ended as error:
            log.warning("process of the model has ended", extra={"fields": {"how": str(error)}})
            if not items:
                raise WeightsError(f"the model cannot be opened: its process {error}") from error
        return [self._alone(item) for item in items]

    def kill(self) -> None:
        """End the process while another thread asks it, which then raises `WeightsError`."""
        if self._running is not None:
            self._running[0].kill()

    def close(self) -> None:
        """End the process."""
        if self._running is not None:
            process, connection = self._running
            connection.close()
            process.kill()
            process.wait()
            self._running = None

    def _alone(self, item: ImageInput) -> Answered:
        how = ""
        for _ in range(TRIES):
            try:
                return self._asked([item])[0]
            except _Ended as error:
                how = str(error)
        reason = f"ends the process that reads it ({how})"
        return Answered(row=Row(image=item.name, model=self._model, error=reason))

    def _asked(self, items: Sequence[ImageInput]) -> list[Answered]:
        if self._running is None:
            self._running = self._started()
        process, connection = self._running
        try:
            connection.send((tuple(items), True))
            rows, clock = _rows(connection)
        except WeightsError:
            self.close()
            raise
        except (EOFError, OSError) as error:
            connection.close()
            process.kill()  # where it hangs
            code = process.wait()
            self._running = None
            raise _Ended(
                f"exit code {code}" if code >= 0 else signal.Signals(-code).name
            ) from error
        ends = [*clock.begun, clock.network][1:]
        infer = time.monotonic() - clock.network
        return [
            Answered(row=row, decode=end - begin, infer=infer)
            for row, begin, end in zip(rows, clock.begun, ends, strict=True)
        ]

    def _started(self) -> tuple[Popen[bytes], Connection]:
        try:
            process, connection = start_worker(self._opened)
        except OSError as error:  # too many processes or files, no memory: it may pass
            raise WeightsError(
                f"the model cannot be opened: its process cannot be started ({error}); end other "
                "programs, or allow more processes and files"
            ) from error
        self.starts += 1
        nice = min(19, os.getpriority(os.PRIO_PROCESS, 0) + NICE)
        with suppress(ProcessLookupError):  # where it has ended, the end of what it says tells
            os.setpriority(os.PRIO_PROCESS, process.pid, nice)
        return process, connection


def _rows(connection: Connection) -> tuple[list[Row], _Clock]:
    """Return the rows that a process answers with."""
    clock = _Clock()
    while True:
        if not connection.poll(PATIENCE):
            raise OSError("no word from the process")
        said = connection.recv()
        if isinstance(said, str):
            raise WeightsError(said)
        if isinstance(said, list):
            return said, clock
        if said is None:
            clock.network = time.monotonic()
        else:
            clock.begun.append(time.monotonic())
