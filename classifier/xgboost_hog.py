"""Boosted trees (XGBoost) on histograms of oriented gradients."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch  # noqa: TID253 - tensors are what model files hold
import xgboost  # noqa: TID253

from wafer.classifier.course import Course
from wafer.classifier.hog import BLOCK, BLOCKS, FEATURES, ORIENTATIONS, hog_features
from wafer.classifier.models import Features, Images, Logits, Progress, Settings, Task
from wafer.datasets.errors import WeightsError
from wafer.datasets.files import write_bytes, write_text
from wafer.inference.cores import thread_count
from wafer.weights.loading import Tensors

__all__ = ["IMPORTANCE", "SETTINGS", "TREES", "fit", "network"]

SETTINGS = Settings(epochs=300, batch=0, learning_rate=0.1, patience=20, image_size=256)
TREES = Path("weights", "best.json")
"""The trees as XGBoost's own tools read them, in the run folder."""
IMPORTANCE = "feature_importance.csv"

# Trees that see a third of the features each differ more, and grow three times as fast.
PARAMETERS: Mapping[str, Any] = {
    "objective": "multi:softprob",
    "eval_metric": ["merror", "mlogloss"],
    "tree_method": "hist",
    "device": "cpu",
    "max_depth": 5,
    "subsample": 0.8,
    "colsample_bytree": 0.33,
}
TENSOR = "json"


class Trees:
    """Boosted trees at work."""

    def __init__(self, booster: xgboost.Booster) -> None:
        self._booster = booster

    def logits(self, images: Images, /) -> Logits:
        """Return one number for each class, shape (N, classes)."""
        return self.look(images)[0]

    def look(self, images: Images, /) -> tuple[Logits, Features]:
        """Return the same, and the features, shape (N, 1764)."""
        features = hog_features(images)
        found = self._booster.inplace_predict(features, predict_type="margin")
        return np.asarray(found, np.float64).reshape(len(images), -1), features


class _Watch(xgboost.callback.TrainingCallback):
    """Keeps the course of a training, and ends it."""

    def __init__(self, course: Course, epochs: int, progress: Progress | None) -> None:
        self._course, self._epochs, self._progress = course, epochs, progress

    def after_iteration(self, model: Any, epoch: int, evals_log: Mapping[str, Any]) -> bool:
        train, val = evals_log["train"], evals_log["val"]
        self._course.add(
            train["mlogloss"][-1],
            val_loss=val["mlogloss"][-1],
            val_accuracy=1 - val["merror"][-1],
        )
        if self._progress is not None:
            self._progress(epoch + 1, self._epochs, 1, 1)
        return self._course.over


def fit(task: Task, /) -> Tensors:
    """Grow trees until validation gets no better; the best number of rounds is kept.

    The trees are also written to ``TREES`` in the run folder, and what each feature brought to
    ``IMPORTANCE``.
    """
    train = xgboost.DMatrix(hog_features(task.train.pixels), label=task.train.labels)
    val = xgboost.DMatrix(hog_features(task.val.pixels), label=task.val.labels)
    course = Course(task.folder, task.settings.patience)
    booster = xgboost.train(
        {
            **PARAMETERS,
            "num_class": task.classes,
            "learning_rate": task.settings.learning_rate,
            "seed": task.seed,
            "nthread": thread_count(),
        },
        train,
        task.settings.epochs,
        evals=[(train, "train"), (val, "val")],
        callbacks=[_Watch(course, task.settings.epochs, task.progress)],
        verbose_eval=False,
    )
    course.write()
    best = booster[: course.best.epoch]
    write_text(task.folder / IMPORTANCE, _importance_table(best))
    raw = bytes(best.save_raw("json"))
    write_bytes(task.folder / TREES, raw)
    return {TENSOR: torch.from_numpy(np.frombuffer(raw, np.uint8).copy())}


def network(tensors: Tensors, /, *, classes: int, channels: int, device: str) -> Trees:
    """Return the trees of a model file. They run on the CPU.

    Raises:
        WeightsError: no trees, damaged ones, or trees for other features or classes.
    """
    raw = tensors.get(TENSOR)
    if raw is None:
        raise WeightsError("this model holds no trees; train it again")
    text = raw.numpy().tobytes()
    booster = xgboost.Booster({"nthread": thread_count()})
    try:
        _check_trees(text)
        booster.load_model(bytearray(text))
    except (ValueError, LookupError, TypeError, xgboost.core.XGBoostError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise WeightsError(f"its trees cannot be read ({reason}); train it again") from error
    if booster.num_features() != FEATURES:
        raise WeightsError(
            f"its trees want {booster.num_features()} features, and there are {FEATURES}; train it "
            "again"
        )
    answered = np.size(booster.inplace_predict(np.zeros((1, FEATURES)), predict_type="margin"))
    if answered != classes:
        raise WeightsError(f"this model answers {answered} classes, its table has {classes}")
    return Trees(booster)


def _check_trees(text: bytes) -> None:
    """Raise unless every branch leads on in its own tree: XGBoost follows it wherever it leads."""
    for tree in json.loads(text)["learner"]["gradient_booster"]["model"]["trees"]:
        here = np.arange(len(tree["left_children"]))
        for branch in ("left_children", "right_children"):
            to = np.asarray(tree[branch])
            inside = (to > here) & (to < len(here))
            if to.shape != here.shape or not (inside | (to == -1)).all():
                raise ValueError("a branch leads out of its tree")
        if not (np.asarray(tree["split_indices"]) < FEATURES).all():
            raise ValueError("a tree asks for a feature that does not exist")


def _importance_table(booster: xgboost.Booster) -> str:
    """Return a CSV of the features that some tree uses, the one that brought most first."""
    gains: Mapping[str, Any] = booster.get_score(importance_type="total_gain")
    shape = (BLOCKS, BLOCKS, BLOCK, BLOCK, ORIENTATIONS)
    rows: list[Sequence[object]] = [
        (*(int(i) for i in np.unravel_index(int(name.removeprefix("f")), shape)), f"{gain:.6g}")
        for name, gain in sorted(gains.items(), key=lambda item: (-float(item[1]), item[0]))
    ]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["block_row", "block_column", "cell_row", "cell_column", "orientation", "total_gain"]
    )
    writer.writerows(rows)
    return text.getvalue()
