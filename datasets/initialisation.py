"""Making a workspace of images, a table of their classes, and boxes of any format."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from wafer.datasets.classes import ClassTable, read_classes
from wafer.datasets.conversion import join_table, read_dataset, table_beside, with_none_class
from wafer.datasets.errors import DataError, WaferError
from wafer.datasets.formats.dataset import (
    Dataset,
    Faults,
    derive_classes,
    find_images,
    listed_images,
)
from wafer.datasets.image_names import ImageNames
from wafer.datasets.images import decode_image
from wafer.datasets.reading import own_folders, pattern_group
from wafer.datasets.records import SPLITS, Sample, Split
from wafer.datasets.settings import checked_settings
from wafer.datasets.splitting import pattern_notes, split_by_group
from wafer.datasets.workspace import Workspace, create_workspace

__all__ = ["Initialised", "initialise"]


Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Initialised:
    """A new workspace, its samples, and notes for the user."""

    workspace: Workspace
    samples: tuple[Sample, ...]
    notes: tuple[str, ...]


def initialise(
    root: Path,
    *,
    images: Path,
    image_labels: Path | None = None,
    boxes: Path | None = None,
    boxes_format: str | None = None,
    classes: Path | None = None,
    none_class: str | None = None,
    white_level: int = 65535,
    colour: bool = False,
    group_pattern: str | None = None,
    splits: Mapping[str, Path] | None = None,
    seed: int = 0,
    force: bool = False,
) -> Initialised:
    """Make a workspace; the images stay where they are, and nothing is written at any fault.

    Without ``classes`` the table is that of the boxes, or derived from the names in the data. The
    images are split by `wafer.datasets.splitting.split_by_group`, unless the table, the boxes'
    format or ``splits`` has splits; then images without one are ``unused``.

    Args:
        root: the workspace's folder.
        images: folder of the images.
        image_labels: CSV file ``image,class[,group][,split]``; by default the
            ``image_labels.csv`` beside the boxes, where ``classes.yaml`` is beside them too.
        boxes: a dataset in YOLO, COCO or VOC, or its folder of labels.
        boxes_format: its format; detected by default.
        classes: a ``classes.yaml``.
        none_class: the class that means "no defect", where there is no class table.
        white_level: see `wafer.datasets.workspace.Workspace`.
        colour: see `wafer.datasets.workspace.Workspace`.
        group_pattern: regular expression whose group finds lot or wafer in an image's path.
        splits: for some splits, a text file of image paths, names or stems, one a line.
        seed: of the split.
        force: replace a workspace that is there, keeping its files under ``.bak-N``.

    Raises:
        WaferError: a folder, file or setting that cannot be, or too few images to split.
        DataError: all faults of the input together.
    """
    checked_settings(
        images=str(images), white_level=white_level, colour=colour, group_pattern=group_pattern
    )
    table = image_labels
    if table is None and boxes is not None:
        table = _own_table(boxes)
    dataset = _read(
        images,
        exclude=own_folders(root.resolve(), images=images.resolve()),
        table=table,
        boxes=boxes,
        boxes_format=boxes_format,
        classes=_class_table(classes),
        none_class=none_class,
        splits=splits or {},
    )
    samples = dataset.samples
    grouped = [replace(s, group=s.group or pattern_group(group_pattern, s.image)) for s in samples]
    notes = [*dataset.notes, *pattern_notes(grouped, group_pattern)]
    if table != image_labels:
        notes.append(f"classes, groups and splits are those of {table}, beside the boxes")
    if not any(sample.split for sample in samples):
        result = split_by_group(
            grouped,
            load=lambda image: decode_image(images / image, white_level=white_level),
            seed=seed,
        )
        chosen = {sample.image: sample.split for sample in result.samples}
        samples = tuple(replace(sample, split=chosen[sample.image]) for sample in samples)
        notes += result.notes
    workspace = create_workspace(
        root,
        images=images,
        classes=dataset.classes,
        samples=samples,
        white_level=white_level,
        colour=colour,
        group_pattern=group_pattern,
        force=force,
    )
    return Initialised(workspace, samples, tuple(notes))


def _own_table(boxes: Path) -> Path | None:
    """Return the table beside some boxes if it came with a ``classes.yaml``, as ours do.

    Another may say something else of the images than the user wants, and is to be named.
    """
    table = table_beside(boxes)
    return table if table is not None and table.with_name("classes.yaml").is_file() else None


def _class_table(path: Path | None) -> ClassTable | None:
    if path is None:
        return None
    if not path.is_file():
        raise WaferError(f"{path}: no such file; name a classes.yaml")
    return read_classes(path)


def _read(
    images: Path,
    *,
    exclude: Sequence[Path],
    table: Path | None,
    boxes: Path | None,
    boxes_format: str | None,
    classes: ClassTable | None,
    none_class: str | None,
    splits: Mapping[str, Path],
) -> Dataset:
    """Read all that was named, raising the faults of all of it together."""
    if not images.is_dir():
        raise WaferError(f"{images}: no such folder; name the folder of the images")
    faults = Faults()
    names = find_images(images, faults)
    dataset = None
    if boxes is not None and names:
        dataset = _tried(
            faults,
            lambda: read_dataset(boxes, source_format=boxes_format, images=images, classes=classes),
        )
    if dataset is not None:
        classes = None if dataset.derived else dataset.classes
    bare = tuple(Sample(name) for name in names)
    samples = _outside(bare if dataset is None else dataset.samples, images, exclude)
    if table is not None:
        unjoined = samples
        joined = _tried(faults, lambda: join_table(unjoined, table, classes=classes))
        samples = joined or samples
    samples = _with_splits(samples, splits, faults)
    if faults.found:
        raise DataError(dict.fromkeys(faults.found))
    if classes is not None:
        read = Dataset(images, classes, samples, () if dataset is None else dataset.notes)
    else:
        read = _derived(images, samples, dataset, none_class)
    return with_none_class(read, none_class, source=str(images))


def _outside(
    samples: tuple[Sample, ...], images: Path, exclude: Sequence[Path]
) -> tuple[Sample, ...]:
    """Leave out what earlier runs drew, where the workspace lies within the image folder."""
    root = images.resolve()
    inside = [f"{f.relative_to(root).as_posix()}/" for f in exclude if root in f.parents]
    return tuple(sample for sample in samples if not sample.image.startswith(tuple(inside)))


def _tried(faults: Faults, read: Callable[[], Result]) -> Result | None:
    """Return what a reader returns; where it finds faults, note them and return None."""
    try:
        return read()
    except DataError as error:
        faults.found += error.faults
        return None


def _derived(
    images: Path, samples: tuple[Sample, ...], dataset: Dataset | None, none_class: str | None
) -> Dataset:
    if dataset is not None:
        return replace(dataset, samples=samples)
    names = sorted({s.image_class for s in samples if s.image_class})
    table = derive_classes(names, source=str(images), boxed=(), none_class=none_class)
    return Dataset(images, table, samples, derived=True)


def _with_splits(
    samples: Sequence[Sample], splits: Mapping[str, Path], faults: Faults
) -> tuple[Sample, ...]:
    """Return the samples with the splits of list files, where any is named instead of their own."""
    if not splits:
        return tuple(samples)
    names = ImageNames(sample.image for sample in samples)
    chosen: dict[str, Split] = {}
    for split in SPLITS:
        file = splits.get(split)
        if file is None:
            continue
        for number, image in listed_images(file, names, faults):
            if chosen.setdefault(image, split) != split:
                problem = f"{image} is in the list of {chosen[image]} too"
                faults.add(file, problem, "keep it in one list", line=number)
    return tuple(replace(sample, split=chosen.get(sample.image)) for sample in samples)
