"""The grid search: each rate once, also after a kill; the best by validation is the result."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.image import imread
from typer.testing import CliRunner

from wafer.classifier import grid as searching
from wafer.classifier.course import Epoch, read_epochs
from wafer.classifier.grid import Searched, learning_rates, search_grid
from wafer.classifier.grid_outputs import Point, grid_figure, table_text
from wafer.classifier.training import Plan
from wafer.cli import app
from wafer.datasets.errors import DivergedError, StorageError, TrainingError
from wafer.datasets.runs import MODEL_FILE, TrainedRun, newest_finished_run
from wafer.datasets.workspace import Workspace

RATES = (0.0001, 0.02, 0.3)


class KilledError(Exception):
    pass


def search(
    workspace: Workspace,
    watch: searching.Watch = lambda *_: None,
    rates: tuple[float, ...] = RATES,
) -> Searched:
    return search_grid(workspace, rates, watch=watch, model="mlp", imgsz=32, epochs=4)


@pytest.fixture(scope="module")
def searched(made: Workspace) -> Searched:
    return search(made)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ("0.1,0.2", "names no learning rates; give them as lr=0.0001,0.001,0.01"),
        ("momentum=0.9,0.8", "names no learning rates"),
        ("lr=", "'' is no number"),
        ("lr=0.1,", "'' is no number"),
        ("lr=0.1,fast", "'fast' is no number"),
        ("lr=0.1,nan", "must be above 0 and at most 1, not nan"),
        ("lr=0.1,0", "must be above 0 and at most 1, not 0"),
        ("lr=0.1,1.5", "must be above 0 and at most 1, not 1.5"),
        ("lr=0.1,1e-1", "names 0.1 twice"),
        ("lr=0.1", "is one rate; give --lr0 0.1, or name more"),
    ],
)
def test_a_grid_that_is_none_is_refused(grid: str, message: str) -> None:
    with pytest.raises(TrainingError) as caught:
        learning_rates(grid)
    assert message in str(caught.value)


def test_the_best_point_becomes_the_model_of_the_workspace(
    made: Workspace, searched: Searched
) -> None:
    assert [point.rate for point in searched.points] == list(RATES)
    losses = [min(epoch.val_loss for epoch in point.epochs) for point in searched.points]
    best = searched.points[losses.index(min(losses))]
    source = searched.folder / best.run
    assert best.epochs == read_epochs(source)
    assert searched.run.parent == made.runs
    assert (searched.run / MODEL_FILE).read_bytes() == (source / MODEL_FILE).read_bytes()
    record = json.loads((searched.run / "run.json").read_text())
    assert record["arguments"]["learning_rate"] == best.rate
    assert len({point.epochs for point in searched.points}) == 3
    newest = newest_finished_run(made.runs)
    assert newest is not None
    assert newest.folder == searched.run


def test_a_table_and_a_picture_are_left(searched: Searched) -> None:
    with (searched.folder / "grid.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [float(row["learning_rate"]) for row in rows] == list(RATES)
    for row, point in zip(rows, searched.points, strict=True):
        best = min(point.epochs, key=lambda epoch: epoch.val_loss)
        assert (row["status"], int(row["epochs"]), int(row["best_epoch"])) == (
            "finished",
            4,
            best.epoch,
        )
        assert float(row["val_loss"]) == best.val_loss
        assert (searched.folder / row["run"] / "run.json").is_file()
    assert imread(searched.folder / "grid.png").shape[1] > 1000


def test_a_training_that_explodes_does_not_hide_the_others() -> None:
    def point(rate: float, *losses: float) -> Point:
        epochs = (Epoch(number, 1.0, loss, 0.5) for number, loss in enumerate(losses, 1))
        return Point(rate, "points", tuple(epochs))

    calm = (point(0.01, 2.0, 0.5), point(0.02, 2.4, 1.0))
    for wild in (point(0.5, 6.0, 1e36), point(0.5, 1e36, 1e30)):
        for axes in grid_figure([*calm, wild]).axes:
            bottom, top = axes.get_ylim()
            assert bottom == 0
            assert 2.4 < top < 10
    for points in ([point(0.1, 0.0)], [Point(0.1, reason="it diverged")]):
        assert grid_figure(points).axes[0].get_ylim() == (0, 1)


@pytest.mark.slow
def test_a_killed_search_goes_on_and_repeats_no_finished_point(
    workspace: Workspace, searched: Searched
) -> None:
    def kill(text: str, done: float, total: float) -> None:
        if text == "lr 0.02" and done == 3:
            raise KilledError

    with pytest.raises(KilledError):
        search(workspace, kill)
    seen: list[str] = []
    again = search(workspace, lambda text, *_: seen.append(text))
    assert list(dict.fromkeys(seen)) == ["lr 0.02", "lr 0.3"]
    assert again.folder == workspace.root / "runs" / "grid" / "mlp-001"
    assert table_text(again.points) == table_text(searched.points)
    assert sorted(p.name for p in workspace.runs.glob("mlp-*")) == ["mlp-001"]
    assert json.loads((again.folder / "run.json").read_text())["status"] == "finished"


def failing(
    error: Callable[[float], Exception | None],
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[], Searched]:
    """Return a search whose trainings end with an error at some rates."""
    real = searching.run_training

    def run(at: Workspace, plan: Plan, *, runs: Path, bundle: bool, progress: object) -> TrainedRun:
        problem = error(plan.settings.learning_rate)
        if problem is not None:
            raise problem
        return real(at, plan, runs=runs, bundle=bundle, progress=None)

    monkeypatch.setattr(searching, "run_training", run)
    return lambda: search(workspace, rates=RATES[1:])


@pytest.mark.slow
def test_a_rate_that_diverges_is_a_failed_point(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    diverging = failing(
        lambda rate: DivergedError("it diverged") if rate == 0.3 else None, workspace, monkeypatch
    )
    done = diverging()
    assert [point.reason for point in done.points] == ["", "it diverged"]
    assert "lr 0.3 failed: it diverged" in done.notes
    assert "0.3,failed,0,,,,,,it diverged" in (done.folder / "grid.csv").read_text()


@pytest.mark.slow
def test_all_rates_failing_and_a_full_disk_leave_the_search_open(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TrainingError, match="every rate of the grid failed; the first: too fast"):
        failing(lambda rate: DivergedError("too fast"), workspace, monkeypatch)()
    for fault in (StorageError("no room"), TrainingError("state.pt is damaged; remove it")):
        with pytest.raises(type(fault), match=str(fault)):
            failing(lambda rate, fault=fault: fault, workspace, monkeypatch)()
    assert not list(workspace.runs.glob("mlp-*"))
    assert [p.name for p in (workspace.root / "runs" / "grid").glob("mlp-*")] == ["mlp-001"]


@pytest.mark.slow
def test_the_command_prints_the_table_and_the_run(workspace: Workspace) -> None:
    place = ["--workspace", str(workspace.root), "--imgsz", "32", "--epochs", "2"]
    train = ["train", "--model", "mlp", *place]
    done = CliRunner().invoke(app, [*train, "--grid", "lr=0.001,0.1"])
    assert done.exit_code == 0, done.output
    assert Path(done.stdout.strip()) == workspace.runs / "mlp-001"
    assert "loss on val" in done.stderr
    for option in (["--grid", "lr=7"], ["--grid", "lr=0.1,0.2", "--lr0", "0.1"]):
        refused = CliRunner().invoke(app, [*train, *option])
        assert (refused.exit_code, len(refused.stderr.splitlines())) == (1, 1)
    detector = CliRunner().invoke(app, ["train", "--grid", "lr=0.1,0.2", *place[:2]])
    assert "--grid goes with a classifier; a detector has --evolve" in detector.stderr
