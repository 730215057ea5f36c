"""What Tables 1 and 2 leave for people: CSV, Markdown and HTML, and a table for the terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from wafer.datasets.files import write_bytes, write_text
from wafer.evaluation.metrics import weighted_accuracy
from wafer.evaluation.pages import data_url, render_page
from wafer.evaluation.paired import Paired, compare_paired, corrected
from wafer.evaluation.tables import markdown_table, percent
from wafer.experiments.comparison.claims import Claim, claims
from wafer.experiments.comparison.plan import CLASSIFIERS, Scale, paper_settings, published
from wafer.experiments.comparison.running import Outcome
from wafer.experiments.comparison.speed import Speed, Timing

__all__ = ["Comparison", "terminal_table"]

PAGE_FILE = "report.html"
TEMPLATE = "comparison.html.j2"
NOTHING = "-"
SHARES = ("0.95", "0.98", "0.99")
PARTS = ("load", "preprocess", "model", "total")

HEADS: Mapping[int, tuple[str, ...]] = {
    1: (
        "",
        "image size",
        "epochs (paper)",
        "accuracy, %",
        "95 % interval",
        "weighted accuracy, paper",
        "here",
        "mean confidence, paper",
        "here",
        "macro F1, %",
        "ECE, %",
        "95 % interval",
        "remark",
    ),
    2: (
        "",
        "paper",
        "load, ms",
        "preprocess, ms",
        "model, ms",
        "p95",
        "all, ms",
        "p95",
        "best batch",
        "model, ms",
        "p95",
        "size, MB",
    ),
}
AUTOMATIC_HEAD = (
    "",
    "decided automatically, %",
    "of them right, %",
    *(f"answerable at {100 * float(share):g} % right" for share in SHARES),
    "killer images",
    "killer escape, %",
    "may be up to, %",
)
PAIRED_HEAD = (
    "",
    "accuracy less that of the best, points",
    "95 % interval",
    "only this one right",
    "only the best right",
    "p",
    "p, corrected",
)
CLAIM_HEAD = ("the paper", "here", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The two tables as far as they are finished, with all that their reader has to know.

    ``folder`` is where they are written, ``table`` the one that was asked for, ``names`` its rows.
    ``settings`` are notes on how it was measured, ``notes`` on the data; ``synthetic`` tells
    whether the images are.
    """

    folder: Path
    table: int
    scale: Scale
    names: tuple[str, ...]
    settings: tuple[str, ...]
    notes: tuple[str, ...]
    synthetic: bool
    outcomes: tuple[Outcome, ...]

    @property
    def page(self) -> Path:
        """Return the path of the HTML page, which is there once a table is finished."""
        return self.folder / PAGE_FILE

    @property
    def best(self) -> Outcome | None:
        """Return the model of the highest accuracy on val, the first of several."""
        known = [each for each in self._ordered() if {"val", "test"} <= each.answers.keys()]
        return max(known, key=lambda each: float(each.answers["val"].correct.mean()), default=None)

    def rows(self, table: int | None = None) -> list[dict[str, Any]]:
        """Return one mapping for each model, None for what is not there yet."""
        of = self._row if (self.table if table is None else table) == 1 else _speed_row
        finished = {each.name: each for each in self.outcomes}
        rows = [of(name, finished.get(name)) for name in self.names]
        return self._compared(rows) if of == self._row else rows

    def _ordered(self) -> list[Outcome]:
        return sorted(self.outcomes, key=lambda each: self.names.index(each.name))

    def _row(self, name: str, outcome: Outcome | None) -> dict[str, Any]:
        told = {} if outcome is None else outcome.arguments
        answered = None if outcome is None else outcome.answers.get("test")
        metrics = {} if answered is None else answered.metrics
        paper = published(name)
        return {
            "model": name,
            "accuracy": metrics.get("accuracy"),
            "accuracy_interval": metrics.get("accuracy_interval"),
            "weighted_accuracy": metrics.get("weighted_accuracy"),
            "weighted_accuracy_interval": _interval_of(outcome, "weighted_accuracy"),
            "mean_confidence": metrics.get("mean_confidence"),
            "macro_f1": metrics.get("macro_f1"),
            "ece": metrics.get("ece"),
            "ece_interval": _interval_of(outcome, "ece"),
            "epochs": None if outcome is None else outcome.epochs,
            "published_weighted_accuracy": paper.weighted_accuracy,
            "published_mean_confidence": paper.mean_confidence,
            "remark": None if outcome is None else _remark(outcome),
            "converged": None if outcome is None else outcome.stopped,
            "images": metrics.get("n"),
            "image_size": told.get("image_size", told.get("imgsz")),
            "batch": told.get("batch") or None,
            "planned_epochs": told.get("epochs"),
            "paper_batch": paper_settings(name)[0],
            "paper_epochs": paper_settings(name)[1],
            "val_accuracy": _val_accuracy(outcome),
            "auto_rate": metrics.get("auto_rate"),
            "auto_accuracy": metrics.get("auto_accuracy"),
            **{
                f"share_at_{float(share):.2f}": metrics.get("coverage_at_accuracy", {}).get(share)
                for share in SHARES
            },
            "killer_images": metrics.get("killer_images"),
            "killer_escape": metrics.get("killer_escape"),
            "killer_escape_upper": metrics.get("killer_escape_upper"),
            **_seen(outcome),
            "run": None if outcome is None else str(outcome.run.relative_to(self.folder)),
        }

    def _compared(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Add how each model compares with the best on the same images."""
        pairs = self._pairs()
        fixed = dict(zip(pairs, corrected([p.p_value for p in pairs.values()]), strict=True))
        for row in rows:
            pair = pairs.get(row["model"])
            row |= {
                "difference_to_best": None if pair is None else pair.difference,
                "difference_interval": None if pair is None else list(pair.interval),
                "only_this_right": None if pair is None else pair.only_first,
                "only_best_right": None if pair is None else pair.only_second,
                "p_value": None if pair is None else pair.p_value,
                "p_value_corrected": fixed.get(row["model"]),
            }
        return rows

    def _pairs(self) -> dict[str, Paired]:
        best = self.best
        if best is None:
            return {}
        theirs = best.answers["test"]
        return {
            each.name: compare_paired(each.answers["test"].correct, theirs.correct)
            for each in self._ordered()
            if each.name != best.name and "test" in each.answers
        }

    def claims(self) -> tuple[Claim, ...]:
        """Return what the paper claims, beside what was measured here so far.

        Nothing at a scale at which nothing is learnt.
        """
        if self.scale.remark is not None:
            return ()
        measured = {row["model"]: row for row in self.rows(1) if row["accuracy"] is not None}
        timed = {row["model"]: row for row in self.rows(2) if row["model_ms"] is not None}
        return claims(measured, timed)

    def write(self) -> None:
        """Write the CSV and the Markdown page of the table as things stand."""
        write_text(self.folder / f"table{self.table}.csv", self._csv())
        write_text(self.folder / f"table{self.table}.md", self._markdown())

    def write_page(self) -> None:
        """Write the HTML page: both tables, as far as they are there."""
        best = self.best
        figures = {} if best is None else _figures(best.run / "test")
        page = render_page(
            "wafer.experiments.comparison",
            TEMPLATE,
            comparison=self,
            best=None if best is None else best.name,
            images=None if best is None else len(best.answers["test"].images),
            heads=HEADS,
            tables={table: self._cells(table) for table in (1, 2) if self._there(table)},
            rows=self.rows(1),
            claims=self.claims(),
            automatic=[AUTOMATIC_HEAD, list(_automatic_rows(self.rows(1)))],
            paired=[PAIRED_HEAD, list(_paired_rows(self.rows(1)))],
            figures=figures,
            machines=self._machines(),
        )
        write_bytes(self.page, page)

    def _machines(self) -> tuple[str, ...]:
        """Return what the models were timed on, a sentence for each machine without full stop."""
        timed: dict[str, list[str]] = {}
        for each in self._ordered():
            if each.speed is not None:
                timed.setdefault(_machine(each.speed), []).append(each.name)
        if len(timed) < 2:
            return tuple(timed)
        return tuple(f"{where}: {', '.join(names)}" for where, names in timed.items())

    def _there(self, table: int) -> bool:
        key = {1: "accuracy", 2: "model_ms"}[table]
        return any(row[key] is not None for row in self.rows(table))

    def _cells(self, table: int) -> list[list[str]]:
        shown = _shown_row if table == 1 else _shown_speed
        return [shown(row) for row in self.rows(table)]

    def _csv(self) -> str:
        text = io.StringIO()
        rows = [_flat(row) for row in self.rows()]
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    def _markdown(self) -> str:
        rows = self.rows()
        lines = [
            f"# Table {self.table} at scale {self.scale.name}",
            "",
            f"{len(self.outcomes)} of {len(self.names)} models are finished. "
            + ("The images are synthetic, the paper's are not." if self.synthetic else ""),
            "",
            *markdown_table(HEADS[self.table], self._cells(self.table)),
        ]
        if self.table == 1:
            lines += ["", "## Decided without a person", ""]
            lines += markdown_table(AUTOMATIC_HEAD, _automatic_rows(rows))
            if self.best is not None:
                lines += ["", f"## Compared with {self.best.name}, the best on val", ""]
                lines += markdown_table(PAIRED_HEAD, _paired_rows(rows))
        told = [[each.claim, each.here, each.verdict] for each in self.claims()]
        if told:
            lines += ["", "## What the paper claims", "", *markdown_table(CLAIM_HEAD, told)]
        lines += [""]
        machines = self._machines() if self.table == 2 else ()
        lines += [f"* {text}." for text in (*machines, *self.settings, *self.notes)]
        return "\n".join(lines) + "\n"


def terminal_table(comparison: Comparison) -> Table:
    """Return the table that was asked for, for a terminal of 80 columns."""
    return _terminal_answers(comparison) if comparison.table == 1 else _terminal_speed(comparison)


def _terminal_answers(comparison: Comparison) -> Table:
    shown = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
        caption="weighted accuracy and mean confidence: paper, here",
        caption_justify="left",
    )
    shown.add_column("", no_wrap=True)
    for name in ("epochs", "accuracy", "weighted acc.", "mean conf.", "F1", "ECE"):
        shown.add_column(name, justify="right", no_wrap=True)
    best = comparison.best
    for row in comparison.rows():
        shown.add_row(
            row["model"],
            _whole(row["epochs"]),
            percent(row["accuracy"]),
            _both(row, "weighted_accuracy"),
            _both(row, "mean_confidence"),
            percent(row["macro_f1"]),
            percent(row["ece"]),
            style="bold" if best is not None and best.name == row["model"] else "",
        )
    return shown


def _terminal_speed(comparison: Comparison) -> Table:
    shown = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
        caption="milliseconds an image, medians; MB on disk",
        caption_justify="left",
    )
    shown.add_column("", no_wrap=True)
    for name in ("paper", "load", "prep.", "model", "all", "batch", "model", "MB"):
        shown.add_column(name, justify="right", no_wrap=True)
    for row in comparison.rows():
        shown.add_row(
            row["model"],
            (row["published_speed"] or NOTHING).partition(",")[0],
            *(_number(row[f"{part}_ms"], 1) for part in PARTS),
            _whole(row["best_batch"]),
            _number(row["best_batch_ms"], 1),
            _megabytes(row["bytes"]),
        )
    return shown


def _speed_row(name: str, outcome: Outcome | None) -> dict[str, Any]:
    speed = None if outcome is None else outcome.speed
    best = None if speed is None else speed.best_batch
    timings: dict[str, Timing | None] = {
        **{part: None if speed is None else getattr(speed, part) for part in PARTS},
        "best_batch": None if speed is None or best is None else speed.batches[best],
    }
    return {
        "model": name,
        "published_speed": published(name).speed,
        "image_size": None if speed is None else speed.conditions.image_size,
        "source_size": None if speed is None else speed.source_size,
        **{
            key: value
            for part, timing in timings.items()
            for key, value in (
                (f"{part}_ms", None if timing is None else timing.median),
                (f"{part}_p95_ms", None if timing is None else timing.p95),
            )
        },
        "best_batch": best,
        "measurements": None if speed is None else speed.model.count,
        "bytes": None if speed is None else speed.bytes,
        "processor": None if speed is None else speed.conditions.processor,
        "threads": None if speed is None else speed.conditions.threads,
        "device": None if speed is None else speed.conditions.device,
    }


def _machine(speed: Speed) -> str:
    under = speed.conditions
    threads = "1 thread" if under.threads == 1 else f"{under.threads} threads"
    device = "" if under.device == "cpu" else f", {under.device}"
    return f"Timed on {under.processor}, {threads}{device}, inputs of {under.image_size} px"


def _remark(outcome: Outcome) -> str:
    said = ["from scratch"] if outcome.from_scratch else []
    return ", ".join(said if outcome.stopped else [*said, "not converged"])


def _val_accuracy(outcome: Outcome | None) -> float | None:
    answered = None if outcome is None else outcome.answers.get("val")
    return None if answered is None else float(answered.correct.mean())


def _seen(outcome: Outcome | None) -> dict[str, Any]:
    """Return the figures on training and validation images together, where they were measured."""
    parts = [] if outcome is None else [outcome.answers.get(s) for s in ("train", "val")]
    known = [part for part in parts if part is not None]
    if len(known) < 2:
        return {"seen_weighted_accuracy": None, "seen_mean_confidence": None}
    confidence = np.concatenate([part.confidence for part in known])
    correct = np.concatenate([part.correct for part in known])
    return {
        "seen_weighted_accuracy": weighted_accuracy(confidence, correct),
        "seen_mean_confidence": float(confidence.mean()),
    }


def _interval_of(outcome: Outcome | None, figure: str) -> list[float] | None:
    interval = None if outcome is None else outcome.intervals.get(figure)
    return None if interval is None else [round(value, 6) for value in interval]


def _figures(folder: Path) -> dict[str, str]:
    wanted = {"confusion": "confusion_top1.png", "reliability": "reliability.png"}
    paths = {name: folder / file for name, file in wanted.items()}
    return {k: data_url(path.read_bytes(), "png") for k, path in paths.items() if path.is_file()}


def _shown_row(row: Mapping[str, Any]) -> list[str]:
    """Return the cells under the first of ``HEADS``."""
    epochs = NOTHING if row["epochs"] is None else str(row["epochs"])
    if row["paper_epochs"] is not None:
        epochs += f" ({row['paper_epochs']})"
    return [
        _name(row["model"]),
        _whole(row["image_size"]),
        epochs,
        percent(row["accuracy"]),
        _interval(row["accuracy_interval"]),
        _number(row["published_weighted_accuracy"], 4),
        _number(row["weighted_accuracy"], 4),
        _number(row["published_mean_confidence"], 4),
        _number(row["mean_confidence"], 4),
        percent(row["macro_f1"]),
        percent(row["ece"]),
        _interval(row["ece_interval"]),
        row["remark"] or "",
    ]


def _shown_speed(row: Mapping[str, Any]) -> list[str]:
    """Return the cells under the second of ``HEADS``."""
    return [
        _name(row["model"]),
        row["published_speed"] or NOTHING,
        _number(row["load_ms"], 1),
        _number(row["preprocess_ms"], 1),
        _number(row["model_ms"], 1),
        _number(row["model_p95_ms"], 1),
        _number(row["total_ms"], 1),
        _number(row["total_p95_ms"], 1),
        _whole(row["best_batch"]),
        _number(row["best_batch_ms"], 1),
        _number(row["best_batch_p95_ms"], 1),
        _megabytes(row["bytes"]),
    ]


def _automatic_rows(rows: Iterable[Mapping[str, Any]]) -> Iterable[list[str]]:
    """Yield the cells under ``AUTOMATIC_HEAD``."""
    for row in rows:
        yield [
            _name(row["model"]),
            percent(row["auto_rate"]),
            percent(row["auto_accuracy"]),
            *(percent(row[f"share_at_{share}"]) for share in SHARES),
            _whole(row["killer_images"]),
            percent(row["killer_escape"]),
            percent(row["killer_escape_upper"]),
        ]


def _paired_rows(rows: Iterable[Mapping[str, Any]]) -> Iterable[list[str]]:
    """Yield the cells under ``PAIRED_HEAD``, of the models that are compared."""
    for row in rows:
        if row["difference_to_best"] is None:
            continue
        low, high = row["difference_interval"]
        yield [
            _name(row["model"]),
            f"{100 * row['difference_to_best']:+.1f}",
            f"{100 * low:+.1f} to {100 * high:+.1f}",
            str(row["only_this_right"]),
            str(row["only_best_right"]),
            f"{row['p_value']:.2g}",
            f"{row['p_value_corrected']:.2g}",
        ]


def _name(model: str) -> str:
    return model if model in CLASSIFIERS else f"{model}, its best box"


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row whose intervals are two columns each."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if key.endswith("_interval"):
            low, high = (None, None) if value is None else value
            flat |= {f"{key}_low": low, f"{key}_high": high}
        else:
            flat[key] = value
    return flat


def _both(row: Mapping[str, Any], key: str) -> str:
    return f"{_number(row[f'published_{key}'], 3)} {_number(row[key], 3)}"


def _interval(value: Sequence[float] | None) -> str:
    return NOTHING if value is None else f"{percent(value[0])} to {percent(value[1])}"


def _number(value: float | None, digits: int) -> str:
    return NOTHING if value is None else f"{value:.{digits}f}"


def _whole(value: int | None) -> str:
    return NOTHING if value is None else str(value)


def _megabytes(value: int | None) -> str:
    return NOTHING if value is None else f"{value / 1e6:.1f}"
