"""Images of the same class that a person has drawn, to compare with."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice

from wafer.datasets.ledger import Corners, ImageState
from wafer.datasets.records import Sample
from wafer.datasets.workspace import trusted

__all__ = ["Neighbour", "Neighbours"]

SHOWN = 6


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An image of (width, height) pixels with its boxes in pixels."""

    image: str
    size: tuple[int, int]
    boxes: tuple[Corners, ...]


class Neighbours:
    """Drawn images by class; what is drawn meanwhile comes first.

    Args:
        samples: all of the workspace.
        size: of an image, None for one that cannot be read.
    """

    def __init__(
        self, samples: Iterable[Sample], *, size: Callable[[str], tuple[int, int] | None]
    ) -> None:
        self._size = size
        self._samples = {sample.image: sample for sample in samples}
        self._drawn: dict[str, dict[str, None]] = {}
        for sample in self._samples.values():
            if trusted(sample):
                self.note(sample.image, {a.class_name for a in sample.annotations or ()})

    def note(self, image: str, classes: Collection[str]) -> None:
        """Note that a person has drawn boxes of some classes."""
        for name in classes:
            images = self._drawn.setdefault(name, {})
            images.pop(image, None)
            images[image] = None

    def of(
        self, sample: Sample, *, class_name: str | None, states: Mapping[str, ImageState]
    ) -> tuple[Neighbour, ...]:
        """Return a few of one class, of the image's own group first, then the newest."""
        images = [i for i in self._drawn.get(class_name or "", ()) if i != sample.image]
        group = sample.group
        near = [i for i in images if group is not None and self._samples[i].group == group]
        order = dict.fromkeys([*near[::-1][: SHOWN // 2], *images[::-1]])
        readable = ((image, size) for image in order if (size := self._size(image)) is not None)
        return tuple(
            Neighbour(image, size, self._boxes(image, class_name, states, size=size))
            for image, size in islice(readable, SHOWN)
        )

    def _boxes(
        self,
        image: str,
        class_name: str | None,
        states: Mapping[str, ImageState],
        *,
        size: tuple[int, int],
    ) -> tuple[Corners, ...]:
        state = states.get(image)
        annotations = (
            self._samples[image].annotations if state is None else state.resized(size).annotations
        )
        return tuple(a.box.corners for a in annotations or () if a.class_name == class_name)
