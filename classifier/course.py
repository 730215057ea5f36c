"""The course of a training: losses of each epoch, and when to stop."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wafer.classifier.models import Logits
from wafer.datasets.errors import DivergedError
from wafer.datasets.files import write_text
from wafer.evaluation.temperature import log_loss

__all__ = ["RESULTS", "Course", "Epoch", "read_epochs"]

RESULTS = "results.csv"

Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Epoch:
    """Mean losses after one epoch (from 1), and the share of right classes on validation."""

    epoch: int
    train_loss: float
    val_loss: float
    val_accuracy: float


@dataclass(slots=True)
class Course:
    """The epochs of a training so far, in ``results.csv`` of its run.

    ``patience`` epochs without a lower loss on validation end it; 0 never does.
    """

    folder: Path
    patience: int
    epochs: list[Epoch] = field(default_factory=list)

    @property
    def best(self) -> Epoch:
        """Return the epoch with the lowest loss on validation, the first of several."""
        return min(self.epochs, key=lambda epoch: epoch.val_loss)

    @property
    def over(self) -> bool:
        """Return whether patience has run out."""
        return bool(self.epochs) and 0 < self.patience <= len(self.epochs) - self.best.epoch

    def add(self, train_loss: float, *, val_loss: float, val_accuracy: float) -> None:
        """Add an epoch.

        Raises:
            DivergedError: a loss is no number.
        """
        number = len(self.epochs) + 1
        if not (np.isfinite(train_loss) and np.isfinite(val_loss)):
            raise DivergedError(
                f"the loss of epoch {number} is no number; give a smaller --lr0, or look for "
                "damaged images"
            )
        self.epochs.append(Epoch(number, float(train_loss), float(val_loss), float(val_accuracy)))

    def add_logits(self, train_loss: float, logits: Logits, labels: Labels) -> bool:
        """Add an epoch by its logits on validation, shape (N, classes); return if it is the best.

        Raises:
            DivergedError: a loss is no number.
        """
        right = float((logits.argmax(axis=1) == labels).mean())
        self.add(train_loss, val_loss=log_loss(logits, labels), val_accuracy=right)
        self.write()
        return self.best is self.epochs[-1]

    def write(self) -> None:
        """Write the table, atomically."""
        text = io.StringIO()
        writer = csv.DictWriter(text, [f.name for f in fields(Epoch)], lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" for k, v in asdict(e).items()} for e in self.epochs)
        write_text(self.folder / RESULTS, text.getvalue())


def read_epochs(folder: Path) -> tuple[Epoch, ...]:
    """Return the epochs in ``results.csv`` of a run, as `Course` wrote them."""
    with (folder / RESULTS).open(encoding="utf-8", newline="") as handle:
        return tuple(
            Epoch(
                int(row["epoch"]),
                float(row["train_loss"]),
                float(row["val_loss"]),
                float(row["val_accuracy"]),
            )
            for row in csv.DictReader(handle)
        )
