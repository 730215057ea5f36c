"""The images a classifier is trained on: those of one known class, decoded once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wafer.classifier.cutmix import Boxes
from wafer.datasets.classes import Kind
from wafer.datasets.errors import DataError, Fault, ImageError, StorageError
from wafer.datasets.images import decode_image
from wafer.datasets.records import Sample, Split
from wafer.datasets.workspace import Workspace, trusted
from wafer.evaluation.answers import true_classes
from wafer.inference.pixels import pixel_slots
from wafer.inference.preprocess import Letterboxed, letterbox

__all__ = ["Chosen", "LabelledImages", "choose_images", "load_images", "load_pixels"]


@dataclass(frozen=True, slots=True)
class Chosen:
    """The images of a split that have one known class, and their classes.

    Left out are images with ``several`` classes, and those of which none is known (``no_truth``).
    """

    samples: tuple[Sample, ...]
    names: tuple[str, ...]
    several: int
    no_truth: int

    @property
    def left_out(self) -> int:
        """Return how many images of the split are not among them."""
        return self.several + self.no_truth

    @property
    def counts(self) -> Counter[str]:
        """Return the number of images of each class."""
        return Counter(self.names)


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """Images as a network sees them, with their classes.

    ``pixels`` is letterboxed uint8, shape (N, size, size) or (N, size, size, 3); ``labels`` are
    positions in the class table, shape (N,); ``whole_image`` marks classes whose label is the full
    frame, shape (N,). ``boxes`` are the known defects of each image: without a row where it is
    known to have none, None where nobody knows; empty where nobody asked.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    whole_image: NDArray[np.bool_]
    boxes: Sequence[Boxes | None] = ()

    def __len__(self) -> int:
        return len(self.labels)


def choose_images(workspace: Workspace, samples: Sequence[Sample], split: Split) -> Chosen:
    """Return the images of a split whose one class is known; boxes are not needed.

    The class is that of the image, else that of its boxes; in val and test only boxes that a person
    or a rule stands behind count.
    """
    none = workspace.classes.none_class
    chosen: list[tuple[Sample, str]] = []
    several = no_truth = 0
    for sample in (s for s in samples if s.split == split):
        names = true_classes(sample, none_class=None if none is None else none.name)
        vouched = sample.image_class is not None or split == "train" or trusted(sample)
        if len(names) == 1 and vouched:
            chosen.append((sample, min(names)))
        elif len(names) > 1 and vouched:
            several += 1
        else:
            no_truth += 1
    kept, classes = tuple(s for s, _ in chosen), tuple(name for _, name in chosen)
    return Chosen(kept, classes, several, no_truth)


def load_images(workspace: Workspace, chosen: Chosen, *, image_size: int) -> LabelledImages:
    """Decode and letterbox images, as `wafer.inference.pipeline` does at work.

    They are kept in memory where that takes less than half of what is free, else on disk.

    Args:
        workspace: says where the images are and how they are decoded.
        chosen: at least one image.
        image_size: side of the square in pixels.

    Raises:
        DataError: images that cannot be decoded, all of them by name.
        StorageError: neither memory nor disk has room.
    """
    names = workspace.classes.names
    whole = set(workspace.classes.whole_image_names)
    kinds = [workspace.classes[name].kind for name in chosen.names]
    boxes: list[Boxes | None] = [None] * len(kinds)

    def place(position: int, image: Letterboxed) -> None:
        boxes[position] = _known_defects(chosen.samples[position], kinds[position], image)

    images = [sample.image for sample in chosen.samples]
    return LabelledImages(
        pixels=load_pixels(workspace, images, image_size=image_size, loaded=place),
        labels=np.array([names.index(name) for name in chosen.names], np.int64),
        whole_image=np.array([name in whole for name in chosen.names], np.bool_),
        boxes=boxes,
    )


def load_pixels(
    workspace: Workspace,
    images: Sequence[str],
    *,
    image_size: int,
    loaded: Callable[[int, Letterboxed], None] = lambda position, image: None,
) -> NDArray[np.uint8]:
    """Return the letterboxed images of a workspace, in their order; raises as `load_images`.

    ``loaded`` is called with the position of each image and the image, by several threads.
    """
    shape = (image_size, image_size, 3) if workspace.colour else (image_size, image_size)
    slots = pixel_slots(len(images), int(np.prod(shape)), folder=workspace.cache / "train")
    if slots is None:
        raise StorageError(
            f"{len(images)} images of {image_size} px fit neither into memory nor on the disk of "
            f"{workspace.cache}; free some, or give a smaller --imgsz"
        )
    pixels = slots.reshape(len(images), *shape)
    faults: list[Fault] = []

    def load(position: int) -> None:
        try:
            image = decode_image(
                workspace.image_path(images[position]),
                colour=workspace.colour,
                white_level=workspace.white_level,
            )
        except ImageError as error:
            faults.append(error.fault())
            return
        boxed = letterbox(image, image_size)
        pixels[position] = boxed.image
        loaded(position, boxed)

    with ThreadPoolExecutor() as pool:
        list(pool.map(load, range(len(images))))
    if faults:
        raise DataError(sorted(faults, key=lambda fault: fault.file))
    return pixels


def _known_defects(sample: Sample, kind: Kind, image: Letterboxed) -> Boxes | None:
    if kind == "none":
        return np.empty((0, 4))
    if not sample.annotations:
        return None
    corners = np.array([annotation.box.corners for annotation in sample.annotations])
    placed = corners * np.tile(image.scale, 2) + np.tile((image.pad_left, image.pad_top), 2)
    return np.asarray(placed, np.float64)
