"""One trial in a process of its own: ``-m wafer.detector.evolve.trial FILE``.

A training that takes the interpreter down with it, for lack of memory or by a fault of a driver,
is then a failed trial and not the end of the evolution.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wafer.datasets.errors import DataError, Fault
from wafer.datasets.files import write_text
from wafer.datasets.runs import newest_finished_run
from wafer.datasets.workspace import Workspace, open_workspace
from wafer.detector.evolve.records import Trial
from wafer.detector.finishing import RESULTS
from wafer.detector.processes import Progress, child_process, report_progress, run_child
from wafer.detector.training import TrainingArguments, train_detector

__all__ = ["Outcome", "outcome_of", "run_trial"]

SPECIFICATION = "trial.json"
LAST_EPOCHS = 3
"""Whose mean is the fitness: the best epoch of many would be the luckiest one."""
COLUMNS = {
    "precision": "metrics/precision(B)",
    "recall": "metrics/recall(B)",
    "map50": "metrics/mAP50(B)",
    "map50_95": "metrics/mAP50-95(B)",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a trial's training came to: its run folder, its fitness, its last validation."""

    run: Path
    fitness: float
    metrics: Mapping[str, float]


def run_trial(
    workspace: Workspace,
    trial: Trial,
    *,
    folder: Path,
    training: TrainingArguments,
    dataset_hash: str,
    progress: Progress | None = None,
) -> None:
    """Train one trial in a child process; one that was killed goes on after its last epoch.

    Args:
        workspace: where the data are.
        trial: what to train.
        folder: of the trial; its run goes there.
        training: all arguments but those that the trial decides.
        dataset_hash: the data that the evolution is on.
        progress: called after every batch.

    Raises:
        TrainingError: the training failed.
    """
    weights = training.get("weights")
    arguments = {
        **training,
        "weights": weights if weights in (None, "none") else str(weights),
        "hyperparameters": dict(trial.hyp),
        "epochs": trial.epochs,
        "seed": trial.seed,
    }
    specification = folder / SPECIFICATION
    content = {
        "workspace": str(workspace.root),
        "runs": str(folder),
        "expected_hash": dataset_hash,
        "arguments": arguments,
    }
    write_text(specification, json.dumps(content, indent=2) + "\n")
    command = [sys.executable, "-m", "wafer.detector.evolve.trial", str(specification)]
    run_child(command, progress=progress)


def outcome_of(folder: Path, *, epochs: int = LAST_EPOCHS) -> Outcome | None:
    """Return what the finished training in the folder of a trial came to; None without one.

    Args:
        folder: of the trial.
        epochs: the fitness, ``0.1 x mAP50 + 0.9 x mAP50-95`` on val (YOLOv5), is the mean over
            so many last validations.

    Raises:
        DataError: its results are damaged.
    """
    run = newest_finished_run(folder)
    if run is None:
        return None
    rows = _validations(run.folder / RESULTS)
    fitness = [0.1 * row["map50"] + 0.9 * row["map50_95"] for row in rows[-epochs:]]
    return Outcome(run.folder, sum(fitness) / len(fitness), rows[-1])


def _validations(path: Path) -> list[dict[str, float]]:
    """Return what was measured after each epoch, one at least."""
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            table = csv.DictReader(handle, skipinitialspace=True)
            rows = [{name: float(row[key]) for name, key in COLUMNS.items()} for row in table]
    except (FileNotFoundError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise _damaged(path) from error
    if not rows:
        raise _damaged(path)
    return rows


def _damaged(path: Path) -> DataError:
    problem = "the results of a finished trial are missing or damaged"
    remedy = f"remove the run folder {path.parent}, and the trial is trained again"
    return DataError([Fault(file=str(path), problem=problem, remedy=remedy)])


def main() -> None:
    """Train what the file on the command line says."""
    content: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    arguments = content["arguments"]
    if arguments["weights"] not in (None, "none"):
        arguments["weights"] = Path(arguments["weights"])
    train_detector(
        open_workspace(Path(content["workspace"])),
        runs=Path(content["runs"]),
        expected_hash=content["expected_hash"],
        any_device=True,  # whoever takes a trial over may have another one
        progress=report_progress,
        **arguments,
    )


if __name__ == "__main__":
    with child_process():
        main()
