"""Every box as COCO results, which pycocotools reads, and as JSON lines."""

import contextlib
import io
import json
import os
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any

import pytest
from pycocotools.coco import COCO

from wafer.datasets.classes import ClassTable, DefectClass
from wafer.datasets.errors import WaferError
from wafer.datasets.records import Box
from wafer.evaluation.records import Detection, Prediction
from wafer.inference import unfinished
from wafer.inference.all_boxes import BoxFile
from wafer.inference.output import Summary, check_output, classify_to_file
from wafer.inference.records import Row
from wafer.inference.sources import ImageInput

CLASSES = ClassTable(
    (DefectClass(0, "none", "none"), DefectClass(20, "scratch"), DefectClass(30, "hole"))
)
NAMES = ["a.png", "b.png", "gone.png", 'ü"\n.png'.replace("\n", " "), "none.png", "e.png", "f.png"]


class Stop(Exception):
    """What ends a run in the middle."""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unfinished, "PIECE_SECONDS", 0.0)
    monkeypatch.chdir(tmp_path)
    Path("list.txt").write_text("\n".join(NAMES), "utf-8")


def answer(number: int, item: ImageInput) -> Row:
    if item.name == "gone.png":
        return Row(image=item.name, model="m", error="gone")
    box = Box(number, 2.126, 10.5, 8)
    found = (
        Detection(item.name, box, "scratch", 0.9123456),
        Detection(item.name, Box(0, 0, 4, 4), "hole", 0.5),
    )
    prediction = Prediction(item.name, box, "scratch", 0.9123456, "auto")
    boxes = () if item.name == "none.png" else found
    return Row(image=item.name, model="m", sha256="d", prediction=prediction, detections=boxes)


def run(
    boxes: str | None,
    *,
    names: str = "list.txt",
    output: str = "out.csv",
    stop: int | None = None,
    force: bool = False,
) -> Summary:
    def rows(inputs: Iterable[ImageInput]) -> Generator[Row, None, None]:
        for item in inputs:
            number = NAMES.index(item.name)
            if number == stop:
                raise Stop
            yield answer(number, item)

    file = None if boxes is None else BoxFile(Path(boxes), CLASSES)
    return classify_to_file(
        [names], rows, Path(output), model="m", batch=1, boxes=file, force=force
    )


def hidden() -> list[str]:
    return sorted(path.name for path in Path().iterdir() if path.name[0] == ".")


def test_pycocotools_reads_the_results(capsys: pytest.CaptureFixture[str]) -> None:
    run("boxes.json")
    results = json.loads(Path("boxes.json").read_text("utf-8"))
    assert [(found["image_id"], found["file_name"]) for found in results[::2]] == [
        (number, name) for number, name in enumerate(NAMES, 1) if name not in NAMES[2:5:2]
    ]
    assert results[2] == {
        "image_id": 2,
        "file_name": "b.png",
        "category_id": CLASSES.detector_index("scratch"),
        "bbox": [1.0, 2.13, 9.5, 5.87],
        "score": 0.912346,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": number} for number in range(1, len(NAMES) + 1)],
            "categories": [{"id": i, "name": n} for i, n in enumerate(CLASSES.detector_names)],
            "annotations": [],
        }
        truth.createIndex()
        read = truth.loadRes("boxes.json")
    assert len(read.getAnnIds(imgIds=[2], catIds=[1])) == 1
    assert len(read.getAnnIds()) == 10


def test_json_lines_have_every_image() -> None:
    run("boxes.jsonl")
    lines = [json.loads(line) for line in Path("boxes.jsonl").read_text("utf-8").splitlines()]
    assert [line["image"] for line in lines] == NAMES
    assert [len(line["boxes"]) for line in lines] == [2, 2, 0, 2, 0, 2, 2]
    assert lines[2]["error"] == "gone"
    assert lines[1]["boxes"][0] == {
        **{"xmin": 1.0, "ymin": 2.13, "xmax": 10.5, "ymax": 8.0},
        **{"class": "scratch", "confidence": 0.912346, "class_code": 20},
    }
    assert (lines[0]["sha256"], lines[0]["model"], lines[0]["error"]) == ("d", "m", None)


def test_no_box_at_all_is_an_empty_list() -> None:
    Path("list.txt").write_text("none.png")
    run("boxes.json")
    assert json.loads(Path("boxes.json").read_bytes()) == []


@pytest.mark.parametrize("boxes", ["boxes.json", "boxes.jsonl"])
@pytest.mark.parametrize("stop", [0, 1, 3, 6])
def test_stopped_and_gone_on_with_both_files_are_those_of_one_run(boxes: str, stop: int) -> None:
    run(boxes)
    whole = Path(boxes).read_bytes(), Path("out.csv").read_bytes()
    for name in (boxes, "out.csv"):
        Path(name).unlink()
    with pytest.raises(Stop):
        run(boxes, stop=stop)
    assert not Path(boxes).exists()
    rows = Path(f".{boxes}.rows")
    if stop == 3:  # the end of a list that a run was killed behind
        rows.write_bytes(rows.read_bytes() + b"\n]\n")
    elif stop == 6:  # or lost
        rows.unlink()
    assert run(boxes).before == (0 if stop == 6 else stop)
    assert (Path(boxes).read_bytes(), Path("out.csv").read_bytes()) == whole
    assert hidden() == []


@pytest.mark.parametrize(
    ("boxes", "others_boxes", "others_output"),
    [
        ("boxes.json", "boxes.json", "other.csv"),
        ("boxes.jsonl", "boxes.jsonl", "other.csv"),
        ("boxes.jsonl", None, "boxes.jsonl"),
        ("boxes.jsonl", "out.jsonl", "boxes.jsonl"),
    ],
)
def test_two_stopped_runs_that_share_a_file_do_not_mix_in_it(
    boxes: str, others_boxes: str | None, others_output: str
) -> None:
    run(boxes)
    whole = Path(boxes).read_bytes(), Path("out.csv").read_bytes()
    for name in (boxes, "out.csv"):
        Path(name).unlink()
    Path("others.txt").write_text("\n".join(NAMES[1:]), "utf-8")
    with pytest.raises(Stop):
        run(boxes, stop=3)
    with pytest.raises(Stop):
        run(others_boxes, names="others.txt", output=others_output, stop=6)
    assert run(boxes).before == 0
    assert (Path(boxes).read_bytes(), Path("out.csv").read_bytes()) == whole


def test_a_stop_before_it_begins_leaves_what_another_run_has_of_a_shared_file() -> None:
    with pytest.raises(Stop):
        run("boxes.json", stop=3)
    with pytest.raises(WaferError, match="no path in this list file"):
        Path("empty.txt").write_text("")
        run("boxes.json", names="empty.txt", output="other.csv")
    assert run("boxes.json").before == 3


class Killer:
    """Ends a run before one of the calls that change what is on disk, and all that follow it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
        self.calls, self.killed = calls, False
        for owner, name in ((os, "fsync"), (Path, "replace"), (Path, "unlink")):
            monkeypatch.setattr(owner, name, self._counting(getattr(owner, name)))

    def _counting(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            self.calls -= 1
            if self.calls < 0:
                self.killed = True
                raise Stop
            return call(*arguments, **options)

        return counted


def killed(monkeypatch: pytest.MonkeyPatch, calls: int, boxes: str) -> bool:
    """Return whether a run was killed before it had made so many calls."""
    with monkeypatch.context() as patch, contextlib.suppress(Stop):
        killer = Killer(patch, calls)
        run(boxes)
    return killer.killed


@pytest.mark.slow
@pytest.mark.parametrize("boxes", ["boxes.json", "boxes.jsonl"])
@pytest.mark.parametrize("new", [[], ["none.png"], ["f.png"]], ids=["same", "no box", "boxes"])
def test_killed_at_any_moment_the_same_command_ends_what_it_had_begun(
    boxes: str, new: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"first": NAMES[:3], "again": [*NAMES[:3], *new]}
    whole = {}
    for at, listed in names.items():
        Path("list.txt").write_text("\n".join(listed), "utf-8")
        run(boxes, force=True)
        whole[at] = Path(boxes).read_bytes(), Path("out.csv").read_bytes()
    calls, complete = 0, False
    while not complete:
        for name in (boxes, "out.csv", *hidden()):
            Path(name).unlink(missing_ok=True)
        Path("list.txt").write_text("\n".join(names["first"]), "utf-8")
        complete = not killed(monkeypatch, calls, boxes)
        at = "first"
        if not Path("out.csv").exists():
            killed(monkeypatch, 5, boxes)  # so that it goes on with what was gone on with
            at = "again"
            Path("list.txt").write_text("\n".join(names[at]), "utf-8")
            run(boxes)
            assert hidden() == []
        assert (Path(boxes).read_bytes(), Path("out.csv").read_bytes()) == whole[at], calls
        calls += 1
    assert calls > 20


def put_but_for_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave a run as one that was killed between the two last renames."""
    replace = Path.replace

    def stopping(source: Path, target: Path) -> Path:
        if target.name == "out.csv":
            raise Stop
        return replace(source, target)

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(Path, "replace", stopping)
        run("boxes.json")
    assert Path("boxes.json").exists()


def test_boxes_that_a_killed_run_has_put_there_are_replaced_by_the_same_run_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put_but_for_the_rows(monkeypatch)
    Path("others.txt").write_text("a.png")
    with pytest.raises(WaferError, match=r"boxes\.json exists; add --force"):
        run("boxes.json", names="others.txt")
    with pytest.raises(WaferError, match=r"boxes\.json exists; add --force"):
        run("boxes.json", output="other.csv")
    check_output(Path("out.csv"), force=False, boxes=Path("boxes.json"))
    Path("boxes.json").write_text("mine")
    with pytest.raises(WaferError, match=r"boxes\.json exists; add --force"):
        check_output(Path("out.csv"), force=False, boxes=Path("boxes.json"))
    with pytest.raises(WaferError, match=r"boxes\.json exists; add --force"):
        run("boxes.json")
    assert Path("boxes.json").read_text() == "mine"
    run("boxes.json", force=True)
    assert len(json.loads(Path("boxes.json").read_bytes())) == 10
    assert hidden() == []


def test_the_end_of_a_list_is_on_disk_before_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_size)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    run("boxes.json")
    assert Path("boxes.json").stat().st_size in synced


def test_a_file_that_is_there_is_kept_without_force() -> None:
    Path("boxes.json").write_text("mine")
    with pytest.raises(WaferError, match=r"boxes\.json exists; add --force .* another --all-boxes"):
        run("boxes.json")
    assert Path("boxes.json").read_text() == "mine"
    run("boxes.json", force=True)
    assert Path("boxes.json").read_bytes()[:2] == b"[\n"
    with pytest.raises(WaferError, match=r"--all-boxes must end in \.json or \.jsonl"):
        run("boxes.csv", force=True)
