"""The class table: which defects there are, in the order that encodes labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal, get_args

import yaml

from wafer.datasets.errors import DataError, Fault
from wafer.datasets.files import write_text
from wafer.datasets.image_names import FORMULA_STARTS
from wafer.datasets.yaml_document import NotYamlError, yaml_document

__all__ = [
    "KINDS",
    "NAMES_FILE",
    "ClassTable",
    "DefectClass",
    "Kind",
    "listed_names",
    "paper_classes",
    "read_classes",
]

NAMES_FILE = "classes.txt"
"""A list of class names, one a line, as labelling tools write it."""

Kind = Literal["box", "whole_image", "none"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class DefectClass:
    """One defect class: its code in the fab, its name, and how it is labelled.

    ``kind`` is ``box`` (a box around each instance), ``whole_image`` (the label is the full
    frame, as for "deviation") or ``none`` ("no defect"). ``killer`` marks classes whose escape
    is limited (ARCHITECTURE section 3).

    Raises:
        ValueError: a name that is empty, has control characters, or would run as a spreadsheet
            formula; a kind outside ``box``, ``whole_image``, ``none``.
    """

    code: int
    name: str
    kind: Kind = "box"
    killer: bool = False

    def __post_init__(self) -> None:
        if not self.name or self.name != self.name.strip() or not self.name.isprintable():
            raise ValueError(f"class name {self.name!r} is empty, padded, or not printable")
        if self.name.startswith(FORMULA_STARTS):
            raise ValueError(f"class name {self.name!r} starts like a spreadsheet formula")
        if self.kind not in KINDS:
            raise ValueError(f"kind of {self.name!r} must be one of {', '.join(KINDS)}")


@dataclass(frozen=True, slots=True)
class ClassTable:
    """An ordered set of defect classes; label encoding is its order.

    YOLO ids, COCO categories and the detector's outputs are positions in the table with the
    ``none`` class left out; classifier heads use all classes.

    Raises:
        ValueError: an empty table, a name or code twice, or more than one ``none`` class.

    Example:
        >>> table = ClassTable((DefectClass(0, "none", "none"), DefectClass(20, "scratch")))
        >>> table.detector_names, table.detector_index("scratch")
        (('scratch',), 0)
    """

    classes: tuple[DefectClass, ...]

    def __post_init__(self) -> None:
        if not self.classes:
            raise ValueError("a class table needs at least one class")
        names = [c.name.casefold() for c in self.classes]
        for name in {n for n in names if names.count(n) > 1}:
            raise ValueError(f"class name {name!r} appears twice (upper and lower case are equal)")
        codes = [c.code for c in self.classes]
        for code in {n for n in codes if codes.count(n) > 1}:
            raise ValueError(f"class code {code} appears twice")
        if sum(c.kind == "none" for c in self.classes) > 1:
            raise ValueError("more than one class of kind none")

    def __iter__(self) -> Iterator[DefectClass]:
        return iter(self.classes)

    def __len__(self) -> int:
        return len(self.classes)

    def __contains__(self, name: object) -> bool:
        return any(c.name == name for c in self.classes)

    def __getitem__(self, name: str) -> DefectClass:
        for defect_class in self.classes:
            if defect_class.name == name:
                return defect_class
        raise KeyError(name)

    @property
    def names(self) -> tuple[str, ...]:
        """Return all class names in order."""
        return tuple(c.name for c in self.classes)

    def answers_as(self, other: ClassTable) -> bool:
        """Return whether a model of this table answers in the terms of the other.

        Kinds count as much as names: with the ``none`` class the ids of a detector's outputs move.
        """
        return [(c.name, c.kind) for c in self] == [(c.name, c.kind) for c in other]

    @property
    def detector_names(self) -> tuple[str, ...]:
        """Return the names a detector learns: all but the ``none`` class, in order."""
        return tuple(c.name for c in self.classes if c.kind != "none")

    @property
    def box_names(self) -> tuple[str, ...]:
        """Return the names of the classes of kind ``box``, in order."""
        return tuple(c.name for c in self.classes if c.kind == "box")

    @property
    def whole_image_names(self) -> tuple[str, ...]:
        """Return the names of the classes whose label is the full frame, in order."""
        return tuple(c.name for c in self.classes if c.kind == "whole_image")

    @property
    def none_class(self) -> DefectClass | None:
        """Return the "no defect" class, or None where the table has none."""
        return next((c for c in self.classes if c.kind == "none"), None)

    def detector_index(self, name: str) -> int:
        """Return the YOLO id of a class.

        Raises:
            ValueError: the class is not in the table or is of kind ``none``.
        """
        return self.detector_names.index(name)

    def write(self, path: Path) -> None:
        """Write the table as ``classes.yaml``, atomically."""
        rows = [
            {
                "code": c.code,
                "name": c.name,
                "kind": c.kind,
                **({"killer": True} if c.killer else {}),
            }
            for c in self.classes
        ]
        write_text(path, yaml.safe_dump({"classes": rows}, sort_keys=False, allow_unicode=True))


def read_classes(path: Path) -> ClassTable:
    """Read a class table from ``classes.yaml``.

    Raises:
        DataError: the file is not a class table; every faulty row is named.
    """
    try:
        return _parse(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        remedy = "save it as UTF-8"
        raise DataError([Fault(file=str(path), problem="not UTF-8 text", remedy=remedy)]) from error


def paper_classes() -> ClassTable:
    """Return the paper's eight classes; what the paper leaves open is marked in the file."""
    resource = files("wafer.datasets").joinpath("paper_classes.yaml")
    return _parse(resource.read_text(encoding="utf-8"), "paper_classes.yaml")


def listed_names(text: str) -> tuple[str, ...]:
    r"""Return the lines of a ``classes.txt``, whose numbers from 0 are the ids of the names.

    Empty lines count but at the end.

    Example:
        >>> listed_names("dust\n\nscratch \n\n")
        ('dust', '', 'scratch')
    """
    return tuple(line.strip() for line in text.rstrip().splitlines())


def _parse(text: str, source: str) -> ClassTable:
    remedy = "write a list `classes:` of rows with code, name and kind"
    try:
        document = yaml_document(text)
    except NotYamlError as error:
        fault = Fault(file=source, line=error.line, problem=str(error), remedy=remedy)
        raise DataError([fault]) from error
    rows = document.get("classes") if isinstance(document, dict) else None
    if not isinstance(rows, list) or not rows:
        raise DataError([Fault(file=source, problem="no list of classes", remedy=remedy)])
    return _table(rows, source, remedy)


def _table(rows: list[object], source: str, remedy: str) -> ClassTable:
    classes: list[DefectClass] = []
    faults: list[Fault] = []
    for number, row in enumerate(rows, 1):
        try:
            classes.append(_row(row))
        except ValueError as error:
            faults.append(Fault(file=source, problem=f"class {number}: {error}", remedy=remedy))
    if not faults:
        try:
            return ClassTable(tuple(classes))
        except ValueError as error:
            faults.append(Fault(file=source, problem=str(error), remedy="keep each class once"))
    raise DataError(faults)


def _row(row: object) -> DefectClass:
    if not isinstance(row, dict):
        raise ValueError("not a mapping")
    unknown = sorted(str(key) for key in row.keys() - {"code", "name", "kind", "killer"})
    if unknown:
        raise ValueError(f"unknown key {', '.join(unknown)}")
    code, name = row.get("code"), row.get("name")
    kind, killer = row.get("kind", "box"), row.get("killer", False)
    if not isinstance(code, int) or isinstance(code, bool):
        raise ValueError(f"code must be a whole number, not {code!r}")
    if not isinstance(name, str):
        raise ValueError(f"name must be text, not {name!r} (quote it)")
    if not isinstance(killer, bool):
        raise ValueError(f"killer must be true or false, not {killer!r}")
    return DefectClass(code, name, kind, killer)
