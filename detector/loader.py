"""A loader that draws each epoch when it begins, from the weights that hold then.

ultralytics' own loader prefetches into the next epoch: its weighted draws are one epoch stale,
and differ with the number of workers (measured, see docs/detector.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Sampler  # noqa: TID253

from wafer.detector.dataset import DetectionDataset
from wafer.detector.image_weights import draw_epoch, image_probabilities, instance_counts

__all__ = ["EpochLoader", "EpochSampler"]


class EpochSampler(Sampler[tuple[int, int]]):
    """The images of one epoch with the seed of each, a pure function of (seed, epoch, weights)."""

    def __init__(self, dataset: DetectionDataset, *, seed: int, img_weights: bool) -> None:
        self.dataset = dataset
        self.seed = seed
        self.epoch = 0
        self.img_weights = img_weights
        self.counts = instance_counts(
            [image.classes for image in dataset.images], classes=len(dataset.data["names"])
        )
        self.drawn: NDArray[np.int64] = np.zeros(0, np.int64)
        self.start_epoch(0, maps=None)

    def start_epoch(self, epoch: int, *, maps: NDArray[np.float64] | None) -> None:
        """Draw an epoch.

        Args:
            epoch: which one, from 0.
            maps: AP50-95 of each class in the last validation; None where there was none.
        """
        self.epoch = epoch
        probabilities = image_probabilities(self.counts, maps) if self.img_weights else None
        self.drawn = draw_epoch(
            len(self.counts), seed=self.seed, epoch=epoch, probabilities=probabilities
        )
        local = np.array([not image.whole_image for image in self.dataset.images], np.float64)
        uniform = np.full(len(local), 1 / len(local))
        self.dataset.partner_probabilities = np.cumsum(
            local * (uniform if probabilities is None else probabilities)
        )

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for position, image in enumerate(self.drawn):
            seeds = np.random.SeedSequence((self.seed, self.epoch, position))
            yield int(image), int(seeds.generate_state(1, np.uint64)[0])

    def __len__(self) -> int:
        return len(self.counts)


class EpochLoader(DataLoader[dict[str, Any]]):
    """A plain torch loader with what ultralytics' trainer asks of its own."""

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        # A generator, because the trainer opens two iterators an epoch and uses one: workers are
        # started by the first batch that is asked for.
        yield from super().__iter__()

    def reset(self) -> None:
        """Forget nothing: workers start afresh with each epoch, and see the dataset as it is."""

    def close(self) -> None:
        """Close nothing: no worker outlives its epoch."""
