"""YOLO: one text file an image, ``data.yaml`` with names and splits."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from wafer.datasets.boxes import box_lines, parse_boxes
from wafer.datasets.classes import NAMES_FILE, ClassTable, listed_names
from wafer.datasets.errors import DataError, Fault
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
from wafer.datasets.yaml_document import NotYamlError, yaml_document

__all__ = ["data_file", "label_file", "label_path", "read", "write"]

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
        images: the image folder, where it is not found from ``path``; of the splits of
            ``data.yaml`` only the images below it count.
        classes: the class table; by default ``classes.yaml`` in the dataset, or the names of
            ``data.yaml`` or ``classes.txt``, or else ``class_0``, ``class_1`` ...

    Raises:
        DataError: all faults of all files together.
    """
    faults = Faults()
    base = _base(path)
    settings = _settings(data_file(path if path.is_file() else base), faults)
    if images is None:
        found = _find(base, settings, faults)
    else:
        found = _find_below(images.resolve(), path, settings, faults)
    names = _names(base, found, settings, classes, faults)
    annotations: dict[str, tuple[Annotation, ...] | None] = {}
    outlines = 0
    for image, label in found.labels.items():
        boxes, polygons = _read_labels(found.root / image, label, names, faults)
        annotations[image], outlines = boxes, outlines + polygons
    used = [image for image, boxes in annotations.items() if boxes is not None]
    if not _check_orphans(found, used, faults) and not used:
        _check_unused(base, found, faults)
    faults.raise_any()
    samples = [
        Sample(image, None, annotations[image], split=found.splits.get(image))
        for image in found.labels
    ]
    notes = (*found.notes, *([f"{outlines} outlines were made boxes"] if outlines else []))
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
        document = yaml_document(file.read_bytes())
    except (OSError, NotYamlError):
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
    """What ``data.yaml`` says: as it is written, and the class names by id."""

    file: Path
    text: str
    document: Mapping[str, Any]
    names: Mapping[int, str]

    @property
    def split_keys(self) -> tuple[str, ...]:
        return tuple(key for key in KEYS if self.document.get(key))


@dataclass(frozen=True, slots=True)
class _Found:
    """The images below ``root``, each with the label file it has or would have."""

    root: Path
    labels: Mapping[str, Path]
    splits: Mapping[str, Split]
    notes: tuple[str, ...] = ()


def _settings(file: Path | None, faults: Faults) -> _Settings | None:
    if file is None:
        return None
    text = faults.text(file)
    try:
        document = yaml_document(text)
    except NotYamlError as error:
        faults.add(file, str(error), CORRECT_YAML, line=error.line)
        return None
    if not isinstance(document, dict):
        faults.add(file, "no keys such as `train` and `names`", CORRECT_YAML)
        return None
    if "download" in document:
        problem = "a `download` key, which is never carried out"
        remedy = "delete it, and put the images in place yourself"
        faults.add(file, problem, remedy, line=_line_of(text, "download"))
    return _Settings(file, text, document, _yaml_names(file, document, text, faults))


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
    bad = {key: name for key, name in rows.items() if not isinstance(name, str)}
    for key, name in bad.items():  # YAML has made a number or a truth value of the name
        faults.add(file, f"the name of class {key} is {name!r}, not text", "quote it", line=line)
    return {} if bad else dict(sorted(rows.items()))


def _split_images(settings: _Settings, key: str, faults: Faults) -> list[Path]:
    """Return the images that ``data.yaml`` gives to a split."""
    values = settings.document[key]
    found: list[Path] = []
    for value in values if isinstance(values, list) else [values]:
        place = _place(settings, str(value))
        if place is None:
            problem, line = f"{key}: no {value}", _line_of(settings.text, key)
            remedy = "correct the path or delete the key"
            faults.add(settings.file, problem, remedy, line=line)
        else:
            found += _listed_images(place, faults)
    return found


def _place(settings: _Settings, value: str) -> Path | None:
    """Return the folder or list that ``data.yaml`` names, or None where there is none."""
    folder = settings.file.parent
    base = folder / str(settings.document.get("path") or ".")
    # Exports of Roboflow write ../train/images for a folder beside data.yaml.
    tried = (base / value, folder / value, folder / value.removeprefix("../"))
    place = next((p for p in tried if p.exists()), None)
    return None if place is None else _absolute(place)


def _absolute(path: Path) -> Path:
    """Return the absolute path of an entry; an entry that is a link stays itself."""
    return path.parent.resolve() / path.name


def _find(base: Path, settings: _Settings | None, faults: Faults) -> _Found:
    if settings is not None and settings.split_keys:
        return _find_listed(settings, faults)
    inside = base / "images"
    root = (inside if inside.is_dir() else base).resolve()
    names = find_images(root, faults)
    labels = {name: label_file(root / name) for name in names}
    return _Found(root, labels, _folder_splits(names))


def _find_below(root: Path, path: Path, settings: _Settings | None, faults: Faults) -> _Found:
    """Find the labels of images in a folder that the dataset need not know of."""
    files = {name: _absolute(root / name) for name in find_images(root, faults)}
    listed: dict[Path, Split] = {}
    notes: tuple[str, ...] = ()
    if settings is not None:
        listed, notes = _splits_of(set(files.values()), root, settings, faults)
    base = _base(path).resolve()
    folder = base / "labels" if (base / "labels").is_dir() else base
    labels: dict[str, Path] = {}
    for name, file in files.items():
        own, usual = (folder / name).with_suffix(".txt"), label_file(root / name)
        # Where the user named a folder, labels that lie elsewhere may be of another labelling.
        known = path.is_file() or usual.is_relative_to(base) or file in listed
        labels[name] = _chosen(own, usual, faults) if known else own
    if not listed:
        return _Found(root, labels, _folder_splits(files), notes)
    splits = {name: listed.get(file, "unused") for name, file in files.items()}
    return _Found(root, labels, splits, notes)


def _chosen(own: Path, usual: Path, faults: Faults) -> Path:
    """Return the label file of an image: at its path below the labels, or where YOLO looks."""
    if not usual.is_file():
        return own
    if own.is_file() and not own.samefile(usual):
        problem = f"labels of an image that has {usual} too"
        faults.add(own, problem, "remove one of them, or name the folder of all images")
    return usual


def _splits_of(
    images: Collection[Path], root: Path, settings: _Settings, faults: Faults
) -> tuple[dict[Path, Split], tuple[str, ...]]:
    """Return the splits that ``data.yaml`` gives to the images below ``root``, and notes.

    Its other images are none of this reading, and often not there at all.
    """
    listed: dict[Path, Split] = {}
    notes = []
    for key in settings.split_keys:
        own = Faults()
        files = [_absolute(file) for file in _split_images(settings, key, own)]
        below = [file for file in files if file in images]
        if below:
            faults.found += own.found
            _assign(below, key, listed, settings, faults)
        else:
            notes.append(f"{settings.file}: {key} names no image below {root}")
    return listed, tuple(notes)


def _assign(
    files: Iterable[Path],
    key: str,
    listed: dict[Path, Split],
    settings: _Settings,
    faults: Faults,
) -> None:
    for file in files:
        if listed.setdefault(file, KEYS[key]) != KEYS[key]:
            problem = f"{file.name} is in {listed[file]} and {KEYS[key]}"
            faults.add(settings.file, problem, "keep each image in one split")


def _folder_splits(names: Iterable[str]) -> dict[str, Split]:
    splits = {name: _folder_split(name) for name in names}
    return {name: split for name, split in splits.items() if split}


def _folder_split(name: str) -> Split | None:
    """Return the split whose folder an image is in: train/a.png or train/images/a.png."""
    first, *rest = PurePosixPath(name).parts
    return SPLIT_NAMES.get(first.lower()) if rest else None


def _find_listed(settings: _Settings, faults: Faults) -> _Found:
    listed: dict[Path, Split] = {}
    for key in settings.split_keys:
        _assign(_split_images(settings, key, faults), key, listed, settings, faults)
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
    """Return where the labels of an image are: at `label_path`, or beside the image.

    They are beside it where there is no folder ``labels`` to look into.
    """
    folder = _images_folder(image)
    if folder is not None and folder.with_name("labels").is_dir():
        return label_path(image)
    return image.with_suffix(".txt")


def label_path(image: Path) -> Path:
    """Return where YOLO looks for labels: the last folder ``images`` becomes ``labels``.

    Example:
        >>> label_path(Path("images/train/lot1/images/a.png")).as_posix()
        'images/train/lot1/labels/a.txt'
    """
    folder = _images_folder(image)
    if folder is None:
        return image.with_suffix(".txt")
    return (folder.with_name("labels") / image.relative_to(folder)).with_suffix(".txt")


def _images_folder(image: Path) -> Path | None:
    return next((folder for folder in image.parents if folder.name == "images"), None)


def _names(
    base: Path,
    found: _Found,
    settings: _Settings | None,
    classes: ClassTable | None,
    faults: Faults,
) -> dict[int, str]:
    """Return the class name of each id: of the table, ``data.yaml``, ``classes.txt``, or any."""
    lists = _name_lists(base, found, settings, faults)
    table = classes or classes_beside(base)
    if table is not None:
        names, owner = dict(enumerate(table.detector_names)), "the classes are"
    elif lists:
        first = next(iter(lists))
        names, owner = lists[first], f"{first} has"
    else:
        return {index: f"class_{index}" for index in sorted(_used_ids(found.labels.values()))}
    for file, listed in lists.items():
        if listed != names:
            problem = f"names {list(listed.values())}, where {owner} {list(names.values())}"
            remedy = "make `names` and the class table agree"
            if file.name == NAMES_FILE:
                remedy = "make them agree, or delete the file that is wrong"
            faults.add(file, problem, remedy)
    return names


def _name_lists(
    base: Path, found: _Found, settings: _Settings | None, faults: Faults
) -> dict[Path, dict[int, str]]:
    """Return the class names by id of ``data.yaml`` and of every ``classes.txt``, if they do."""
    lists = {} if settings is None else {settings.file: dict(settings.names)}
    parents = {label.parent for label in found.labels.values()}
    folders = (base, base / "labels", found.root, *sorted(parents))
    for file in dict.fromkeys((folder / NAMES_FILE).resolve() for folder in folders):
        if file.is_file():
            lists[file] = _text_names(file, faults)
    return {file: names for file, names in lists.items() if names}


def _text_names(file: Path, faults: Faults) -> dict[int, str]:
    names = listed_names(faults.text(file))
    empty = [number for number, name in enumerate(names, 1) if not name]
    for number in empty:
        # Programs differ in whether such a line counts, and so in the ids after it.
        problem = "an empty line between the names"
        faults.add(file, problem, "delete it or write the name", line=number)
    return {} if empty else dict(enumerate(names))


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


def _check_orphans(found: _Found, used: Iterable[str], faults: Faults) -> bool:
    """Note the label files that belong to no image, if there are any.

    They are looked for beside those that images have or would have, and in all of a folder of
    labels that mirrors one of images.
    """
    known = set(found.labels.values())
    labels = set()
    for folder in {label.parent for label in known}:
        labels |= {folder / name for name in _texts(folder) if "/" not in name}
    for images, folder in {_mirrored(found, image) for image in used}:
        if images != folder:
            labels |= _without_image(folder, images, known)
    orphans = sorted(label for label in labels - known if _is_label(label))
    for label in orphans:
        faults.add(label, "labels of an image that is not there", "remove it, or add its image")
    return bool(orphans)


def _texts(folder: Path) -> tuple[str, ...]:
    return find_files(folder, suffixes={".txt"})[0]


def _mirrored(found: _Found, image: str) -> tuple[Path, Path]:
    """Return the topmost folders below which an image and its labels have the same path."""
    images, labels = (found.root / image).parent, found.labels[image].parent
    while images != found.root and images.name == labels.name:
        images, labels = images.parent, labels.parent
    return images, labels


def _without_image(folder: Path, images: Path, known: Collection[Path]) -> set[Path]:
    """Return the unknown text files of a folder of labels, but those of images not asked for."""
    names = [name for name in _texts(folder) if folder / name not in known]
    if not names:
        return set()
    there = {
        PurePosixPath(i).with_suffix(".txt") for i in find_files(images, suffixes=IMAGE_SUFFIXES)[0]
    }
    return {folder / name for name in names if PurePosixPath(name) not in there}


def _check_unused(base: Path, found: _Found, faults: Faults) -> None:
    """Note label files of a dataset of which not one belongs to an image.

    Else a folder that is named amiss would make all images ones that nobody looked at.
    """
    names = [name for name in _texts(base) if _is_label(base / name)]
    if found.labels and names:
        problem = f"{len(names)} label files such as {names[0]}, but none for an image below "
        remedy = "name the image folder whose paths the labels follow"
        faults.add(base, f"{problem}{found.root}", remedy)


def _is_label(file: Path) -> bool:
    """Return whether a text file has boxes, and is no list of names or images."""
    if file.stem.lower() in OTHER_TEXTS:
        return False
    words = file.read_bytes().split(None, 1)
    return not words or words[0].isdigit()


def write(dataset: Dataset, folder: Path) -> Mapping[str, str]:
    """Write ``images/<split>``, ``labels/<split>`` and ``data.yaml``; without splits no subfolders.

    Labels lie where YOLO looks for them, see `label_path`. Once any image has a split, those
    without one are ``unused``. An image nobody looked at has no label file, one without a defect an
    empty one.

    Returns:
        The path of each image below the new image folder.

    Raises:
        DataError: images whose labels would be one file.
    """
    places = _places(dataset.samples)
    labels = _label_paths(places, folder / "images")
    for sample in dataset.samples:
        source, label = dataset.root / sample.image, labels[sample.image]
        place_image(source, folder / "images" / places[sample.image])
        # Without its folder, labels would be looked for beside the image, where others' may be.
        label.parent.mkdir(parents=True, exist_ok=True)
        if sample.annotations is None:
            continue
        size = image_size(source) if sample.annotations else (1, 1)
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


def _label_paths(places: Mapping[str, str], images: Path) -> dict[str, Path]:
    """Return the label file of each image, which folders `images` and `labels` can make one."""
    labels = {image: label_path(images / place) for image, place in places.items()}
    first: dict[Path, str] = {}
    faults = []
    for image, label in labels.items():
        other = first.setdefault(label, image)
        if other != image:
            problem = f"YOLO would look for its labels and for those of {other} in one file"
            remedy = "rename the folder `images` of one of them"
            faults.append(Fault(file=image, problem=problem, remedy=remedy))
    if faults:
        raise DataError(faults)
    return labels


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
