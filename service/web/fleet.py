"""The processes of one bundle; each takes images from the queue until it is told to end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

from wafer.datasets.errors import WaferError
from wafer.service.models import Served
from wafer.service.process import Answered, ModelProcess
from wafer.service.web.refusals import busy
from wafer.service.web.waiting import Answer, Job, Waiting

__all__ = ["Fleet"]

log = logging.getLogger(__name__)

AT_ONCE = 4
"""Images that a process is given at once: fewer round trips, but nobody waits long for others."""
PAUSE = 1.0
"""Seconds before a process that could not open the model tries again."""

Watch = Callable[[int], object]
"""Called with the number of images that a process was given."""


class Fleet:
    """Answers what waits, with one bundle.

    Args:
        served: the bundle.
        waiting: where the images come from.
        processes: at least 1.
        watch: called for each question to a process.
    """

    def __init__(self, served: Served, waiting: Waiting, *, processes: int, watch: Watch) -> None:
        self.served = served
        self._waiting = waiting
        self._watch = watch
        label = served.bundle.label
        self._processes = [ModelProcess(served.opened, model=label) for _ in range(processes)]
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="model")
        self._lanes: list[asyncio.Task[None]] = []
        self._failing = set[ModelProcess]()
        self._ended = False

    @property
    def ready(self) -> bool:
        """Return whether some process can answer."""
        lanes = zip(self._lanes, self._processes, strict=False)  # there are no lanes before `start`
        return any(not lane.done() and process not in self._failing for lane, process in lanes)

    @property
    def starts(self) -> int:
        """Return how many processes were started, the first ones included."""
        return sum(process.starts for process in self._processes)

    async def start(self) -> None:
        """Open the model in every process, and begin.

        Raises:
            WaferError: it cannot be opened; nothing was taken from the queue.
        """
        opening = [self._in_thread(partial(p.ask, ())) for p in self._processes]
        try:
            opened = await asyncio.gather(*opening, return_exceptions=True)
        except asyncio.CancelledError:
            for process in self._processes:
                process.kill()
            raise
        failed = [outcome for outcome in opened if isinstance(outcome, BaseException)]
        if failed:
            await self.stop()
            raise failed[0]
        self._lanes = [asyncio.create_task(self._work(process)) for process in self._processes]
        for lane in self._lanes:
            lane.add_done_callback(_tell)

    async def stop(self) -> None:
        """End the processes, each after what it has taken is answered."""
        self._ended = True
        self._waiting.wake()
        await asyncio.gather(*self._lanes, return_exceptions=True)  # of which `_tell` has told
        for process in self._processes:
            process.close()
        self._threads.shutdown()

    async def _work(self, process: ModelProcess) -> None:
        while jobs := await self._waiting.take(AT_ONCE, ended=lambda: self._ended):
            self._watch(len(jobs))
            began = asyncio.get_running_loop().time()
            try:
                answers = await self._in_thread(partial(process.ask, [job.item for job in jobs]))
            except WaferError as error:
                log.error("model cannot answer", extra={"fields": {"error": str(error)}})
                for job in jobs:
                    _settle(job, busy("model", "the model cannot answer now; try again later"))
                await self._reopen(process)
                continue
            for job, answered in zip(jobs, answers, strict=True):
                digest = self.served.bundle.digest
                _settle(job, Answer(answered=answered, digest=digest, queued=began - job.since))

    async def _reopen(self, process: ModelProcess) -> None:
        """Try to open the model again and again, and take nothing before."""
        self._failing.add(process)
        while not self._ended and process in self._failing:
            await asyncio.sleep(PAUSE)
            with suppress(WaferError, OSError):
                await self._in_thread(partial(process.ask, ()))
                self._failing.discard(process)

    async def _in_thread(self, asked: Callable[[], list[Answered]]) -> list[Answered]:
        return await asyncio.get_running_loop().run_in_executor(self._threads, asked)


def _tell(lane: asyncio.Task[None]) -> None:
    """Log the fault that has ended a lane, which nobody else would learn of before the end."""
    if not lane.cancelled() and (fault := lane.exception()) is not None:
        log.error("a process is asked no more", exc_info=fault)


def _settle(job: Job, answer: Answer | WaferError) -> None:
    if job.answer.done():  # nobody waits for it any more
        return
    if isinstance(answer, WaferError):
        job.answer.set_exception(answer)
    else:
        job.answer.set_result(answer)
