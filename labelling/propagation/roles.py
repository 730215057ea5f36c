"""Which image does what: who is learnt from, who is labelled, and in which fold each is."""

from __future__ import annotations

import random
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wafer.datasets.classes import ClassTable
from wafer.datasets.errors import ImageError, WaferError
from wafer.datasets.images import decode_image
from wafer.datasets.records import Sample
from wafer.datasets.workspace import Workspace, trusted

__all__ = ["Roles", "assign_roles"]

RARE = 6
"""Classes with fewer drawn boxes in training than this have no class score worth reading."""
SEVERAL = 0.02
"""Share of drawn images with boxes of another class than their own from which on the expert's
class is taken to say only what is there, not what else is."""


@dataclass(frozen=True, slots=True)
class Roles:
    """The images of a workspace by what they are for.

    ``drawn`` have boxes that a person or a rule stands behind, in the split train; ``empty`` are
    training images that somebody found empty; ``val`` are drawn images of val. ``pool`` is to be
    labelled: nobody has looked, or only a model. ``fold`` is that of every image of ``drawn``,
    ``empty`` and ``pool``. ``unreadable`` says of images of the pool what is wrong with them.
    ``exclusive`` says that an image of a class has boxes of that class alone.
    """

    drawn: tuple[Sample, ...]
    empty: tuple[Sample, ...]
    val: tuple[Sample, ...]
    pool: tuple[Sample, ...]
    fold: Mapping[str, int]
    folds: int
    unreadable: Mapping[str, str]
    rare: frozenset[str]
    exclusive: bool
    notes: tuple[str, ...]

    @property
    def people(self) -> tuple[Sample, ...]:
        """Return the images that people drew boxes in, training and validation."""
        return (*self.drawn, *self.val)

    @property
    def classes_drawn(self) -> frozenset[str]:
        """Return the classes of which there is a drawn box to learn from."""
        return frozenset(a.class_name for s in self.drawn for a in s.annotations or ())


def assign_roles(
    workspace: Workspace, samples: Sequence[Sample], *, folds: int, seed: int
) -> Roles:
    """Decide what each image is for.

    Images of whole-image classes and of the class for no defect have their boxes by rule; the
    test split is never learnt from. Images without a group are grouped with their near-duplicates.

    Raises:
        WaferError: no split, nothing to label, or too few drawn images to hold any out.
    """
    classes = workspace.classes
    if not any(s.split == "train" for s in samples):
        raise WaferError("no image is in the split train; run `wafer split`")
    used = [s for s in samples if s.split in ("train", "val", "test")]
    drawn = tuple(s for s in used if s.split == "train" and _has_boxes(s, classes))
    val = tuple(s for s in used if s.split == "val" and _has_boxes(s, classes))
    empty = tuple(s for s in used if s.split == "train" and s.annotations == ())
    pool = tuple(s for s in used if _is_pool(s))
    if not pool:
        raise WaferError("every image has boxes of a person or by a rule; nothing is left to label")
    grey, unreadable = _readable(workspace, [*drawn, *empty, *pool])
    pool_readable = [s for s in pool if s.image not in unreadable]
    groups = _groups([*drawn, *empty, *pool_readable], grey)
    folds = min(folds, len({groups[s.image] for s in drawn}))
    if folds < 2:
        raise WaferError(
            f"{len(drawn)} drawn images in the split train are too few: the boxes of some must be "
            "kept from the teachers that are judged on them; draw at least two images of "
            "different groups for every class (`wafer seed` says which)"
        )
    boxes = Counter(a.class_name for s in drawn for a in s.annotations or ())
    exclusive, notes = _exclusive(drawn, val, classes)
    return Roles(
        drawn=drawn,
        empty=empty,
        val=val,
        pool=pool,
        fold=_fold(drawn, (empty, pool_readable), groups, folds, seed),
        folds=folds,
        unreadable=unreadable,
        rare=frozenset(name for name in classes.box_names if boxes[name] < RARE),
        exclusive=exclusive,
        notes=(*notes, *_notes(used, pool, boxes, unreadable, classes)),
    )


def _has_boxes(sample: Sample, classes: ClassTable) -> bool:
    names = {a.class_name for a in sample.annotations or ()}
    return bool(names) and trusted(sample) and names <= set(classes.box_names)


def _is_pool(sample: Sample) -> bool:
    boxes = sample.annotations
    return boxes is None or (bool(boxes) and all(a.source == "model" for a in boxes))


def _readable(
    workspace: Workspace, samples: Sequence[Sample]
) -> tuple[dict[str, NDArray[np.uint8]], dict[str, str]]:
    """Return small grey pixels of images without a group, and what is wrong with images."""
    import cv2

    found: dict[str, NDArray[np.uint8]] = {}
    wrong: dict[str, str] = {}

    def look(sample: Sample) -> None:
        try:
            path = workspace.image_path(sample.image)
            pixels = decode_image(path, white_level=workspace.white_level)
        except ImageError as error:
            wrong[sample.image] = error.reason
            return
        if sample.group is None:
            small = cv2.resize(pixels, (64, 64), interpolation=cv2.INTER_AREA)
            found[sample.image] = small.astype(np.uint8)

    with ThreadPoolExecutor() as pool:
        list(pool.map(look, samples))
    return found, wrong


def _groups(samples: Sequence[Sample], grey: Mapping[str, NDArray[np.uint8]]) -> dict[str, str]:
    from wafer.datasets.duplicates import near_duplicates

    alone = [s.image for s in samples if s.group is None and s.image in grey]
    alike = near_duplicates(alone, load=lambda image: grey[image])
    return {
        s.image: f"group {s.group}" if s.group else f"image {alike.get(s.image, s.image)}"
        for s in samples
    }


def _fold(
    drawn: Sequence[Sample],
    others: Sequence[Sequence[Sample]],
    groups: Mapping[str, str],
    folds: int,
    seed: int,
) -> dict[str, int]:
    """Return the fold of each image, whole groups: drawn ones by class, each of the others evenly.

    Every fold has drawn images.
    """
    of_group = _stratified(drawn, groups, folds, seed)
    if len(set(of_group.values())) < folds:  # too few of every class
        ordered = dict.fromkeys(groups[s.image] for s in sorted(drawn, key=_kind))
        of_group = {name: index % folds for index, name in enumerate(ordered)}
    for samples in others:
        rest = sorted({groups[s.image] for s in samples} - of_group.keys())
        random.Random(seed).shuffle(rest)
        of_group.update({name: index % folds for index, name in enumerate(rest)})
    return {s.image: of_group[groups[s.image]] for part in (drawn, *others) for s in part}


def _stratified(
    drawn: Sequence[Sample], groups: Mapping[str, str], folds: int, seed: int
) -> dict[str, int]:
    """Return the fold of each group; none where no class has as many images as there are folds."""
    from sklearn.model_selection import StratifiedGroupKFold

    names = [groups[s.image] for s in drawn]
    kinds = np.unique([_kind(s) for s in drawn], return_inverse=True)[1]
    if np.bincount(kinds).max() < folds:
        return {}
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class with fewer images than folds
        parts = list(splitter.split(names, kinds, names))
    return {
        names[index]: number for number, (_, held_out) in enumerate(parts) for index in held_out
    }


def _kind(sample: Sample) -> str:
    """Return the class of an image, or the first of its boxes."""
    boxes = sorted(a.class_name for a in sample.annotations or ())
    return sample.image_class or (boxes[0] if boxes else "")


def _exclusive(
    drawn: Sequence[Sample], val: Sequence[Sample], classes: ClassTable
) -> tuple[bool, list[str]]:
    known = [s for s in (*drawn, *val) if s.image_class in classes.box_names]
    several = [s for s in known if {a.class_name for a in s.annotations or ()} != {s.image_class}]
    if not several:
        return True, []
    exclusive = len(several) <= SEVERAL * len(known)
    what = "they are taken for exceptions" if exclusive else "boxes of all classes are looked for"
    first = several[0].image
    return exclusive, [
        f"{len(several)} of {len(known)} drawn images have boxes of another class than their own "
        f"({first} for one); {what}"
    ]


def _notes(
    used: Sequence[Sample],
    pool: Sequence[Sample],
    boxes: Mapping[str, int],
    unreadable: Mapping[str, str],
    classes: ClassTable,
) -> list[str]:
    notes = []
    missing = [name for name in classes.box_names if not boxes[name]]
    if missing:
        notes.append(
            f"no drawn box of {', '.join(missing)}: a person has to look at all of their images"
        )
    mixed = [s for s in used if not trusted(s) and not _is_pool(s)]
    if mixed:
        notes.append(f"{len(mixed)} images that a person has begun to correct are left alone")
    unknown = sum(s.image_class is None for s in pool)
    if unknown:
        notes.append(f"{unknown} images have no class: boxes of all classes are looked for there")
    for image, reason in sorted(unreadable.items()):
        notes.append(f"{image}: {reason}; it is in the queue")
    return notes
