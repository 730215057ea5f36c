"""Running the experiments of Table 3 one after the other, none of them twice.

What is finished is seen from the run folders: each experiment has a folder of runs of its own, in
which a finished run is its result, and a run with a report of a split has been measured on it. So
nothing is lost or repeated at whatever moment the command is killed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wafer.datasets.errors import DataError, Fault, WorkspaceError
from wafer.datasets.records import Sample
from wafer.datasets.runs import newest_finished_run
from wafer.datasets.splits import missing_classes
from wafer.datasets.workspace import Workspace, dataset_hash, select
from wafer.detector.evaluating import evaluate_model
from wafer.detector.evolve.evolving import Evolved, View, evolve_detector, finished_evolution
from wafer.detector.hyperparameters import read_hyp
from wafer.detector.training import TrainingArguments, prepare_training, train_detector
from wafer.evaluation.report import METRICS_FILE, REPORT_FILE
from wafer.experiments.record import Progress
from wafer.experiments.table3.plan import (
    EXPERIMENTS,
    Experiment,
    Scale,
    cost,
    training_arguments,
)
from wafer.inference.devices import training_devices

__all__ = ["ADOPTED", "MEASURED", "Outcome", "Series", "check_splits", "data_of"]

MEASURED: tuple[Literal["val"], Literal["test"]] = ("val", "test")
HYPERPARAMETERS = "hyp_evolve.yaml"
ADOPTED = "adopted"
"""How the verdict on an evolution begins whose result is better than the defaults."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished experiment.

    ``run`` is the folder of its training, ``arguments`` what that was told, ``metrics`` the
    content of metrics.json for each of ``MEASURED``; ``verdict`` says how an evolution ended.
    """

    experiment: Experiment
    run: Path
    arguments: Mapping[str, Any]
    metrics: Mapping[str, Mapping[str, Any]]
    verdict: str | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """The first weights: the SHA-256 of their file, None from scratch, and what to call them."""

    digest: str | None
    text: str


@dataclass(frozen=True, slots=True)
class Series:
    """The seven experiments on one workspace.

    ``folder`` gets a folder of runs for each; ``common`` goes to ``training_arguments``; ``data``
    is what ``data_of`` said of the workspace.
    """

    folder: Path
    workspace: Workspace
    scale: Scale
    common: Mapping[str, Any]
    data: str
    progress: Progress

    def check(self) -> Start:
        """Check the arguments of every experiment, before the first one takes its hour.

        Returns:
            The first weights of all of them.

        Raises:
            TrainingError, DataError, WeightsError: as ``prepare_training``.
        """
        for experiment in EXPERIMENTS:
            ready = prepare_training(self.workspace, **self._arguments(experiment))
        path = ready.plan.start
        if path is None:
            return Start(None, "none: from scratch")
        text = path.name
        if self.common["weights"] is None:
            text = f"{path.stem}, which comes with wafer and was trained on synthetic images"
        return Start(ready.arguments["weights"], text)

    def run(self) -> Iterator[Outcome]:
        """Yield one experiment after the other as they are finished.

        Raises:
            TrainingError, DataError, WeightsError: as ``train_detector``.
            WorkspaceError: the data have changed on the way.
        """
        spent = 0
        for experiment in EXPERIMENTS:
            if data_of(self.workspace) != self.data:
                raise WorkspaceError(
                    f"{self.workspace.root}: images, labels or splits have changed; put them back "
                    f"and start the same command again, it goes on with {experiment.name}"
                )
            yield self._outcome(experiment, spent)
            spent += cost(experiment, self.scale)
            self._tell_all(spent)

    def _outcome(self, experiment: Experiment, spent: int) -> Outcome:
        verdict = None
        if experiment.evolves:
            evolved = self._evolved(experiment, spent)
            run, kept = evolved.run, ADOPTED if evolved.verdict.adopted else "defaults kept"
            verdict = f"{kept}: {' '.join(evolved.verdict.reason.split())}"
        else:
            run = self._trained(experiment, spent)
        return Outcome(
            experiment=experiment,
            run=run,
            arguments=_read(run / "run.json")["arguments"],
            metrics={split: self._measured(run, split) for split in MEASURED},
            verdict=verdict,
        )

    def _trained(self, experiment: Experiment, spent: int) -> Path:
        runs = self._runs(experiment)
        finished = newest_finished_run(runs)
        if finished is not None:
            return finished.folder

        def progress(epoch: int, epochs: int, batch: int, batches: int) -> None:
            self._tell_both(experiment, spent, epoch - 1 + batch / batches)

        arguments = self._arguments(experiment)
        return train_detector(self.workspace, runs=runs, progress=progress, **arguments).folder

    def _evolved(self, experiment: Experiment, spent: int) -> Evolved:
        runs = self._runs(experiment)
        finished = finished_evolution(runs)
        if finished is not None:
            return finished

        def watch(view: View) -> None:
            done = sum(state.trial.epochs for state in view.trials if state.status != "open")
            now = view.running
            part = 0.0 if now is None else now.epoch - 1 + now.batch / now.batches
            self._tell_both(experiment, spent, done + part)

        return evolve_detector(
            self.workspace,
            trainings=self.scale.generations,
            mode="classic",
            runs=runs,
            watch=watch,
            **self._arguments(experiment),
        )

    def _arguments(self, experiment: Experiment) -> TrainingArguments:
        arguments = training_arguments(experiment, self.scale, **self.common)
        if experiment.evolved:
            (evolving,) = (each for each in EXPERIMENTS if each.evolves)
            evolved = finished_evolution(self._runs(evolving))
            if evolved is not None:
                hyp = read_hyp(evolved.folder / HYPERPARAMETERS)
                arguments["hyperparameters"] = hyp.values
                arguments["optimizer"] = hyp.optimizer or self.scale.optimizer
        return arguments

    def _measured(self, run: Path, split: Literal["val", "test"]) -> Mapping[str, Any]:
        folder = run / split
        if not (folder / REPORT_FILE).is_file():  # it is written last
            evaluate_model(
                self.workspace,
                weights=run,
                split=split,
                device=training_devices(self.common["device"]).split(",")[0],
                folder=folder,
                progress=lambda done, total: self.progress("evaluating", done, total),
            )
        return _read(folder / METRICS_FILE)

    def _runs(self, experiment: Experiment) -> Path:
        return self.folder / "runs" / experiment.name

    def _tell_both(self, experiment: Experiment, spent: int, epochs: float) -> None:
        self.progress(experiment.name, epochs, cost(experiment, self.scale))
        self._tell_all(spent + epochs)

    def _tell_all(self, epochs: float) -> None:
        self.progress("all", epochs, sum(cost(each, self.scale) for each in EXPERIMENTS))


def data_of(workspace: Workspace) -> str:
    """Return 64 digits that change with any image or label of train, val or test."""
    return dataset_hash(workspace, _used(workspace))


def check_splits(workspace: Workspace) -> tuple[str, ...]:
    """Check that there is something to train on, to choose by and to report on.

    Returns:
        Notes about classes that a split has no image of.

    Raises:
        DataError: a split without a labelled image; all such splits together.
    """
    samples = _used(workspace)
    empty = [split for split in ("train", *MEASURED) if all(s.split != split for s in samples)]
    if empty:
        remedy = "label some, or run `wafer split`; it takes three groups (lots, wafers) or more"
        raise DataError(
            Fault(
                file=str(workspace.root),
                problem=f"no labelled image in the split {split}",
                remedy=remedy,
            )
            for split in empty
        )
    return tuple(
        f"no image of class {name} in {' and '.join(parts)}"
        for name, parts in missing_classes(samples).items()
    )


def _used(workspace: Workspace) -> Sequence[Sample]:
    return select(workspace.samples(), "all").samples


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
