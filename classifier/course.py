"""The course of a training: losses of each epoch, and when to stop."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np

from wafer.classifier.models import Logits
from wafer.datasets.errors import TrainingError
from wafer.datasets.files import write_text
from wafer.evaluation.temperature import log_loss

__all__ = ["RESULTS", "Course", "Epoch"]

RESULTS = "results.csv"


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

    def add(self, train_loss: float, logits: Logits, labels: np.typing.NDArray[np.int64]) -> bool:
        """Add an epoch by its answers on validation; returns whether it is the best so far.

        Args:
            train_loss: mean loss over the training images of the epoch.
            logits: on validation. Shape: (N, classes).
            labels: true classes. Shape: (N,).

        Raises:
            TrainingError: a loss is no number.
        """
        number = len(self.epochs) + 1
        val_loss = log_loss(logits, labels)
        if not (np.isfinite(train_loss) and np.isfinite(val_loss)):
            raise TrainingError(
                f"the loss of epoch {number} is no number; give a smaller --lr0, or look for "
                "damaged images"
            )
        best = min((e.val_loss for e in self.epochs), default=np.inf)
        right = float((logits.argmax(axis=1) == labels).mean())
        self.epochs.append(Epoch(number, float(train_loss), val_loss, right))
        self._write()
        return val_loss < best

    @property
    def over(self) -> bool:
        """Return whether patience has run out."""
        best = min(self.epochs, key=lambda e: e.val_loss, default=None)
        return best is not None and 0 < self.patience <= len(self.epochs) - best.epoch

    def _write(self) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, [f.name for f in fields(Epoch)], lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" for k, v in asdict(e).items()} for e in self.epochs)
        write_text(self.folder / RESULTS, text.getvalue())
