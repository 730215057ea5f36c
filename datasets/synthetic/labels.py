"""What the labellers leave: wrong classes, shaky boxes, and images nobody looked at."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from wafer.datasets.classes import ClassTable, paper_classes
from wafer.datasets.records import Annotation, Box, Sample
from wafer.datasets.synthetic.plan import stream_seed

__all__ = ["blur_labels", "keep_share"]

JITTER = (0.03, 0.08)


def blur_labels(
    samples: Sequence[Sample], *, share: float, size: int, seed: int
) -> tuple[Sample, ...]:
    """Give a share of the training images a wrong class, and shake all training boxes.

    Each side of a box moves by 3 to 8 % of the box, in or out, and stays inside the image of
    ``size`` pixels. A share of 0 changes nothing; val and test are never changed.
    """
    rng = random.Random(stream_seed(seed, "label noise"))
    train = [index for index, sample in enumerate(samples) if sample.split == "train"]
    wrong = set(rng.sample(train, round(share * len(train))))
    result = list(samples)
    for index in train if share else ():
        sample = _shaken(samples[index], size, rng)
        result[index] = _misnamed(sample, size, rng) if index in wrong else sample
    return tuple(result)


def keep_share(samples: Sequence[Sample], *, share: float, seed: int) -> tuple[Sample, ...]:
    """Keep the boxes of a share of each class, at least one image, training images first to one.

    The others become images nobody looked at (``annotations=None``).
    """
    if share == 1:
        return tuple(samples)
    rng, kept = random.Random(stream_seed(seed, "seed share")), set[int]()
    for name in sorted({sample.image_class or "" for sample in samples}):
        members = [i for i, s in enumerate(samples) if (s.image_class or "") == name]
        rng.shuffle(members)
        first = next((i for i in members if samples[i].split == "train"), members[0])
        rest = [i for i in members if i != first]
        kept.update([first, *rest][: max(1, round(share * len(members)))])
    return tuple(s if i in kept else replace(s, annotations=None) for i, s in enumerate(samples))


def _misnamed(sample: Sample, size: int, rng: random.Random) -> Sample:
    classes = paper_classes()
    name = rng.choice([other for other in classes.names if other != sample.image_class])
    return replace(sample, image_class=name, annotations=_as_class(sample, name, size, classes))


def _as_class(
    sample: Sample, name: str, size: int, classes: ClassTable
) -> tuple[Annotation, ...] | None:
    """Return the boxes somebody would have drawn who took the image for another class."""
    kind = classes[name].kind
    if kind == "none":
        return ()
    if kind == "whole_image":
        return (Annotation(Box(0, 0, size, size), name, "rule"),)
    drawn = [a for a in sample.annotations or () if classes[a.class_name].kind == "box"]
    return tuple(replace(a, class_name=name) for a in drawn) or None


def _shaken(sample: Sample, size: int, rng: random.Random) -> Sample:
    if not sample.annotations:
        return sample
    classes = paper_classes()
    moved = [
        replace(a, box=_shaken_box(a.box, size, rng)) if classes[a.class_name].kind == "box" else a
        for a in sample.annotations
    ]
    return replace(sample, annotations=tuple(moved))


def _shaken_box(box: Box, size: int, rng: random.Random) -> Box:
    corners = [
        corner + rng.choice((-1, 1)) * rng.uniform(*JITTER) * length
        for corner, length in zip(box.corners, (box.width, box.height) * 2, strict=True)
    ]
    return Box(*(min(max(corner, 0.0), float(size)) for corner in corners))
