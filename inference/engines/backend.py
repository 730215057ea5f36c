"""What a runtime has to offer, and batches of one size for those that compile for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import numpy as np
from numpy.typing import NDArray

from wafer.inference.bundle import Bundle, Precision
from wafer.inference.records import Engine, TopOne

__all__ = ["TORCH", "Backend", "Open", "in_batches"]

TORCH = "torch"
"""The engine that runs model files; each kind of model brings its own."""

Pixels = NDArray[np.uint8]
Open = Callable[[Bundle, int], Engine]
"""Opens the network of a bundle for batches of a size, on one core.

Raises:
    WeightsError: the runtime cannot run it here.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """A runtime.

    ``name`` is that of ``--engine``; ``distribution`` the package whose version decides about its
    answers; ``module`` what a child process runs (``-m``) to probe it; ``precisions`` those it can
    compute in; ``reserve`` says that it is asked only where no other passes.
    """

    name: str
    distribution: str
    module: str
    precisions: frozenset[Precision]
    open: Open
    reserve: bool = False

    @property
    def version(self) -> str | None:
        """Return the version that is installed, None where none is."""
        try:
            return version(self.distribution)
        except PackageNotFoundError:
            return None


def in_batches(
    images: Pixels, batch: int, run: Callable[[Pixels], list[NDArray[np.float32]]]
) -> TopOne:
    """Run any number of images through a network that takes ``batch`` at a time.

    The last batch is filled up with black images whose answers are dropped.

    Args:
        images: at least one.
        batch: images a call.
        run: returns boxes, scores and features of exactly ``batch`` images.
    """
    parts = []
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        missing = batch - len(part)
        filled = np.pad(part, [(0, missing), *[(0, 0)] * (images.ndim - 1)]) if missing else part
        parts.append([output[: len(part)] for output in run(np.ascontiguousarray(filled))])
    boxes, scores, features = (np.concatenate(outputs) for outputs in zip(*parts, strict=True))
    return TopOne.of(boxes, scores, features)
