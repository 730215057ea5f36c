"""Whole evolutions: with made-up trainings for the bookkeeping, with real ones for the rest."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from rich.console import Console

from wafer.datasets.errors import DataError, StorageError, TrainingError
from wafer.datasets.files import sha256_file
from wafer.datasets.runs import MODEL_FILE, Run, newest_finished_run
from wafer.datasets.synthetic.generate import generate_workspace
from wafer.datasets.workspace import Workspace, open_workspace
from wafer.detector.evolve import trial as trial_process
from wafer.detector.evolve.evolving import View, evolve_detector, finished_evolution
from wafer.detector.evolve.genes import genome_of
from wafer.detector.evolve.journal import JOURNAL, Journal
from wafer.detector.evolve.outputs import evolve_figure
from wafer.detector.evolve.records import Settings, Trial
from wafer.detector.evolve.schedule import next_step
from wafer.detector.evolve.table import evolve_table, time_left
from wafer.detector.evolve.trial import outcome_of
from wafer.detector.hyperparameters import read_hyp
from wafer.detector.training import prepare_training
from wafer.inference.bundle import WEIGHTS, open_bundle

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {"epochs": 4, "batch": 32, "imgsz": 64, "device": "cpu"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("workspaces") / "w"
    generate_workspace(
        root, images=64, counts="balanced", size=96, difficulty="easy", seed=3, processes=1
    )
    return root


@pytest.fixture
def workspace(made: Path, tmp_path: Path) -> Workspace:
    """A workspace of its own, over the same images."""
    for name in ("wafer.toml", "classes.yaml", "image_labels.csv"):
        (tmp_path / name).write_bytes((made / name).read_bytes())
    for name in ("images", "labels", "truth"):
        (tmp_path / name).symlink_to(made / name)
    return open_workspace(tmp_path)


def write_run(folder: Path, fitness: float, *, epochs: int = 4) -> None:
    """Leave what a training leaves, as far as an evolution looks at it."""
    run = folder / "yolov5n-001"
    run.mkdir(parents=True)
    columns = ["epoch", *(f"metrics/{n}(B)" for n in ("precision", "recall", "mAP50", "mAP50-95"))]
    with (run / "results.csv").open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(columns)
        writer.writerows([epoch, 0.5, 0.5, fitness, fitness] for epoch in range(1, epochs + 1))
    record = {"status": "finished", "started": "2026", "model": "yolov5n", "metrics": {}}
    (run / "run.json").write_text(json.dumps(record))


MadeUp = Callable[[Trial], float | None]


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[MadeUp], list[int]]:
    """Replace trainings by a function from trial to fitness; None is a failure."""

    def install(fitness: MadeUp) -> list[int]:
        trained: list[int] = []

        def run_trial(workspace: Workspace, trial: Trial, *, folder: Path, **rest: object) -> None:
            trained.append(trial.number)
            value = fitness(trial)
            if value is None:
                raise TrainingError("made up")
            write_run(folder, value)

        monkeypatch.setattr("wafer.detector.evolve.evolving.run_trial", run_trial)
        made = SimpleNamespace(folder=tmp_path / "bundle")  # there is no model to make it of
        monkeypatch.setattr("wafer.detector.evolve.evolving.export_model", lambda *_: made)
        # A second each, after every trial.
        monkeypatch.setattr("wafer.detector.evolve.outputs.write_figure", lambda figure, path: None)
        return trained

    return install


def rising(trial: Trial) -> float:
    return 0.3 + 0.1 * trial.candidate


def test_the_winner_becomes_the_newest_run_of_the_workspace(
    workspace: Workspace, made_up: Callable[[MadeUp], list[int]]
) -> None:
    trained = made_up(rising)
    said: list[str] = []
    done = evolve_detector(workspace, trainings=5, say=said.append, **SMALL)
    assert trained == [0, 1, 2, 3, 4]
    assert said == [
        "evolve: 5 full trainings of 4 epochs at most; "
        "the last 2 are winner and defaults on a fresh seed"
    ]
    assert (done.verdict.trial, done.verdict.adopted) == (3, True)
    assert done.folder == workspace.root / "runs" / "evolve" / "yolov5n-001"
    assert done.run == workspace.runs / "yolov5n-001"
    record = json.loads((done.run / "run.json").read_text())
    assert record["origin"].startswith("yolov5n-001, begun 20")
    assert record["origin"].endswith(", trial 3")
    newest = newest_finished_run(workspace.runs)
    assert newest is not None
    assert newest.folder == done.run
    assert json.loads((done.folder / "run.json").read_text())["status"] == "finished"


def test_an_evolution_elsewhere_leaves_the_workspace_s_runs_alone(
    workspace: Workspace, made_up: Callable[[MadeUp], list[int]], tmp_path: Path
) -> None:
    made_up(rising)
    runs = tmp_path / "elsewhere"
    assert finished_evolution(runs) is None
    done = evolve_detector(workspace, trainings=2, runs=runs, **SMALL)
    assert done.folder == runs / "evolve" / "yolov5n-001"
    assert done.run == runs / "train" / "yolov5n-001"
    found = finished_evolution(runs)
    assert found is not None
    assert (found.folder, found.run, found.verdict) == (done.folder, done.run, done.verdict)
    assert not (workspace.root / "runs").exists()


def test_it_leaves_a_table_a_file_for_hyp_and_a_picture(
    workspace: Workspace, made_up: Callable[[MadeUp], list[int]]
) -> None:
    made_up(rising)
    views: list[View] = []
    done = evolve_detector(workspace, trainings=5, watch=views.append, **SMALL)
    with (done.folder / "evolve.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [row["candidate"] for row in rows] == ["0", "1", "2", "2", "0"]
    assert [row["fitness"] for row in rows] == ["0.3", "0.4", "0.5", "0.5", "0.3"]
    assert [row["seed"] for row in rows] == ["0", "0", "0", "1", "1"]
    hyp = read_hyp(done.folder / "hyp_evolve.yaml")
    with Journal.locked(done.folder) as journal:
        assert hyp.values == journal.history.trials[3].trial.hyp
    assert hyp.optimizer == "AdamW"
    text = (done.folder / "hyp_evolve.yaml").read_text()
    assert "# adopted: on a fresh seed candidate 2 reached 0.5000 and the defaults 0.3000" in text
    settings, trials = views[-1].settings, views[-1].trials
    figure = evolve_figure(settings, trials, trials[3])
    genome = genome_of(optimizer="AdamW", colour=False)
    titles = [axes.get_title() for axes in figure.axes]
    assert [title.split(" ")[0] for title in titles if title] == list(genome)
    (points,) = figure.axes[0].collections
    assert points.get_offsets().tolist() == [
        [state.trial.hyp["lr0"], state.fitness] for state in trials
    ]


def test_a_failed_trial_is_failed_and_not_of_fitness_zero(
    workspace: Workspace, made_up: Callable[[MadeUp], list[int]]
) -> None:
    made_up(lambda trial: None if trial.number == 1 else rising(trial))
    done = evolve_detector(workspace, trainings=5, **SMALL)
    with (done.folder / "evolve.csv").open() as handle:
        row = list(csv.DictReader(handle))[1]
    assert (row["status"], row["fitness"], row["reason"]) == ("failed", "", "made up")
    assert done.verdict.adopted


def test_defaults_that_fail_end_the_command_and_are_tried_again_by_the_next(
    workspace: Workspace, made_up: Callable[[MadeUp], list[int]]
) -> None:
    made_up(lambda trial: None)
    with pytest.raises(TrainingError, match="fails with the defaults already: made up"):
        evolve_detector(workspace, trainings=2, **SMALL)
    trained = made_up(rising)
    done = evolve_detector(workspace, trainings=2, **SMALL)
    assert trained == [0, 1]
    assert done.folder.name == "yolov5n-001"


def test_what_was_trained_when_the_process_died_is_not_trained_again(
    workspace: Workspace, made_up: Callable[[MadeUp], list[int]]
) -> None:
    trained = made_up(rising)

    def die(trial: Trial) -> float:
        if trial.number == 2:
            raise KeyboardInterrupt
        return rising(trial)

    made_up(die)
    with pytest.raises(KeyboardInterrupt):
        evolve_detector(workspace, trainings=5, **SMALL)
    folder = workspace.root / "runs" / "evolve" / "yolov5n-001"
    with Journal.locked(folder) as journal:
        before = list(journal.history.trials)
    assert [state.status for state in before] == ["finished", "finished", "open"]
    write_run(folder / "trials" / "002", 0.5)  # it died between the training's end and the journal
    trained = made_up(rising)
    evolve_detector(workspace, trainings=5, **SMALL)
    assert trained == [3, 4]
    with Journal.locked(folder) as journal:
        after = list(journal.history.trials)
    assert [state.trial for state in after[:3]] == [state.trial for state in before]


def test_a_finished_evolution_is_not_gone_on_with_and_one_without_its_run_is(
    workspace: Workspace, made_up: Callable[[MadeUp], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up(rising)

    def die(*arguments: object, **rest: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("wafer.detector.evolve.evolving.adopt_run", die)
        evolve_detector(workspace, trainings=2, **SMALL)
    trained = made_up(rising)
    first = evolve_detector(workspace, trainings=2, **SMALL)
    assert trained == []  # only the copy was missing
    assert first.run == workspace.runs / "yolov5n-001"
    second = evolve_detector(workspace, trainings=2, **SMALL)
    assert (second.folder.name, second.run.name) == ("yolov5n-002", "yolov5n-002")


def test_a_full_disk_ends_the_command_and_leaves_the_trial_open(
    workspace: Workspace, made_up: Callable[[MadeUp], list[int]]
) -> None:
    def full(trial: Trial) -> float:
        if trial.number == 1:
            raise StorageError("no space left")
        return rising(trial)

    made_up(full)
    with pytest.raises(StorageError, match="no space left"):
        evolve_detector(workspace, trainings=3, **SMALL)
    trained = made_up(rising)
    evolve_detector(workspace, trainings=3, **SMALL)
    assert trained == [1, 2]


def test_outputs_that_a_kill_left_behind_the_verdict_are_written_again(
    workspace: Workspace, made_up: Callable[[MadeUp], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up(lambda trial: 0.3 if trial.candidate == 0 else 0.4 - 0.2 * (trial.stage == "confirm"))

    def die(folder: Path, settings: Settings, trials: object, verdict: object) -> None:
        if verdict is not None:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("wafer.detector.evolve.evolving.write_outputs", die)
        evolve_detector(workspace, trainings=4, **SMALL)
    done = evolve_detector(workspace, trainings=4, **SMALL)
    assert not done.verdict.adopted
    text = (done.folder / "hyp_evolve.yaml").read_text()
    assert f"# the defaults are kept: {done.verdict.reason}" in text
    record = json.loads((done.folder / "run.json").read_text())["arguments"]
    assert read_hyp(done.folder / "hyp_evolve.yaml").values == record["hyperparameters"]


def test_a_reason_of_several_lines_leaves_a_file_that_can_be_read(
    workspace: Workspace, made_up: Callable[[MadeUp], list[int]]
) -> None:
    def fails(trial: Trial) -> float:
        if trial.number == 2:
            raise TrainingError("two\nlines: of it")
        return rising(trial)

    made_up(fails)
    done = evolve_detector(workspace, trainings=4, **SMALL)
    assert (done.verdict.trial, done.verdict.adopted) == (3, False)
    assert "# the defaults are kept:" in (done.folder / "hyp_evolve.yaml").read_text()
    assert read_hyp(done.folder / "hyp_evolve.yaml").optimizer == "AdamW"


def test_an_evolution_in_a_folder_of_an_old_name_has_a_result_of_its_own(
    workspace: Workspace, made_up: Callable[[MadeUp], list[int]]
) -> None:
    made_up(rising)
    first = evolve_detector(workspace, trainings=2, **SMALL)
    shutil.rmtree(first.folder)
    second = evolve_detector(workspace, trainings=2, **SMALL)
    assert second.folder == first.folder
    assert [first.run.name, second.run.name] == ["yolov5n-001", "yolov5n-002"]


def test_whoever_joins_stops_too_when_the_defaults_have_failed(
    workspace: Workspace, made_up: Callable[[MadeUp], list[int]]
) -> None:
    folder = workspace.root / "runs" / "evolve" / "yolov5n-001"

    def fail_elsewhere(trial: Trial) -> float:
        with Journal.locked(folder) as journal:
            journal.append("failed", trial=0, reason="no memory")
        return 0.5

    trained = made_up(lambda trial: 0.5 if trial.number == 0 else fail_elsewhere(trial))
    with pytest.raises(TrainingError, match="fails with the defaults already: no memory"):
        evolve_detector(workspace, trainings=4, **SMALL)
    assert trained == [0, 1]


def test_a_confirmation_is_on_the_same_backgrounds_and_on_any_device(
    workspace: Workspace, made_up: Callable[[MadeUp], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up(rising)
    backgrounds = []

    def train(workspace: Workspace, *, runs: Path, expected_hash: str, **rest: Any) -> None:
        assert rest.pop("any_device")
        del rest["progress"]
        ready = prepare_training(workspace, **rest)
        assert ready.dataset_hash == expected_hash
        backgrounds.append([image.path for image in ready.plan.train if not image.boxes])
        hyp = ready.arguments["hyperparameters"]
        write_run(runs, 0.5 - abs(hyp["lr0"] - 0.01))

    def run_here(command: list[str], **rest: object) -> None:
        monkeypatch.setattr(sys, "argv", command[2:])
        trial_process.main()

    monkeypatch.setattr(trial_process, "train_detector", train)
    monkeypatch.setattr(trial_process, "run_child", run_here)
    monkeypatch.setattr("wafer.detector.evolve.evolving.run_trial", trial_process.run_trial)
    done = evolve_detector(workspace, trainings=4, seed=3, max_backgrounds=2, **SMALL)
    with Journal.locked(done.folder) as journal:
        states = journal.history.trials
    assert [(s.trial.seed, s.status) for s in states] == [
        (3, "finished"),
        (3, "finished"),
        (4, "finished"),
        (4, "finished"),
    ]
    assert len(backgrounds[0]) == 2
    assert backgrounds == [backgrounds[0]] * 4
    assert "on a fresh seed" in done.verdict.reason


def test_changed_data_stop_an_evolution_instead_of_failing_its_trials(
    workspace: Workspace, made_up: Callable[[MadeUp], list[int]]
) -> None:
    table = workspace.root / "image_labels.csv"

    def change(trial: Trial) -> float | None:
        if trial.number == 0:
            return 0.3
        with table.open() as handle:
            rows = list(csv.DictReader(handle))
        next(row for row in rows if row["split"] == "train")["split"] = "unused"
        with table.open("w", newline="") as handle:
            writer = csv.DictWriter(handle, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
        return None

    made_up(change)
    before = table.read_bytes()
    with pytest.raises(TrainingError, match="have changed since yolov5n-001 was begun"):
        evolve_detector(workspace, trainings=3, **SMALL)
    table.write_bytes(before)
    trained = made_up(rising)
    done = evolve_detector(workspace, trainings=3, **SMALL)
    assert trained == [1, 2]
    assert done.folder.name == "yolov5n-001"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"trainings": 0}, "--evolve must be at least 1"),
        ({"trainings": 1, "mode": "fast"}, "--evolve-mode must be one of"),
        ({"trainings": 1, "epochs": 0}, "--epochs must be at least 1"),
        ({"trainings": 4, "seed": 2**31}, "--seed must be from 0 to 2147483647 with --evolve"),
    ],
)
def test_arguments_out_of_range_are_refused_before_anything_is_made(
    workspace: Workspace, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        evolve_detector(workspace, **{**SMALL, **arguments})
    assert not (workspace.root / "runs").exists()


def test_fitness_is_that_of_yolov5_over_the_last_validations(tmp_path: Path) -> None:
    write_run(tmp_path, 0.0)
    path = tmp_path / "yolov5n-001" / "results.csv"
    head, *_ = path.read_text().splitlines()
    rows = [f"{epoch},0.9,0.8,{map50},{map50 / 2}" for epoch, map50 in enumerate([0.9, 0.2, 0.4])]
    path.write_text("\n".join([head, *rows]) + "\n")
    expected = [0.1 * m + 0.9 * m / 2 for m in (0.9, 0.2, 0.4)]
    outcome = outcome_of(tmp_path)
    assert outcome is not None
    assert outcome.fitness == pytest.approx(sum(expected) / 3)
    assert outcome.metrics == {"precision": 0.9, "recall": 0.8, "map50": 0.4, "map50_95": 0.2}
    classic = outcome_of(tmp_path, epochs=1)
    assert classic is not None
    assert classic.fitness == pytest.approx(expected[-1])
    assert outcome_of(tmp_path / "nothing") is None


HEAD = "epoch,metrics/precision(B),metrics/recall(B),metrics/mAP50(B),metrics/mAP50-95(B)\n"


@pytest.mark.parametrize(
    "text",
    ["", HEAD, HEAD + "1,.1,.1,.1,.1\n2,.3", HEAD + "1,.1,.1,.1,.1\n\0\0", "a,b\n1,2\n", None],
)
def test_damaged_results_of_a_trial_are_named_with_the_remedy(
    tmp_path: Path, text: str | None
) -> None:
    write_run(tmp_path, 0.5)
    path = tmp_path / "yolov5n-001" / "results.csv"
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError) as caught:
        outcome_of(tmp_path)
    assert str(caught.value) == (
        f"{path}: the results of a finished trial are missing or damaged; remove the run folder "
        f"{path.parent}, and the trial is trained again"
    )


def test_the_live_table_shows_every_trial_and_the_time_left(
    workspace: Workspace, made_up: Callable[[MadeUp], list[int]]
) -> None:
    made_up(lambda trial: None if trial.number == 1 else rising(trial))
    views: list[View] = []
    evolve_detector(workspace, trainings=5, watch=views.append, **SMALL)
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(evolve_table(views[-1]))
    text = console.export_text()
    rows = [line for line in text.splitlines() if "│" in line]
    assert len(rows) == 5
    assert ["failed" in row for row in rows] == [False, True, False, False, False]
    assert "the defaults" in rows[0]
    assert "0.5000" in rows[2]
    assert time_left(views[0]) is None


def evolve_command(workspace: Workspace, *, trainings: int) -> list[str]:
    return [
        str(Path(sys.executable).with_name("wafer")),
        *("train", "--workspace", str(workspace.root), "--epochs", "2", "--batch", "32"),
        *("--imgsz", "64", "--img-weights", "--evolve", str(trainings)),
    ]


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    for _ in range(2400):
        if path.exists():
            return
        assert process.poll() is None, "the evolution ended before it could be killed"
        time.sleep(0.05)
    pytest.fail(f"{path} did not appear")


@pytest.mark.slow
def test_an_evolution_that_is_killed_twice_ends_as_planned(workspace: Workspace) -> None:
    command = evolve_command(workspace, trainings=4)
    folder = workspace.root / "runs" / "evolve" / "yolov5n-001"
    for trial in ("000", "001"):  # in the middle of a training, after an epoch
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        wait_for(folder / "trials" / trial / "yolov5n-001" / "weights" / "state.pt", process)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        time.sleep(1)  # the child notices
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "evolve: 4 full trainings of 2 epochs at most" in done.stderr
    events = [json.loads(line) for line in (folder / JOURNAL).read_text().splitlines()]
    with Journal.locked(folder) as journal:
        states, verdict = journal.history.trials, journal.history.verdict
    assert verdict is not None
    ended = [event["trial"] for event in events if event["event"] == "finished"]
    assert ended == list(range(len(states)))  # none lost, none repeated
    assert [len(list((folder / "trials" / f"{n:03d}").glob("yolov5n-*"))) for n in ended] == [
        1 for _ in ended
    ]
    assert len(states) == (2 if verdict.trial == 0 else 4)
    record = json.loads((folder / "run.json").read_text())["arguments"]
    plan = Settings(
        mode="genetic",
        trainings=4,
        epochs=2,
        seed=0,
        optimizer=record["optimizer"],
        colour=False,
        defaults=record["hyperparameters"],
    )
    proposed = [next_step(plan, states[:number]) for number in range(len(states))]
    assert proposed == [state.trial for state in states]
    assert (folder / "evolve.png").read_bytes().startswith(b"\x89PNG")
    result = Path(done.stdout.strip())
    assert result == workspace.runs / "yolov5n-001"
    bundle = Run(result).bundle
    assert bundle is not None
    assert sha256_file(open_bundle(bundle).folder / WEIGHTS) == sha256_file(result / MODEL_FILE)
    hyp = yaml.safe_load((folder / "hyp_evolve.yaml").read_text())
    trained = json.loads((result / "run.json").read_text())["arguments"]["hyperparameters"]
    assert {name: hyp[name] for name in trained} == trained
    assert ("adopted: " if verdict.adopted else "rejected: ") + verdict.reason in done.stderr


@pytest.mark.slow
def test_a_second_process_joins_in(workspace: Workspace) -> None:
    command = evolve_command(workspace, trainings=3)
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=400) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    evolutions = [p for p in (workspace.root / "runs" / "evolve").glob("yolov5n-*")]
    assert [p.name for p in evolutions] == ["yolov5n-001"]
    events = [json.loads(line) for line in (evolutions[0] / JOURNAL).read_text().splitlines()]
    ended = [event["trial"] for event in events if event["event"] == "finished"]
    assert sorted(ended) == [0, 1, 2]
    # The second trial was proposed while the first was under way.
    kinds = [(event["event"], event.get("trial")) for event in events]
    first_end = next(i for i, (kind, _) in enumerate(kinds) if kind == "finished")
    assert sum(kind == "proposed" for kind, _ in kinds[:first_end]) == 2
    runs = {stdout.strip() for stdout, _ in outputs}
    assert runs == {str(workspace.runs / "yolov5n-001")}
