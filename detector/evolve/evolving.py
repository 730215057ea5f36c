"""Evolving hyperparameters: trial after trial until there is a verdict, killed or not.

The journal is the only memory. Whoever starts the same command, also on another machine that
shares the folder, reads it, takes the next trial that no one works on, and appends how it ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Unpack

from wafer.datasets.errors import StorageError, TrainingError
from wafer.datasets.runs import Run, adopt_run, newest_finished_run, open_shared_run
from wafer.datasets.workspace import Workspace
from wafer.detector.evolve.claims import Claim, is_alive, owner
from wafer.detector.evolve.journal import Journal
from wafer.detector.evolve.outputs import write_outputs
from wafer.detector.evolve.records import MODES, EvolveMode, Settings, Trial, TrialState, Verdict
from wafer.detector.evolve.schedule import announcement, next_step, verdict
from wafer.detector.evolve.trial import LAST_EPOCHS, Outcome, outcome_of, run_trial
from wafer.detector.exporting import export_model
from wafer.detector.training import (
    LARGEST_SEED,
    PreparedTraining,
    TrainingArguments,
    prepare_training,
)

__all__ = ["Evolved", "Running", "View", "evolve_detector", "finished_evolution"]

POLL = 2.0
"""Seconds between looks at trials that run elsewhere."""


@dataclass(frozen=True, slots=True)
class Evolved:
    """A finished evolution: its folder, the run that is its result, and why that one."""

    folder: Path
    run: Path
    verdict: Verdict
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Running:
    """How far this process's trial is; epoch and batch count from 1."""

    trial: int
    epoch: int
    epochs: int
    batch: int
    batches: int


@dataclass(frozen=True, slots=True)
class View:
    """What there is to see of an evolution at one moment.

    ``elsewhere`` names who runs a trial that is not this process's, as ``host:pid``.
    """

    settings: Settings
    trials: tuple[TrialState, ...]
    elsewhere: Mapping[int, str]
    running: Running | None = None


def evolve_detector(
    workspace: Workspace,
    *,
    trainings: int,
    mode: EvolveMode = "genetic",
    runs: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
    watch: Callable[[View], None] = lambda view: None,
    **training: Unpack[TrainingArguments],
) -> Evolved:
    """Evolve the hyperparameters of a training for the cost of so many full trainings.

    ``genetic`` trains every candidate in full, with YOLOv5 v7.0's selection and mutation and an
    additive step; ``halving`` spends the same epochs on more candidates, of which only the best
    are trained for longer; ``classic`` is v7.0 to the letter. In the first two, with more than
    three trainings, the last two are the winner and the defaults on a fresh seed, and the better
    of these is the result, unless the defaults already were the best of the search.

    Args:
        workspace: what to train on.
        trainings: the cost, at least 1.
        mode: ``genetic``, ``halving`` or ``classic``.
        runs: the folder of ``evolve/``, where the evolution is kept, and ``train/``, where its
            result is put; by default ``runs/`` of the workspace.
        say: called once with what is going to be done.
        watch: called whenever there is something new to see.
        training: as for ``prepare_training``; ``hyperparameters`` are those of candidate 0.

    Raises:
        TrainingError: an argument out of range, data that have changed, or a training that fails
            with the defaults already.
        DataError, WeightsError: as ``train_detector``.
    """
    _check_arguments(trainings, mode, seed=training.get("seed", 0))
    ready = prepare_training(workspace, **training)
    settings = Settings(
        mode=mode,
        trainings=trainings,
        epochs=ready.arguments["epochs"],
        seed=ready.arguments["seed"],
        optimizer=ready.arguments["optimizer"],
        colour=workspace.colour,
        defaults=ready.arguments["hyperparameters"],
    )
    runs = workspace.root / "runs" if runs is None else runs
    run = open_shared_run(
        runs / "evolve",
        model=str(ready.arguments["model"]),
        # On which device a process trains is no matter to the others.
        arguments={**ready.arguments, "device": None, "evolve": trainings, "evolve_mode": mode},
        dataset_hash=ready.dataset_hash,
    )
    say(announcement(settings))
    evolution = _Evolution(workspace, run, settings, training, ready, runs / "train", watch)
    evolution.reopen_defaults()
    while (found := evolution.verdict()) is None:
        evolution.work()
    return Evolved(run.folder, evolution.adopt(found), found, ready.notes)


def finished_evolution(runs: Path) -> Evolved | None:
    """Return the newest finished evolution in a folder of ``evolve/`` and ``train/``, or None."""
    run = newest_finished_run(runs / "evolve")
    if run is None:
        return None
    record = run.record
    result = runs / "train" / str(record["result"])
    return Evolved(run.folder, result, Verdict(**record["verdict"]), ())


class _Evolution:
    """One process's part in an evolution."""

    def __init__(
        self,
        workspace: Workspace,
        run: Run,
        settings: Settings,
        training: TrainingArguments,
        ready: PreparedTraining,
        results: Path,
        watch: Callable[[View], None],
    ) -> None:
        self.workspace = workspace
        self.run = run
        self.settings = settings
        self.training = training
        self.ready = ready
        self.results = results
        self.watch = watch
        self.trials: tuple[TrialState, ...] = ()
        self.elsewhere: dict[int, str] = {}

    def folder(self, trial: Trial) -> Path:
        return self.run.folder / "trials" / f"{trial.number:03d}"

    def reopen_defaults(self) -> None:
        """Try the defaults again that failed before: their failure had ended the command."""
        with Journal.locked(self.run.folder) as journal:
            trials = journal.history.trials
            if trials and trials[0].status == "failed":
                journal.append("reopened", trial=0)

    def verdict(self) -> Verdict | None:
        """Return how it ended; None as long as there is something to do."""
        with Journal.locked(self.run.folder) as journal:
            self._see(journal)
            self._check_defaults()
            if journal.history.verdict is None and self._step(journal) == "done":
                journal.append("verdict", verdict=asdict(verdict(self.settings, self.trials)))
            return journal.history.verdict

    def work(self) -> None:
        """Take the next trial and bring it to its end, or wait for others."""
        with Journal.locked(self.run.folder) as journal:
            trial = self._take(journal)
            self._see(journal, mine=trial)
            claim = None if trial is None else Claim(self.folder(trial))
        if trial is None or claim is None:
            time.sleep(POLL)
            return
        try:
            self._bring_to_end(trial, claim)
        finally:
            claim.release()

    def adopt(self, found: Verdict) -> Path:
        """Put the run of the verdict among the finished runs, once, and return it."""
        write_outputs(self.run.folder, self.settings, self.trials, found)
        state = self.trials[found.trial]
        assert state.folder is not None, "the trial of a verdict is finished"
        begun = self.run.record["started"]  # a folder that was deleted leaves its name to another
        origin = f"{self.run.folder.name}, begun {begun}, trial {found.trial}"
        result = adopt_run(self.results, Run(self.run.folder / state.folder), origin=origin)
        if result.bundle is None and self.results == self.workspace.runs:
            result.note_bundle(export_model(self.workspace, result.folder).folder)
        self.run.update(status="finished", verdict=asdict(found), result=result.folder.name)
        return result.folder

    def _step(self, journal: Journal) -> object:
        return next_step(self.settings, journal.history.trials)

    def _take(self, journal: Journal) -> Trial | None:
        """Return an open trial that no one works on, else a new one, else None."""
        for state in journal.history.trials:
            if state.status == "open" and not is_alive(self.folder(state.trial)):
                return state.trial
        step = self._step(journal)
        if not isinstance(step, Trial):
            return None
        journal.propose(step)
        return step

    def _bring_to_end(self, trial: Trial, claim: Claim) -> None:
        started = time.monotonic()
        failure = ""
        if self._outcome(trial) is None:  # else it was killed between its end and the journal's
            try:
                self._train(trial, claim)
            except StorageError:
                raise  # the trial stays open, for when there is room
            except TrainingError as error:
                failure = str(error)
                self._check_data()
        with Journal.locked(self.run.folder) as journal:
            if not claim.held:
                return  # someone thought this process dead: the trial is theirs now
            outcome = self._outcome(trial)
            if outcome is None:
                journal.append("failed", trial=trial.number, reason=failure)
            else:
                seconds = round(time.monotonic() - started, 1)
                journal.append("finished", **self._ending(trial, outcome), seconds=seconds)
            self._see(journal)
            write_outputs(self.run.folder, self.settings, self.trials, None)

    def _check_defaults(self) -> None:
        if self.trials and self.trials[0].status == "failed":
            reason = self.trials[0].reason
            raise TrainingError(f"the training fails with the defaults already: {reason}")

    def _ending(self, trial: Trial, outcome: Outcome) -> dict[str, Any]:
        return {
            "trial": trial.number,
            "fitness": outcome.fitness,
            "metrics": dict(outcome.metrics),
            "folder": str(outcome.run.relative_to(self.run.folder)),
        }

    def _train(self, trial: Trial, claim: Claim) -> None:
        def progress(epoch: int, epochs: int, batch: int, batches: int) -> None:
            if batch == 1 and not claim.held:
                raise TrainingError("another process has taken this trial over")
            running = Running(trial.number, epoch, epochs, batch, batches)
            self.watch(View(self.settings, self.trials, self.elsewhere, running))

        run_trial(
            self.workspace,
            trial,
            folder=self.folder(trial),
            training={
                **self.training,
                "optimizer": self.settings.optimizer,
                "weights": self.ready.plan.start or "none",
                # Else a fresh seed would mean other backgrounds, and data that cannot be compared.
                "draw_seed": self.ready.arguments["draw_seed"],
                "device": self.ready.arguments["device"],
            },
            dataset_hash=self.ready.dataset_hash,
            progress=progress,
        )

    def _outcome(self, trial: Trial) -> Outcome | None:
        epochs = 1 if self.settings.mode == "classic" else LAST_EPOCHS
        return outcome_of(self.folder(trial), epochs=epochs)

    def _check_data(self) -> None:
        """Stop everything where a trial failed because the data are no longer the same."""
        now = prepare_training(self.workspace, **self.training).dataset_hash
        if now != self.ready.dataset_hash:
            raise TrainingError(
                f"{self.workspace.root}: images, labels or splits have changed since "
                f"{self.run.folder.name} was begun; put them back and start the same command "
                "again, or start it with the new data for an evolution of their own"
            )

    def _see(self, journal: Journal, *, mine: Trial | None = None) -> None:
        self.trials = tuple(journal.history.trials)
        others = [s.trial for s in self.trials if s.status == "open" and s.trial != mine]
        names = {trial.number: owner(self.folder(trial)) for trial in others}
        self.elsewhere = {number: name for number, name in names.items() if name is not None}
        self.watch(View(self.settings, self.trials, self.elsewhere))


def _check_arguments(trainings: int, mode: str, *, seed: int) -> None:
    faults = []
    if seed >= LARGEST_SEED:
        faults.append(
            f"--seed must be from 0 to {LARGEST_SEED - 1} with --evolve, which takes the next one "
            "as its fresh seed"
        )
    if trainings < 1:
        faults.append("--evolve must be at least 1: it is the cost in full trainings")
    if mode not in MODES:
        faults.append(f"--evolve-mode must be one of {', '.join(MODES)}")
    if faults:
        raise TrainingError("; ".join(faults))
