"""COCO: one JSON file a split, boxes as x, y, width and height in pixels."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from wafer.datasets.boxes import fitted_box
from wafer.datasets.classes import ClassTable
from wafer.datasets.formats.dataset import (
    SPLIT_NAMES,
    Dataset,
    Faults,
    classes_beside,
    derive_classes,
    find_images,
    place_image,
    split_named,
)
from wafer.datasets.image_names import ImageNames
from wafer.datasets.images import image_size
from wafer.datasets.records import SPLITS, Annotation, Sample, Split

__all__ = ["instance_files", "read", "write"]

CORRECT = "correct it or delete the annotation"
Key = int | float | str  # of images; many programs write others than whole numbers


def read(path: Path, *, images: Path | None = None, classes: ClassTable | None = None) -> Dataset:
    """Read COCO instances: a JSON file, or a folder with one for each split.

    Category ids may be any numbers. An image of the file without annotations is one with no
    defect; an image that no file names is one nobody looked at. Crowds are left out, with a note.

    Args:
        path: the JSON file, or a folder with it or with ``annotations/*.json``.
        images: the image folder; by default ``images`` in the dataset, or the dataset itself.
        classes: the class table; by default ``classes.yaml`` in the dataset, or the categories.

    Raises:
        DataError: all faults of all files together.
    """
    base = path if path.is_dir() else path.parent
    base = base.parent if base.name == "annotations" else base
    root = images or (base / "images" if (base / "images").is_dir() else base)
    faults = Faults()
    names = find_images(root, faults)
    files = instance_files(path)
    if not files:
        faults.add(path, "no JSON file with images and annotations", "name the file itself")
    documents = {file: _document(file, faults) for file in files}
    table = classes or classes_beside(base)
    categories = _categories(documents, faults)
    collected = _Collected(frozenset(names), ImageNames(names), root, {}, {})
    for file, document in documents.items():
        split = split_named(file.stem) or SPLIT_NAMES.get(file.parent.name.lower())
        _read_document(_File(file, document, table, split, _homes(file, root)), collected, faults)
    faults.raise_any()
    samples = [
        Sample(
            name,
            None,
            tuple(collected.boxes[name]) if name in collected.boxes else None,
            split=collected.splits.get(name),
        )
        for name in names
    ]
    notes = (f"{collected.crowds} crowd annotations left out",) if collected.crowds else ()
    derived = table or derive_classes(
        categories.values(), source=str(path), codes=tuple(categories)
    )
    return Dataset(root, derived, tuple(samples), notes, derived=table is None)


def instance_files(path: Path) -> tuple[Path, ...]:
    """Return the JSON files below a path that look like COCO instances."""
    if path.is_file():
        return (path,)
    patterns = ("*.json", "annotations/*.json", "*/_annotations.coco.json")
    found = sorted({file for pattern in patterns for file in path.glob(pattern)})
    files = tuple(file for file in found if _looks_right(file))
    # COCO's own folders have captions and keypoints of the same images beside the instances.
    return tuple(file for file in files if file.name.startswith("instances")) or files


def _looks_right(file: Path) -> bool:
    try:
        document = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):  # broken, which the reading will say
        return file.parent.name == "annotations" or file.name == "_annotations.coco.json"
    return {"images", "annotations"} <= document.keys()


@dataclass(frozen=True, slots=True)
class _Home:
    """A folder that images of a JSON file may be in, and the image root."""

    folder: Path
    root: Path

    def name(self, text: str) -> str:
        """Return the path below the root of an image of this folder."""
        return PurePath(os.path.relpath(self.folder / text, self.root)).as_posix()


@dataclass(slots=True)
class _Collected:
    """What the files have said so far."""

    names: frozenset[str]
    finder: ImageNames
    root: Path
    boxes: dict[str, list[Annotation]]
    splits: dict[str, Split]
    crowds: int = 0


@dataclass(frozen=True, slots=True)
class _File:
    """One JSON file: its lists, the class table, its split and the homes of its images."""

    path: Path
    document: Mapping[str, list[Mapping[str, Any]]]
    table: ClassTable | None
    split: Split | None
    homes: tuple[_Home, ...]


def _document(file: Path, faults: Faults) -> dict[str, list[Mapping[str, Any]]]:
    empty: dict[str, list[Mapping[str, Any]]] = {"images": [], "annotations": [], "categories": []}
    try:
        document = json.loads(file.read_bytes())
    except json.JSONDecodeError as error:
        faults.add(file, f"not JSON ({error.msg})", "export the file again", line=error.lineno)
        return empty
    except (OSError, ValueError, RecursionError):
        faults.add(file, "cannot be read as JSON", "export the file again")
        return empty
    if not isinstance(document, dict):
        faults.add(file, "not a COCO file", "export it as COCO instances")
        return empty
    for key in empty:
        rows = document.get(key)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            faults.add(file, f"no list {key!r}", "export it as COCO instances")
            return empty
    return {key: document[key] for key in empty}


def _categories(
    documents: Mapping[Path, Mapping[str, list[Mapping[str, Any]]]], faults: Faults
) -> dict[int, str]:
    """Return the categories of all files by their ids, in order of these."""
    found: dict[int, str] = {}
    for file, document in documents.items():
        for category in document["categories"]:
            key, name = category.get("id"), category.get("name")
            if not isinstance(key, int) or not isinstance(name, str):
                problem = f"a category {category!r} without a whole id and a name"
                faults.add(file, problem, "correct it")
            elif found.setdefault(key, name) != name:
                problem = f"category {key} is both {found[key]} and {name}"
                faults.add(file, problem, "give all files the same categories")
    return dict(sorted(found.items()))


def _homes(file: Path, root: Path) -> tuple[_Home, ...]:
    """Return the homes that the images of a JSON file may have, the likeliest first.

    They are ``images`` beside a folder ``annotations``, as we write it, where another image may
    well have the split in front of its path; the JSON's own folder; and the one of its split.
    """
    homes: list[_Home] = []
    # Of the two, only one may say where the JSON lies from an image folder that is a link.
    for folder, base in (
        (file.parent.absolute(), root.absolute()),
        (file.parent.resolve(), root.resolve()),
    ):
        beside = folder.parent / "images"
        if folder.name == "annotations" and beside.is_dir():
            homes.append(_Home(beside if beside.is_relative_to(base) else base, base))
        homes += _Home(folder, base), _Home(base / file.stem.removeprefix("instances_"), base)
    return tuple(dict.fromkeys(homes))


def _read_document(file: _File, collected: _Collected, faults: Faults) -> None:
    _check_ids(file, faults)
    images = _read_images(file, collected, faults)
    listed = {_key(row.get("id")) for row in file.document["images"]}
    categories = {_key(row.get("id")): row.get("name") for row in file.document["categories"]}
    for row in file.document["annotations"]:
        image = _key(row.get("image_id"))
        if row.get("iscrowd"):
            collected.crowds += 1
        elif image is None or image not in listed:
            problem = f"annotation {row.get('id')} of an image that is not in the file"
            faults.add(file.path, problem, CORRECT)
        elif (found := images.get(image)) is not None and found[1] is not None:
            try:
                annotation = _annotation(row, categories, file.table, found[1])
                collected.boxes[found[0]].append(annotation)
            except ValueError as error:
                faults.add(file.path, f"annotation {row.get('id')}: {error}", CORRECT)


def _key(value: object) -> Key | None:
    """Return an id, or None for what cannot be one."""
    return value if isinstance(value, Key) else None


def _check_ids(file: _File, faults: Faults) -> None:
    """Note images without an id of their own: their boxes could belong to another image."""
    names: dict[Key, object] = {}
    for row in file.document["images"]:
        key, name = _key(row.get("id")), row.get("file_name")
        if key is None:
            problem = f"image {name} with the id {row.get('id')!r}"
            faults.add(file.path, problem, "give it a whole number")
        elif names.setdefault(key, name) != name:
            problem = f"image id {key} twice ({names[key]}, {name})"
            faults.add(file.path, problem, "give each image its own id")


def _read_images(
    file: _File, collected: _Collected, faults: Faults
) -> dict[Key | None, tuple[str, tuple[int, int] | None]]:
    """Return the name and size of each image by its id, and note that somebody looked at it."""
    images: dict[Key | None, tuple[str, tuple[int, int] | None]] = {}
    for row in file.document["images"]:
        try:
            name = _image_name(row, file.homes, collected)
        except LookupError as error:
            faults.add(file.path, str(error.args[0]), "bring the image back or delete its entry")
            continue
        if name in collected.boxes:
            faults.add(file.path, f"{name} is listed twice", "keep one of its entries")
        size = faults.size(collected.root / name)
        if size is not None:
            _check_size(row, name, size, file.path, faults)
        images[_key(row.get("id"))] = name, size
        collected.boxes[name] = []
        if file.split is not None:
            collected.splits[name] = file.split
    return images


def _image_name(row: Mapping[str, Any], homes: Sequence[_Home], collected: _Collected) -> str:
    """Return the image of an entry: in one of its file's homes, or anywhere."""
    text = row.get("file_name")
    if not isinstance(text, str) or not text:
        raise LookupError(f"image {row.get('id')} without file_name")
    for home in homes:
        name = home.name(text.replace("\\", "/"))
        if name in collected.names:
            return name
    return collected.finder.find(text)


def _check_size(
    row: Mapping[str, Any], name: str, size: tuple[int, int], file: Path, faults: Faults
) -> None:
    stated = row.get("width"), row.get("height")
    if stated not in (size, (None, None), (0, 0)):
        problem = (
            f"{name} of {stated[0]} x {stated[1]}, where the image has {size[0]} x {size[1]} pixels"
        )
        faults.add(file, problem, "draw the boxes on this very image, or correct the entry")


def _annotation(
    row: Mapping[str, Any],
    categories: Mapping[Key | None, object],
    table: ClassTable | None,
    size: tuple[int, int],
) -> Annotation:
    name = categories.get(_key(row.get("category_id")))
    if not isinstance(name, str):
        raise ValueError(f"unknown category {row.get('category_id')}")
    if table is not None and name not in table.detector_names:
        raise ValueError(f"class {name!r}, where boxes have {', '.join(table.detector_names)}")
    box = row.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(value) for value in box):
        raise ValueError(f"bbox {box!r} is not a list of 4 numbers")
    x, y, width, height = box
    return Annotation(fitted_box((x, y, x + width, y + height), size), name)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def write(dataset: Dataset, folder: Path) -> Mapping[str, str]:
    """Write ``images`` and ``annotations/instances_<split>.json``.

    Images without a split are in ``instances.json``. Category ids are the table's detector
    positions. An image nobody looked at is copied but is in no JSON file, where it would read as
    one without a defect.

    Returns:
        The path of each image below the new image folder.
    """
    for sample in dataset.samples:
        place_image(dataset.root / sample.image, folder / "images" / sample.image)
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    looked = [sample for sample in dataset.samples if sample.annotations is not None]
    for split in (*SPLITS, None):
        chosen = [sample for sample in looked if sample.split == split]
        if chosen or (split is None and not looked):
            name = "instances.json" if split is None else f"instances_{split}.json"
            text = json.dumps(_instances(chosen, dataset), ensure_ascii=False, indent=1)
            (folder / "annotations" / name).write_text(text + "\n", encoding="utf-8")
    return {sample.image: sample.image for sample in dataset.samples}


def _instances(samples: Sequence[Sample], dataset: Dataset) -> dict[str, list[dict[str, Any]]]:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, sample in enumerate(samples, 1):
        width, height = image_size(dataset.root / sample.image)
        entry = {"id": image_id, "file_name": sample.image, "width": width, "height": height}
        images.append(entry)
        annotations += _rows(sample.annotations or (), image_id, dataset.classes, len(annotations))
    categories = [{"id": i, "name": n} for i, n in enumerate(dataset.classes.detector_names)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _rows(
    annotations: Iterable[Annotation], image_id: int, classes: ClassTable, before: int
) -> list[dict[str, Any]]:
    return [
        {
            "id": number,
            "image_id": image_id,
            "category_id": classes.detector_index(a.class_name),
            "bbox": [a.box.xmin, a.box.ymin, a.box.width, a.box.height],
            "area": a.box.area,
            "iscrowd": 0,
        }
        for number, a in enumerate(annotations, before + 1)
    ]
