"""Tables 1 and 2 at scale smoke: interrupted, gone on with, and shown."""

import csv
import json
import shutil
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from wafer.cli import app
from wafer.datasets.errors import DataError, WorkspaceError
from wafer.datasets.records import Sample
from wafer.datasets.synthetic.generate import generate_workspace
from wafer.datasets.workspace import Workspace, create_workspace
from wafer.experiments.comparison.outputs import Comparison
from wafer.experiments.comparison.plan import CLASSIFIERS
from wafer.experiments.comparison.running import check_images, data_of, has_boxes
from wafer.experiments.reproduction import reproduce_comparison

pytestmark = pytest.mark.timeout(2400)  # a minute of two idle cores
NAMES = (*CLASSIFIERS, "yolov5n")


class Stopped(Exception):
    """Somebody stops the command."""


def quiet(step: str, done: float, total: float | None) -> None:
    pass


def smoke(folder: Path, table: int, *, seed: int = 0, stop_at: str = "") -> Comparison:
    def progress(step: str, done: float, total: float | None) -> None:
        if step == stop_at:
            raise Stopped

    return reproduce_comparison(
        folder, table=table, scale="smoke", seed=seed, device="cpu", progress=progress
    )


def times(folder: Path) -> dict[str, int]:
    """Return when models, answers and timings were written."""
    kinds = ("best.safetensors", "answers.csv", "speed.json")
    paths = [path for kind in kinds for path in (folder / "runs").rglob(kind)]
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in paths}


@pytest.fixture(scope="module")
def first(
    tmp_path_factory: pytest.TempPathFactory, killed_at: Callable[[int, Path, str], None]
) -> Comparison:
    """Table 1 of a command that was killed while it measured and stopped while it trained."""
    folder = tmp_path_factory.mktemp("comparison") / "table"
    killed_at(1, folder, "runs/yolov5n/yolov5n-001/val/answers.csv")
    with pytest.raises(Stopped):
        smoke(folder, 1, stop_at="efficientnet_lite0")
    before = times(folder)
    assert sum(path.endswith("best.safetensors") for path in before) == 4
    record = json.loads((folder / "reproduce.json").read_text(encoding="utf-8"))
    assert "speed" not in record["scale"]  # measured otherwise by another version, it goes on
    assert "4 of 9 models are finished." in (folder / "table1.md").read_text(encoding="utf-8")
    done = smoke(folder, 1)
    after = times(folder)
    assert {path: after[path] for path in before} == before
    return done


@pytest.fixture(scope="module")
def second(first: Comparison) -> Comparison:
    """Table 2 in the same folder."""
    before = times(first.folder)
    done = smoke(first.folder, 2)
    assert times(first.folder).items() >= before.items()
    return done


@pytest.mark.slow
def test_every_model_was_trained_and_measured_once(first: Comparison) -> None:
    rows = first.rows()
    assert [row["model"] for row in rows] == list(NAMES)
    for row in rows:
        run = first.folder / row["run"]
        assert {path.name for path in run.parent.iterdir()} == {run.name, "latest"}
        metrics = json.loads((run / "test" / "metrics.json").read_text(encoding="utf-8"))
        keys = ("accuracy", "weighted_accuracy", "mean_confidence", "macro_f1", "ece")
        assert {key: row[key] for key in keys} == {key: metrics[key] for key in keys}
        with (run / "test" / "answers.csv").open(encoding="utf-8", newline="") as handle:
            answers = list(csv.DictReader(handle))
        right = sum(answer["class"] == answer["truth"] for answer in answers)
        assert right == round(row["accuracy"] * row["images"])
    assert len({row["images"] for row in rows}) == 1  # all of them on the same images
    assert rows[8]["seen_weighted_accuracy"] is not None
    assert [row["remark"] for row in rows] == [
        *["from scratch, not converged"] * 4,
        *["not converged"] * 5,
    ]
    assert first.best is not None
    assert list(first.folder.glob("runs/*/*-001/test/report.html")) == [
        first.best.run / "test" / "report.html"
    ]


@pytest.mark.slow
def test_the_second_table_times_the_models_of_the_first(second: Comparison) -> None:
    for row in second.rows():
        run = second.folder / "runs" / row["model"] / f"{row['model']}-001"
        assert row["bytes"] == (run / "weights" / "best.safetensors").stat().st_size
        assert 0 < row["load_ms"] < row["total_ms"]
        assert row["model_ms"] <= row["model_p95_ms"]
        assert row["best_batch_ms"] <= row["model_ms"]
        assert row["image_size"] == 96
    page = second.page.read_text(encoding="utf-8")
    assert "Table 1: what they answer" in page
    assert "Table 2: how long they take" in page
    assert "At scale smoke nothing is learnt" in page
    assert "What the paper claims" not in page


@pytest.mark.slow
def test_the_same_command_again_changes_nothing(first: Comparison, second: Comparison) -> None:
    files = ("table1.csv", "table2.csv", "table2.md", "report.html", "reproduce.json")
    before = {name: (second.folder / name).read_bytes() for name in files}
    for table, done in ((1, first), (2, second)):
        command = ["reproduce", str(table), str(done.folder), "--scale", "smoke", "--device", "cpu"]
        shown = CliRunner().invoke(app, [*command, "--json"])
        assert json.loads(shown.stdout) == done.rows()
        assert f"report {done.page}" in shown.stderr
    assert {name: (second.folder / name).read_bytes() for name in files} == before
    with pytest.raises(WorkspaceError, match=r"of other arguments \(seed differ\)"):
        smoke(second.folder, 1, seed=1)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    root = tmp_path_factory.mktemp("source") / "w"
    return generate_workspace(
        root, images=48, counts="balanced", size=64, difficulty="easy", processes=1
    )


def copy(source: Workspace, root: Path, *, train: Collection[str], boxes: bool) -> Workspace:
    """Make a workspace of the same images, all those of some classes in the split train."""
    samples = [
        Sample(
            s.image,
            s.image_class,
            s.annotations if boxes else None,
            s.group,
            "train" if s.image_class in train else s.split,
        )
        for s in source.samples()
    ]
    return create_workspace(root, images=source.images, classes=source.classes, samples=samples)


def test_images_that_are_not_split_are_refused(source: Workspace, tmp_path: Path) -> None:
    own = copy(source, tmp_path / "fab", train=source.classes.names, boxes=True)
    with pytest.raises(DataError) as caught:
        reproduce_comparison(
            tmp_path / "table", table=1, scale="smoke", workspace=own, progress=quiet
        )
    assert [fault.problem for fault in caught.value.faults] == [
        "no image of a known class in the split val",
        "no image of a known class in the split test",
    ]
    assert [path.name for path in (tmp_path / "table").iterdir()] == [".lock"]


def test_boxes_are_not_needed_and_a_class_that_a_split_lacks_is_a_note(
    source: Workspace, tmp_path: Path
) -> None:
    own = copy(source, tmp_path / "fab", train=["scratch"], boxes=False)
    assert has_boxes(source)
    assert not has_boxes(own)
    assert {note.split()[4] for note in check_images(own)} == {"scratch"}


def test_other_names_are_other_data_as_answers_are_compared_by_them(
    source: Workspace, tmp_path: Path
) -> None:
    own = copy(source, tmp_path / "a", train=[], boxes=True)
    assert data_of(own) == data_of(copy(source, tmp_path / "b", train=[], boxes=True))
    first = sorted(s.image for s in own.samples() if s.split == "test")[0]
    images = tmp_path / "images"
    shutil.copytree(own.images, images)
    (images / first).rename(images / "renamed.png")
    samples = [replace(s, image="renamed.png") if s.image == first else s for s in own.samples()]
    renamed = create_workspace(tmp_path / "c", images=images, classes=own.classes, samples=samples)
    assert data_of(renamed) != data_of(own)
