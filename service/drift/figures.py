"""What `wafer drift` draws: each figure over the days, with its limits."""

from __future__ import annotations

import matplotlib as mpl  # noqa: TID253
import numpy as np
from matplotlib.axes import Axes  # noqa: TID253
from matplotlib.figure import Figure  # noqa: TID253

from wafer.evaluation.figures import BLUE, FAINT, STYLE, VERMILLION
from wafer.service.drift.days import Day
from wafer.service.drift.judging import FIGURES, Check

__all__ = ["drift_figure"]

COLUMNS = 2
MOST_LABELS = 8


def drift_figure(days: list[Day], *, title: str) -> Figure:
    """Return a panel for each figure of one tool and step.

    Args:
        days: with at least one check among them, oldest first.
        title: whose days.
    """
    names = [name for name in FIGURES if any(_found(day, name) for day in days)]
    rows = -(-len(names) // COLUMNS)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.0, 0.6 + 2.1 * rows), layout="constrained")
        figure.suptitle(f"{title}: blue as usual, crosses are alarms, grey is what may be")
        panels = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
        for panel, name in zip(panels, names, strict=False):
            _draw(panel, days, name)
        for panel in panels[len(names) :]:
            panel.set_axis_off()
    return figure


def _found(day: Day, name: str) -> Check | None:
    return next((check for check in day.verdict.checks if check.name == name), None)


def _draw(panel: Axes, days: list[Day], name: str) -> None:
    checks = {place: check for place, day in enumerate(days) if (check := _found(day, name))}
    places = np.array(list(checks))
    low, high, value = (
        np.array([getattr(check, part) for check in checks.values()])
        for part in ("low", "high", "value")
    )
    wrong = np.array([check.alarm for check in checks.values()])
    panel.errorbar(
        places,
        (low + high) / 2,
        yerr=(high - low) / 2,
        fmt="none",
        ecolor=FAINT,
        elinewidth=9,
        alpha=0.35,
    )
    panel.plot(places, value, color=BLUE, linewidth=1)
    panel.plot(places[~wrong], value[~wrong], "o", color=BLUE, markersize=5)
    panel.plot(places[wrong], value[wrong], "X", color=VERMILLION, markersize=8)
    step = -(-len(days) // MOST_LABELS)
    panel.set_xticks(range(0, len(days), step), [day.day[5:] for day in days[::step]], fontsize=8)
    panel.set_xlim(-0.6, len(days) - 0.4)
    panel.set_title(name, fontsize=10)
    panel.grid(axis="y", alpha=0.25)
