"""Tables of labelling for a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table

from wafer.labelling.propagation.report import ClassRow

__all__ = ["labelled_table"]


def labelled_table(rows: Iterable[ClassRow]) -> Table:
    """Return one row for each class: what was accepted, what is to be looked at, how good it is."""
    table = Table(box=None, pad_edge=False)
    table.add_column("class", overflow="fold")
    for name in ("drawn", "accepted", "to review", "right, est."):
        table.add_column(name, justify="right", no_wrap=True, min_width=len(name))
    table.add_column("answer")
    for row in rows:
        estimate = "-" if row.estimate is None else f"{row.estimate:.2f}"
        answer = str(row.answer)
        if row.bound is not None:
            answer += f", at least {row.bound:.3f}"
        table.add_row(
            row.name, str(row.drawn), str(row.accepted), str(row.review), estimate, answer
        )
    return table
