"""What a grid search leaves for people: a table and a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from matplotlib.axes import Axes  # noqa: TID253
from matplotlib.figure import Figure  # noqa: TID253
from matplotlib.ticker import MaxNLocator  # noqa: TID253
from rich.table import Table

from wafer.classifier.course import Epoch
from wafer.datasets.files import write_bytes, write_text
from wafer.evaluation.figures import BLUE, FAINT, VERMILLION, png_bytes

__all__ = ["FIGURE", "TABLE", "Point", "grid_figure", "grid_table", "table_text", "write_outputs"]

TABLE, FIGURE = "grid.csv", "grid.png"
DASHES = ("-", "--", ":", "-.")


@dataclass(frozen=True, slots=True)
class Point:
    """A rate of a grid: its run relative to the search, and epochs; or why there are none."""

    rate: float
    run: str = ""
    epochs: tuple[Epoch, ...] = ()
    reason: str = ""

    @property
    def best(self) -> Epoch:
        """Return the epoch with the lowest loss on validation; a failed point has none."""
        return min(self.epochs, key=lambda epoch: epoch.val_loss)


def write_outputs(folder: Path, points: Sequence[Point]) -> None:
    """Write ``grid.csv`` and ``grid.png`` of the points so far, atomically."""
    write_text(folder / TABLE, table_text(points))
    write_bytes(folder / FIGURE, png_bytes(grid_figure(points)))


def table_text(points: Sequence[Point]) -> str:
    """Return a CSV with one line for each point; losses and accuracy are of its best epoch."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = ["learning_rate", "status", "epochs", "best_epoch"]
    writer.writerow([*head, "train_loss", "val_loss", "val_accuracy", "run", "reason"])
    for point in points:
        status = "finished" if point.epochs else "failed"
        figures: list[object] = [""] * 4
        if point.epochs:
            best = point.best
            numbers = (best.train_loss, best.val_loss, best.val_accuracy)
            figures = [best.epoch, *(f"{value:.6g}" for value in numbers)]
        writer.writerow([point.rate, status, len(point.epochs), *figures, point.run, point.reason])
    return text.getvalue()


def grid_table(points: Sequence[Point]) -> Table:
    """Return the table for a terminal, the best point in bold."""
    lowest = _lowest(points)
    table = Table()
    for name in ("learning rate", "epochs", "best epoch", "loss on val", "accuracy on val"):
        table.add_column(name, justify="right")
    for point in points:
        cells = ["failed", "", "", ""]
        if point.epochs:
            best = point.best
            cells = [str(len(point.epochs)), str(best.epoch)]
            cells += [f"{best.val_loss:.4f}", f"{best.val_accuracy:.1%}"]
        table.add_row(f"{point.rate:g}", *cells, style="bold" if point is lowest else None)
    return table


def grid_figure(points: Sequence[Point]) -> Figure:
    """Return the loss on validation against the rate, and its course for each rate.

    Where a training explodes its losses are above the frame, which is that of the others.
    """
    figure = Figure(figsize=(9.6, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _draw_rates(left, points)
    _draw_courses(right, points)
    left.set_ylim(0, _highest(points))
    lowest = _lowest(points)
    best = "" if lowest is None else f": {lowest.rate:g}, loss {lowest.best.val_loss:.3f}"
    for axes, title in ((left, f"Best rate{best}"), (right, "How each training went")):
        axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    return figure


def _draw_rates(axes: Axes, points: Sequence[Point]) -> None:
    trained = [point for point in points if point.epochs]
    rates, losses = [p.rate for p in trained], [p.best.val_loss for p in trained]
    axes.set_xscale("log")
    axes.set_xlim(min(p.rate for p in points) / 1.6, max(p.rate for p in points) * 1.6)
    axes.plot(rates, losses, "o-", color=BLUE, markersize=6)
    lowest = _lowest(points)
    if lowest is not None:
        axes.plot(lowest.rate, lowest.best.val_loss, "P", color=VERMILLION, markersize=12)
    failed = [point.rate for point in points if not point.epochs]
    if failed:
        top = axes.get_xaxis_transform()
        axes.plot(failed, [0.95] * len(failed), "x", color=FAINT, transform=top, label="failed")
        axes.legend(frameon=False, fontsize=8.5)
    axes.set(xlabel="learning rate", ylabel="lowest loss on validation")


def _draw_courses(axes: Axes, points: Sequence[Point]) -> None:
    lowest = _lowest(points)
    for number, point in enumerate(p for p in points if p.epochs):
        axes.plot(
            [epoch.epoch for epoch in point.epochs],
            [epoch.val_loss for epoch in point.epochs],
            color=VERMILLION if point is lowest else BLUE,
            linestyle=DASHES[number % len(DASHES)],
            alpha=1 if point is lowest else 0.7,
            label=f"{point.rate:g}",
        )
    axes.set(xlabel="epoch", ylabel="loss on validation")
    axes.tick_params(labelleft=True)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if axes.lines:
        axes.legend(title="learning rate", frameon=False, fontsize=8.5)


def _highest(points: Sequence[Point]) -> float:
    """Return the end of an axis of losses, for first and lowest ones but for single huge ones."""
    trained = [point for point in points if point.epochs]
    losses = [loss for p in trained for loss in (p.epochs[0].val_loss, p.best.val_loss)]
    return 1.1 * min(max(losses), 3 * median(losses)) or 1.0 if losses else 1.0


def _lowest(points: Sequence[Point]) -> Point | None:
    trained = [point for point in points if point.epochs]
    return min(trained, key=lambda point: point.best.val_loss, default=None)
