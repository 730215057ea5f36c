"""What every format is read into and written from."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wafer.datasets.classes import ClassTable, DefectClass, read_classes
from wafer.datasets.errors import DataError, Fault, ImageError
from wafer.datasets.image_names import ImageNames
from wafer.datasets.images import IMAGE_SUFFIXES, image_size
from wafer.datasets.records import Sample, Split
from wafer.datasets.scanning import find_files, stem_faults

__all__ = [
    "NONE_NAMES",
    "SPLIT_NAMES",
    "Dataset",
    "Faults",
    "classes_beside",
    "derive_classes",
    "find_images",
    "listed_images",
    "place_image",
    "split_named",
]

NONE_NAMES = ("no_defect", "none", "good", "ok")
SPLIT_NAMES: Mapping[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
    "unused": "unused",
}


@dataclass(frozen=True, slots=True)
class Dataset:
    """Images below ``root`` with their classes and samples, and what the reading has to say.

    ``Sample.image`` is the path below ``root``. ``derived`` says that the classes were made up from
    names in the data, which says nothing of their kinds.
    """

    root: Path
    classes: ClassTable
    samples: tuple[Sample, ...]
    notes: tuple[str, ...] = ()
    derived: bool = False

    @property
    def boxed(self) -> frozenset[str]:
        """Return the names of the classes that have a box."""
        return frozenset(a.class_name for s in self.samples for a in s.annotations or ())


@dataclass(slots=True)
class Faults:
    """The faults of one input while it is read."""

    found: list[Fault] = field(default_factory=list)

    def add(self, file: Path | str, problem: str, remedy: str, *, line: int | None = None) -> None:
        """Note one fault."""
        self.found.append(Fault(file=str(file), line=line, problem=problem, remedy=remedy))

    def raise_any(self) -> None:
        """Raise what was found, if anything was.

        Raises:
            DataError: at least one fault was noted.
        """
        if self.found:
            raise DataError(self.found)

    def text(self, path: Path) -> str:
        """Return the text of a file; where it is not UTF-8, note that and return nothing."""
        try:
            return path.read_bytes().decode("utf-8-sig")
        except OSError as error:
            self.add(path, f"cannot be read ({error.strerror})", "name a file that can be read")
        except UnicodeDecodeError:
            self.add(path, "not UTF-8 text", "save it as UTF-8")
        return ""

    def size(self, path: Path) -> tuple[int, int] | None:
        """Return the (width, height) of an image; where it has none, note that."""
        try:
            return image_size(path)
        except ImageError as error:
            self.add(error.path, error.reason, "copy the image again or remove it")
            return None


def find_images(root: Path, faults: Faults) -> tuple[str, ...]:
    """Return the images below a folder by their paths relative to it, noting bad names."""
    names, found = find_files(root, suffixes=IMAGE_SUFFIXES)
    faults.found += found + stem_faults(names)
    if not names:
        faults.add(root, "no image in this folder", "name the folder that holds the images")
    return names


def listed_images(file: Path, images: ImageNames, faults: Faults) -> Iterator[tuple[int, str]]:
    """Yield the images that a text file names, one a line, with the numbers of the lines.

    Paths, names and stems are taken; those that are no image are noted as faults.
    """
    for number, line in enumerate(faults.text(file).splitlines(), 1):
        if not line.strip():
            continue
        try:
            yield number, images.find(line.strip(), stems=True)
        except LookupError as error:
            faults.add(file, str(error.args[0]), "correct or delete the line", line=number)


def split_named(name: str) -> Split | None:
    """Return the split that a folder or file name stands for.

    Example:
        >>> split_named("instances_val2017"), split_named("valid"), split_named("images")
        ('val', 'val', None)
    """
    words = "".join(c if c.isalpha() else " " for c in name.lower()).split()
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), None)


def classes_beside(folder: Path) -> ClassTable | None:
    """Return the table of ``classes.yaml`` in a folder, or None where there is none.

    Raises:
        DataError: the file is not a class table.
    """
    path = folder / "classes.yaml"
    return read_classes(path) if path.is_file() else None


def derive_classes(
    names: Iterable[str],
    *,
    source: str,
    boxed: Collection[str] | None = None,
    codes: Sequence[int] = (),
    none_class: str | None = None,
) -> ClassTable:
    """Return a class table for data that came without one.

    Args:
        names: the class names in their order.
        source: the name of the data in faults.
        boxed: the names that have boxes; None takes all to have some.
        codes: codes of the first names; the rest are numbered on from the greatest.
        none_class: the class that means "no defect"; by default a class without boxes that is
            called ``no_defect``, ``none``, ``good`` or ``ok``.

    Raises:
        DataError: no name at all, two such classes, one name with two codes, names that differ
            in case alone, or a ``none_class`` that has boxes or does not occur.
    """
    given = list(names)
    coded = given[: len(codes)]
    double = next((name for name in coded if coded.count(name) > 1), None)
    listed = list(dict.fromkeys(given))
    boxed = listed if boxed is None else boxed
    nones = [n for n in listed if n not in boxed and n.casefold() in NONE_NAMES]
    if none_class is not None:
        nones = [none_class]
    remedy = "write the classes into a file and name it with `--classes`"
    problem = None
    if not listed:
        problem = "no class and no box in it"
    elif double is not None:
        ids = [str(code) for code, name in zip(codes, coded, strict=True) if name == double]
        problem = f"class name {double!r} for the ids {' and '.join(ids)}"
        remedy = "give each class a name of its own"
    elif none_class is not None and none_class not in listed:
        problem = f"no image of class {none_class!r}"
    elif none_class is not None and none_class in boxed:
        problem = f"class {none_class!r} has boxes and cannot mean no defect"
    elif len(nones) > 1:
        problem, remedy = (
            f"{' and '.join(nones)} both mean no defect",
            "choose one by `--none NAME`",
        )
    if problem is not None:
        raise DataError([Fault(file=source, problem=problem, remedy=remedy)])
    start = max(codes, default=-1) + 1
    numbers = [*codes, *range(start, start + len(listed) - len(codes))]
    try:
        return ClassTable(
            tuple(
                DefectClass(code, name, "none" if name in nones else "box")
                for code, name in zip(numbers, listed, strict=True)
            )
        )
    except ValueError as error:
        raise DataError([Fault(file=source, problem=str(error), remedy=remedy)]) from error


def place_image(source: Path, target: Path) -> None:
    """Copy an image file to its place, making the folder."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
