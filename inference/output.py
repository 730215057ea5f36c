"""Writing rows as CSV or JSON lines: streamed, complete or not at all, always the same bytes."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from wafer.datasets.errors import WaferError
from wafer.datasets.files import atomic_file
from wafer.datasets.image_names import safe_name
from wafer.inference.pipeline import classify
from wafer.inference.records import Predictor, Row
from wafer.inference.sources import list_inputs

__all__ = ["COLUMNS", "Progress", "Summary", "check_output", "classify_to_file", "write_rows"]

COLUMNS = (
    "image",
    "xmin",
    "ymin",
    "xmax",
    "ymax",
    "class",
    "confidence",
    "decision",
    "reason",
    "error",
    "class_code",
    "sha256",
    "model",
)
DECIMALS = {"xmin": 2, "ymin": 2, "xmax": 2, "ymax": 2, "confidence": 6}
CSV, JSON_LINES = ".csv", ".jsonl"

Progress = Callable[[int, int | None], None]
"""Called after each row with the rows done and, where it is known, their number."""

Value = str | int | float | None


@dataclass(frozen=True, slots=True)
class Summary:
    """What one run wrote: rows, rows with an error, rows to review, and how long it took."""

    rows: int
    errors: int
    review: int
    seconds: float

    @property
    def images_per_second(self) -> float:
        """Return rows a second, 0 where nothing was timed."""
        return self.rows / self.seconds if self.seconds > 0 else 0.0


def classify_to_file(
    arguments: Sequence[Path | str],
    predictor: Predictor,
    output: Path,
    *,
    recursive: bool = False,
    batch: int = 16,
    threads: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Summary:
    """Write one row for each image that the arguments mean.

    Args:
        arguments: folders, patterns, list files, single files (`list_inputs`).
        predictor: the model.
        output: a ``.csv`` or ``.jsonl`` file.
        recursive: walk into sub-folders of folders.
        batch: inputs a call of the network.
        threads: decoding threads; None takes one for each core, at most 8.
        force: replace ``output`` where it exists.
        progress: called after each row; the inputs are counted for it first.

    Raises:
        DataError: an argument that means no image at all.
        WaferError: the output exists, is of another kind, or cannot be written.
        WeightsError: the model gives no usable numbers.
    """
    check_output(output, force=force)
    total = None
    if progress is not None:
        total = sum(1 for _ in list_inputs(arguments, recursive=recursive))
    inputs = list_inputs(arguments, recursive=recursive)
    rows = classify(inputs, predictor, batch=batch, threads=threads)
    return write_rows(rows, output, force=force, progress=progress, total=total)


def check_output(path: Path, *, force: bool) -> None:
    """Refuse an output before any work is done for it.

    Raises:
        WaferError: it exists and ``force`` is not given, is a folder, or ends neither in
            ``.csv`` nor in ``.jsonl``.
    """
    if path.suffix.lower() not in (CSV, JSON_LINES):
        raise WaferError(f"{path}: the output must end in {CSV} or {JSON_LINES}")
    if path.is_dir():
        raise WaferError(f"{path} is a folder; name a file in it")
    if path.exists() and not force:
        raise WaferError(f"{path} exists; add --force to replace it, or name another --output")


def write_rows(
    rows: Iterable[Row],
    path: Path,
    *,
    force: bool = False,
    progress: Progress | None = None,
    total: int | None = None,
) -> Summary:
    """Write rows as they come to a temporary file that becomes ``path`` after the last one.

    Until then ``path`` is as it was, however the run ends. Boxes get 2 decimals, confidences 6,
    so that the same rows give the same bytes.

    Args:
        rows: taken one at a time.
        path: a ``.csv`` or ``.jsonl`` file; its folder is made where needed.
        force: replace ``path`` where it exists.
        progress: called after each row.
        total: the number of rows, for ``progress`` only.

    Raises:
        WaferError: the file exists, is of another kind, or cannot be written.
    """
    check_output(path, force=force)
    start = time.monotonic()
    done = errors = review = 0
    try:
        with atomic_file(path) as handle:
            handle.write(_header(path))
            for done, row in enumerate(rows, 1):
                handle.write(_encode(row, path))
                errors += bool(row.error)
                review += row.prediction is not None and row.prediction.decision == "review"
                if progress is not None:
                    progress(done, total)
    except OSError as error:
        reason = error.strerror or str(error)
        raise WaferError(
            f"{path} cannot be written ({reason}), nothing was kept; free the disk or name "
            "another --output"
        ) from error
    return Summary(done, errors, review, time.monotonic() - start)


def _header(path: Path) -> bytes:
    return _csv_line(COLUMNS) if path.suffix.lower() == CSV else b""


def _encode(row: Row, path: Path) -> bytes:
    values = _values(row)
    if path.suffix.lower() == CSV:
        return _csv_line([_cell(name, value) for name, value in values.items()])
    numbers = {name: _rounded(name, value) for name, value in values.items()}
    return _utf8(json.dumps(numbers, ensure_ascii=False, allow_nan=False) + "\n")


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
