"""``image_labels.csv``: the class, group and split of each image."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from wafer.datasets.errors import DataError, Fault
from wafer.datasets.files import write_text
from wafer.datasets.image_names import FORMULA_STARTS, ImageNames, safe_name
from wafer.datasets.keeping import keep_copy
from wafer.datasets.records import SPLITS, Sample, Split

__all__ = [
    "LabelRow",
    "match_rows",
    "read_label_rows",
    "rewrite_splits",
    "write_labels",
]

COLUMNS = ("image", "class", "group", "split")
CORRECT_ROW = "correct the row or delete it"


@dataclass(frozen=True, slots=True)
class LabelRow:
    """One row of the table: its line, and what it says; None where a cell is empty."""

    line: int
    image: str
    image_class: str | None
    group: str | None
    split: Split | None


def read_label_rows(path: Path) -> tuple[LabelRow, ...]:
    """Read the table, ``image,class[,group][,split]``, in any order of columns.

    Further columns are left alone. UTF-8, with or without a byte order mark.

    Raises:
        DataError: all faults of the file: no such columns, rows of another length, unknown splits.
    """
    rows: list[LabelRow] = []
    faults: list[Fault] = []
    lines = _read_table(path)
    header = _header(path, lines)
    width = len(lines[0][1])  # not of `header`: further columns may share a name, or have none
    for line, cells in lines[1:]:
        try:
            rows.append(_row(line, cells, header, width))
        except ValueError as error:
            faults.append(Fault(file=str(path), line=line, problem=str(error), remedy=CORRECT_ROW))
    if faults:
        raise DataError(faults)
    return tuple(rows)


def _read_table(path: Path) -> list[tuple[int, list[str]]]:
    """Return the non-empty rows with the line each begins at; the first is the header."""

    def fail(problem: str, remedy: str, line: int | None = None) -> DataError:
        return DataError([Fault(file=str(path), line=line, problem=problem, remedy=remedy)])

    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise fail(f"cannot be read ({error.strerror})", "name a CSV file") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise fail("not UTF-8 text", "save it as CSV UTF-8", line) from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[tuple[int, list[str]]] = []
    begin = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                rows.append((begin, cells))
            begin = reader.line_num + 1
    except csv.Error as error:
        raise fail(f"not a CSV row ({error})", "correct its quotes", begin) from error
    return rows


def _header(path: Path, lines: list[tuple[int, list[str]]]) -> dict[str, int]:
    names = [cell.strip().lower() for cell in lines[0][1]] if lines else []
    remedy = "make `image,class,group,split` its first line (group and split may be left out)"
    if len(names) == 1 and ";" in names[0]:
        remedy = "save it with commas between the columns"
    missing = [name for name in COLUMNS[:2] if name not in names]
    twice = [name for name in COLUMNS if names.count(name) > 1]
    faults = [
        *(
            Fault(file=str(path), line=1, problem=f"no column {n!r}", remedy=remedy)
            for n in missing
        ),
        *(
            Fault(file=str(path), line=1, problem=f"column {n!r} twice", remedy=remedy)
            for n in twice
        ),
    ]
    if faults:
        raise DataError(faults)
    return {name: index for index, name in enumerate(names)}


def _row(line: int, cells: list[str], header: Mapping[str, int], width: int) -> LabelRow:
    if len(cells) != width:
        raise ValueError(f"{len(cells)} cells where the header has {width}")

    def cell(column: str) -> str:
        return cells[header[column]].strip() if column in header else ""

    if not cell("image"):
        raise ValueError("no image")
    split = cell("split").lower()
    if split and split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; the splits are {', '.join(SPLITS)}")
    group = cell("group")
    if group.startswith(tuple(f"'{start}" for start in FORMULA_STARTS)):
        group = group[1:]
    return LabelRow(
        line,
        cells[header["image"]],
        cell("class") or None,
        group or None,
        next((s for s in SPLITS if s == split), None),
    )


def match_rows(
    rows: Iterable[LabelRow],
    *,
    file: str,
    images: ImageNames,
    classes: Iterable[str] | None = None,
) -> tuple[dict[str, LabelRow], list[Fault]]:
    """Return the row of each image, and the faults of rows that fit no image or contradict.

    Args:
        rows: the rows of one table.
        file: its name in faults.
        images: the images there are.
        classes: the known class names; None takes any.
    """
    known = None if classes is None else tuple(classes)
    matched: dict[str, LabelRow] = {}
    faults: list[Fault] = []

    def fault(row: LabelRow, problem: str, remedy: str = CORRECT_ROW) -> None:
        faults.append(Fault(file=file, line=row.line, problem=problem, remedy=remedy))

    for row in rows:
        unknown = known is not None and row.image_class not in (None, *known)
        if known is not None and unknown:
            fault(row, f"unknown class {row.image_class!r}", f"use one of {', '.join(known)}")
        try:
            image = images.find(row.image)
        except LookupError as error:
            fault(row, str(error.args[0]), "write the path below the image folder")
            continue
        other = matched.setdefault(image, row)
        if not unknown and replace(other, line=row.line, image=row.image) != row:
            fault(row, f"{image} differs from its row in line {other.line}", "keep one of the two")
    return matched, faults


def write_labels(path: Path, samples: Iterable[Sample]) -> None:
    """Write the table of some samples, atomically; columns nobody fills are left out."""
    samples = tuple(samples)
    columns: dict[str, Callable[[Sample], str]] = {
        "image": lambda s: safe_name(s.image),
        "class": lambda s: s.image_class or "",
    }
    if any(s.group is not None for s in samples):
        columns["group"] = lambda s: _safe_group(s.group or "")
    if any(s.split is not None for s in samples):
        columns["split"] = lambda s: s.split or ""
    rows = [[cell(sample) for cell in columns.values()] for sample in samples]
    write_text(path, _table_text([list(columns), *rows]))


def _safe_group(group: str) -> str:
    return f"'{group}" if group.startswith(FORMULA_STARTS) else group


def _table_text(rows: Iterable[list[str]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


def rewrite_splits(path: Path, splits: Mapping[str, Split], *, images: ImageNames) -> Path | None:
    """Write new splits into the table; every other cell, row and column stays as it is.

    Images without a row get one, with an empty class. The old table is kept beside it.

    Args:
        path: the table; one that does not exist is made.
        splits: the split of every image.
        images: the images there are.

    Returns:
        The copy of the old table, or None where there was none.

    Raises:
        DataError: the faults of the table.
    """
    if not path.exists():
        write_labels(path, [Sample(image, split=split) for image, split in splits.items()])
        return None
    matched, faults = match_rows(read_label_rows(path), file=str(path), images=images)
    if faults:
        raise DataError(faults)
    lines = _read_table(path)
    header = list(lines[0][1])
    names = [name.strip().lower() for name in header]
    image_column = names.index("image")
    if "split" not in names:
        header.append("split")
    column = names.index("split") if "split" in names else len(names)
    rows = [header]
    for _, cells in lines[1:]:
        row = [*cells, ""] if column == len(names) else list(cells)
        row[column] = splits.get(images.find(row[image_column]), "")
        rows.append(row)
    for image in (image for image in splits if image not in matched):
        row = [""] * len(header)
        row[image_column], row[column] = safe_name(image), splits[image]
        rows.append(row)
    copy = keep_copy(path)
    write_text(path, _table_text(rows))
    return copy
