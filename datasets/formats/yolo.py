"""YOLO: one text file an image, ``data.yaml`` with names and splits."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from wafer.datasets.boxes import box_lines, parse_boxes
from wafer.datasets.classes import ClassTable
from wafer.datasets.formats.dataset import (
    SPLIT_NAMES,
    Dataset,
    Faults,
    classes_beside,
    derive_classes,
    find_images,
    place_image,
)
from wafer.datasets.images import IMAGE_SUFFIXES, image_size
from wafer.datasets.records import SPLITS, Annotation, Sample, Split
from wafer.datasets.scanning import find_files, stem_faults

__all__ = ["data_file", "label_file", "read", "write"]

KEYS: Mapping[str, Split] = {"train": "train", "val": "val", "valid": "val", "test": "test"}
# Text files that labelling tools leave beside labels.
OTHER_TEXTS = frozenset({"classes", "train", "val", "valid", "test", "unused", "readme"})
CORRECT_YAML = "correct data.yaml"


def read(path: Path, *, images: Path | None = None, classes: ClassTable | None = None) -> Dataset:
    """Read a YOLO dataset: ``data.yaml``, or folders ``images`` and ``labels``, or one folder.

    An image without a label file is one nobody looked at, one with an empty file has no defect.
    Outlines (more than five fields) become the boxes around them, with a note. Nothing is ever
    downloaded.

    Args:
        path: ``data.yaml``, the dataset's folder, or its folder of labels.
        images: the image folder, where it is not found from ``path``.
        classes: the class table; by default ``classes.yaml`` in the dataset, or the names of
            ``data.yaml`` or ``classes.txt``, or else ``class_0``, ``class_1`` ...

    Raises:
        DataError: all faults of all files together.
    """
    faults = Faults()
    base = _base(path)
    settings = _settings(data_file(path if path.is_file() else base), faults, parts=images is None)
    found = _find(path, base, images, settings, faults)
    names = _names(base, found, settings, classes, faults)
    annotations: dict[str, tuple[Annotation, ...] | None] = {}
    outlines = 0
    for image, label in found.labels.items():
        boxes, polygons = _read_labels(found.root / image, label, names, faults)
        annotations[image], outlines = boxes, outlines + polygons
    _check_orphans(found, faults)
    faults.raise_any()
    samples = [
        Sample(image, None, annotations[image], split=found.splits.get(image))
        for image in found.labels
    ]
    notes = (f"{outlines} outlines were made boxes",) if outlines else ()
    table = classes or classes_beside(base)
    derived = table or derive_classes(names.values(), source=str(path), codes=tuple(names))
    return Dataset(found.root, derived, tuple(samples), notes, derived=table is None)


def data_file(path: Path) -> Path | None:
    """Return the ``data.yaml`` of a path: itself, or the one file of that kind in the folder."""
    if path.is_file():
        return path
    if (path / "data.yaml").is_file():
        return path / "data.yaml"
    found = [f for f in sorted(path.glob("*.y*ml")) if f.name != "classes.yaml" and _is_data(f)]
    return found[0] if len(found) == 1 else None


def _is_data(file: Path) -> bool:
    try:
        document = yaml.safe_load(file.read_bytes())
    except (OSError, ValueError, yaml.YAMLError):
        return False
    return (
        isinstance(document, dict) and "names" in document and bool(KEYS.keys() & document.keys())
    )


def _base(path: Path) -> Path:
    if path.is_file() or path.name in ("labels", "images"):
        return path.parent
    return path


@dataclass(frozen=True, slots=True)
class _Settings:
    """What ``data.yaml`` says: the images of each split, and the class names by id."""

    file: Path
    parts: Mapping[Split, tuple[Path, ...]]
    names: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class _Found:
    """The images below ``root``, each with the label file it has or would have."""

    root: Path
    labels: Mapping[str, Path]
    splits: Mapping[str, Split]


def _settings(file: Path | None, faults: Faults, *, parts: bool) -> _Settings | None:
    if file is None:
        return None
    text = faults.text(file)
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = None if mark is None else mark.line + 1
        faults.add(file, "not valid YAML", CORRECT_YAML, line=line)
        return None
    if not isinstance(document, dict):
        faults.add(file, "no keys such as `train` and `names`", CORRECT_YAML)
        return None
    if "download" in document:
        problem = "a `download` key, which is never carried out"
        remedy = "delete it, and put the images in place yourself"
        faults.add(file, problem, remedy, line=_line_of(text, "download"))
    names = _yaml_names(file, document, text, faults)
    return _Settings(file, _yaml_parts(file, document, text, faults) if parts else {}, names)


def _line_of(text: str, key: str) -> int | None:
    lines = enumerate(text.splitlines(), 1)
    return next((n for n, line in lines if line.lstrip(" '\"{").startswith(key)), None)


def _yaml_names(
    file: Path, document: Mapping[str, Any], text: str, faults: Faults
) -> dict[int, str]:
    names = document.get("names")
    rows = dict(enumerate(names)) if isinstance(names, list) else names
    line = _line_of(text, "names")
    if not isinstance(rows, dict) or not all(isinstance(key, int) for key in rows):
        faults.add(file, "no `names` of the classes", "list them under `names:`", line=line)
        return {}
    if "nc" in document and document["nc"] != len(rows):
        problem = f"nc is {document['nc']}, but there are {len(rows)} names"
        faults.add(file, problem, CORRECT_YAML, line=_line_of(text, "nc"))
    return {int(key): str(name) for key, name in sorted(rows.items())}


def _yaml_parts(
    file: Path, document: Mapping[str, Any], text: str, faults: Faults
) -> dict[Split, tuple[Path, ...]]:
    base = file.parent / str(document.get("path") or ".")
    parts: dict[Split, tuple[Path, ...]] = {}
    for key, split in KEYS.items():
        values = document.get(key)
        if not values:
            continue
        places: list[Path] = []
        for value in values if isinstance(values, list) else [values]:
            # Exports of Roboflow write ../train/images for a folder beside data.yaml.
            plain = str(value).removeprefix("../")
            tried = (base / str(value), file.parent / str(value), file.parent / plain)
            place = next((p for p in tried if p.exists()), None)
            if place is None:
                problem, line = f"{key}: no {value}", _line_of(text, key)
                faults.add(file, problem, "correct the path or delete the key", line=line)
            else:
                places.append(_absolute(place))
        parts[split] = (*parts.get(split, ()), *places)
    return parts


def _absolute(path: Path) -> Path:
    """Return the absolute path of an entry; an entry that is a link stays itself."""
    return path.parent.resolve() / path.name


def _find(
    path: Path, base: Path, images: Path | None, settings: _Settings | None, faults: Faults
) -> _Found:
    if settings is not None and settings.parts:
        return _find_listed(settings, faults)
    inside = base / "images"
    root = (images or (inside if inside.is_dir() else base)).resolve()
    names = find_images(root, faults)
    if images is not None:
        folder = path / "labels" if (path / "labels").is_dir() else path
        labels = {name: (folder / name).with_suffix(".txt") for name in names}
    else:
        labels = {name: label_file(root / name) for name in names}
    splits = {name: _folder_split(name) for name in names}
    return _Found(root, labels, {name: split for name, split in splits.items() if split})


def _folder_split(name: str) -> Split | None:
    """Return the split whose folder an image is in: train/a.png or train/images/a.png."""
    first, *rest = PurePosixPath(name).parts
    return SPLIT_NAMES.get(first.lower()) if rest else None


def _find_listed(settings: _Settings, faults: Faults) -> _Found:
    listed: dict[Path, Split] = {}
    for split, places in settings.parts.items():
        for file in (f for place in places for f in _listed_images(place, faults)):
            if listed.setdefault(file, split) != split:
                problem = f"{file.name} is in {listed[file]} and {split}"
                faults.add(settings.file, problem, "keep each image in one split")
    if not listed and not faults.found:
        faults.add(settings.file, "no image in its folders", "put the images there")
    if not listed:
        return _Found(settings.file.parent, {}, {})
    root = Path(os.path.commonpath([file.parent for file in listed]))
    standard = settings.file.parent.resolve() / "images"
    if standard in (root, *root.parents):
        root = standard
        for name in find_images(root, faults):
            listed.setdefault(root / name, "unused")
    names = {file.relative_to(root).as_posix(): file for file in sorted(listed)}
    labels = {name: label_file(file) for name, file in names.items()}
    return _Found(root, labels, {name: listed[file] for name, file in names.items()})


def _listed_images(place: Path, faults: Faults) -> list[Path]:
    """Return the images of a folder, or of a text file with a path a line."""
    if place.is_dir():
        names, bad = find_files(place, suffixes=IMAGE_SUFFIXES)
        faults.found += bad + stem_faults(names)
        return [place / name for name in names]
    files = []
    for number, line in enumerate(faults.text(place).splitlines(), 1):
        if not line.strip():
            continue
        file = _absolute(place.parent / line.strip())
        if file.is_file():
            files.append(file)
        else:
            faults.add(place, f"no image {line.strip()}", "correct or delete the line", line=number)
    return files


def label_file(image: Path) -> Path:
    """Return where the labels of an image are: the last folder ``images`` becomes ``labels``.

    Where there is no such folder, they are beside the image.
    """
    parts = image.parts
    last = max((i for i, part in enumerate(parts[:-1]) if part == "images"), default=None)
    if last is not None and Path(*parts[:last], "labels").is_dir():
        return Path(*parts[:last], "labels", *parts[last + 1 :]).with_suffix(".txt")
    return image.with_suffix(".txt")


def _names(
    base: Path,
    found: _Found,
    settings: _Settings | None,
    classes: ClassTable | None,
    faults: Faults,
) -> dict[int, str]:
    """Return the class name of each id: of the table, ``data.yaml``, ``classes.txt``, or any."""
    listed = dict(settings.names) if settings is not None else {}
    table = classes or classes_beside(base)
    if table is not None:
        names = dict(enumerate(table.detector_names))
        if settings is not None and listed and listed != names:
            problem = f"names {list(listed.values())}, where the classes are {list(names.values())}"
            faults.add(settings.file, problem, "make `names` and the class table agree")
        return names
    if listed:
        return listed
    folders = (
        base,
        base / "labels",
        found.root,
        *{label.parent for label in found.labels.values()},
    )
    file = next((f / "classes.txt" for f in folders if (f / "classes.txt").is_file()), None)
    if file is not None:
        return dict(
            enumerate(line.strip() for line in faults.text(file).splitlines() if line.strip())
        )
    return {index: f"class_{index}" for index in sorted(_used_ids(found.labels.values()))}


def _used_ids(labels: Iterable[Path]) -> set[int]:
    texts = [label.read_bytes() for label in labels if label.is_file()]
    first = [line.split()[0] for text in texts for line in text.splitlines() if line.strip()]
    return {int(field) for field in first if field.isdigit()}


def _read_labels(
    image: Path, label: Path, names: Mapping[int, str], faults: Faults
) -> tuple[tuple[Annotation, ...] | None, int]:
    if not label.is_file():
        return None, 0
    text = faults.text(label)
    size = faults.size(image) if text.strip() else None
    if size is None:
        return (), 0
    boxes, bad = parse_boxes(text, file=str(label), names=names, size=size, polygons=True)
    faults.found += bad
    return tuple(boxes), sum(len(line.split()) > 5 for line in text.splitlines())


def _check_orphans(found: _Found, faults: Faults) -> None:
    """Note the label files beside those of the images that belong to no image."""
    known = set(found.labels.values())
    for folder in sorted({label.parent for label in known}):
        for name in find_files(folder, suffixes={".txt"})[0]:
            label = folder / name
            if "/" not in name and label not in known and _is_label(label):
                problem = "labels of an image that is not there"
                faults.add(label, problem, "remove it, or add its image")


def _is_label(file: Path) -> bool:
    """Return whether a text file has boxes, and is no list of names or images."""
    if file.stem.lower() in OTHER_TEXTS:
        return False
    words = file.read_bytes().split(None, 1)
    return not words or words[0].isdigit()


def write(dataset: Dataset, folder: Path) -> Mapping[str, str]:
    """Write ``images/<split>``, ``labels/<split>`` and ``data.yaml``; without splits no subfolders.

    Once any image has a split, those without one are ``unused``. An image nobody looked at has no
    label file, one without a defect an empty one.

    Returns:
        The path of each image below the new image folder.
    """
    places = _places(dataset.samples)
    for sample in dataset.samples:
        source = dataset.root / sample.image
        place_image(source, folder / "images" / places[sample.image])
        if sample.annotations is None:
            continue
        size = image_size(source) if sample.annotations else (1, 1)
        label = (folder / "labels" / places[sample.image]).with_suffix(".txt")
        label.parent.mkdir(parents=True, exist_ok=True)
        text = box_lines(sample.annotations, classes=dataset.classes, size=size)
        label.write_text(text, encoding="utf-8")
    (folder / "labels").mkdir(parents=True, exist_ok=True)
    (folder / "data.yaml").write_text(_data_yaml(dataset), encoding="utf-8")
    return places


def _places(samples: Sequence[Sample]) -> dict[str, str]:
    """Return the path of each image below ``images``: with its split in front, if it is not yet."""
    split = [sample for sample in samples if sample.split is not None]
    if not split or all(s.image.startswith(f"{s.split}/") for s in split):
        return {sample.image: sample.image for sample in samples}
    return {s.image: f"{s.split or 'unused'}/{s.image}" for s in samples}


def _data_yaml(dataset: Dataset) -> str:
    names = dataset.classes.detector_names
    found = {sample.split for sample in dataset.samples}
    parts = [split for split in SPLITS if split in found and split != "unused"]
    document: dict[str, Any] = {
        **{split: f"images/{split}" for split in parts},
        "nc": len(names),
        "names": dict(enumerate(names)),
    }
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
