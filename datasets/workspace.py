"""The workspace: a folder with ``wafer.toml``, its images, classes, labels and runs."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from wafer.datasets.boxes import box_lines
from wafer.datasets.classes import ClassTable, read_classes
from wafer.datasets.errors import DataError, Fault, ImageError, WorkspaceError
from wafer.datasets.keeping import keep_copy, put_aside
from wafer.datasets.labels_csv import write_labels
from wafer.datasets.ledger import HEAD, LEDGER
from wafer.datasets.reading import (
    OWN_FOLDERS,
    label_name,
    own_folders,
    read_samples,
    ruled_annotations,
)
from wafer.datasets.records import Sample, Split
from wafer.datasets.scanning import ImageCache
from wafer.datasets.settings import FILE_NAME, checked_settings, read_settings, write_settings
from wafer.datasets.yolo_view import write_view

__all__ = [
    "SYNTH_RECORD",
    "Selection",
    "Workspace",
    "create_workspace",
    "dataset_hash",
    "find_workspace",
    "open_workspace",
    "select",
    "trusted",
    "workspace_folder",
    "workspace_if_any",
    "write_yolo_view",
]

TRUSTED = frozenset({"human", "rule", "model+confirmed", "model+edited"})
TABLE = "image_labels.csv"
SYNTH_RECORD = "synth.json"  # beside it, truth/ is what `wafer synth` drew


@dataclass(frozen=True, slots=True)
class Workspace:
    """Where everything of one project lies, and the settings that hold for all of it.

    ``root`` and ``images`` are absolute; ``images`` may be away where it was opened without need of
    them. ``white_level`` and ``colour`` say how images are decoded, see
    `wafer.datasets.images.decode_image`.
    """

    root: Path
    images: Path
    classes: ClassTable
    white_level: int = 65535
    colour: bool = False
    group_pattern: str | None = None

    @property
    def labels(self) -> Path:
        """Return the folder of boxes, one YOLO file for each image that was looked at."""
        return self.root / "labels"

    @property
    def table(self) -> Path:
        """Return the path of ``image_labels.csv``."""
        return self.root / TABLE

    @property
    def cache(self) -> Path:
        """Return the folder of what can be made again at any time."""
        return self.root / ".cache"

    @property
    def runs(self) -> Path:
        """Return the folder of trainings."""
        return self.root / "runs" / "train"

    @property
    def models(self) -> Path:
        """Return the folder of bundles."""
        return self.root / "models"

    @property
    def truth(self) -> Path:
        """Return the folder of all boxes of a synthetic workspace, read by evaluation alone."""
        return self.root / "truth"

    def image_path(self, image: str) -> Path:
        """Return where an image lies."""
        return self.images / image

    def label_path(self, image: str) -> Path:
        """Return where the boxes of an image are or would be."""
        return self.labels / label_name(image)

    def image_cache(self) -> ImageCache:
        """Return sizes and digests of the images, those of earlier runs included."""
        return ImageCache(self.cache / "images.json", images=self.images)

    def samples(self) -> tuple[Sample, ...]:
        """Read every image with its class, boxes, group and split, sorted by path.

        Raises:
            DataError: all faults of all files together.
        """
        return self._read(self.labels, ledger=self.root)

    def true_samples(self) -> tuple[Sample, ...]:
        """Read the samples with boxes and classes of ``truth/``, or as `samples` without one.

        Raises:
            DataError: all faults of all files together.
        """
        if not self.truth.is_dir():
            return self.samples()
        # Classes of the table may have been made wrong on purpose (`wafer synth --label-noise`).
        return self._read(self.truth, ledger=None, boxes_decide=True)

    def _read(
        self, labels: Path, *, ledger: Path | None, boxes_decide: bool = False
    ) -> tuple[Sample, ...]:
        return read_samples(
            images=self.images,
            labels=labels,
            table=self.table,
            classes=self.classes,
            cache=self.image_cache(),
            group_pattern=self.group_pattern,
            exclude=own_folders(self.root, images=self.images),
            ledger=ledger,
            boxes_decide=boxes_decide,
        )


def workspace_folder(start: Path | None = None) -> Path | None:
    """Return the workspace's folder at or above a folder, None where there is none."""
    folder = (Path.cwd() if start is None else start).resolve()
    folders = (folder, *folder.parents)
    return next((each for each in folders if (each / FILE_NAME).is_file()), None)


def find_workspace(start: Path | None = None, *, images_needed: bool = True) -> Workspace:
    """Open the workspace at or above a folder, by default the current one.

    Args:
        start: the folder.
        images_needed: as for `open_workspace`.

    Raises:
        WorkspaceError: there is none, or its files are broken.
    """
    folder = workspace_folder(start)
    if folder is None:
        raise WorkspaceError(
            f"no {FILE_NAME} in {start or Path.cwd()} or above; make a workspace with "
            "`wafer init`, go into one, or name it with `--workspace DIR`"
        )
    return open_workspace(folder, images_needed=images_needed)


def workspace_if_any(folder: Path | None) -> Workspace | None:
    """Open the workspace of a folder, or at or above the current one; None where none is.

    Its images may be away: who can do without a workspace needs its models, classes and logs alone.

    Args:
        folder: None looks at the current folder and above.

    Raises:
        WorkspaceError, DataError: as `open_workspace`.
    """
    found = workspace_folder() if folder is None else folder
    return None if found is None else open_workspace(found, images_needed=False)


def open_workspace(root: Path, *, images_needed: bool = True) -> Workspace:
    """Open the workspace of a folder; its labels are read by `Workspace.samples`.

    Args:
        root: the folder.
        images_needed: refuse a workspace whose image folder is away. Who needs its models, keys and
            logs alone goes on without: the share of the images may be away when a server starts.

    Raises:
        WorkspaceError: no ``wafer.toml`` or ``classes.yaml``, a broken one, or no image folder.
        DataError: faults in ``classes.yaml``.
    """
    root = root.resolve()
    if not (root / FILE_NAME).is_file():
        raise WorkspaceError(f"{root}: no {FILE_NAME}; make a workspace with `wafer init {root}`")
    settings = read_settings(root / FILE_NAME)
    images = root / settings.images
    if images_needed and not images.is_dir():
        raise WorkspaceError(
            f"{root / FILE_NAME}: no folder {images}; correct `images` or bring the folder back"
        )
    if not (root / "classes.yaml").is_file():
        raise WorkspaceError(f"{root}: no classes.yaml; bring it back or run `wafer init --force`")
    return Workspace(
        root=root,
        images=images.resolve(),
        classes=read_classes(root / "classes.yaml"),
        white_level=settings.white_level,
        colour=settings.colour,
        group_pattern=settings.group_pattern,
    )


def create_workspace(
    root: Path,
    *,
    images: Path,
    classes: ClassTable,
    samples: Sequence[Sample],
    white_level: int = 65535,
    colour: bool = False,
    group_pattern: str | None = None,
    force: bool = False,
    synthetic: bool = False,
) -> Workspace:
    """Write a workspace: settings, classes, table of images, labels, and a view for YOLO.

    The images stay where they are and are never changed. ``wafer.toml`` is written last.

    Args:
        root: its folder, made where needed.
        images: folder of the images.
        classes: the class table.
        samples: what is known of each image; ``annotations=None`` writes no label file.
        white_level: see `Workspace`.
        colour: see `Workspace`.
        group_pattern: regular expression whose group finds lot or wafer in an image's path.
        force: write over a workspace or labels that are there; all old files are kept under
            ``<name>.bak-N``.
        synthetic: ``synth.json`` and ``truth/`` are those of these images and stay; else they are
            put aside.

    Raises:
        WorkspaceError: there is a workspace or a folder of labels already, the images are in a
            folder that the workspace needs, or a bad setting.
        DataError: samples that do not fit the class table or images that cannot be read; nothing
            is written then.
    """
    root, images = root.resolve(), images.resolve()
    settings = checked_settings(
        images=images.relative_to(root).as_posix() if images.is_relative_to(root) else str(images),
        white_level=white_level,
        colour=colour,
        group_pattern=group_pattern,
    )
    _check_images(root, images)
    _check_free(root, force=force)
    workspace = Workspace(root, images, classes, white_level, colour, group_pattern)
    cache = workspace.image_cache()
    samples = _ruled_samples(samples, images, classes, cache)
    _keep_files(root, synthetic=synthetic)
    classes.write(root / "classes.yaml")
    write_labels(workspace.table, samples)
    cache.save()
    write_yolo_view(workspace, samples)
    _write_label_folder(workspace, samples, cache)
    write_settings(root / FILE_NAME, settings)
    return workspace


def _check_images(root: Path, images: Path) -> None:
    """Refuse images in a folder that is written to or put aside, which would move them."""
    needed = next((n for n in OWN_FOLDERS if images.is_relative_to(root / n)), None)
    if needed is not None:
        raise WorkspaceError(
            f"{images}: a workspace in {root} needs the folder {needed} for itself; name another "
            "DIR, or move the images"
        )


def _check_free(root: Path, *, force: bool) -> None:
    if force:
        return
    if (root / FILE_NAME).exists():
        raise WorkspaceError(
            f"{root}: there is a workspace already; choose another folder, or add `--force` to "
            "replace it (its old files are kept as .bak-1)"
        )
    if (root / "labels").is_dir() and any((root / "labels").iterdir()):
        raise WorkspaceError(
            f"{root / 'labels'}: there are labels already; choose another folder, or add "
            "`--force` to put them aside as labels.bak-1"
        )


def _ruled_samples(
    samples: Iterable[Sample], images: Path, classes: ClassTable, cache: ImageCache
) -> tuple[Sample, ...]:
    """Return the samples as they will be read again, or raise all that is wrong with them."""
    ruled: list[Sample] = []
    faults: list[Fault] = []
    for sample in samples:
        problem, remedy = _misfit(sample, images, classes)
        if problem is not None:
            faults.append(Fault(file=sample.image, problem=problem, remedy=remedy))
            continue
        try:
            ruled.append(_ruled(sample, classes, cache))
        except ImageError as error:
            remedy = "copy the image again or remove it"
            faults.append(Fault(file=error.path, problem=error.reason, remedy=remedy))
    if faults:
        raise DataError(faults)
    return tuple(ruled)


def _misfit(sample: Sample, images: Path, classes: ClassTable) -> tuple[str | None, str]:
    found = {sample.image_class, *(a.class_name for a in sample.annotations or ())}
    unknown = sorted(str(name) for name in found - {None, *classes.names})
    if unknown:
        return f"unknown class {unknown[0]!r}", f"use one of {', '.join(classes.names)}"
    if not (images / sample.image).is_file():
        return f"no such image in {images}", "bring it back or leave it out"
    none = classes.none_class
    if none is not None and sample.annotations and none.name in found:
        return f"boxes on an image of class {none.name}", "delete the boxes or change the class"
    return None, ""


def _ruled(sample: Sample, classes: ClassTable, cache: ImageCache) -> Sample:
    whole = sample.image_class in classes.whole_image_names
    size = cache.size(sample.image) if whole or sample.annotations else (1, 1)
    annotations = ruled_annotations(
        sample.annotations, image_class=sample.image_class, classes=classes, size=size
    )
    return replace(sample, annotations=annotations)


def _keep_files(root: Path, *, synthetic: bool) -> None:
    for name in (FILE_NAME, TABLE, "classes.yaml", "data.yaml"):
        if (root / name).is_file():
            keep_copy(root / name)
    for name in (LEDGER, HEAD):  # it speaks of the labels that are put aside
        if (root / name).is_file():
            put_aside(root / name)
    if not synthetic and (root / SYNTH_RECORD).is_file():  # they speak of the images drawn before
        if (root / "truth").is_dir():
            put_aside(root / "truth")
        put_aside(root / SYNTH_RECORD)
    (root / FILE_NAME).unlink(missing_ok=True)


def _write_label_folder(workspace: Workspace, samples: Iterable[Sample], cache: ImageCache) -> None:
    """Write all label files beside and move them in at once, which is quicker than one by one."""
    new = workspace.cache / f"labels.new-{secrets.token_hex(6)}"
    new.mkdir(parents=True)
    try:
        for sample in (s for s in samples if s.annotations is not None):
            path = new / label_name(sample.image)
            path.parent.mkdir(parents=True, exist_ok=True)
            size = cache.size(sample.image) if sample.annotations else (1, 1)
            text = box_lines(sample.annotations or (), classes=workspace.classes, size=size)
            path.write_text(text, encoding="utf-8")
        if hasattr(os, "sync"):  # a file cut off by a power failure would read as "no box"
            os.sync()
        if workspace.labels.is_dir():
            if any(workspace.labels.iterdir()):
                put_aside(workspace.labels)
            else:
                workspace.labels.rmdir()
        new.rename(workspace.labels)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def write_yolo_view(workspace: Workspace, samples: Sequence[Sample]) -> None:
    """Write ``data.yaml`` over links in ``.cache/yolo``, so that any YOLO trainer can use it.

    Images without a box have an empty label file; images nobody looked at, and in val and test
    those with unconfirmed boxes, are left out.
    """
    cache = workspace.image_cache()
    splits: tuple[Split, ...] = ("train", "val", "test")
    write_view(
        workspace.cache / "yolo",
        workspace.root / "data.yaml",
        parts={split: select(samples, split).samples for split in splits},
        classes=workspace.classes,
        colour=workspace.colour,
        image_path=workspace.image_path,
        image_size=cache.size,
    )
    cache.save()


@dataclass(frozen=True, slots=True)
class Selection:
    """The samples of a split that can be used, and how many were left out and why."""

    samples: tuple[Sample, ...]
    excluded_unlabelled: int
    excluded_untrusted: int


def trusted(sample: Sample) -> bool:
    """Return whether a person or a rule stands behind every box; false where nobody looked."""
    return sample.annotations is not None and all(a.source in TRUSTED for a in sample.annotations)


def select(samples: Iterable[Sample], split: Split | Literal["all"]) -> Selection:
    """Return the labelled samples of a split; ``all`` is train, val and test together.

    In val and test every box must be `trusted`; train takes the boxes of models too.
    """
    chosen = [
        s
        for s in samples
        if s.split == split or (split == "all" and s.split not in (None, "unused"))
    ]
    labelled = [s for s in chosen if s.annotations is not None]
    used = tuple(s for s in labelled if s.split in ("train", "unused") or trusted(s))
    return Selection(used, len(chosen) - len(labelled), len(labelled) - len(used))


def dataset_hash(workspace: Workspace, samples: Iterable[Sample]) -> str:
    """Return 64 hexadecimal digits that change with anything a training on ``samples`` sees.

    That is: the classes, how images are decoded, and of every sample the bytes of the image, its
    class, split and boxes. Names and places of files do not count.
    """
    cache = workspace.image_cache()
    rows = sorted(json.dumps([cache.sha256(s.image), *_seen(s)]) for s in samples)
    cache.save()
    classes = [[c.code, c.name, c.kind, c.killer] for c in workspace.classes]
    head = json.dumps([classes, workspace.white_level, workspace.colour])
    return hashlib.sha256("\n".join([head, *rows]).encode()).hexdigest()


def _seen(sample: Sample) -> list[object]:
    boxes = sample.annotations
    return [
        sample.image_class,
        sample.split,
        None if boxes is None else [[a.class_name, *a.box.corners] for a in boxes],
    ]
