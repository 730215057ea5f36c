"""What Table 3 leaves for people: CSV, Markdown and HTML files, and a table for the terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from wafer.datasets.files import write_bytes, write_text
from wafer.evaluation.pages import data_url, render_page
from wafer.evaluation.tables import markdown_table
from wafer.experiments.table3.plan import EXPERIMENTS, Experiment, Scale, Setting
from wafer.experiments.table3.running import ADOPTED, MEASURED, Outcome

__all__ = ["Table3", "terminal_table"]

CSV_FILE, MARKDOWN_FILE, PAGE_FILE = "table3.csv", "table3.md", "report.html"
TEMPLATE = "table3.html.j2"
TRAINING_BATCH = "train_batch0.jpg"

# By the name of each figure in ``Published``: its key in metrics.json, its heading.
FIGURES = {
    "precision": ("box_precision", "precision"),
    "recall": ("box_recall", "recall"),
    "map50_95": ("map50_95", "mAP50-95"),
}
CLASS_FIGURES = {
    "precision": "box_precision",
    "recall": "box_recall",
    "AP50": "ap50",
    "AP50-95": "ap50_95",
}
HEAD = (
    *("", "batch (paper)", "epochs (paper)", "image weights"),
    *(f"{heading}, {of}" for _, heading in FIGURES.values() for of in ("paper", *MEASURED)),
)
CLASS_HEAD = ("class", "images", "boxes", *CLASS_FIGURES)
NOTHING = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table3:
    """The table as far as it is finished, with all that its reader has to know.

    ``folder`` is where it is written. ``settings`` are the paper's beside ours, ``notes`` what
    there is to say about the data, ``synthetic`` whether the images are.
    """

    folder: Path
    scale: Scale
    settings: tuple[Setting, ...]
    notes: tuple[str, ...]
    synthetic: bool
    outcomes: tuple[Outcome, ...]

    @property
    def page(self) -> Path:
        """Return the path of the HTML page, which is there once all experiments are finished."""
        return self.folder / PAGE_FILE

    @property
    def best(self) -> Outcome | None:
        """Return the experiment of the highest mAP50-95 on val; test has no say in it."""
        known = [each for each in self.outcomes if each.metrics["val"]["map50_95"] is not None]
        return max(known, key=lambda each: float(each.metrics["val"]["map50_95"]), default=None)

    @property
    def verdict(self) -> str | None:
        """Return how the evolution ended, None before it has."""
        return next((each.verdict for each in self.outcomes if each.verdict is not None), None)

    def to_dict(self) -> dict[str, Any]:
        """Return the table as a JSON object."""
        best = self.best
        return {
            "table": 3,
            "scale": self.scale.name,
            "synthetic": self.synthetic,
            "rows": self.rows(),
            "evolution": self.verdict,
            "best": None if best is None else best.experiment.name,
            "best_per_class": None if best is None else best.metrics["test"]["per_class"],
            "settings": [asdict(setting) for setting in self.settings],
            "notes": list(self.notes),
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return one mapping for each experiment, None for what is not there yet."""
        finished = {each.experiment.name: each for each in self.outcomes}
        return [self._row(each, finished.get(each.name)) for each in EXPERIMENTS]

    def _row(self, experiment: Experiment, outcome: Outcome | None) -> dict[str, Any]:
        told = {} if outcome is None else outcome.arguments
        return {
            "experiment": experiment.name,
            "scale": self.scale.name,
            "paper_batch": experiment.batch,
            "batch": self.scale.batches[experiment.batch],
            "paper_epochs": experiment.epochs,
            "epochs": self.scale.epochs[experiment.epochs],
            "image_weights": experiment.img_weights,
            "trainings": self.scale.generations if experiment.evolves else 1,
            "hyperparameters": _hyperparameters(experiment, outcome),
            "optimizer": told.get("optimizer"),
            "seed": told.get("seed"),
            **{f"paper_{name}": getattr(experiment.published, name) for name in FIGURES},
            **{
                f"{split}_{name}": None if outcome is None else outcome.metrics[split][key]
                for split in MEASURED
                for name, (key, _) in FIGURES.items()
            },
            "run": None if outcome is None else str(outcome.run.relative_to(self.folder)),
        }

    def write(self) -> None:
        """Write the CSV and the Markdown page as things stand."""
        write_text(self.folder / CSV_FILE, self._csv())
        write_text(self.folder / MARKDOWN_FILE, self._markdown())

    def write_page(self) -> None:
        """Write the HTML page, with the pictures of the best experiment in it.

        Raises:
            ValueError: no experiment is finished.
        """
        best = self.best or next(iter(self.outcomes), None)
        if best is None:
            raise ValueError("a table without a finished experiment has no page")
        pictures = {
            "confusion": best.run / "test" / "confusion_detection.png",
            "comparison": best.run / "test" / "truth_and_prediction.png",
            "batch": best.run / TRAINING_BATCH,
        }
        page = render_page(
            "wafer.experiments.table3",
            TEMPLATE,
            table=self,
            headings=[heading for _, heading in FIGURES.values()],
            rows=list(_shown_rows(self)),
            best=best,
            class_head=CLASS_HEAD,
            classes=list(_class_rows(best)),
            names=list(enumerate(_detector_names(best))),
            pictures={
                name: data_url(path.read_bytes(), path.suffix[1:].replace("jpg", "jpeg"))
                for name, path in pictures.items()
                if path.is_file()
            },
        )
        write_bytes(self.page, page)

    def _csv(self) -> str:
        text = io.StringIO()
        rows = self.rows()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    def _markdown(self) -> str:
        best = self.best
        lines = [
            f"# Table 3 at scale {self.scale.name}",
            "",
            f"{len(self.outcomes)} of {len(EXPERIMENTS)} experiments are finished. "
            + _reading(self),
            "",
            *markdown_table(HEAD, _shown_rows(self)),
        ]
        if self.verdict is not None:
            lines += ["", f"Evolution (exp6): {self.verdict}."]
        lines += [f"\nNote: {note}." for note in self.notes]
        settings = ([each.name, each.paper, each.here] for each in self.settings)
        lines += ["", "## Settings", "", *markdown_table(("", "paper", "here"), settings)]
        if best is not None:
            lines += ["", f"## Every class, {best.experiment.name} on test", ""]
            lines += markdown_table(CLASS_HEAD, _class_rows(best))
        return "\n".join(lines) + "\n"


def terminal_table(table: Table3) -> Table:
    """Return the table for a terminal: of each figure the paper's, ours on val, ours on test."""
    shown = Table(
        box=box.SIMPLE_HEAD,
        padding=0,  # so that it fits into 80 columns
        show_edge=False,
        caption="of each figure: paper, val, test",
        caption_justify="left",
    )
    for name in ("", "batch", "epochs", "img-w"):
        shown.add_column(name, justify="right", no_wrap=True)
    for _, heading in FIGURES.values():
        shown.add_column(heading, justify="right", no_wrap=True)
    for row in table.rows():
        shown.add_row(
            row["experiment"],
            str(row["batch"]),
            str(row["epochs"]),
            "yes" if row["image_weights"] else "no",
            *(" ".join(_number(row[key], 3) for key in _keys(name)) for name in FIGURES),
            style="bold" if table.best and table.best.experiment.name == row["experiment"] else "",
        )
    return shown


def _reading(table: Table3) -> str:
    """Return how the figures are to be read."""
    of = "The images are synthetic, the paper's are not. " if table.synthetic else ""
    return (
        f"{of}The paper's figures are of its own validation images; ours are of val, which chose "
        "the epoch, and of test, which no training saw."
    )


def _hyperparameters(experiment: Experiment, outcome: Outcome | None) -> str:
    """Return where the hyperparameters come from that a training had."""
    if experiment.evolved:
        return "of exp6"
    adopted = outcome is not None and (outcome.verdict or "").startswith(ADOPTED)
    return "evolved" if adopted else "defaults"


def _shown_rows(table: Table3) -> Iterable[list[str]]:
    """Yield the cells under ``HEAD``."""
    for row in table.rows():
        yield [
            str(row["experiment"]),
            f"{row['batch']} ({row['paper_batch']})",
            f"{row['epochs']} ({row['paper_epochs']})"
            + (f" x {row['trainings']}" if row["trainings"] > 1 else ""),
            "yes" if row["image_weights"] else "no",
            *(_number(row[key], 4) for name in FIGURES for key in _keys(name)),
        ]


def _class_rows(outcome: Outcome) -> Iterable[list[str]]:
    """Yield the cells under ``CLASS_HEAD``, of the classes that have boxes."""
    metrics = outcome.metrics["test"]
    counts = metrics["detection_confusion"]["counts"][:-1]
    for name, found in zip(_detector_names(outcome), counts, strict=True):
        figures = metrics["per_class"][name]
        shares = (_number(figures[key], 3) for key in CLASS_FIGURES.values())
        yield [name, str(figures["support"]), str(sum(found)), *shares]


def _detector_names(outcome: Outcome) -> list[str]:
    names: list[str] = outcome.metrics["test"]["detection_confusion"]["classes"][:-1]
    return names


def _keys(name: str) -> tuple[str, ...]:
    return tuple(f"{of}_{name}" for of in ("paper", *MEASURED))


def _number(value: float | None, digits: int) -> str:
    return NOTHING if value is None else f"{value:.{digits}f}"
