"""Splitting a workspace: which images belong together, new splits, what there is to say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wafer.datasets.errors import DataError, Fault, ImageError
from wafer.datasets.image_names import ImageNames
from wafer.datasets.images import decode_image
from wafer.datasets.labels_csv import match_rows, read_label_rows, rewrite_splits
from wafer.datasets.records import Sample
from wafer.datasets.splits import missing_classes, split_samples
from wafer.datasets.workspace import Workspace, write_yolo_view

__all__ = ["SplitResult", "pattern_notes", "resplit", "split_by_group"]

Load = Callable[[str], NDArray[np.uint8]]


@dataclass(frozen=True, slots=True)
class SplitResult:
    """The samples with their splits, notes for the user, and the copy of an older table."""

    samples: tuple[Sample, ...]
    notes: tuple[str, ...]
    kept: Path | None = None


def split_by_group(
    samples: Sequence[Sample],
    *,
    load: Load,
    train: float = 0.65,
    val: float = 0.15,
    test: float = 0.2,
    seed: int = 0,
) -> SplitResult:
    """Split samples by their groups; near-duplicates form groups of the images without one.

    Args:
        samples: the images to split.
        load: returns the grey pixels of an image; asked for images without a group.
        train: share of the images, as are ``val`` and ``test``.
        val: see ``train``.
        test: see ``train``.
        seed: see `wafer.datasets.splits.split_samples`.

    Raises:
        WaferError: as `wafer.datasets.splits.split_samples`.
        DataError: images that cannot be decoded, all of them.
    """
    alone = [sample.image for sample in samples if not sample.group]
    groups = _near_duplicates(alone, load)
    result = split_samples(samples, train=train, val=val, test=test, seed=seed, groups=groups)
    notes = [_group_note(len(alone), len(samples), groups)] if alone else []
    for name, parts in missing_classes(result).items():
        notes.append(f"no image of class {name} in {' and '.join(parts)}: too few groups of it")
    return SplitResult(result, tuple(notes))


def _group_note(alone: int, total: int, groups: dict[str, str]) -> str:
    sizes = Counter(groups.values())
    who = "no image has a group (lot, wafer)" if alone == total else f"{alone} images have no group"
    if not sizes:
        return f"{who}; no near-duplicates among them"
    return (
        f"{who}; {len(groups)} near-duplicates in {len(sizes)} sets, the largest of "
        f"{max(sizes.values())}, stay together"
    )


def pattern_notes(samples: Sequence[Sample], pattern: str | None) -> tuple[str, ...]:
    """Return a note where a pattern was to find the groups and left images without one."""
    alone = sum(not sample.group for sample in samples)
    if pattern is None or not alone:
        return ()
    return (f"the group pattern {pattern!r} finds no group in {alone} of {len(samples)} images",)


def _near_duplicates(images: Sequence[str], load: Load) -> dict[str, str]:
    from wafer.datasets.duplicates import near_duplicates

    faults: list[Fault] = []

    def load_or_note(image: str) -> NDArray[np.uint8]:
        try:
            return load(image)
        except ImageError as error:
            remedy = "copy the image again or remove it"
            faults.append(Fault(file=error.path, problem=error.reason, remedy=remedy))
            return np.zeros((1, 1), np.uint8)

    groups = near_duplicates(images, load=load_or_note)
    if faults:
        raise DataError(sorted(faults, key=str))
    return groups


def resplit(
    workspace: Workspace,
    *,
    train: float = 0.65,
    val: float = 0.15,
    test: float = 0.2,
    seed: int = 0,
) -> SplitResult:
    """Give every image of a workspace a new split and write it into ``image_labels.csv``.

    All else in the table stays; the old table is kept under ``image_labels.csv.bak-N``. Images
    whose row says ``unused`` stay unused.

    Raises:
        WaferError: as `split_by_group`.
        DataError: faults in the workspace.
    """
    samples = workspace.samples()
    unused = _unused(workspace, samples)
    result = split_by_group(
        [sample for sample in samples if sample.image not in unused],
        load=lambda image: decode_image(
            workspace.image_path(image), white_level=workspace.white_level
        ),
        train=train,
        val=val,
        test=test,
        seed=seed,
    )
    splits = {s.image: s.split for s in result.samples if s.split is not None}
    names = ImageNames(sample.image for sample in samples)
    kept = rewrite_splits(
        workspace.table, {**splits, **dict.fromkeys(unused, "unused")}, images=names
    )
    renewed = tuple(replace(s, split=splits.get(s.image, "unused")) for s in samples)
    write_yolo_view(workspace, renewed)
    notes = pattern_notes(samples, workspace.group_pattern)
    if unused:
        notes = (*notes, f"{len(unused)} images stay unused")
    return SplitResult(renewed, (*result.notes, *notes), kept)


def _unused(workspace: Workspace, samples: Sequence[Sample]) -> tuple[str, ...]:
    """Return the images that the table itself calls unused, not those it says nothing of."""
    if not workspace.table.exists():
        return ()
    names = ImageNames(sample.image for sample in samples)
    rows, _ = match_rows(read_label_rows(workspace.table), file=str(workspace.table), images=names)
    return tuple(image for image, row in rows.items() if row.split == "unused")
