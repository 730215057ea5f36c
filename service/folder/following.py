"""The bundle at work in a watched folder, which a promoted one replaces between two portions."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from wafer.datasets.errors import WaferError, WeightsError
from wafer.inference.cores import core_count
from wafer.inference.registry import CURRENT
from wafer.inference.sources import ImageInput
from wafer.service.again import Again, Clock
from wafer.service.folder.answering import Answering
from wafer.service.models import Served, promoted_at
from wafer.service.process import Answered

__all__ = ["Following"]

log = logging.getLogger(__name__)


class Following:
    """Answers with the bundle that is promoted.

    Args:
        served: the bundle to begin with.
        choose: returns the folder of the bundle that should be at work.
        check: returns it with an engine, after it gave its golden answers.
        now: the clock.
    """

    def __init__(
        self,
        served: Served,
        *,
        choose: Callable[[], Path],
        check: Callable[[Path], Served],
        now: Clock = time.monotonic,
    ) -> None:
        self._choose = choose
        self._check = check
        self._now = now
        self._promoted: tuple[Path, int | None] | None = None
        self._again = Again(now)
        self._complaint = ""
        self._answering = _answering(served)

    def ask(self, items: Sequence[ImageInput]) -> tuple[list[Answered], str]:
        """Return the answers for some images, and the digest of the bundle that gave them.

        Raises:
            WeightsError: its model cannot be opened, or gives no usable numbers.
        """
        self._follow()
        return self._answering.answers(items), self._answering.served.bundle.digest

    def close(self) -> None:
        """End its processes."""
        self._answering.close()

    def _follow(self) -> None:
        """Take the bundle that is promoted now; where it cannot be had, go on as before."""
        name = CURRENT
        try:
            folder = self._choose()
            name, promoted = folder.name, (folder, promoted_at(folder))
            if promoted != self._promoted:
                self._promoted, self._again = promoted, Again(self._now)
            if folder != self._answering.served.bundle.folder and self._again.is_due:
                self._change_to(folder)
        except (WaferError, OSError) as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                fields = {"bundle": name, "error": self._complaint}
                log.error("promoted bundle not used", extra={"fields": fields})

    def _change_to(self, folder: Path) -> None:
        self._again.later()
        try:
            served = self._check(folder)
        except WaferError:  # it is damaged or wrong, and stays so until it is promoted again
            self._again.give_up()
            raise
        answering = _answering(served)
        try:
            answering.start()
        except WeightsError:  # its files were in order: memory is short, or a process was killed
            answering.close()
            raise
        self._answering.close()
        self._answering = answering
        self._complaint = ""
        log.info("model at work", extra={"fields": {"model": served.bundle.label}})


def _answering(served: Served) -> Answering:
    return Answering(served, processes=core_count())
