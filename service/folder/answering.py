"""Some images at once to the processes of one bundle; a process starts when it is first needed."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import LifoQueue

from wafer.inference.sources import ImageInput
from wafer.service.models import Served
from wafer.service.process import Answered, ModelProcess

__all__ = ["Answering"]

TOGETHER = 4
"""Images that a process is given at once."""


class Answering:
    """The processes of a bundle.

    Args:
        served: the bundle.
        processes: at least 1; few images start few of them.
    """

    def __init__(self, served: Served, *, processes: int) -> None:
        self.served = served
        label = served.bundle.label
        self._processes = [ModelProcess(served.opened, model=label) for _ in range(processes)]
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="model")
        self._idle: LifoQueue[ModelProcess] = LifoQueue()
        for process in self._processes:
            self._idle.put(process)

    def start(self) -> None:
        """Open the model in one process, which the first images then find open.

        Raises:
            WeightsError: it cannot be opened.
        """
        self._ask([])

    def answers(self, items: Sequence[ImageInput]) -> list[Answered]:
        """Return the answers for some images, in their order.

        Raises:
            WeightsError: the model cannot be opened, or gives no usable numbers.
        """
        parts = [items[start : start + TOGETHER] for start in range(0, len(items), TOGETHER)]
        return [answer for found in self._threads.map(self._ask, parts) for answer in found]

    def close(self) -> None:
        """End the processes."""
        self._threads.shutdown()
        for process in self._processes:
            process.close()

    def _ask(self, items: Sequence[ImageInput]) -> list[Answered]:
        process = self._idle.get()
        try:
            return process.ask(items)
        finally:
            self._idle.put(process)
