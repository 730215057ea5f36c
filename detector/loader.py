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
from wafer.detector.image_weights import (
    Mode,
    draw_epoch,
    epoch_length,
    image_probabilities,
    instance_counts,
)

__all__ = ["EpochLoader", "EpochSampler", "StridedSampler"]


class EpochSampler(Sampler[tuple[int, int]]):
    """The images of one epoch with the seed of each, a pure function of (seed, epoch, weights).

    Of several processes that train together each takes every ``world``-th image of the same draw,
    and the same number of them: a draw that cannot be divided is filled up from its beginning.
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        *,
        seed: int,
        mode: Mode | None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.dataset = dataset
        self.seed = seed
        self.epoch = 0
        self.mode = mode
        self.rank = rank
        self.world = world
        self.counts = instance_counts(
            [image.classes for image in dataset.images], classes=len(dataset.data["names"])
        )
        self.length = epoch_length(self.counts, mode=mode)
        self.drawn: NDArray[np.int64] = np.zeros(0, np.int64)
        self.start_epoch(0, maps=None)

    def start_epoch(self, epoch: int, *, maps: NDArray[np.float64] | None) -> None:
        """Draw an epoch.

        Args:
            epoch: which one, from 0.
            maps: AP50-95 of each class, as image weights take it; None where there is none yet.
        """
        self.epoch = epoch
        probabilities = None
        if self.mode is not None:
            probabilities = image_probabilities(self.counts, maps, mode=self.mode)
        self.drawn = draw_epoch(
            self.length, seed=self.seed, epoch=epoch, probabilities=probabilities
        )
        local = np.array([not image.whole_image for image in self.dataset.images], np.float64)
        uniform = np.full(len(local), 1 / len(local))
        self.dataset.partner_probabilities = np.cumsum(
            local * (uniform if probabilities is None else probabilities)
        )

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: ultralytics says this in a training of several processes, without maps."""

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for turn in range(len(self)):
            position = (turn * self.world + self.rank) % len(self.drawn)
            seeds = np.random.SeedSequence((self.seed, self.epoch, position))
            yield int(self.drawn[position]), int(seeds.generate_state(1, np.uint64)[0])

    def __len__(self) -> int:
        return -(-self.length // self.world)


class StridedSampler(Sampler[int]):
    """Every ``world``-th image from ``rank`` on: what one process of several validates."""

    def __init__(self, images: int, *, rank: int, world: int) -> None:
        self.positions = range(rank, images, world)

    def __iter__(self) -> Iterator[int]:
        return iter(self.positions)

    def __len__(self) -> int:
        return len(self.positions)


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
