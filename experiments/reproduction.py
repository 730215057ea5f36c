"""The paper's tables on data of one's own, the published figures beside ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from wafer.datasets.workspace import Workspace
from wafer.detector.training import check_start
from wafer.experiments.comparison import plan as comparison
from wafer.experiments.comparison.outputs import Comparison
from wafer.experiments.comparison.running import (
    Models,
    check_images,
    digests,
    first_weights_here,
    has_boxes,
)
from wafer.experiments.comparison.running import data_of as compared_data
from wafer.experiments.record import Progress, check_files, claim_folder, opened_folder
from wafer.experiments.table3.outputs import Table3
from wafer.experiments.table3.plan import SCALES, Scale, ScaleName, settings
from wafer.experiments.table3.running import Series, check_splits, data_of

__all__ = ["reproduce_comparison", "reproduce_table"]


def reproduce_table(
    folder: Path,
    *,
    scale: ScaleName = "cpu",
    workspace: Workspace | None = None,
    model: str = "yolov5n",
    weights: Path | Literal["none"] | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: Progress,
) -> Table3:
    """Run the experiments of the paper's Table 3 and write it, the published figures beside ours.

    Killed, the same call goes on; no finished experiment is repeated. The CSV and the Markdown
    page are written after every experiment, the HTML page at the end.

    Args:
        folder: gets the table, the runs, and a synthetic workspace where there is none of the user.
        scale: ``paper`` has its settings, ``cpu`` and ``smoke`` are smaller.
        workspace: the user's own data; only its cache is written to.
        model: which YOLOv5; the paper does not say.
        weights: first weights, as for ``prepare_training``.
        seed: of the images and of the trainings.
        device: as for ``prepare_training``.
        progress: called as each step goes on.

    Raises:
        WorkspaceError: the folder belongs to other arguments or other data.
        TrainingError, DataError, WeightsError: as ``train_detector``.
    """
    check_start(model=model, weights=weights, seed=seed, device=device)
    common = {"model": model, "weights": weights, "seed": seed, "device": device}
    return _table3(folder.resolve(), SCALES[scale], workspace, common, progress)


def reproduce_comparison(
    folder: Path,
    *,
    table: int,
    scale: ScaleName = "cpu",
    workspace: Workspace | None = None,
    model: str = "yolov5n",
    weights: Path | Literal["none"] | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: Progress,
) -> Comparison:
    """Train classifiers and the detector and write the paper's Table 1 or 2, its figures beside.

    Both tables are of the same models: in one folder they are trained once. Killed, the same call
    goes on; no finished model is trained, measured or timed again. The CSV and the Markdown page
    are written after every model, the HTML page at the end.

    Args:
        folder: as for `reproduce_table`, like all that is not said here.
        table: 1 is what the models answer, 2 how long they take.
        scale: see ``folder``.
        workspace: see ``folder``.
        model: see ``folder``.
        weights: see ``folder``; those of the detector.
        seed: see ``folder``.
        device: see ``folder``.
        progress: see ``folder``.

    Raises:
        WorkspaceError: the folder belongs to other arguments or other data.
        TrainingError, DataError, WeightsError: as ``train_classifier`` and ``train_detector``.
    """
    check_start(model=model, weights=weights, seed=seed, device=device)
    common = {"model": model, "weights": weights, "seed": seed, "device": device}
    where, plan = folder.resolve(), comparison.SCALES[scale]
    return _comparison(where, table, plan, workspace, common, progress)


def _table3(
    folder: Path,
    scale: Scale,
    own: Workspace | None,
    common: Mapping[str, Any],
    progress: Progress,
) -> Table3:
    known = {"table": 3, "scale": asdict(scale), "model": common["model"], "seed": common["seed"]}
    with opened_folder(
        folder,
        known,
        own=own,
        progress=progress,
        images=scale.images,
        size=scale.size,
        difficulty=scale.difficulty,
        seed=common["seed"],
    ) as workspace:
        notes = check_splits(workspace)
        series = Series(folder, workspace, scale, common, data_of(workspace), progress)
        start = series.check()
        check_files(folder, workspace, progress=progress)
        claim_folder(folder, {**known, "weights": start.digest, "data": series.data})
        table = Table3(
            folder=folder,
            scale=scale,
            settings=settings(
                scale,
                model=common["model"],
                start=start.text,
                workspace=None if own is None else own.root.name,
            ),
            notes=notes if scale.remark is None else (scale.remark, *notes),
            synthetic=own is None,
            outcomes=(),
        )
        for outcome in series.run():
            table = replace(table, outcomes=(*table.outcomes, outcome))
            table.write()
        table.write_page()
    return table


def _comparison(
    folder: Path,
    table: int,
    scale: comparison.Scale,
    own: Workspace | None,
    common: Mapping[str, Any],
    progress: Progress,
) -> Comparison:
    # How speed is measured changes no model: another version of wafer may do it otherwise.
    trained = {name: value for name, value in asdict(scale).items() if name != "speed"}
    known = {"tables": [1, 2], "scale": trained, "model": common["model"], "seed": common["seed"]}
    with opened_folder(
        folder,
        known,
        own=own,
        progress=progress,
        images=scale.images,
        counts=scale.counts,
        size=scale.size,
        difficulty=scale.difficulty,
        seed=common["seed"],
    ) as workspace:
        notes = check_images(workspace)
        boxed, starts = has_boxes(workspace), first_weights_here()
        if not boxed:
            notes = ("there are no boxes to train a detector on: it is left out", *notes)
        models = Models(
            folder, workspace, scale, common, compared_data(workspace), boxed, starts, progress
        )
        first = {**digests(starts), common["model"]: models.check()}
        check_files(folder, workspace, progress=progress)
        claim_folder(folder, {**known, "weights": first, "data": models.data})
        done = Comparison(
            folder=folder,
            table=table,
            scale=scale,
            names=models.names,
            settings=comparison.conditions(scale, None if own is None else own.root.name),
            notes=notes if scale.remark is None else (scale.remark, *notes),
            synthetic=own is None,
            outcomes=(),
        )
        for outcome in models.run(table):
            done = replace(done, outcomes=(*done.outcomes, outcome))
            done.write()
        if table == 1 and done.best is not None:
            models.report(done.best)
        done.write_page()
    return done
