"""Broken workspaces: every fault is one line with its file and remedy, all of them at once."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from wafer.datasets.classes import ClassTable, DefectClass
from wafer.datasets.errors import DataError
from wafer.datasets.records import Annotation, Box, Sample
from wafer.datasets.workspace import Workspace, create_workspace

CLASSES = ClassTable(
    (DefectClass(0, "clean", "none"), DefectClass(1, "scratch"), DefectClass(2, "dust"))
)
BOX = (Annotation(Box(10, 10, 20, 20), "scratch"),)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    samples = [
        Sample("lot1/a.png", "scratch", BOX, "1", "train"),
        Sample("lot2/a.png", "clean", (), "2", "val"),
        Sample("b.png", "dust", None, "3", "test"),
    ]
    for sample in samples:
        (tmp_path / "images" / sample.image).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (100, 50)).save(tmp_path / "images" / sample.image)
    return create_workspace(tmp_path, images=tmp_path / "images", classes=CLASSES, samples=samples)


def faults_of(workspace: Workspace) -> list[str]:
    with pytest.raises(DataError) as caught:
        workspace.samples()
    return [str(fault) for fault in caught.value.faults]


def label(text: str) -> Callable[[Workspace], None]:
    return lambda w: w.label_path("lot1/a.png").write_text(text) and None


def row(text: str) -> Callable[[Workspace], None]:
    def add(workspace: Workspace) -> None:
        with workspace.table.open("a") as table:
            table.write(text + "\n")

    return add


def image(name: str, data: bytes | None = None) -> Callable[[Workspace], None]:
    def add(workspace: Workspace) -> None:
        path = workspace.images / name
        if data is None:
            Image.new("L", (10, 10)).save(path, "PNG")
        else:
            path.write_bytes(data)

    return add


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        (label("7 .5 .5 .1 .1"), "labels/lot1/a.txt:1: class index 7, where the known ones are"),
        (label("0 .5 .5 .1 .1\n0 .99 .5 .1 .1"), "a.txt:2: a box (94, 22.5 to 104, 27.5) outside"),
        (label("0 nan .5 .1 .1"), "a.txt:1: 'nan' is not a finite number; correct the line"),
        (label("0 .5 .5 -.1 .1"), "a.txt:1: width -0.1 and height 0.1 must be greater than 0"),
        (label("0 .5 .5 .1"), "a.txt:1: 4 fields instead of the 5 of `id xc yc width height`"),
        (
            lambda w: w.label_path("lot1/a.png").write_bytes(b"\xff\xfe0") and None,
            "a.txt: cannot be read as UTF-8 text",
        ),
        (
            lambda w: w.label_path("lot2/a.png").write_text("0 .5 .5 .1 .1") and None,
            "lot2/a.txt: 1 boxes on an image whose class is clean; delete the boxes or change",
        ),
        (
            lambda w: (w.labels / "gone.txt").write_text("") and None,
            "labels/gone.txt: labels of an image that is not there; remove it, or add its image",
        ),
        (row("gone.png,dust,,train"), "image_labels.csv:5: no image 'gone.png'"),
        (row("b.png,blob,3,test"), "image_labels.csv:5: unknown class 'blob'; use one of clean"),
        (row("b.png,scratch,3,test"), "image_labels.csv:5: b.png differs from its row in line 4"),
        (row("a.png,scratch,1,train"), "csv:5: 'a.png' may be lot1/a.png or lot2/a.png; write"),
        (row("b.png,dust,3,dev"), "image_labels.csv:5: unknown split 'dev'"),
        (row("b.png,dust"), "image_labels.csv:5: 2 cells where the header has 4"),
        (image("b.bmp"), "b.png: the same name as b.bmp but for the suffix; rename or remove one"),
        (image("a\nb.png"), "a\\nb.png: a control character in the file name; rename the file"),
        (image("a\\b.png"), "a backslash in the file name; rename the file"),
        (image("lot1/a.png", b"GIF89a"), "lot1/a.png: not a PNG, JPEG, TIFF or BMP image; copy"),
        (image("lot1/a.png", b""), "lot1/a.png: an empty file (0 bytes); copy the image again"),
        (lambda w: w.table.write_bytes(b"image,class\n\xff,a\n") and None, "csv:2: not UTF-8"),
        (
            lambda w: (w.images / "self.png").symlink_to(w.images / "self.png"),
            "images/self.png: cannot be followed (Too many levels of symbolic links); remove the",
        ),
    ],
)
def test_a_fault_names_file_line_and_remedy(
    workspace: Workspace, breaks: Callable[[Workspace], None], message: str
) -> None:
    assert len(workspace.samples()) == 3
    breaks(workspace)
    [line] = faults_of(workspace)
    assert message in line
    assert "\n" not in line
    assert "; " in line


def test_a_name_that_is_not_utf_8_is_shown_readably(workspace: Workspace) -> None:
    raw = os.fsencode(workspace.images) + b"/\xe4tzung.png"
    try:
        with open(raw, "wb") as handle:  # noqa: PTH123
            handle.write(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    [line] = faults_of(workspace)
    assert line == "\\\\xe4tzung.png: a file name that is not UTF-8; rename the file"
    line.encode("utf-8")


def test_all_faults_of_all_files_come_at_once(workspace: Workspace) -> None:
    label("7 .5 .5 .1 .1\n0 .5 .5 0 .1")(workspace)
    row("gone.png,dust,,train")(workspace)
    image("b.bmp")(workspace)
    (workspace.labels / "gone.txt").write_text("")
    assert len(faults_of(workspace)) == 5


def test_a_rounding_error_at_the_edge_is_cut_back(workspace: Workspace) -> None:
    label("0 .0475 .5 .1 1.01")(workspace)
    [sample] = [s for s in workspace.samples() if s.image == "lot1/a.png"]
    assert sample.annotations is not None
    assert sample.annotations[0].box.corners == pytest.approx((0, 0, 9.75, 50))


def test_an_empty_workspace_is_one_line(workspace: Workspace) -> None:
    for path in sorted(workspace.images.rglob("*.png")):
        path.unlink()
    lines = faults_of(workspace)
    assert "no image in this folder; put images there, or name their folder" in lines[0]


def test_names_that_look_odd_are_images_like_any(tmp_path: Path) -> None:
    names = ["=1+1.png", "+a.png", "-a.png", "@a.png", "a, b.png", "ü 晶圆.png", "'q.png", "#.png"]
    (tmp_path / "images").mkdir()
    for name in names:
        Image.new("L", (100, 50)).save(tmp_path / "images" / name)
    samples = [Sample(name, "scratch", BOX, name, "train") for name in sorted(names)]
    made = create_workspace(tmp_path, images=tmp_path / "images", classes=CLASSES, samples=samples)
    read = made.samples()
    assert [(s.image, s.image_class, s.group) for s in read] == [
        (s.image, s.image_class, s.group) for s in samples
    ]
    assert all(s.annotations is not None and len(s.annotations) == 1 for s in read)


def test_links_in_a_circle_end(workspace: Workspace) -> None:
    (workspace.images / "again").symlink_to(workspace.images)
    (workspace.images / "broken.png").symlink_to(workspace.images / "nothing.png")
    assert [s.image for s in workspace.samples()] == ["b.png", "lot1/a.png", "lot2/a.png"]
