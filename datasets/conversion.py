"""From any format that is read to any that is written."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from wafer.datasets.classes import ClassTable
from wafer.datasets.errors import DataError, WaferError, WorkspaceError
from wafer.datasets.formats import coco, voc, yolo
from wafer.datasets.formats.dataset import Dataset, derive_classes
from wafer.datasets.image_names import ImageNames
from wafer.datasets.images import IMAGE_SUFFIXES
from wafer.datasets.labels_csv import LabelRow, match_rows, read_label_rows, write_labels
from wafer.datasets.records import Sample
from wafer.datasets.scanning import find_files
from wafer.datasets.settings import FILE_NAME
from wafer.datasets.workspace import TRUSTED, open_workspace, trusted

__all__ = [
    "SOURCE_FORMATS",
    "TARGET_FORMATS",
    "ConversionSummary",
    "convert",
    "detect_format",
    "join_table",
    "read_dataset",
    "table_beside",
    "with_none_class",
]

TABLE = "image_labels.csv"
# Folders that may be named instead of the data set that they are a part of.
PARTS = ("annotations", "images", "labels")
BOX_FIELDS = 5


class Reader(Protocol):
    """Reads one format; see `wafer.datasets.formats`."""

    def __call__(
        self, path: Path, *, images: Path | None = None, classes: ClassTable | None = None
    ) -> Dataset:
        """Return the dataset, or raise `DataError` with all its faults."""


def _read_workspace(
    path: Path, *, images: Path | None = None, classes: ClassTable | None = None
) -> Dataset:
    workspace = open_workspace(path)
    if (images or classes) is not None:
        raise WaferError(f"{path}: a workspace has its own images and classes")
    return Dataset(workspace.images, workspace.classes, workspace.samples())


READERS: Mapping[str, Reader] = {
    "yolo": yolo.read,
    "coco": coco.read,
    "voc": voc.read,
    "workspace": _read_workspace,
}
Writer = Callable[[Dataset, Path], Mapping[str, str]]
WRITERS: Mapping[str, Writer] = {
    "yolo": yolo.write,
    "coco": coco.write,
    "voc": voc.write,
}
SOURCE_FORMATS = tuple(READERS)
TARGET_FORMATS = tuple(WRITERS)


@dataclass(frozen=True, slots=True)
class ConversionSummary:
    """What a conversion read and wrote: counts, class names, and the reader's notes."""

    source_format: str
    images: int
    unlabelled: int
    boxes: int
    classes: tuple[str, ...]
    notes: tuple[str, ...]


def detect_format(path: Path) -> str:
    """Return the format of a dataset: ``workspace``, ``yolo``, ``coco`` or ``voc``.

    Raises:
        WaferError: nothing there, or nothing or more than one format to be seen in it.
    """
    _check_there(path)
    if path.is_file():
        found = {".json": ["coco"], ".yaml": ["yolo"], ".yml": ["yolo"]}.get(
            path.suffix.lower(), []
        )
    elif (path / FILE_NAME).is_file():
        found = ["workspace"]
    else:
        seen = {"yolo": _looks_yolo, "coco": _looks_coco, "voc": _looks_voc}
        found = [name for name, looks in seen.items() if looks(path)]
    if len(found) == 1:
        return found[0]
    what = " and ".join(found) if found else "no known format"
    raise WaferError(
        f"{path}: looks like {what}; say which, yolo, coco or voc, with "
        "`--format` (init) or `--from` (convert)"
    )


def _check_there(path: Path) -> None:
    if not path.exists():
        raise WaferError(f"{path}: no such file or folder")


def _looks_yolo(path: Path) -> bool:
    if yolo.data_file(path) is not None or (path / "labels").is_dir():
        return True
    images, _ = find_files(path, suffixes=IMAGE_SUFFIXES)
    labels = set(find_files(path, suffixes={".txt"})[0])
    if path.name == "labels" and labels:
        return True
    if not images and any(_holds_boxes(path / name) for name in labels):
        return True
    return any(yolo.label_file(path / image).is_file() for image in images)


def _holds_boxes(path: Path) -> bool:
    """Return whether a text file starts with a class and the numbers of a box or an outline."""
    with path.open(encoding="utf-8", errors="replace") as lines:
        fields = next(lines, "").split()
    try:
        return len([float(field) for field in fields]) >= BOX_FIELDS
    except ValueError:
        return False


def _looks_coco(path: Path) -> bool:
    return bool(coco.instance_files(path))


def _looks_voc(path: Path) -> bool:
    inside = [path / name for name in ("Annotations", "annotations")]
    folder = next((f for f in inside if f.is_dir()), path)
    return bool(find_files(folder, suffixes={".xml"})[0])


def read_dataset(
    path: Path,
    *,
    source_format: str | None = None,
    images: Path | None = None,
    classes: ClassTable | None = None,
) -> Dataset:
    """Read a dataset of any format, detected where it is not said.

    Args:
        path: the folder or file of labels.
        source_format: one of ``SOURCE_FORMATS``.
        images: the image folder, where it is not found from ``path``.
        classes: the class table, where the one of the dataset is not wanted.

    Raises:
        WaferError: nothing there, an unknown format, or one that cannot be detected.
        DataError: all faults of the dataset together.
    """
    name = source_format or detect_format(path)
    if name not in READERS:
        raise WaferError(f"unknown format {name!r}; those that are read: {', '.join(READERS)}")
    _check_there(path)
    return READERS[name](path, images=images, classes=classes)


def convert(
    source: Path,
    destination: Path,
    *,
    to: str,
    source_format: str | None = None,
    none_class: str | None = None,
) -> ConversionSummary:
    """Write a dataset in another format, with its images, into a new folder.

    ``classes.yaml`` and, where classes of images, groups or splits are known,
    ``image_labels.csv`` are written too, so that nothing is lost that a format has no place for;
    of a source they are read, see `table_beside`. No format keeps whose a box is: boxes of a model
    that no person has confirmed are written with a note, and of val and test not at all, as nothing
    may be measured by them.

    Args:
        source: the folder or file of labels.
        destination: a folder that does not exist or is empty.
        to: one of ``TARGET_FORMATS``.
        source_format: one of ``SOURCE_FORMATS``; detected by default.
        none_class: the name of the class that means "no defect", in data without a class table.

    Raises:
        WaferError: an unknown format, a destination that is not empty, or a source within a
            workspace, which is to be converted as such.
        DataError: all faults of the source together; nothing is written then.
    """
    if to not in WRITERS:
        raise WaferError(f"unknown format {to!r}; those that are written: {', '.join(WRITERS)}")
    _check_destination(destination)
    name = source_format or detect_format(source)
    table = None if name == "workspace" else table_beside(source)
    # Its data.yaml leaves out images, so that reading it as YOLO would lose them.
    if table is not None and (table.parent / FILE_NAME).is_file():
        raise WaferError(
            f"{source}: its {TABLE} is that of the workspace {table.parent.resolve()}; convert "
            "that workspace, without `--from`"
        )
    dataset = read_dataset(source, source_format=name)
    if table is not None:
        known = None if dataset.derived else dataset.classes
        dataset = replace(dataset, samples=join_table(dataset.samples, table, classes=known))
    dataset = _without_sources(with_none_class(dataset, none_class, source=str(source)))
    _write(dataset, destination, WRITERS[to])
    return ConversionSummary(
        source_format=name,
        images=len(dataset.samples),
        unlabelled=sum(sample.annotations is None for sample in dataset.samples),
        boxes=sum(len(sample.annotations or ()) for sample in dataset.samples),
        classes=dataset.classes.names,
        notes=dataset.notes,
    )


def _without_sources(dataset: Dataset) -> Dataset:
    """Return what can be written of a dataset without saying whose the boxes are, with notes."""
    measured = {s.image for s in dataset.samples if s.split in ("val", "test") and _doubtful(s)}
    samples = tuple(
        replace(s, annotations=None) if s.image in measured else s for s in dataset.samples
    )
    doubtful = [sample for sample in samples if _doubtful(sample)]
    boxes = sum(a.source not in TRUSTED for s in doubtful for a in s.annotations or ())
    notes = []
    if doubtful:
        notes.append(
            f"{boxes} boxes of {len(doubtful)} images are a model's that no person has confirmed; "
            "whoever reads this data set takes them for a person's"
        )
    if measured:
        notes.append(
            f"{len(measured)} images of val and test are written as unlabelled: they have boxes of "
            "a model that no person has confirmed, and nothing may be measured by these"
        )
    return replace(dataset, samples=samples, notes=(*dataset.notes, *notes))


def _doubtful(sample: Sample) -> bool:
    return sample.annotations is not None and not trusted(sample)


def table_beside(path: Path) -> Path | None:
    """Return the ``image_labels.csv`` of a dataset, or None where there is none.

    It lies where ``classes.yaml`` does: in the dataset's folder, even if ``path`` is the folder of
    its images or labels, or a file.
    """
    folder = path if path.is_dir() else path.parent
    folders = (folder, folder.parent) if folder.name.lower() in PARTS else (folder,)
    return next((f / TABLE for f in folders if (f / TABLE).is_file()), None)


def _check_destination(destination: Path) -> None:
    if destination.exists() and not (destination.is_dir() and not any(destination.iterdir())):
        raise WorkspaceError(f"{destination}: there is something already; choose a new folder")


def _write(dataset: Dataset, destination: Path, write: Writer) -> None:
    """Write everything into a folder beside the destination, which it becomes at the end."""
    destination = destination.resolve()
    destination.parent.mkdir(parents=True, exist_ok=True)
    new = destination.with_name(f".{destination.name[:100]}.new-{secrets.token_hex(6)}")
    try:
        new.mkdir()
        places = write(dataset, new)
        dataset.classes.write(new / "classes.yaml")
        samples = [replace(s, image=places[s.image]) for s in dataset.samples]
        if any(s.image_class or s.group or s.split for s in samples):
            write_labels(new / TABLE, samples)
        if destination.exists():
            destination.rmdir()
        new.rename(destination)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def join_table(
    samples: Sequence[Sample], table: Path, *, classes: ClassTable | None
) -> tuple[Sample, ...]:
    """Return the samples with the classes, groups and splits of an ``image_labels.csv``.

    Args:
        samples: every image the table may name.
        table: the CSV file.
        classes: the known classes; None takes any name.

    Raises:
        DataError: all faults of the table together.
    """
    names = ImageNames(sample.image for sample in samples)
    known = None if classes is None else classes.names
    rows, faults = match_rows(read_label_rows(table), file=str(table), images=names, classes=known)
    if faults:
        raise DataError(faults)
    return tuple(_joined(sample, rows.get(sample.image)) for sample in samples)


def _joined(sample: Sample, row: LabelRow | None) -> Sample:
    if row is None:
        return sample
    return replace(
        sample,
        image_class=row.image_class or sample.image_class,
        group=row.group or sample.group,
        split=row.split or sample.split,
    )


def with_none_class(dataset: Dataset, none_class: str | None, *, source: str) -> Dataset:
    """Return a dataset whose derived class table has all classes of images, and a "no defect".

    Args:
        dataset: its class table stays if it was not derived.
        none_class: see `wafer.datasets.formats.dataset.derive_classes`.
        source: the name of the data in faults.

    Raises:
        WaferError: ``none_class`` is not that of a class table that came with the data.
        DataError: as `derive_classes`.
    """
    if not dataset.derived:
        none = dataset.classes.none_class
        if none_class is not None and (none is None or none.name != none_class):
            raise WaferError(
                f"{none_class!r} is not of kind none in the class table; mark it there"
            )
        return dataset
    others = sorted({s.image_class for s in dataset.samples if s.image_class})
    classes = derive_classes(
        [*dataset.classes.names, *others],
        source=source,
        boxed=dataset.boxed,
        codes=[c.code for c in dataset.classes],
        none_class=none_class,
    )
    return replace(dataset, classes=classes)
