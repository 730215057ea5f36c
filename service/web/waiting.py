"""The images that wait for a process: a bounded number, each for a bounded time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wafer.inference.sources import ImageInput
from wafer.service.process import Answered
from wafer.service.web.refusals import busy

__all__ = ["Answer", "Job", "Waiting"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a process answered, which bundle it runs, and the seconds before it was asked."""

    answered: Answered
    digest: str
    queued: float


@dataclass(slots=True, eq=False)
class Job:
    """An image, what will be its answer, since when it waits, and what ends its waiting."""

    item: ImageInput
    answer: asyncio.Future[Answer]
    since: float
    end: asyncio.TimerHandle | None = None


class Waiting:
    """A queue from which processes take a few images at once.

    Args:
        most: images that may wait; those of one request always find place in an empty queue.
        deadline: seconds that one may wait; then it is refused, and no process sees it.
    """

    def __init__(self, *, most: int, deadline: float) -> None:
        self._most = most
        self._deadline = deadline
        self._jobs: deque[Job] = deque()
        self._some = asyncio.Event()

    def __len__(self) -> int:
        """Return the number of images that wait."""
        return len(self._jobs)

    def check(self, number: int = 1) -> None:
        """Refuse images for which there is no place.

        Raises:
            Refused: 503.
        """
        if self._jobs and len(self._jobs) + number > self._most:
            raise busy("queue_full", f"{len(self._jobs)} images wait already; try again later")

    def put(self, items: Sequence[ImageInput]) -> list[Job]:
        """Let images wait, all or none of them.

        Raises:
            Refused: 503, there is no place for so many.
        """
        self.check(len(items))
        loop = asyncio.get_running_loop()
        jobs = [Job(item, loop.create_future(), loop.time()) for item in items]
        for job in jobs:
            job.end = loop.call_later(self._deadline, self._expire, job)
            self._jobs.append(job)
        self._some.set()
        return jobs

    def drop(self, jobs: Sequence[Job]) -> None:
        """Forget images that nobody wants an answer for any more."""
        for job in jobs:
            if job in self._jobs:
                self._jobs.remove(job)
            if job.end is not None:
                job.end.cancel()
            job.answer.cancel()

    async def take(self, most: int, *, ended: Callable[[], bool]) -> list[Job]:
        """Return the images that have waited longest, as soon as there are any.

        Args:
            most: so many at once, at least 1.
            ended: nothing is taken any more when this is true; see `wake`.

        Returns:
            Nothing once ``ended`` is true.
        """
        while not ended():
            if self._jobs:
                taken = [self._jobs.popleft() for _ in range(min(most, len(self._jobs)))]
                for job in taken:
                    assert job.end is not None
                    job.end.cancel()
                return taken
            self._some.clear()
            await self._some.wait()
        return []

    def wake(self) -> None:
        """Let all who wait in `take` look again whether they should end."""
        self._some.set()

    def _expire(self, job: Job) -> None:
        self._jobs.remove(job)
        if not job.answer.done():
            text = f"no process was free within {self._deadline:g} s; try again later"
            job.answer.set_exception(busy("deadline", text))
