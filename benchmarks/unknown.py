"""Unknown classes: each class in turn is kept from a classifier, which should then say so.

    python benchmarks/unknown.py WORKSPACE FOLDER --model efficientnet_lite0

For each class a model is trained on the images of all others. Known are the test images of those,
unknown all images of the class that was left out. AUROC, FPR at 95 % TPR (known images are the
positive ones) and OSCR are over all thresholds; found and rejected are the shares of unknown and of
known images that are decided `unknown` by thresholds fitted on validation images for 5 % of each
class, as `wafer classify --reject` uses them. What is finished is kept in FOLDER and not repeated,
and a training that was killed is gone on with. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from wafer.classifier.images import Chosen, LabelledImages, choose_images, load_images
from wafer.classifier.knowing import seen
from wafer.classifier.loading import look_at
from wafer.classifier.models import Network, Task, model_named
from wafer.classifier.names import CLASSIFIERS, NETWORKS
from wafer.classifier.pretrained import first_weights
from wafer.datasets.files import write_text
from wafer.datasets.records import Split
from wafer.datasets.workspace import Workspace, dataset_hash, open_workspace
from wafer.evaluation.open_set import open_set
from wafer.evaluation.rejecting import (
    METHODS,
    Seen,
    fit_known,
    kept_images,
    rejection_by,
    scores_by,
)
from wafer.evaluation.temperature import fit_temperature

FIGURES = ("auroc", "fpr95", "oscr", "found", "rejected")
SPLITS: tuple[Split, ...] = ("train", "val", "test")


def main() -> None:
    """Train and measure what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("workspace", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", choices=CLASSIFIERS, default="efficientnet_lite0")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--imgsz", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", metavar="CLASS", help="leave out these alone")
    given = parser.parse_args()
    workspace = open_workspace(given.workspace)
    rows = []
    for name in given.only or workspace.classes.names:
        path = given.folder / f"{given.model}-{name}" / "result.json"
        wanted = settings_of(workspace, given)
        if not path.is_file() or json.loads(path.read_text())["settings"] != wanted:
            path.parent.mkdir(parents=True, exist_ok=True)
            found = measured(workspace, name, given, path.parent)
            row = {"left_out": name, "settings": wanted, **found}
            write_text(path, json.dumps(row, indent=2) + "\n")
        rows.append(json.loads(path.read_text()))
        sys.stderr.write(f"{name}: accuracy {rows[-1]['accuracy']:.3f}\n")
    sys.stdout.write(f"{overall(rows)}\n{by_class(rows)}")


def settings_of(workspace: Workspace, given: argparse.Namespace) -> dict[str, Any]:
    """Return all that decides a result."""
    return {
        **{key: vars(given)[key] for key in ("model", "epochs", "imgsz", "seed")},
        "dataset_hash": dataset_hash(workspace, workspace.samples()),
    }


def measured(
    workspace: Workspace, left_out: str, given: argparse.Namespace, folder: Path
) -> dict[str, Any]:
    """Train without a class and return the figures of each method."""
    module = model_named(given.model)
    changes = {"epochs": given.epochs, "image_size": given.imgsz}
    settings = replace(
        module.SETTINGS, **{key: value for key, value in changes.items() if value is not None}
    )
    names = [name for name in workspace.classes.names if name != left_out]
    parts = {split: images(workspace, split, names, size=settings.image_size) for split in SPLITS}
    task = Task(
        train=parts["train"],
        val=parts["val"],
        classes=len(names),
        settings=settings,
        start=first_weights(given.model, "cached") if given.model in NETWORKS else None,
        seed=given.seed,
        device="cpu",
        folder=folder,
        progress=lambda epoch, epochs, *_: sys.stderr.write(f"\r{left_out} {epoch}/{epochs} "),
    )
    (folder / "weights").mkdir(exist_ok=True)
    channels = 3 if workspace.colour else 1
    network = module.network(module.fit(task), classes=len(names), channels=channels, device="cpu")
    unknown = [images(workspace, s, [left_out], size=settings.image_size) for s in SPLITS]
    return figures(network, task, parts["test"], np.concatenate([part.pixels for part in unknown]))


def images(workspace: Workspace, split: Split, names: list[str], *, size: int) -> LabelledImages:
    """Return the images of some classes, labelled by their places among these."""
    chosen = choose_images(workspace, workspace.samples(), split)
    pairs = [pair for pair in zip(chosen.samples, chosen.names, strict=True) if pair[1] in names]
    some = Chosen(tuple(s for s, _ in pairs), tuple(name for _, name in pairs), 0, 0)
    loaded = load_images(workspace, some, image_size=size)
    return replace(loaded, labels=np.array([names.index(name) for name in some.names], np.int64))


def figures(
    network: Network, task: Task, known: LabelledImages, unknown: np.ndarray
) -> dict[str, Any]:
    """Return the accuracy on known classes, and what each method makes of unknown images."""
    given = look_at(network, task.val.pixels)
    temperature = fit_temperature(given[0], task.val.labels)

    def look(pixels: np.ndarray) -> Seen:
        return seen(*look_at(network, pixels), temperature=temperature)

    kept = kept_images(task.train.labels, seed=task.seed)
    fitted = fit_known(
        look(task.train.pixels[kept]),
        task.train.labels[kept],
        val=seen(*given, temperature=temperature),
        classes=task.classes,
    )
    ours, theirs = look(known.pixels), look(unknown)
    right = ours.answered == known.labels
    of_methods = {}
    for method in METHODS:
        thresholds = rejection_by(method, fitted).thresholds
        scores = [scores_by(method, fitted, each) for each in (ours, theirs)]
        rejected, found = (
            float((score > thresholds[each.answered]).mean())
            for score, each in zip(scores, (ours, theirs), strict=True)
        )
        figures_of = asdict(open_set(*scores, right=right))
        of_methods[method] = {**figures_of, "found": found, "rejected": rejected}
    return {
        "accuracy": float(right.mean()),
        "known": len(known),
        "unknown": len(unknown),
        "methods": of_methods,
    }


def overall(rows: list[dict[str, Any]]) -> str:
    """Return the mean over the classes that were left out, by method, as Markdown."""
    lines = [f"| method | {' | '.join(FIGURES)} |", "|---" * (1 + len(FIGURES)) + "|"]
    for method in METHODS:
        means = (statistics.mean(r["methods"][method][f] for r in rows) for f in FIGURES)
        lines.append(f"| {method} | {' | '.join(f'{mean:.3f}' for mean in means)} |")
    return "\n".join(lines) + "\n"


def by_class(rows: list[dict[str, Any]]) -> str:
    """Return what is found of each class that was left out, by method, as Markdown."""
    lines = [f"| left out | images | accuracy of the rest | {' | '.join(METHODS)} |"]
    lines.append("|---" * (3 + len(METHODS)) + "|")
    for row in rows:
        found = (row["methods"][method]["found"] for method in METHODS)
        cells = [row["left_out"], str(row["unknown"]), f"{row['accuracy']:.3f}"]
        lines.append(f"| {' | '.join([*cells, *(f'{share:.3f}' for share in found)])} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
