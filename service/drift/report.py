"""`wafer drift` for people: a table for the terminal, a CSV, pictures, and one page with all."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from wafer.datasets.files import write_bytes, write_text
from wafer.evaluation.pages import data_url, render_page
from wafer.service.drift.days import Day, Drift
from wafer.service.drift.judging import CLASS_MIX, FIGURES, NOT_READ, RATES

__all__ = [
    "CSV_FILE",
    "REPORT_FILE",
    "WIDE",
    "drift_dict",
    "drift_table",
    "report_folder",
    "write_drift",
]

CSV_FILE = "drift.csv"
REPORT_FILE = "report.html"
TEMPLATE = "report.html.j2"
DIGITS = 12
"""Of a bundle's digest, as in its label."""
NOTHING = "-"
WIDE = 142
"""Columns of a terminal that shows everything."""


def drift_table(drift: Drift, *, wide: bool = True) -> Table:
    """Return the days for a terminal, one a row; a figure with an alarm has a star.

    Args:
        drift: what was found.
        wide: show the model and the means too, for which a terminal needs ``WIDE`` columns.
    """
    table = Table(box=box.SIMPLE_HEAD)
    figures = FIGURES if wide else FIGURES[:3]
    for name in ("day", "tool", "step", *(["model"] if wide else [])):
        table.add_column(name, no_wrap=name == "day")
    for name in ("images", "PSI", *figures[1:]):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict")
    for day in drift.days:
        cells = [_cell(day, name) for name in figures]
        where = _where(day)[: 4 if wide else 3]
        table.add_row(*where, str(day.totals.images), *cells, _verdict(day))
    return table


def drift_dict(drift: Drift) -> dict[str, Any]:
    """Return the days as JSON has them."""
    return {"days": [_values(day) for day in drift.days], "notes": list(drift.notes)}


def report_folder(log: Path) -> Path:
    """Return where the report goes when nobody says: beside the log, or the output it is in."""
    here = log.resolve() if log.name in ("", "..") else log
    return here.parent / f"{here.stem}-drift"


def write_drift(drift: Drift, folder: Path, *, title: str) -> Path:
    """Write drift.csv, a picture for each tool and step, and report.html, each in one step.

    Args:
        drift: what was found.
        folder: is made where needed; files of an earlier report in it are replaced.
        title: whose answers.

    Returns:
        The page.
    """
    write_text(folder / CSV_FILE, _csv(drift))
    pictures = _pictures(drift)
    for name, (_, content) in pictures.items():
        write_bytes(folder / name, content)
    page = render_page(
        "wafer.service.drift",
        TEMPLATE,
        title=title,
        head=["day", "tool", "step", "model", "images", "PSI", *FIGURES[1:], "verdict"],
        rows=[
            [*_where(day), day.totals.images, *(_cell(day, n) for n in FIGURES), _verdict(day)]
            for day in drift.days
        ],
        alarms=[day for day in drift.days if day.verdict.alarms],
        notes=drift.notes,
        pictures=[(text, data_url(content, "png")) for text, content in pictures.values()],
    )
    write_bytes(folder / REPORT_FILE, page)
    return folder / REPORT_FILE


def _pictures(drift: Drift) -> dict[str, tuple[str, bytes]]:
    """Return a picture for each tool and step, with what it shows, by file name."""
    from wafer.evaluation.figures import png_bytes
    from wafer.service.drift.figures import drift_figure

    pictures = {}
    streams = sorted({(day.stream.tool, day.stream.step) for day in drift.days})
    for number, (tool, step) in enumerate(streams, 1):
        days = [d for d in drift.days if (d.stream.tool, d.stream.step) == (tool, step)]
        if not any(day.verdict.checks for day in days):
            continue
        text = f"tool {tool or NOTHING}, step {step or NOTHING}"
        name = "-".join(part for part in (f"{number:02}", tool, step) if part)
        pictures[f"{name}.png"] = text, png_bytes(drift_figure(days, title=text))
    return pictures


def _where(day: Day) -> tuple[str, str, str, str]:
    tool, step, model = day.stream
    return day.day, tool or NOTHING, step or NOTHING, model[:DIGITS]


def _number(day: Day, name: str) -> float | None:
    """Return a figure of a day, also where nothing is said about it; None where there is none."""
    if name == CLASS_MIX:
        return next((check.value for check in day.verdict.checks if check.name == name), None)
    if name in day.totals.values:
        return day.totals.values[name].mean
    if name == NOT_READ:
        return day.unreadable / (day.totals.images + day.unreadable)
    if name in RATES and day.totals.images:
        return day.totals.decisions.get(name, 0) / day.totals.images
    return None


def _cell(day: Day, name: str) -> str:
    value = _number(day, name)
    if value is None:
        return NOTHING
    star = "*" if name in day.verdict.alarms else ""
    return f"{value:.1%}{star}" if name in (*RATES, NOT_READ) else f"{value:.3g}{star}"


def _verdict(day: Day) -> str:
    return f"alarm: {', '.join(day.verdict.alarms)}" if day.verdict.alarms else day.verdict.state


def _values(day: Day) -> dict[str, Any]:
    tool, step, model = day.stream
    values: dict[str, Any] = {"day": day.day, "tool": tool, "step": step, "model": model}
    values |= {"images": day.totals.images, "unreadable": day.unreadable}
    checks = {check.name: check for check in day.verdict.checks}
    for name in FIGURES:
        key, check = name.replace(" ", "_"), checks.get(name)
        values[key] = _number(day, name)
        for part in ("usual", "low", "high"):
            values[f"{key}_{part}"] = None if check is None else getattr(check, part)
    return {**values, "verdict": day.verdict.state, "alarms": list(day.verdict.alarms)}


def _csv(drift: Drift) -> str:
    text = io.StringIO(newline="")
    rows = [_values(day) for day in drift.days]
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()}
        writer.writerow({**cells, "alarms": " ".join(n.replace(" ", "_") for n in row["alarms"])})
    return text.getvalue()
