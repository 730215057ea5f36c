import json
from pathlib import Path

import pytest
from PIL import Image

from wafer.datasets.classes import ClassTable, DefectClass
from wafer.datasets.conversion import convert, detect_format, read_dataset
from wafer.datasets.errors import DataError, WaferError, WorkspaceError
from wafer.datasets.formats.dataset import derive_classes
from wafer.datasets.ledger import GENESIS, HEAD, LEDGER, Entry, entry_line
from wafer.datasets.records import Annotation, Box, Sample, Source
from wafer.datasets.workspace import create_workspace

CLASSES = ClassTable(
    (
        DefectClass(40, "clean", "none"),
        DefectClass(41, "scratch", killer=True),
        DefectClass(42, "deviation", "whole_image"),
    )
)
SCRATCH = Annotation(Box(10.5, 20.25, 30, 40), "scratch")
SAMPLES = (
    Sample("lot1/a.png", "scratch", (SCRATCH,), "g1", "train"),
    Sample("lot1/clean, one.png", "clean", (), "g1", "train"),
    Sample("lot2/a.png", "deviation", None, "g2", "val"),
    Sample("lot2/b.png", "scratch", None, "g2", "test"),
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    for sample in SAMPLES:
        (root / "images" / sample.image).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (100, 50)).save(root / "images" / sample.image)
    create_workspace(root, images=root / "images", classes=CLASSES, samples=SAMPLES)
    return root


def seen(path: Path) -> list[object]:
    data = read_dataset(path)
    boxes = [
        (s.image.split("/", 1)[1] if s.image.startswith(("train/", "val/", "test/")) else s.image)
        for s in data.samples
    ]
    return sorted(
        (
            name,
            s.annotations
            and tuple(
                (a.class_name, tuple(round(v, 2) for v in a.box.corners)) for a in s.annotations
            ),
        )
        for name, s in zip(boxes, data.samples, strict=True)
    )


@pytest.mark.parametrize(
    "chain", [("yolo", "coco", "voc"), ("voc", "yolo", "coco"), ("coco", "yolo")]
)
def test_a_chain_of_conversions_loses_nothing(
    tmp_path: Path, source: Path, chain: tuple[str, ...]
) -> None:
    path = source
    for number, name in enumerate(chain):
        following = tmp_path / f"{number}-{name}"
        summary = convert(path, following, to=name)
        assert (summary.images, summary.unlabelled, summary.boxes) == (4, 1, 2)
        assert summary.classes == ("clean", "scratch", "deviation")
        assert detect_format(following) == name
        path = following
    assert seen(path) == [
        ("lot1/a.png", (("scratch", (10.5, 20.25, 30.0, 40.0)),)),
        ("lot1/clean, one.png", ()),
        ("lot2/a.png", (("deviation", (0.0, 0.0, 100.0, 50.0)),)),
        ("lot2/b.png", None),
    ]
    assert (path / "classes.yaml").read_bytes() == (source / "classes.yaml").read_bytes()
    table = (path / "image_labels.csv").read_text().replace("train/", "").replace("val/", "")
    assert sorted(table.replace("test/", "").splitlines()) == sorted(
        (source / "image_labels.csv").read_text().splitlines()
    )


@pytest.mark.parametrize(
    ("to", "named"),
    [
        ("coco", "annotations"),
        ("coco", "annotations/instances_val.json"),
        ("yolo", "labels"),
        ("yolo", "data.yaml"),
        ("voc", "Annotations"),
    ],
)
def test_the_table_of_a_dataset_is_read_whichever_part_of_it_is_named(
    tmp_path: Path, source: Path, to: str, named: str
) -> None:
    convert(source, tmp_path / "first", to=to)
    convert(tmp_path / "first" / named, tmp_path / "then", to="voc")
    tables = [
        sorted((tmp_path / name / "image_labels.csv").read_text().splitlines())
        for name in ("first", "then")
    ]
    assert tables[0] == tables[1]
    assert sum(",g1,train" in row for row in tables[1]) == 2


def test_a_part_of_a_workspace_is_not_converted_without_its_classes(
    tmp_path: Path, source: Path
) -> None:
    with pytest.raises(WaferError, match=r"is that of the workspace .*; convert that workspace"):
        convert(source / "labels", tmp_path / "out", to="coco")
    assert not (tmp_path / "out").exists()


def with_sources(root: Path, sources: dict[str, Source]) -> Path:
    """Return a workspace whose ledger names the source of the one box of some images."""
    lines, digest = b"", GENESIS
    for number, (image, source) in enumerate(sources.items(), 1):
        entry = Entry(
            number=number,
            time="2026-11-26T12:00:00+00:00",
            who="test",
            image=image,
            image_sha256="0" * 64,
            size=(100, 50),
            revision=1,
            part=0,
            parts=1,
            decision="confirmed" if source == "model+confirmed" else "accepted",
            box=SCRATCH.box.corners,
            class_name="scratch",
            source=source,
        )
        line, digest = entry_line(entry, before=digest)
        lines += line
    (root / LEDGER).write_bytes(lines)
    head = {"count": len(sources), "hash": digest, "settled": len(sources)}
    (root / HEAD).write_text(json.dumps(head))
    return root


@pytest.mark.parametrize("to", ["yolo", "coco", "voc"])
def test_boxes_that_no_person_has_seen_are_named_and_measure_nothing(
    tmp_path: Path, to: str
) -> None:
    root, drawn = tmp_path / "source", Annotation(Box(50, 5, 60, 15), "scratch")
    samples = [
        Sample("drawn.png", "scratch", (SCRATCH,), None, "val"),
        Sample("confirmed.png", "scratch", (SCRATCH,), None, "test"),
        Sample("train.png", "scratch", (SCRATCH, drawn), None, "train"),
        Sample("unused.png", "scratch", (SCRATCH,), None, "unused"),
        Sample("val.png", "scratch", (SCRATCH, drawn), None, "val"),
        Sample("test.png", "scratch", (SCRATCH,), None, "test"),
    ]
    (root / "images").mkdir(parents=True)
    for sample in samples:
        Image.new("L", (100, 50)).save(root / "images" / sample.image)
    create_workspace(root, images=root / "images", classes=CLASSES, samples=samples)
    models = ("train.png", "unused.png", "val.png", "test.png")
    with_sources(root, {"confirmed.png": "model+confirmed", **dict.fromkeys(models, "model")})
    done = convert(root, tmp_path / "out", to=to)
    assert done.notes == (
        "2 boxes of 2 images are a model's that no person has confirmed; whoever reads this data "
        "set takes them for a person's",
        "2 images of val and test are written as unlabelled: they have boxes of a model that no "
        "person has confirmed, and nothing may be measured by these",
    )
    assert (done.images, done.boxes, done.unlabelled) == (6, 5, 2)
    boxes = {
        Path(s.image).name: s.annotations and len(s.annotations)
        for s in read_dataset(tmp_path / "out").samples
    }
    assert boxes == {
        "drawn.png": 1,
        "confirmed.png": 1,
        "train.png": 2,
        "unused.png": 1,
        "val.png": None,
        "test.png": None,
    }


@pytest.mark.parametrize(("to", "message"), [("cvat", "yolo, coco, voc"), ("YOLO", "yolo, coco")])
def test_an_unknown_target_names_the_known_ones(
    tmp_path: Path, source: Path, to: str, message: str
) -> None:
    with pytest.raises(
        WaferError, match=rf"unknown format '{to}'; those that are written: {message}"
    ):
        convert(source, tmp_path / "out", to=to)
    with pytest.raises(WaferError, match=r"those that are read: yolo, coco, voc, workspace"):
        read_dataset(source, source_format="csv")


def test_a_destination_with_something_in_it_is_left_alone(tmp_path: Path, source: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(WorkspaceError, match="there is something already; choose a new folder"):
        convert(source, tmp_path / "out", to="voc")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    assert convert(source, tmp_path / "empty", to="voc").images == 4


def test_a_source_with_a_fault_writes_nothing(tmp_path: Path, source: Path) -> None:
    (source / "labels" / "lot1" / "a.txt").write_text("9 .5 .5 .1 .1")
    with pytest.raises(DataError):
        convert(source, tmp_path / "new" / "out", to="voc")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source"]


def test_a_format_is_not_guessed(tmp_path: Path) -> None:
    Image.new("L", (100, 50)).save(tmp_path / "a.png")
    with pytest.raises(WaferError, match="looks like no known format; say which"):
        detect_format(tmp_path)
    (tmp_path / "a.txt").write_text("0 .5 .5 .1 .1")
    assert detect_format(tmp_path) == "yolo"
    (tmp_path / "a.xml").write_text("<annotation/>")
    with pytest.raises(WaferError, match=r"looks like yolo and voc; say which"):
        detect_format(tmp_path)
    with pytest.raises(WaferError, match="no such file or folder"):
        detect_format(tmp_path / "gone")


@pytest.mark.parametrize("source_format", ["yolo", "coco", "voc", "workspace", None])
def test_a_path_that_is_not_there_is_no_empty_dataset(
    tmp_path: Path, source_format: str | None
) -> None:
    Image.new("L", (100, 50)).save(tmp_path / "a.png")
    with pytest.raises(WaferError, match=r"gone: no such file or folder"):
        read_dataset(tmp_path / "gone", source_format=source_format, images=tmp_path)


def test_the_folder_of_images_tells_the_format(tmp_path: Path) -> None:
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    Image.new("L", (100, 50)).save(tmp_path / "images" / "a.png")
    (tmp_path / "labels" / "a.txt").write_text("0 .5 .5 .1 .1")
    assert detect_format(tmp_path / "images") == "yolo"
    assert convert(tmp_path / "images", tmp_path / "out", to="voc").boxes == 1


def test_the_paths_of_single_files_tell_the_format(tmp_path: Path) -> None:
    for name, expected in (("x.json", "coco"), ("data.yaml", "yolo")):
        (tmp_path / name).write_text("")
        assert detect_format(tmp_path / name) == expected


@pytest.mark.parametrize(
    ("names", "boxed", "none_class", "kinds"),
    [
        (["a", "No_Defect"], ["a"], None, ["box", "none"]),
        (["ok", "a"], ["a", "ok"], None, ["box", "box"]),
        (["a", "empty"], ["a"], None, ["box", "box"]),
        (["a", "empty"], ["a"], "empty", ["box", "none"]),
        (["a", "ok", "good"], ["a"], "good", ["box", "box", "none"]),
        (["a", "ok"], None, None, ["box", "box"]),
    ],
)
def test_derived_tables(
    names: list[str], boxed: list[str] | None, none_class: str | None, kinds: list[str]
) -> None:
    table = derive_classes(names, source="x", boxed=boxed, none_class=none_class)
    assert [c.kind for c in table] == kinds
    assert [c.code for c in table] == list(range(len(names)))


@pytest.mark.parametrize(
    ("names", "boxed", "none_class", "message"),
    [
        ([], [], None, "no class and no box in it"),
        (
            ["a", "ok", "good"],
            ["a"],
            None,
            "ok and good both mean no defect; choose one by `--none",
        ),
        (["a"], ["a"], "a", "class 'a' has boxes and cannot mean no defect"),
        (["a"], ["a"], "b", "no image of class 'b'"),
        (["a", "A"], ["a"], None, "'a' appears twice"),
        (["=a"], ["a"], None, "starts like a spreadsheet formula"),
    ],
)
def test_tables_that_cannot_be_derived(
    names: list[str], boxed: list[str], none_class: str | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        derive_classes(names, source="x", boxed=boxed, none_class=none_class)
