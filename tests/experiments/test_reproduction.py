"""Table 3 at scale smoke: whole, interrupted in every way, and on data of one's own."""

import csv
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from wafer.datasets.classes import ClassTable, DefectClass
from wafer.datasets.errors import DataError, WorkspaceError
from wafer.datasets.records import Annotation, Sample
from wafer.datasets.runs import Run, locked
from wafer.datasets.synthetic.generate import generate_workspace
from wafer.datasets.workspace import Workspace, create_workspace, open_workspace
from wafer.detector.hyperparameters import read_hyp
from wafer.experiments.reproduction import reproduce_table
from wafer.experiments.table3.outputs import Table3
from wafer.experiments.table3.plan import EXPERIMENTS, SCALES
from wafer.experiments.table3.running import check_splits

pytestmark = pytest.mark.timeout(2400)  # two minutes of two idle cores
NAMES = [experiment.name for experiment in EXPERIMENTS]


def quiet(step: str, done: float, total: float | None) -> None:
    pass


def smoke(
    folder: Path,
    *,
    workspace: Workspace | None = None,
    seed: int = 0,
    progress: Callable[[str, float, float | None], None] = quiet,
) -> Table3:
    return reproduce_table(
        folder, scale="smoke", workspace=workspace, seed=seed, device="cpu", progress=progress
    )


class Stopped(Exception):
    """Somebody stops the command."""


def stopped_at(step: str) -> Callable[[str, float, float | None], None]:
    def progress(name: str, done: float, total: float | None) -> None:
        if name == step:
            raise Stopped

    return progress


@pytest.fixture(scope="module")
def steps() -> list[tuple[str, float, float | None]]:
    return []


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, float, float | None]]
) -> Table3:
    """A table that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "table"
    return smoke(folder, progress=lambda *step: steps.append(step))


def record_of(run: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads((run / "run.json").read_text(encoding="utf-8"))
    return content


@pytest.mark.slow
def test_every_experiment_was_trained_as_planned_and_measured_on_val_and_test(
    whole: Table3,
) -> None:
    assert [each.experiment.name for each in whole.outcomes] == NAMES
    scale = SCALES["smoke"]
    for each in whole.outcomes:
        record = record_of(each.run)
        assert record["status"] == "finished"
        arguments = each.arguments
        assert record["arguments"] == arguments
        assert arguments["epochs"] == scale.epochs[each.experiment.epochs]
        assert arguments["batch"] == scale.batches[each.experiment.batch]
        assert (arguments["img_weights"] == "yolov5") == each.experiment.img_weights
        assert [each.metrics[split]["split"] for split in ("val", "test")] == ["val", "test"]
        for split in ("val", "test"):
            assert (each.run / split / "report.html").is_file()
    evolution = whole.folder / "runs" / "exp6" / "evolve" / "yolov5n-001"
    evolved = read_hyp(evolution / "hyp_evolve.yaml")
    assert whole.outcomes[6].arguments["hyperparameters"] == evolved.values
    assert whole.outcomes[6].arguments["optimizer"] == evolved.optimizer
    assert whole.verdict is not None


@pytest.mark.slow
def test_the_progress_over_all_counts_every_epoch(
    whole: Table3, steps: list[tuple[str, float, float | None]]
) -> None:
    over_all = [(done, total) for step, done, total in steps if step == "all"]
    assert [done for done, _ in over_all] == sorted(done for done, _ in over_all)
    assert over_all[-1] == (15, 15)
    assert {total for _, total in over_all} == {15}
    assert list(dict.fromkeys(step for step, *_ in steps if step.startswith("exp"))) == NAMES


@pytest.mark.slow
def test_the_files_say_what_was_measured_and_a_second_command_changes_nothing(
    whole: Table3,
) -> None:
    files = ("table3.csv", "table3.md", "report.html", "reproduce.json")
    before = {name: (whole.folder / name).read_bytes() for name in files}
    with (whole.folder / "table3.csv").open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    for row, each in zip(rows, whole.outcomes, strict=True):
        metrics = json.loads((each.run / "test" / "metrics.json").read_text(encoding="utf-8"))
        assert float(row["test_map50_95"]) == metrics["map50_95"]
        assert float(row["test_precision"]) == metrics["box_precision"]
        assert float(row["test_recall"]) == metrics["box_recall"]
    page = before["report.html"].decode()
    assert page.count("data:image/png") == 2
    assert page.count("data:image/jpeg") == 1
    assert "at scale smoke nothing is learnt" in page
    steps: list[str] = []
    again = smoke(whole.folder, progress=lambda step, done, total: steps.append(step))
    assert set(steps) == {"all"}
    assert again.rows() == whole.rows()
    assert {name: (whole.folder / name).read_bytes() for name in files} == before


@pytest.mark.slow
def test_a_folder_of_another_table_or_of_changed_data_is_left_alone(
    whole: Table3, command: Callable[[int, Path], list[str]]
) -> None:
    with pytest.raises(WorkspaceError, match="of other arguments"):
        smoke(whole.folder, seed=1)
    with pytest.raises(WorkspaceError, match="of other arguments"):
        reproduce_table(whole.folder, scale="smoke", weights="none", device="cpu", progress=quiet)
    workspace = open_workspace(whole.folder / "workspace")
    label = next(path for path in sorted(workspace.labels.iterdir()) if path.read_text())
    text = label.read_text()
    label.write_text("")
    try:
        with pytest.raises(WorkspaceError, match="labels or splits have changed since this table"):
            smoke(whole.folder)
    finally:
        label.write_text(text)
    with locked(Run(whole.folder)):
        done = subprocess.run(command(3, whole.folder), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"another process is training in {whole.folder}" in done.stderr
    assert smoke(whole.folder).rows() == whole.rows()


FULL_DISK = """
import resource, sys
from pathlib import Path
from wafer.datasets.errors import StorageError
from wafer.experiments.reproduction import reproduce_table
folder, first = Path(sys.argv[1]), Path(sys.argv[2])
def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
def at_second_epoch(step, done, total):
    if step == "exp1" and done > 1:
        limit(1 << 20)
def at_evaluation(step, done, total):
    if step == "evaluating":
        limit(20_000)
for fill in (at_second_epoch, at_evaluation):
    try:
        reproduce_table(folder, scale="smoke", device="cpu", progress=fill)
    except StorageError as error:
        print(error)
    limit(resource.RLIM_INFINITY)
    print((first / "weights/best.safetensors").exists(), (first / "val/report.html").exists())
"""


def times(folder: Path, names: list[str]) -> dict[str, int]:
    """Return when the models of some experiments were written."""
    paths = [path for name in names for path in (folder / "runs" / name).rglob("best.safetensors")]
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in paths}


@pytest.mark.slow
def test_a_table_that_is_killed_and_runs_out_of_disk_ends_as_if_nothing_had_happened(
    whole: Table3,
    tmp_path: Path,
    command: Callable[[int, Path], list[str]],
    killed_at: Callable[[int, Path, str], None],
) -> None:
    folder = tmp_path / "table"
    first = folder / "runs" / "exp1" / "yolov5n-001"
    out = subprocess.run(
        [sys.executable, "-P", "-c", FULL_DISK, str(folder), str(first)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert out.stdout.splitlines() == [
        f"{first / 'weights'}: the checkpoint of epoch 2 could not be written (File too large); "
        "that of epoch 1 is kept. Make room and start the same command again",
        "False False",
        f"{folder}: File too large; what is finished is kept. Make room and start the same "
        "command again",
        "True False",
    ]
    killed_at(3, folder, "runs/exp2/yolov5n-001/weights/state.pt")
    assert "1 of 7 experiments are finished" in (folder / "table3.md").read_text()
    for name in NAMES[2:5]:  # only their arguments are others; two trainings interrupted are enough
        shutil.copytree(whole.folder / "runs" / name, folder / "runs" / name, symlinks=True)
    killed_at(3, folder, "runs/exp6/evolve/yolov5n-001/trials/001/trial.json")
    assert "5 of 7 experiments are finished" in (folder / "table3.md").read_text()
    before = times(folder, NAMES[:5])
    assert len(before) == 5
    killed_at(3, folder, "runs/exp7/yolov5n-001/val/report.html")
    done = subprocess.run(command(3, folder), capture_output=True, text=True, check=True)
    assert "exp7" in done.stdout
    assert times(folder, NAMES[:5]) == before
    assert len(list(folder.glob("runs/exp*/yolov5n-*"))) == 6
    assert len(list(folder.glob("runs/exp6/*/yolov5n-*"))) == 2
    journal = folder / "runs" / "exp6" / "evolve" / "yolov5n-001" / "evolve.ndjson"
    entries = [json.loads(line) for line in journal.read_text().splitlines()]
    ended = Counter(entry["trial"] for entry in entries if entry.get("event") == "finished")
    assert ended == {0: 1, 1: 1}
    for name in ("table3.csv", "table3.md"):
        assert (folder / name).read_bytes() == (whole.folder / name).read_bytes()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return generate_workspace(
        tmp_path_factory.mktemp("source") / "w", images=56, size=96, difficulty="easy", processes=1
    )


OWN = ClassTable(
    (
        DefectClass(7, "Kratzer <b>"),
        DefectClass(3, "Staub | Rest"),
        DefectClass(9, "gut", "none"),
    )
)


def own_workspace(source: Workspace, root: Path) -> Workspace:
    """A workspace of three other classes, none of them over the whole image."""
    names = dict.fromkeys(source.classes.box_names, "Staub | Rest")
    names |= {"scratch": "Kratzer <b>", "no_defect": "gut"}
    samples = [
        Sample(
            sample.image,
            names[sample.image_class],
            tuple(Annotation(a.box, names[a.class_name]) for a in sample.annotations or ()),
            sample.group,
            sample.split,
        )
        for sample in source.samples()
        if sample.image_class in names
    ]
    return create_workspace(root, images=source.images, classes=OWN, samples=samples)


@pytest.mark.slow
def test_data_of_one_s_own_with_other_classes_stay_as_they_are(
    source: Workspace, tmp_path: Path
) -> None:
    own = own_workspace(source, tmp_path / "my-fab")
    before = sorted(path.name for path in own.root.iterdir())
    folder = tmp_path / "table"
    with pytest.raises(Stopped):
        smoke(folder, workspace=own, progress=stopped_at("exp2"))
    text = (folder / "table3.md").read_text(encoding="utf-8")
    assert "1 of 7 experiments are finished. The paper's figures" in text
    assert "| images | 8,546 real ones of 680 px | those of my-fab |" in text
    classes = [line for line in text.splitlines() if line.startswith(("| Kratzer", "| Staub"))]
    assert [line.split(" | ")[0] for line in classes] == ["| Kratzer &lt;b>", "| Staub \\| Rest"]
    assert sorted(path.name for path in own.root.iterdir()) == before
    assert sorted(path.name for path in folder.iterdir()) == [
        *(".lock", "reproduce.json", "runs", "table3.csv", "table3.md"),
    ]


def with_splits(workspace: Workspace, split_of: Callable[[str, int], str]) -> None:
    """Write other splits into the table of a workspace, by class and number of the row."""
    with workspace.table.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    with workspace.table.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0].keys())
        writer.writeheader()
        for number, row in enumerate(rows):
            writer.writerow({**row, "split": split_of(row["class"], number)})


@pytest.mark.slow
def test_images_that_cannot_be_split_by_group_are_refused_at_once(
    source: Workspace, tmp_path: Path
) -> None:
    own = own_workspace(source, tmp_path / "my-fab")
    with_splits(own, lambda name, number: "train")
    with pytest.raises(DataError) as caught:
        smoke(tmp_path / "table", workspace=own)
    assert [fault.problem for fault in caught.value.faults] == [
        "no labelled image in the split val",
        "no labelled image in the split test",
    ]
    assert "three groups" in caught.value.faults[0].remedy
    assert [path.name for path in (tmp_path / "table").iterdir()] == [".lock"]


def test_a_class_that_a_split_lacks_is_a_note(source: Workspace, tmp_path: Path) -> None:
    own = own_workspace(source, tmp_path / "my-fab")
    parts = ("train", "val", "test")
    with_splits(own, lambda name, number: "train" if "Kratzer" in name else parts[number % 3])
    assert "no image of class Kratzer <b> in val and test" in check_splits(own)


@pytest.mark.slow
def test_a_folder_of_something_else_is_refused(source: Workspace, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    with pytest.raises(WorkspaceError, match="is not of `wafer reproduce`"):
        smoke(tmp_path / "mine")
    with pytest.raises(WorkspaceError, match="is not of `wafer reproduce`"):
        smoke(tmp_path / "mine" / "thesis.txt")
    with pytest.raises(WorkspaceError, match="is inside the images of"):
        smoke(source.images / "table", workspace=source)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
