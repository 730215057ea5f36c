"""Grid search of the learning rate: a training for each rate, and the best becomes the model.

The trainings lie in the folder of the search, each in one of its own; ``run.json`` of the search
says which rates failed. That is all that a search goes on from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Unpack

from wafer.classifier.course import read_epochs
from wafer.classifier.exporting import export_classifier
from wafer.classifier.grid_outputs import Point, write_outputs
from wafer.classifier.names import NETWORKS
from wafer.classifier.training import (
    ClassifierArguments,
    Plan,
    plan_notes,
    plan_training,
    run_training,
)
from wafer.datasets.errors import DivergedError, TrainingError
from wafer.datasets.runs import Run, adopt_run, locked, newest_finished_run, open_run
from wafer.datasets.workspace import Workspace

__all__ = ["Searched", "learning_rates", "search_grid"]

Watch = Callable[[str, float, float], None]
"""Called with the training, how many of its batches are done, and how many there may be."""


@dataclass(frozen=True, slots=True)
class Searched:
    """A finished search: its folder, the run that is its result, and all points by rate."""

    folder: Path
    run: Path
    points: tuple[Point, ...]
    notes: tuple[str, ...]


def learning_rates(grid: str) -> tuple[float, ...]:
    """Return the rates of a grid ``lr=RATE,RATE...``, the smallest first.

    Raises:
        TrainingError: it is no such grid, or has fewer than two different rates.

    Example:
        >>> learning_rates("lr=0.01,0.001")
        (0.001, 0.01)
    """
    name, equals, values = grid.partition("=")
    if name.strip() != "lr" or not equals:
        raise TrainingError(
            f"--grid {grid} names no learning rates; give them as lr=0.0001,0.001,0.01"
        )
    rates = [_rate(text.strip(), grid) for text in values.split(",")]
    twice = next((rate for rate in rates if rates.count(rate) > 1), None)
    if twice is not None:
        raise TrainingError(f"--grid {grid} names {twice:g} twice; name each rate once")
    if len(rates) == 1:
        raise TrainingError(f"--grid {grid} is one rate; give --lr0 {rates[0]:g}, or name more")
    return tuple(sorted(rates))


def search_grid(
    workspace: Workspace,
    rates: Sequence[float],
    *,
    watch: Watch = lambda text, done, total: None,
    **training: Unpack[ClassifierArguments],
) -> Searched:
    """Train a classifier once for each learning rate; the best by its loss on val is the result.

    A search of the same arguments and data that was killed is gone on with: a finished training is
    not repeated, an unfinished one goes on as `train_classifier` does. A rate at which the training
    diverges is a failed point. The search is in ``runs/grid`` of the workspace with ``grid.csv``
    and ``grid.png``; its result is copied among the runs of the workspace.

    Args:
        workspace: where the images, classes and runs are.
        rates: from `learning_rates`.
        watch: called after every batch.
        training: as for `plan_training`; ``lr0`` is that of each point instead.

    Raises:
        TrainingError: as `train_classifier`, or every rate failed.
        DataError, WeightsError: as `train_classifier`.
    """
    plan = plan_training(workspace, **training)
    plans = [replace(plan, settings=replace(plan.settings, learning_rate=rate)) for rate in rates]
    search, _ = open_run(
        workspace.root / "runs" / "grid",
        model=plan.model,
        arguments={**plan.arguments, "learning_rate": list(rates)},
        dataset_hash=plan.dataset_hash,
    )
    with locked(search):
        points: list[Point] = []
        for each in plans:
            points.append(_point(workspace, search, each, watch))
            write_outputs(search.folder, points)
        best = _best(search, points)
        run = adopt_run(
            workspace.runs,
            Run(search.folder / best.run),
            origin=f"{search.folder.name}, begun {search.record['started']}",
        )
        if run.bundle is None and plan.model in NETWORKS:
            run.note_bundle(export_classifier(workspace, run.folder).folder)
        search.update(status="finished", learning_rate=best.rate, result=run.folder.name)
    notes = (*plan_notes(workspace.classes, plan), *_notes(points, best))
    return Searched(search.folder, run.folder, tuple(points), notes)


def _rate(text: str, grid: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        raise TrainingError(f"--grid {grid}: {text!r} is no number; mend or leave it out") from None
    if not 0 < rate <= 1:
        raise TrainingError(f"--grid {grid}: a rate must be above 0 and at most 1, not {text}")
    return rate


def _point(workspace: Workspace, search: Run, plan: Plan, watch: Watch) -> Point:
    """Return a point of the grid, trained now unless it was before."""
    rate = plan.settings.learning_rate
    failed: dict[str, str] = search.record.get("failed", {})
    runs = search.folder / "points" / f"lr-{rate}"
    if str(rate) in failed:
        return Point(rate, reason=failed[str(rate)])
    found = newest_finished_run(runs)
    if found is None:

        def progress(epoch: int, epochs: int, batch: int, batches: int) -> None:
            watch(f"lr {rate}", (epoch - 1) * batches + batch, epochs * batches)

        try:
            found = Run(
                run_training(workspace, plan, runs=runs, bundle=False, progress=progress).folder
            )
        except DivergedError as error:  # after any other the point stays open
            search.update(failed={**failed, str(rate): str(error)})
            return Point(rate, reason=str(error))
    return Point(rate, str(found.folder.relative_to(search.folder)), read_epochs(found.folder))


def _best(search: Run, points: Sequence[Point]) -> Point:
    trained = [point for point in points if point.epochs]
    if not trained:
        search.update(failed={})  # so that the same command tries again
        raise TrainingError(f"every rate of the grid failed; the first: {points[0].reason}")
    return min(trained, key=lambda point: point.best.val_loss)


def _notes(points: Sequence[Point], best: Point) -> tuple[str, ...]:
    texts = [f"lr {point.rate:g} failed: {point.reason}" for point in points if point.reason]
    if best in (points[0], points[-1]):
        end = "smallest" if best is points[0] else "largest"
        texts.append(f"the best rate is the {end} of the grid: a wider one may have a better")
    return tuple(texts)
