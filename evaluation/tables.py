"""An evaluation as plain tables for the terminal, and tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from wafer.evaluation.results import Evaluation

__all__ = ["class_table", "markdown_table", "percent", "summary_table"]

WIDE = 100
"""Columns of a terminal that shows a table of classes with intervals."""
NOTHING = "-"
SHARE_WIDTH = len("100.0")
GAP, EDGES = 3, 2
"""Columns of a terminal between two columns of a table, and beside the outer two."""
LEAST_NAME = 8
"""Columns of a class name, where there is hardly any room."""


def summary_table(evaluation: Evaluation) -> Table:
    """Return the figures of the whole split, one a row; what does not apply is left out."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("figure")
    table.add_column("%", justify="right", no_wrap=True, min_width=SHARE_WIDTH)
    table.add_column("95 % interval or meaning")
    table.add_row("images", str(evaluation.n), _source(evaluation))
    for name, value, note in _figures(evaluation):
        if value is not None:
            table.add_row(name, value, note)
    return table


def class_table(evaluation: Evaluation, *, width: int = WIDE) -> Table:
    """Return the figures of every class, one a row.

    Args:
        evaluation: what to show.
        width: columns of the terminal; with ``WIDE`` or more there are 95 % intervals. Names are
            folded where there is no room, and below that the table is wider than the terminal: a
            figure that is cut would read as another one.
    """
    per_class = evaluation.to_dict()["per_class"]
    rows = {n: _class_cells(row, evaluation, width >= WIDE) for n, row in per_class.items()}
    widths = {
        heading: max(len(heading.rstrip("*")), *(len(cells[heading]) for cells in rows.values()))
        for heading in next(iter(rows.values()))
    }
    room = width - sum(GAP + each for each in widths.values()) - EDGES
    longest = max(cell_len(name) for name in ("class", *rows))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("class", overflow="fold", width=min(longest, max(room, LEAST_NAME)))
    for heading, each in widths.items():
        table.add_column(heading.rstrip("*"), justify="right", no_wrap=True, width=each)
    for name, cells in rows.items():
        table.add_row(Text(name), *cells.values())
    return table


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table in Markdown; no cell can end its column or begin a tag."""
    return [_markdown_row(head), _markdown_row(["---"] * len(head)), *map(_markdown_row, rows)]


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |"


def percent(value: float | None) -> str:
    """Return a share as a percentage with one digit, a dash for None.

    Example:
        >>> percent(0.9341), percent(None)
        ('93.4', '-')
    """
    return NOTHING if value is None else f"{100 * value:.1f}"


def _source(evaluation: Evaluation) -> Text:
    note = ", optimistic: includes training images" if evaluation.optimistic else ""
    if evaluation.trained_on:
        note = f", optimistic: the model was trained on {evaluation.trained_on} of them"
    return Text(f"{evaluation.model} on {evaluation.split}{note}")


def _figures(evaluation: Evaluation) -> Iterator[tuple[str, str | None, str]]:
    values = evaluation.to_dict()
    yield "accuracy", percent(values["accuracy"]), _interval(values["accuracy_interval"])
    yield "macro F1", percent(values["macro_f1"]), "mean over classes"
    yield "mAP50", _known(values["map50"]), "boxes at IoU 0.5"
    yield "mAP50-95", _known(values["map50_95"]), "boxes at IoU 0.5 to 0.95"
    yield "mAP50-95 local", _known(values["map50_95_local"]), "without full-frame classes"
    yield "top-1 IoU", _known(values["top1_iou"]), "the one box of each answer"
    yield "mean confidence", percent(values["mean_confidence"]), "the paper's classification ratio"
    yield "weighted accuracy", percent(values["weighted_accuracy"]), "the paper's"
    yield "ECE", percent(values["ece"]), "how far confidence is from accuracy"
    yield "decided automatically", percent(values["auto_rate"]), _right(values["auto_accuracy"])
    yield "killer escape", _known(values["killer_escape"]), _escape(values)


def _known(value: float | None) -> str | None:
    return None if value is None else percent(value)


def _interval(value: list[float] | None) -> str:
    return NOTHING if value is None else f"{percent(value[0])} to {percent(value[1])}"


def _right(value: float | None) -> str:
    return "" if value is None else f"{percent(value)} of them right"


def _escape(values: dict[str, Any]) -> str:
    return f"of {values['killer_images']} images, at most {percent(values['killer_escape_upper'])}"


def _class_cells(row: dict[str, Any], evaluation: Evaluation, intervals: bool) -> dict[str, str]:
    """Return the cells by heading; the star tells two equal headings apart."""
    cells = {"images": str(row["support"]), "recall": percent(row["recall"])}
    if intervals:
        cells["95 %"] = _interval(row["recall_interval"])
    cells["precision"] = percent(row["precision"])
    if intervals:
        cells["95 %*"] = _interval(row["precision_interval"])
    cells["F1"] = percent(row["f1"])
    if evaluation.detection is not None:
        cells |= {"AP50": percent(row["ap50"]), "AP50-95": percent(row["ap50_95"])}
    return cells
