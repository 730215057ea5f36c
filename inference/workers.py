"""Rows from several processes, one for each core, in input order; none is lost with a process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from multiprocessing.connection import Connection, wait

from wafer.datasets.errors import WaferError, WeightsError
from wafer.inference.records import Predictor, Row
from wafer.inference.sources import ImageInput

__all__ = ["classify_in_processes", "start_worker"]

Batch = tuple[ImageInput, ...]

AHEAD = 4
"""So many batches for each process are answered before one that takes long, at most."""
TRIES = 3
"""So many processes may end over the same thing, before it is given up."""


def classify_in_processes(
    inputs: Iterable[ImageInput],
    opened: Callable[[], Predictor],
    *,
    batch: int,
    processes: int,
) -> Generator[Row, None, None]:
    """Answer for each input, in input order; as `wafer.inference.pipeline.classify`.

    Each process decodes and infers in one thread. One that ends, for instance for a lack of memory,
    is replaced, and what it had been given is done again; an image over which several have ended
    becomes a row with an error. No process outlives this one, however it ends.

    Args:
        inputs: taken as they are needed.
        opened: opens the model, in each process; it has to be picklable.
        batch: inputs a call of the network, at least 1.
        processes: at least 1, without influence on the answers.

    Raises:
        WaferError: several processes have ended over the same batch, not while reading an image.
        WeightsError: the model cannot be opened, or gives no usable numbers.
    """
    if batch < 1:
        raise ValueError(f"batch must be at least 1, not {batch}")
    return _Pool(opened, iter(inputs), batch).rows(processes)


def start_worker(
    opened: Callable[[], Predictor],
) -> tuple[subprocess.Popen[bytes], Connection]:
    """Start a process that answers for batches (`wafer.inference.worker`), and open its model.

    It ends when the connection is closed, or this process ends.

    Args:
        opened: opens the model; it has to be picklable.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "wafer.inference.worker", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            process_group=0,  # Ctrl-C in a terminal is for the parent
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    connection = Connection(ours.detach())
    with suppress(OSError):  # where it has ended, the end of what it says tells
        connection.send(opened)
    return process, connection


@dataclass(slots=True)
class _Worker:
    """A process, the way to it, its batch, and the input it reads where it tells."""

    process: subprocess.Popen[bytes]
    connection: Connection
    batch: int | None = None
    reads: int | None = None


class _Pool:
    def __init__(
        self, opened: Callable[[], Predictor], inputs: Iterator[ImageInput], batch: int
    ) -> None:
        self._opened = opened
        self._new = enumerate(iter(lambda: tuple(islice(inputs, batch)), ()))
        self._workers: list[_Worker] = []
        self._given: dict[int, Batch] = {}
        self._again: list[int] = []
        self._answered: dict[int, list[Row]] = {}
        self._ends: Counter[tuple[int, int | None]] = Counter()

    def rows(self, processes: int) -> Generator[Row, None, None]:
        """Yield the rows of all batches, in their order."""
        following = 0
        try:
            self._workers += [self._started() for _ in range(processes)]
            while self._hand_out():
                self._receive()
                self._hand_out()  # before others take their time over the rows
                while following in self._answered:
                    yield from self._answered.pop(following)
                    following += 1
        finally:
            self._close()

    def _hand_out(self) -> bool:
        """Give each idle process a batch; return whether one is at work."""
        for worker in self._workers:
            if worker.batch is None and (number := self._take()) is not None:
                worker.batch = number
                suspect = any(ended == number for ended, _ in self._ends)
                self._send(worker, (self._given[number], suspect))
        return any(worker.batch is not None for worker in self._workers)

    def _take(self) -> int | None:
        if self._again:
            return self._again.pop()
        if len(self._given) + len(self._answered) >= AHEAD * len(self._workers):
            return None
        number, items = next(self._new, (None, ()))
        if number is not None:
            self._given[number] = items
        return number

    def _receive(self) -> None:
        """Wait until a process says something, or ends."""
        busy = {id(w.connection): w for w in self._workers if w.batch is not None}
        for connection in wait([worker.connection for worker in busy.values()]):
            worker = busy[id(connection)]
            assert worker.batch is not None
            try:
                said = worker.connection.recv()
            except (EOFError, OSError):
                self._replace(worker, worker.batch)
                continue
            if isinstance(said, str):
                raise WeightsError(said)
            if said is None or isinstance(said, int):
                worker.reads = said
                continue
            self._answered[worker.batch] = said
            del self._given[worker.batch]
            worker.batch = worker.reads = None

    def _replace(self, worker: _Worker, number: int) -> None:
        """Start another process in the place of one that has ended over a batch."""
        worker.connection.close()
        code = worker.process.wait()
        how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        items, at = self._given[number], worker.reads
        self._ends[number, at] += 1
        if self._ends[number, at] == TRIES:
            if at is None:
                raise WaferError(
                    f"{TRIES} processes have ended with {how} over the images {items[0].name!r} "
                    f"to {items[-1].name!r}; free memory, and start the same command again"
                )
            refused = replace(items[at], error=f"ends the process that reads it ({how})")
            self._given[number] = (*items[:at], refused, *items[at + 1 :])
        self._again.append(number)
        self._workers[self._workers.index(worker)] = self._started()

    def _started(self) -> _Worker:
        return _Worker(*start_worker(self._opened))

    def _send(self, worker: _Worker, content: object) -> None:
        with suppress(OSError):  # where it has ended, the end of what it says tells
            worker.connection.send(content)

    def _close(self) -> None:
        for worker in self._workers:
            worker.connection.close()
            worker.process.kill()
        for worker in self._workers:
            worker.process.wait()
