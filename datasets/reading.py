"""From the files of a workspace to samples, with all faults of all files at once."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from wafer.datasets.boxes import full_frame, parse_boxes
from wafer.datasets.classes import NAMES_FILE, ClassTable, listed_names
from wafer.datasets.errors import DataError, Fault, ImageError
from wafer.datasets.image_names import ImageNames
from wafer.datasets.images import IMAGE_SUFFIXES
from wafer.datasets.labels_csv import LabelRow, match_rows, read_label_rows
from wafer.datasets.ledger import ImageState, read_states, sourced
from wafer.datasets.records import Annotation, Sample, Split
from wafer.datasets.scanning import ImageCache, find_files, stem_faults

__all__ = [
    "OWN_FOLDERS",
    "label_name",
    "own_folders",
    "pattern_group",
    "read_samples",
    "ruled_annotations",
]

OWN_FOLDERS = ("labels", "truth", "runs", "models", "audit-drift", ".cache")  # of a workspace

IGNORED_LABELS = (NAMES_FILE,)  # some labelling tools write it beside the labels


def own_folders(root: Path, *, images: Path) -> tuple[Path, ...]:
    """Return the folders of a workspace that hold no images of the user, wherever these are."""
    own = (root / name for name in OWN_FOLDERS)
    return tuple(folder for folder in own if folder != images)


def label_name(image: str) -> str:
    """Return the path of an image's label file below the folder of labels.

    Example:
        >>> label_name("lot1/w3.d07.png")
        'lot1/w3.d07.txt'
    """
    return PurePosixPath(image).with_suffix(".txt").as_posix()


def pattern_group(pattern: str | None, image: str) -> str | None:
    """Return what the pattern's group named ``group``, or else its first, finds in a path.

    Nothing found, and nothing in what is found, is None: such images have no group in common.
    """
    found = None if pattern is None else re.search(pattern, image)
    if found is None:
        return None
    return found.group("group" if "group" in found.re.groupindex else 1) or None


def ruled_annotations(
    annotations: Sequence[Annotation] | None,
    *,
    image_class: str | None,
    classes: ClassTable,
    size: tuple[int, int],
) -> tuple[Annotation, ...] | None:
    """Return the annotations after the rules of the class kinds.

    A class of kind ``whole_image`` has exactly one annotation, the full frame, whether the image
    is of that class or has boxes of it. An image of the ``none`` class has no annotation.
    """
    if image_class is not None and classes[image_class].kind == "none":
        return ()
    whole = classes.whole_image_names
    found = {image_class, *(a.class_name for a in annotations or ())}
    frames = [full_frame(name, size) for name in whole if name in found]
    if annotations is None and not frames:
        return None
    return (*frames, *(a for a in annotations or () if a.class_name not in whole))


@dataclass(frozen=True, slots=True)
class _Reader:
    """What the reading of one label after another shares."""

    labels: Path
    classes: ClassTable
    cache: ImageCache
    names: Mapping[int, str]
    texts: Mapping[str, str | None]
    states: Mapping[str, ImageState]
    faults: list[Fault] = field(default_factory=list)

    def annotations(self, image: str, image_class: str | None) -> tuple[Annotation, ...] | None:
        text = self._text(image)
        is_whole = image_class in self.classes.whole_image_names
        if not is_whole and (text is None or not text.strip()):
            return self._ruled(None if text is None else (), image_class, (0, 0))
        try:
            size = self.cache.size(image)
        except ImageError as error:
            remedy = "copy the image again or remove it"
            self.faults.append(Fault(file=error.path, problem=error.reason, remedy=remedy))
            return None
        boxes = None if text is None else self._boxes(image, text, size)
        self._check_none(image, image_class, boxes)
        return self._ruled(boxes, image_class, size)

    def _text(self, image: str) -> str | None:
        name = label_name(image)
        if name not in self.texts:
            return None
        text = self.texts[name]
        if text is None:
            self._fault(image, "cannot be read as UTF-8 text", "write it again")
        return text or ""

    def _boxes(self, image: str, text: str, size: tuple[int, int]) -> tuple[Annotation, ...]:
        file = str(self.labels / label_name(image))
        boxes, faults = parse_boxes(text, file=file, names=self.names, size=size)
        self.faults.extend(faults)
        return sourced(boxes, self.states.get(image), size=size)

    def _check_none(
        self, image: str, image_class: str | None, boxes: Sequence[Annotation] | None
    ) -> None:
        none = self.classes.none_class
        if boxes and none is not None and image_class == none.name:
            problem = f"{len(boxes)} boxes on an image whose class is {none.name}"
            self._fault(image, problem, "delete the boxes or change the class in image_labels.csv")

    def _ruled(
        self,
        boxes: tuple[Annotation, ...] | None,
        image_class: str | None,
        size: tuple[int, int],
    ) -> tuple[Annotation, ...] | None:
        known = image_class if image_class in self.classes else None
        return ruled_annotations(boxes, image_class=known, classes=self.classes, size=size)

    def _fault(self, image: str, problem: str, remedy: str) -> None:
        file = str(self.labels / label_name(image))
        self.faults.append(Fault(file=file, problem=problem, remedy=remedy))


def read_samples(
    *,
    images: Path,
    labels: Path,
    table: Path,
    classes: ClassTable,
    cache: ImageCache,
    group_pattern: str | None = None,
    exclude: Collection[Path] = (),
    ledger: Path | None = None,
    boxes_decide: bool = False,
) -> tuple[Sample, ...]:
    """Read every image of a workspace with its class, group, split and boxes, sorted by path.

    Args:
        images: the image root.
        labels: the folder of label files.
        table: ``image_labels.csv``, which may be absent.
        classes: the class table.
        cache: what is known of the images.
        group_pattern: finds the group of an image without one in the table.
        exclude: folders that hold no images of the user.
        ledger: the folder whose ledger says where the boxes came from; None takes all boxes as
            drawn by a person.
        boxes_decide: the boxes tell the class of an image, whatever the table says.

    Raises:
        DataError: all faults of all these files together.
    """
    names, faults = find_files(images, suffixes=IMAGE_SUFFIXES, exclude=exclude)
    label_names, more = find_files(labels, suffixes={".txt"})
    faults += more + stem_faults(names)
    if not names and not faults:
        remedy = "put images there, or name their folder in wafer.toml"
        faults.append(Fault(file=str(images), problem="no image in this folder", remedy=remedy))
    rows, more = _rows(table, names, classes)
    faults += more + _orphans(labels, label_names, names)
    if NAMES_FILE in label_names:
        faults += _order_faults(labels / NAMES_FILE, classes)
    # Before the ledger: of a file that is written anew meanwhile it knows the boxes before, too.
    texts = {name: _text(labels / name) for name in label_names}
    states: Mapping[str, ImageState] = {}
    try:
        states = {} if ledger is None else read_states(ledger)
    except DataError as error:
        faults += error.faults
    reader = _Reader(
        labels=labels,
        classes=classes,
        cache=cache,
        names=dict(enumerate(classes.detector_names)),
        texts=texts,
        states=states,
        faults=faults,
    )
    rest: Split | None = "unused" if any(row.split for row in rows.values()) else None
    if boxes_decide:
        rows = {name: replace(row, image_class=None) for name, row in rows.items()}
    samples = tuple(_sample(name, rows.get(name), reader, group_pattern, rest) for name in names)
    if boxes_decide:
        samples = tuple(_with_class_of_boxes(sample, classes) for sample in samples)
    cache.save()
    if faults:
        raise DataError(faults)
    return samples


def _text(path: Path) -> str | None:
    """Return the text of a file, None where it cannot be read."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return None


def _rows(
    table: Path, names: Sequence[str], classes: ClassTable
) -> tuple[dict[str, LabelRow], list[Fault]]:
    if not table.exists():
        return {}, []
    try:
        rows = read_label_rows(table)
    except DataError as error:
        return {}, list(error.faults)
    return match_rows(rows, file=str(table), images=ImageNames(names), classes=classes.names)


def _orphans(labels: Path, label_names: Sequence[str], names: Sequence[str]) -> list[Fault]:
    wanted = {label_name(name) for name in names}
    remedy = "remove it, or add its image"
    return [
        Fault(
            file=str(labels / name), problem="labels of an image that is not there", remedy=remedy
        )
        for name in label_names
        if name not in wanted and name not in IGNORED_LABELS
    ]


def _order_faults(file: Path, classes: ClassTable) -> list[Fault]:
    """Return a fault if the ids of a labelling tool mean other classes than those of the table.

    Classes that one of them has at its end and the other has not yet change no id.
    """
    try:
        names = listed_names(file.read_bytes().decode("utf-8-sig"))
    except (OSError, UnicodeDecodeError):
        problem, remedy = "cannot be read as UTF-8 text", "save it as UTF-8, or delete it"
        return [Fault(file=str(file), problem=problem, remedy=remedy)]
    known = classes.detector_names
    if all(one == two for one, two in zip(names, known, strict=False)):
        return []
    problem = f"names {list(names)}, where the ids of the classes are those of {list(known)}"
    remedy = "give the tool this order and number the labels anew, or delete the file if it is old"
    return [Fault(file=str(file), problem=problem, remedy=remedy)]


def _sample(
    image: str,
    row: LabelRow | None,
    reader: _Reader,
    group_pattern: str | None,
    rest: Split | None,
) -> Sample:
    image_class = None if row is None else row.image_class
    group = None if row is None else row.group
    split = None if row is None else row.split
    return Sample(
        image=image,
        image_class=image_class,
        annotations=reader.annotations(image, image_class),
        group=group or pattern_group(group_pattern, image),
        split=split or rest,
    )


def _with_class_of_boxes(sample: Sample, classes: ClassTable) -> Sample:
    names = {annotation.class_name for annotation in sample.annotations or ()}
    if sample.annotations == () and classes.none_class is not None:
        names = {classes.none_class.name}
    return replace(sample, image_class=min(names) if len(names) == 1 else None)
