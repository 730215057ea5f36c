"""How often each class was drawn in each epoch, and the AP that the next draw goes by.

``image_weights.csv`` in the run folder is both: the table for people, and what a training that
was killed reads its maps from.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import matplotlib as mpl  # noqa: TID253
import numpy as np
from matplotlib.axes import Axes  # noqa: TID253
from matplotlib.figure import Figure  # noqa: TID253
from matplotlib.ticker import MaxNLocator  # noqa: TID253
from numpy.typing import NDArray

from wafer.datasets.files import atomic_file, write_text

__all__ = [
    "BACKGROUND",
    "DRAWS",
    "ClassDraw",
    "count_draws",
    "draws_figure",
    "maps_after",
    "read_draws",
    "write_draws",
    "write_figure",
]

DRAWS = "image_weights.csv"
"""The name of the table in a run folder; its picture has the same name and ends in .png."""
BACKGROUND = "(no box)"
"""The row of images without boxes."""


@dataclass(frozen=True, slots=True)
class ClassDraw:
    """One class in one epoch.

    ``images`` counts the draws of images that show the class, ``boxes`` its boxes in them; mosaic
    partners are not counted. ``ap`` is AP50-95 of the validation after the epoch, ``smoothed`` its
    running mean, by which the next epoch is drawn; both are None for images without boxes.
    """

    epoch: int
    name: str
    images: int
    boxes: int
    ap: float | None = None
    smoothed: float | None = None


def count_draws(
    drawn: NDArray[np.int64],
    counts: NDArray[np.int64],
    *,
    epoch: int,
    names: Sequence[str],
    ap: NDArray[np.float64],
    smoothed: NDArray[np.float64],
) -> tuple[ClassDraw, ...]:
    """Count how often an epoch showed each class.

    Args:
        drawn: the images of the epoch. Shape: (draws,).
        counts: boxes of each class in each image. Shape: (images, classes).
        epoch: from 1.
        names: of the classes.
        ap: AP50-95 of each class after the epoch. Shape: (classes,).
        smoothed: its running mean. Shape: (classes,).
    """
    shown = counts[drawn]
    rows = [
        ClassDraw(
            epoch=epoch,
            name=name,
            images=int((shown[:, index] > 0).sum()),
            boxes=int(shown[:, index].sum()),
            ap=float(ap[index]),
            smoothed=float(smoothed[index]),
        )
        for index, name in enumerate(names)
    ]
    empty = int((shown.sum(axis=1) == 0).sum())
    return (*rows, ClassDraw(epoch=epoch, name=BACKGROUND, images=empty, boxes=0))


def write_draws(rows: Sequence[ClassDraw], path: Path) -> None:
    """Write the table, atomically; numbers come back from it bit for bit."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [field.name for field in fields(ClassDraw)]
    writer.writerow(names)
    for row in rows:
        values = [getattr(row, name) for name in names]
        writer.writerow(["" if value is None else value for value in values])
    write_text(path, text.getvalue())


def read_draws(path: Path) -> tuple[ClassDraw, ...]:
    """Read a table that ``write_draws`` wrote; a missing one is empty."""
    if not path.is_file():
        return ()
    with path.open(encoding="utf-8", newline="") as handle:
        return tuple(
            ClassDraw(
                epoch=int(row["epoch"]),
                name=row["name"],
                images=int(row["images"]),
                boxes=int(row["boxes"]),
                ap=float(row["ap"]) if row["ap"] else None,
                smoothed=float(row["smoothed"]) if row["smoothed"] else None,
            )
            for row in csv.DictReader(handle)
        )


def maps_after(rows: Sequence[ClassDraw], *, epoch: int) -> NDArray[np.float64] | None:
    """Return the smoothed AP of each class after an epoch (from 1), or None where there is none."""
    found = [row.smoothed for row in rows if row.epoch == epoch and row.smoothed is not None]
    return np.array(found, np.float64) if found else None


def draws_figure(rows: Sequence[ClassDraw]) -> Figure:
    """Return two plots over the epochs: the share of the draws of each class, and its AP50-95."""
    names = list(dict.fromkeys(row.name for row in rows))
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    share, ap = figure.subplots(1, 2)
    total = {epoch: sum(r.images for r in rows if r.epoch == epoch) for epoch in _epochs(rows)}
    marker = "o" if len(total) == 1 else None  # a line through one epoch cannot be seen
    colours = mpl.colormaps["tab10" if len(names) <= 10 else "tab20"]
    for index, name in enumerate(names):
        own = [row for row in rows if row.name == name]
        epochs = [row.epoch for row in own]
        colour = colours(index % colours.N)
        shares = [row.images / max(total[row.epoch], 1) for row in own]
        share.plot(epochs, shares, color=colour, marker=marker)
        if all(row.smoothed is not None for row in own):
            ap.plot(epochs, [row.ap for row in own], color=colour, alpha=0.35, linewidth=1)
            ap.plot(epochs, [row.smoothed for row in own], color=colour, marker=marker, label=name)
        else:
            ap.plot([], [], color=colour, label=name)
    _label(share, title="Share of the draws", y="draws that show the class")
    _label(ap, title="AP50-95 on val; bold: the running mean that the draw uses", y="AP50-95")
    figure.legend(*ap.get_legend_handles_labels(), loc="outside right center", frameon=False)
    return figure


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, atomically."""
    with atomic_file(path) as handle:
        figure.savefig(handle, format="png", dpi=130)


def _epochs(rows: Sequence[ClassDraw]) -> list[int]:
    return sorted({row.epoch for row in rows})


def _label(axes: Axes, *, title: str, y: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_ylabel(y)
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
