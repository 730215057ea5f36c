"""Writing rows as CSV, JSON lines or Parquet: complete or not there, always the same bytes."""

from __future__ import annotations

import csv
import io
import json
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

from wafer.datasets.errors import WaferError
from wafer.datasets.image_names import safe_name
from wafer.inference.all_boxes import BOX_SUFFIXES, BoxFile
from wafer.inference.parquet import to_parquet
from wafer.inference.pictures import Pictures, album, check_pictures
from wafer.inference.records import Row
from wafer.inference.sources import ImageInput, list_inputs, spooled_stdin
from wafer.inference.unfinished import Growing, files_put, unfinished_output

__all__ = [
    "COLUMNS",
    "Classify",
    "Progress",
    "Summary",
    "check_output",
    "classify_to_file",
    "columns_wanted",
    "csv_header",
    "csv_row",
    "is_wanted",
    "json_row",
]

TYPES: Mapping[str, type[str | int | float]] = {
    "image": str,
    "xmin": float,
    "ymin": float,
    "xmax": float,
    "ymax": float,
    "class": str,
    "confidence": float,
    "decision": str,
    "reason": str,
    "error": str,
    "class_code": int,
    "sha256": str,
    "model": str,
}
COLUMNS = tuple(TYPES)
DECIMALS = {"xmin": 2, "ymin": 2, "xmax": 2, "ymax": 2, "confidence": 6}
CSV, PARQUET = ".csv", ".parquet"
SUFFIXES = (CSV, ".jsonl", PARQUET)
PACKAGE = "wafer-defects"

Classify = Callable[[Iterable[ImageInput]], Generator[Row, None, None]]
"""Yields a row for each input, in input order, taking inputs as it needs them."""

Progress = Callable[[int, int | None], None]
"""Called after each row with the rows done and, where it is known, their number."""

Value = str | int | float | None
"""Of a column; None where there is none."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What was written: rows, rows with an error, rows to look at; and how long it took.

    ``review`` counts the rows that a person should look at: decided ``review`` or ``unknown``.
    ``before`` of the rows are of an earlier run that was stopped, which ``seconds`` leaves out.
    """

    rows: int
    errors: int
    review: int
    before: int
    seconds: float

    @property
    def images_per_second(self) -> float:
        """Return rows a second, 0 where nothing was timed."""
        return (self.rows - self.before) / self.seconds if self.seconds > 0 else 0.0


def classify_to_file(
    arguments: Sequence[Path | str],
    classify: Classify,
    output: Path,
    *,
    model: str,
    recursive: bool = False,
    batch: int = 16,
    where: Mapping[str, str] | None = None,
    boxes: BoxFile | None = None,
    pictures: Pictures | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Summary:
    """Write one row for each image that the arguments mean.

    Until the last row ``output`` is as it was. A run that is stopped or killed leaves its rows
    beside it, and the same call goes on with them (`wafer.inference.unfinished`); the output is
    then the same, byte for byte. Boxes get 2 decimals, confidences 6.

    Args:
        arguments: folders, patterns, list files, single files, ``-`` (`list_inputs`).
        classify: the model at work.
        output: a ``.csv``, ``.jsonl`` or ``.parquet`` file; its folder is made where needed.
        model: all that decides about a row besides its image, in words.
        recursive: walk into sub-folders of folders.
        batch: inputs a call of the network, as ``classify`` takes them.
        where: values by column, as the CSV has them; other rows are counted, but not written.
        boxes: where all boxes of the rows that are written go.
        pictures: what is drawn of the rows that are written.
        force: replace ``output``, and the file of all boxes, where they exist.
        progress: called after each row; the inputs are counted for it first.

    Raises:
        DataError: an argument that means no image at all.
        WaferError: the output exists, is of another kind, is being written, or cannot be; or a
            folder for pictures is not empty.
        WeightsError: the model gives no usable numbers.
    """
    files = [_growing(output), *([] if boxes is None else [boxes.growing()])]
    run: list[object] = [*(os.fspath(a) for a in arguments), recursive, model, batch, where]
    run += [version(PACKAGE), [os.path.realpath(file.path) for file in files]]
    check_output(output, force=force, boxes=None if boxes is None else boxes.path, run=run)
    if pictures is not None:
        check_pictures(pictures.draws)
    kept = partial(is_wanted, where=where or {})
    start = time.monotonic()
    try:
        with _listing(arguments, recursive) as inputs, album(pictures, run=run) as drawn:

            def listed() -> Iterator[ImageInput]:
                return drawn.outside(inputs())

            total = None if progress is None else sum(1 for _ in listed())
            opened = unfinished_output(files, run=run, batch=batch, words=drawn.words)
            with opened as unfinished:
                rest = unfinished.go_on(listed())
                rows = drawn.rows(rest, classify, before=unfinished.before, wanted=kept)
                with closing(rows):
                    for row in rows:
                        texts = [b""] * len(files)
                        if kept(row):
                            texts[0] = _encode(row, output)
                            if boxes is not None:
                                texts[1] = boxes.encode(unfinished.done.rows + 1, row)
                        review = row.prediction is not None and row.prediction.decision != "auto"
                        unfinished.add(texts, error=bool(row.error), review=review)
                        if progress is not None:
                            progress(unfinished.done.rows, total)
                unfinished.complete()
            drawn.complete()
    except OSError as error:
        reason = error.strerror or str(error)
        raise WaferError(
            f"{output} cannot be written ({reason}); free the disk and start the same command "
            "again, or name another --output"
        ) from error
    done, before = unfinished.done, unfinished.before
    return Summary(done.rows, done.errors, done.review, before, time.monotonic() - start)


@contextmanager
def _listing(
    arguments: Sequence[Path | str], recursive: bool
) -> Iterator[Callable[[], Iterator[ImageInput]]]:
    """Let inputs be listed several times, where every argument means an image."""
    with spooled_stdin(arguments) as stdin:
        listed = partial(list_inputs, arguments, recursive=recursive, stdin=stdin)
        listed()  # an argument that means none is refused before anything is written
        yield listed


def columns_wanted(conditions: Sequence[str]) -> dict[str, str]:
    """Return the values of conditions by column.

    Args:
        conditions: ``COLUMN=VALUE``; an empty value means an empty cell.

    Raises:
        WaferError: one without ``=``, of no column, or a second one of a column.

    Example:
        >>> columns_wanted(["decision=review", "class=scratch"])
        {'decision': 'review', 'class': 'scratch'}
    """
    found: dict[str, str] = {}
    for condition in conditions:
        column, sign, value = condition.partition("=")
        if not sign or column not in COLUMNS or column in found:
            raise WaferError(
                f"--where {condition}: not COLUMN=VALUE, each column once; the columns are "
                f"{', '.join(COLUMNS)}"
            )
        found[column] = value
    return found


def check_output(
    path: Path, *, force: bool, boxes: Path | None = None, run: Sequence[object] | None = None
) -> None:
    """Refuse outputs before any work is done for them.

    All boxes may exist without ``force`` where a run put them there that was killed before it came
    to the rows; the same command is to end what it had begun.

    Args:
        path: of the rows.
        force: they may exist.
        boxes: of all boxes.
        run: the run that is about to begin; None where that is not known yet.

    Raises:
        WaferError: one exists and ``force`` is not given, is a folder, or ends in something else
            than a format it can have; or both are one file.
    """
    _check_file(path, SUFFIXES, "--output", force)
    if boxes is not None:
        known = boxes in files_put([path, boxes], run)
        _check_file(boxes, BOX_SUFFIXES, "--all-boxes", force or known)
        if os.path.realpath(path) == os.path.realpath(boxes):
            raise WaferError(f"{path}: the rows and all boxes cannot be one file; name two")


def is_wanted(row: Row, *, where: Mapping[str, str]) -> bool:
    """Return whether a row has all these values, by column, as the CSV has them."""
    values = _values(row)
    return all(_cell(column, values[column]) == value for column, value in where.items())


def _check_file(path: Path, suffixes: Sequence[str], option: str, force: bool) -> None:
    if path.suffix.lower() not in suffixes:
        known = " or ".join([", ".join(suffixes[:-1]), suffixes[-1]])
        raise WaferError(f"{path}: {option} must end in {known}")
    if path.is_dir():
        raise WaferError(f"{path} is a folder; name a file in it")
    if path.exists() and not force:
        raise WaferError(f"{path} exists; add --force to replace it, or name another {option}")


def csv_header() -> bytes:
    """Return the first line of a CSV of rows."""
    return _csv_line(COLUMNS)


def csv_row(row: Row) -> bytes:
    """Return the line of a row in a CSV."""
    return _csv_line([_cell(name, value) for name, value in _values(row).items()])


def json_row(row: Row) -> dict[str, Value]:
    """Return the values of a row by column, rounded as in files; None for what is empty."""
    return {name: _rounded(name, value) for name, value in _values(row).items()}


def _growing(path: Path) -> Growing:
    if path.suffix.lower() == PARQUET:
        return Growing(path, finished=partial(to_parquet, columns=TYPES))
    return Growing(path, csv_header() if path.suffix.lower() == CSV else b"")


def _encode(row: Row, path: Path) -> bytes:
    if path.suffix.lower() == CSV:
        return csv_row(row)
    return _utf8(json.dumps(json_row(row), ensure_ascii=False, allow_nan=False) + "\n")


def _values(row: Row) -> dict[str, Value]:
    """Return the values of a row by column; None where there is none."""
    answer = row.prediction
    corners = (None,) * 4 if answer is None or answer.box is None else answer.box.corners
    return {
        "image": row.image,
        **dict(zip(COLUMNS[1:5], corners, strict=True)),
        "class": None if answer is None else answer.class_name,
        "confidence": None if answer is None else answer.confidence,
        "decision": None if answer is None else answer.decision,
        "reason": None if answer is None else answer.reason or None,
        "error": row.error or None,
        "class_code": row.class_code,
        "sha256": row.sha256 or None,
        "model": row.model,
    }


def _cell(name: str, value: Value) -> str:
    if value is None:
        return ""
    if name in DECIMALS:
        return f"{value:.{DECIMALS[name]}f}"
    text = str(value)
    return safe_name(text) if name == "image" else text


def _rounded(name: str, value: Value) -> Value:
    return round(value, DECIMALS[name]) if isinstance(value, float) else value


def _csv_line(cells: Sequence[str]) -> bytes:
    line = io.StringIO(newline="")
    # The writer quotes a cell for the characters of its line end: a lone \r needs that too.
    csv.writer(line, lineterminator="\r\n").writerow(cells)
    return _utf8(line.getvalue().removesuffix("\r\n") + "\n")


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")
