"""``data.yaml`` and the folders of links behind it, for stock `yolo train data=data.yaml`."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import yaml

from wafer.datasets.boxes import box_lines
from wafer.datasets.classes import ClassTable
from wafer.datasets.files import write_text
from wafer.datasets.formats.yolo import label_path
from wafer.datasets.records import Sample

__all__ = ["link_or_copy", "write_view"]


def write_view(
    view: Path,
    data_yaml: Path,
    *,
    parts: Mapping[str, Sequence[Sample]],
    classes: ClassTable,
    colour: bool,
    image_path: Callable[[str], Path],
    image_size: Callable[[str], tuple[int, int]],
) -> None:
    """Build the folders and write ``data.yaml``; an older view is there until the new one is whole.

    Args:
        view: folder to build: ``images/<split>/...`` and ``labels/<split>/...``.
        data_yaml: the file to write.
        parts: the labelled samples of each split.
        classes: the class table.
        colour: whether training has three channels.
        image_path: where an image lies.
        image_size: its (width, height) in pixels.
    """
    new = view.with_name(f"{view.name}.new-{secrets.token_hex(6)}")
    try:
        for split, samples in parts.items():
            (new / "images" / split).mkdir(parents=True)
            for sample in samples:
                target = new / "images" / split / sample.image
                link_or_copy(image_path(sample.image), target)
                _write_labels(target, sample, classes, image_size)
        _swap(new, view)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    write_text(data_yaml, _data_yaml(view, list(parts), classes, colour))


def link_or_copy(source: Path, target: Path) -> None:
    """Link ``target`` to ``source``, or copy it where the file system has no links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.symlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def _write_labels(
    image: Path, sample: Sample, classes: ClassTable, image_size: Callable[[str], tuple[int, int]]
) -> None:
    path = label_path(image)
    path.parent.mkdir(parents=True, exist_ok=True)
    annotations = sample.annotations or ()
    size = image_size(sample.image) if annotations else (1, 1)
    path.write_text(box_lines(annotations, classes=classes, size=size), encoding="utf-8")


def _swap(new: Path, view: Path) -> None:
    old = view.with_name(f"{view.name}.old-{secrets.token_hex(6)}")
    if view.exists():
        view.rename(old)
    new.rename(view)
    shutil.rmtree(old, ignore_errors=True)


def _data_yaml(view: Path, splits: Sequence[str], classes: ClassTable, colour: bool) -> str:
    document = {
        "path": str(view),
        **{split: f"images/{split}" for split in splits},
        "nc": len(classes.detector_names),
        "names": dict(enumerate(classes.detector_names)),
        "channels": 3 if colour else 1,
    }
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    return "# Written by wafer from image_labels.csv and labels/; changes here are lost.\n" + text
