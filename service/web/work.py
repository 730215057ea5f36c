"""The model behind the requests: opened, asked, replaced by a promoted one, drained."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wafer.datasets.errors import WaferError
from wafer.detector.torch_backend import torch_backend
from wafer.inference.all_boxes import CONFIDENCE, box_values
from wafer.inference.registry import CURRENT
from wafer.inference.sources import ImageInput
from wafer.service.again import Again
from wafer.service.models import Served, promoted_at
from wafer.service.web.fleet import Fleet
from wafer.service.web.metrics import Metrics
from wafer.service.web.refusals import Refused, busy
from wafer.service.web.waiting import Answer, Waiting

__all__ = ["DRAIN", "MOST_WAITING", "Refusal", "Work"]

log = logging.getLogger(__name__)

MOST_WAITING = 64
MOST_FOR_BOXES = 32
LOOK = 0.5
"""Seconds between two looks at which bundle is promoted."""

DRAIN = 10
"""Seconds that requests inside have at most when the end was asked for."""

Choose = Callable[[], Path]
Check = Callable[[Path], Served]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A promoted bundle that is not used, and why."""

    name: str
    reason: str


class Work:
    """Answers images with the bundle that is promoted.

    Args:
        first: the bundle to begin with.
        choose: returns the folder of the bundle that should be at work.
        check: returns it with an engine, after it gave its golden answers; raises `WaferError`.
        processes: at least 1.
        deadline: seconds that an image may wait.
        queue: images that may wait.
        metrics: where everything is counted.
    """

    def __init__(
        self,
        first: Served,
        *,
        choose: Choose,
        check: Check,
        processes: int,
        deadline: float,
        queue: int,
        metrics: Metrics,
    ) -> None:
        self._choose = choose
        self._check = check
        self._count = processes
        self._metrics = metrics
        self._waiting = Waiting(most=queue, deadline=deadline)
        self._fleet = self._fleet_of(first)
        self._for_boxes = Waiting(most=MOST_FOR_BOXES, deadline=deadline)
        self._boxes: Fleet | None = None
        self._opening_boxes = asyncio.Lock()
        self._starts = 0
        self._requests = 0
        self.since = ""
        self.refusal: Refusal | None = None
        self.draining = False
        metrics.follow("wafer_waiting_images", "Images that wait.", lambda: len(self._waiting))
        metrics.follow("wafer_requests_inside", "Requests let in.", lambda: self._requests)
        metrics.follow("wafer_ready", "1 while images are answered.", lambda: self.ready)
        metrics.follow(
            "wafer_process_starts",
            "Processes of the model that were started.",
            lambda: self._starts + self._fleet.starts,
        )

    @property
    def served(self) -> Served:
        """Return the bundle at work."""
        return self._fleet.served

    @property
    def ready(self) -> bool:
        """Return whether images are answered."""
        return self._fleet.ready and not self.draining

    async def start(self) -> None:
        """Open the model.

        Raises:
            WaferError: it cannot be opened.
        """
        await self._fleet.start()
        self._show()

    @contextmanager
    def request(self, *, boxes: bool = False) -> Iterator[None]:
        """Let a request in, which `stop` then waits for; or refuse it before its images are read.

        Args:
            boxes: all boxes are wanted.

        Raises:
            Refused: 503; 400 for the boxes of a model that finds none.
        """
        if boxes and self.served.bundle.description.boxless:
            raise Refused(400, "no_boxes", "a classifier is at work; leave out all_boxes")
        if self.draining:
            raise busy("draining", "the server is about to end; ask another one")
        self._waiting.check()
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1

    async def answer(self, items: Sequence[ImageInput]) -> list[Answer]:
        """Return the answers for some images, in their order.

        Raises:
            Refused: 503, there is no place for them, or their deadline has passed.
        """
        return await _answered(self._waiting, items)

    async def boxes(
        self, items: Sequence[ImageInput], answers: Sequence[Answer]
    ) -> list[list[dict[str, Any]]]:
        """Return all boxes of images that were answered, as `wafer classify --all-boxes` does.

        They come from the bundle's weights on torch, in float32, in one process that is started
        when it is first wanted: engines give the best box alone.

        Raises:
            Refused: 503, as `answer`; also where torch cannot open the weights, or the answers are
                of a bundle that is no longer at work.
        """
        async with self._opening_boxes:
            fleet = await self._opened_boxes()
        found = await _answered(self._for_boxes, items)
        bundle = fleet.served.bundle
        if any(answer.digest != bundle.digest for answer in (*answers, *found)):
            raise busy("model", "another model has just taken over; ask again")
        return [
            [box_values(box, bundle.classes) for box in answer.answered.row.detections]
            for answer in found
        ]

    async def _opened_boxes(self) -> Fleet:
        """Return the fleet for all boxes, of the bundle at work."""
        bundle = self.served.bundle
        if self._boxes is not None and self._boxes.served.bundle.digest == bundle.digest:
            return self._boxes
        old, self._boxes = self._boxes, None
        if old is not None:
            await old.stop()
        served = Served(bundle=bundle, backend=torch_backend(above=CONFIDENCE))
        fleet = Fleet(served, self._for_boxes, processes=1, watch=self._metrics.add_batch)
        try:
            await fleet.start()
        except WaferError as error:
            log.error("no process for all boxes", extra={"fields": {"error": str(error)}})
            raise busy("model", "all boxes cannot be had of this model") from error
        self._boxes = fleet
        return fleet

    async def follow(self) -> None:
        """Replace the bundle whenever another one is promoted, until cancelled.

        Images that wait are answered by the new one, those a process has by the old one. Where the
        new one fails, the old one stays; the new one is tried again after a pause where its failure
        may pass, and else with the next promotion.
        """
        seen: tuple[Path, int | None] | None = None
        again = Again()
        while True:
            await asyncio.sleep(LOOK)
            try:
                promoted = await asyncio.to_thread(self._promoted)
            except (WaferError, OSError) as error:
                seen = None
                self._refuse(Refusal(CURRENT, str(error)))
                continue
            if promoted != seen:
                seen, again = promoted, Again()
            if again.is_due:
                again.later()
                if await self._change_to(promoted[0]):
                    again.give_up()

    async def stop(self) -> None:
        """Let no request in any more, and end the processes when those inside are answered."""
        self.draining = True
        end = asyncio.get_running_loop().time() + DRAIN
        while self._requests and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.02)
        await self._fleet.stop()
        if self._boxes is not None:
            await self._boxes.stop()

    def _promoted(self) -> tuple[Path, int | None]:
        """Return the folder of the bundle that should be at work, and when that was last said."""
        folder = self._choose()
        return folder, promoted_at(folder)

    async def _change_to(self, folder: Path) -> bool:
        """Put a bundle to work; return False where it fails in a way that may pass."""
        if folder == self.served.bundle.folder:
            self._refuse(None)
            return True
        try:
            served = await asyncio.to_thread(self._check, folder)
        except (WaferError, OSError) as error:
            self._refuse(Refusal(folder.name, str(error)))
            return isinstance(error, WaferError)
        fleet = self._fleet_of(served)
        try:
            await fleet.start()
        except WaferError as error:  # its files were in order: memory is short, or a process killed
            self._refuse(Refusal(folder.name, str(error)))
            return False
        await self._exchange(fleet)
        return True

    async def _exchange(self, fleet: Fleet) -> None:
        old, self._fleet = self._fleet, fleet
        self._refuse(None)
        self._show()
        await old.stop()
        self._starts += old.starts

    def _refuse(self, refusal: Refusal | None) -> None:
        if refusal == self.refusal:
            return
        self.refusal = refusal
        self._metrics.set_refused(refusal is not None)
        if refusal is not None:
            fields = {"bundle": refusal.name, "error": refusal.reason}
            log.error("promoted bundle not used", extra={"fields": fields})

    def _show(self) -> None:
        bundle = self.served.bundle
        self.since = datetime.now(UTC).isoformat(timespec="seconds")
        self._metrics.set_model(bundle.label, bundle.digest)
        fields = {
            "model": bundle.label,
            "digest": bundle.digest,
            "engine": self.served.backend.name,
        }
        log.info("model at work", extra={"fields": fields})

    def _fleet_of(self, served: Served) -> Fleet:
        return Fleet(served, self._waiting, processes=self._count, watch=self._metrics.add_batch)


async def _answered(waiting: Waiting, items: Sequence[ImageInput]) -> list[Answer]:
    """Return the answers for images that wait for them."""
    jobs = waiting.put(items)
    try:
        return await asyncio.gather(*(job.answer for job in jobs))
    finally:
        waiting.drop(jobs)
