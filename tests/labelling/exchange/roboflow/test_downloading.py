"""From Roboflow: whole archives or none, names traced back, only boxes of the image itself."""

import io
import random
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from wafer.datasets.errors import DataError, ExchangeError, WaferError
from wafer.datasets.images import decode_image
from wafer.datasets.synthetic.generate import generate_workspace
from wafer.datasets.workspace import Workspace
from wafer.labelling.exchange.drawings import Drawing
from wafer.labelling.exchange.roboflow.downloading import download_version
from wafer.labelling.exchange.roboflow.export import read_export
from wafer.labelling.exchange.roboflow.names import LocalNames, remote_name
from wafer.labelling.exchange.roboflow.project import open_project
from wafer.labelling.importing import import_labels
from wafer.labelling.ledger import Ledger

BOXES: dict[str, Any] = {
    "lot1/a.png": [("residue", (10, 8, 60, 40)), ("scratch", (60, 40, 120, 80))],
    "lot2/a.png": [("scratch", (0, 0, 30, 20))],
}


def saved(workspace: Workspace, data: bytes) -> Path:
    path = workspace.root / "export.zip"
    path.write_bytes(data)
    return path


def read(workspace: Workspace, data: bytes) -> tuple[tuple[Drawing, ...], tuple[str, ...]]:
    return read_export(saved(workspace, data), workspace)


def problems(workspace: Workspace, data: bytes) -> list[str]:
    with pytest.raises(DataError) as caught:
        read(workspace, data)
    assert list((workspace.cache / "roboflow").iterdir()) == []
    assert all(str(workspace.cache) not in str(fault) for fault in caught.value.faults)
    return [fault.problem for fault in caught.value.faults]


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Three synthetic images of 256 pixels."""
    root = tmp_path_factory.mktemp("synthetic") / "w"
    return generate_workspace(
        root, images=3, counts="scratch=1,particle=1,C_residue=1", size=256, processes=1, seed=5
    )


def one_of(workspace: Workspace, image: str, change: Any, *, quality: int = 75) -> bytes:
    """An export of one changed image, with a box at (64, 96, 128, 160) of 256 if unchanged."""
    pixels = np.ascontiguousarray(change(decode_image(workspace.image_path(image))))
    out, jpeg = io.BytesIO(), io.BytesIO()
    Image.fromarray(pixels).save(jpeg, "JPEG", quality=quality)
    with zipfile.ZipFile(out, "w") as archive:
        names = ", ".join(workspace.classes.detector_names)
        archive.writestr("data.yaml", f"names: [{names}]")
        archive.writestr(f"train/images/{Path(image).stem}.jpg", jpeg.getvalue())
        archive.writestr(f"train/labels/{Path(image).stem}.txt", "0 0.375 0.5 0.25 0.25\n")
    return out.getvalue()


def corners(drawing: Drawing) -> list[tuple[str, Any]]:
    return [(a.class_name, pytest.approx(a.box.corners, abs=1e-3)) for a in drawing.annotations]


# What an export says


@pytest.mark.parametrize("form", ["yolo", "coco"])
@pytest.mark.parametrize("size", [(160, 160), (120, 80), (300, 200)])
def test_boxes_of_a_resized_and_renamed_export_are_those_of_the_image(
    workspace: Workspace, exported: Any, form: str, size: tuple[int, int]
) -> None:
    exported.size = size
    drawings, notes = read(workspace, getattr(exported, form)(BOXES))
    assert [d.image for d in drawings] == sorted(BOXES)
    for drawing in drawings:
        assert corners(drawing) == BOXES[drawing.image]
        assert {a.source for a in drawing.annotations} == {"human"}
    assert notes == ()
    assert list((workspace.cache / "roboflow").iterdir()) == []


@pytest.mark.parametrize("form", ["yolo", "coco"])
def test_an_image_without_a_box_is_left_as_it_is_and_named(
    workspace: Workspace, exported: Any, form: str
) -> None:
    boxes = {**BOXES, "b ü.png": [], "c.png": []}
    drawings, notes = read(workspace, getattr(exported, form)(boxes))
    assert [d.image for d in drawings] == sorted(BOXES)
    (note,) = notes
    assert note.startswith("1 images without a box are left as they are")
    assert "(b ü.png)" in note  # c.png is known to show no defect


def test_an_image_without_a_label_file_says_nothing(workspace: Workspace, exported: Any) -> None:
    drawings, notes = read(workspace, exported.yolo({**BOXES, "b ü.png": None}))
    assert ([d.image for d in drawings], notes) == (sorted(BOXES), ())


@pytest.mark.parametrize(
    "change",
    [
        *(lambda p: p[:, ::-1], lambda p: p[::-1], np.rot90, lambda p: p[8:-8, 12:-12]),
        *(lambda p: np.pad(p, ((20, 20), (0, 0))), lambda p: np.full_like(p, 9)),
    ],
)
def test_boxes_of_a_changed_copy_are_refused(
    workspace: Workspace, exported: Any, change: Any
) -> None:
    files = exported.files(BOXES)
    name, _ = files["lot1/a.png"]
    files["lot1/a.png"] = name, exported.picture("lot1/a.png", change)
    (problem,) = problems(workspace, exported.yolo(BOXES, files))
    assert problem == f"lot1/a.png: {name} does not look like it"


@pytest.mark.parametrize(
    ("change", "away"),
    [
        (lambda p: p[6:-6, 6:-6], 2.4),
        (lambda p: p[:, 12:], 4.9),
        (lambda p: p[:-5], 2.0),
        (lambda p: np.pad(p, ((4, 4), (0, 0))), 1.5),
        (lambda p: np.pad(p, ((0, 0), (6, 6)), constant_values=255), 2.2),
        (lambda p: np.pad(p, ((0, 8), (0, 0)), "reflect"), 3.0),
    ],
)
def test_boxes_of_a_slightly_cropped_or_padded_copy_are_refused(
    synthetic: Workspace, change: Any, away: float
) -> None:
    for image in (s.image for s in synthetic.samples()):
        (problem,) = problems(synthetic, one_of(synthetic, image, change))
        start, _, share = problem.removesuffix("% away").rpartition(" ")
        name = f"{Path(image).stem}.jpg"
        assert start == f"{image}: {name} is cropped or padded: its edges are"
        assert float(share) == pytest.approx(away, abs=0.3)


@pytest.mark.parametrize(
    "change",
    [
        *(lambda p: p, lambda p: cv2.equalizeHist(p), lambda p: np.repeat(p, 2, axis=1)),
        *(lambda p: cv2.createCLAHE(3.0, (8, 8)).apply(p), lambda p: 255 - (255 - p) // 2),
        lambda p: cv2.resize(p, (128, 128), interpolation=cv2.INTER_AREA),
        lambda p: cv2.resize(p, (416, 640)),
    ],
)
def test_a_resized_copy_with_another_contrast_is_good(synthetic: Workspace, change: Any) -> None:
    for sample in synthetic.samples():
        (drawing,), notes = read(synthetic, one_of(synthetic, sample.image, change, quality=60))
        assert drawing.image == sample.image
        assert drawing.annotations[0].box.corners == pytest.approx((64, 96, 128, 160), abs=1e-3)
        assert notes == ()


def test_an_image_that_shows_nothing_and_has_no_box_is_no_fault(
    workspace: Workspace, exported: Any
) -> None:
    Image.fromarray(np.zeros((80, 120), np.uint8)).save(workspace.image_path("c.png"))
    drawings, _ = read(workspace, exported.yolo({**BOXES, "c.png": []}))
    assert [d.image for d in drawings] == sorted(BOXES)


def test_several_copies_of_an_image_are_refused(workspace: Workspace, exported: Any) -> None:
    exported.extra = {"train/images/lot1-a_png.rf.ffff.jpg": exported.picture("lot1/a.png")}
    exported.extra["train/labels/lot1-a_png.rf.ffff.txt"] = b""
    (problem,) = problems(workspace, exported.yolo(BOXES))
    assert problem.startswith("lot1/a.png is exported twice, last as lot1-a")


def test_unknown_classes_and_images_are_named_together(workspace: Workspace, exported: Any) -> None:
    exported.names = ("scratch", "residue", "crack", "dent")
    boxes = {"lot1/a.png": [("crack", (1, 1, 9, 9)), ("dent", (1, 1, 9, 9))]}
    exported.extra = {"train/images/other_jpg.rf.0a.jpg": exported.picture("lot2/a.png")}
    exported.extra["train/labels/other_jpg.rf.0a.txt"] = b""
    assert sorted(problems(workspace, exported.yolo(boxes))) == [
        "lot1/a.png: unknown class 'crack'",
        "lot1/a.png: unknown class 'dent'",
        "no image for 'other_jpg.rf.0a.jpg'",
    ]


def test_a_damaged_image_and_a_box_outside_are_faults(workspace: Workspace, exported: Any) -> None:
    files = exported.files(BOXES)
    name, data = files["lot2/a.png"]
    files["lot2/a.png"] = name, data[:-200]
    found = problems(workspace, exported.yolo(BOXES, files))
    assert len(found) == 1
    assert found[0].startswith(f"{name}: cut off before its end")
    boxes = {"lot1/a.png": [("residue", (100, 8, 160, 40))]}
    (problem,) = problems(workspace, exported.yolo(boxes))
    assert "outside its image" in problem


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"names: [", "not valid YAML"),
        (b"train: x\n", "no `names` of the classes"),
        (b"names: {0: [a]}\n", "no `names` of the classes"),
        (b"a: &a [x, x]\nb: &b [*a, *a]\nnames: [*b, *b]\n", "no `names` of the classes"),
        (b"#" + random.Random(0).randbytes(1 << 19).hex().encode(), "larger than a megabyte"),
    ],
)
def test_a_data_yaml_that_cannot_be_used_is_said(
    workspace: Workspace, exported: Any, text: bytes, problem: str
) -> None:
    exported.extra = {"data.yaml": text}
    with pytest.raises(DataError) as caught:
        read(workspace, exported.yolo(BOXES))
    (fault,) = caught.value.faults
    assert (fault.problem, fault.file) == (problem, f"{workspace.root}/export.zip/data.yaml")


def test_paths_of_a_data_yaml_are_never_followed(workspace: Workspace, exported: Any) -> None:
    secret = workspace.root.parent / "secret"
    (secret / "images").mkdir(parents=True)
    (secret / "labels").mkdir()
    name = exported.name("b ü.png")
    (secret / "images" / name).write_bytes(exported.picture("b ü.png"))
    (secret / "labels" / name.replace(".jpg", ".txt")).write_text("0 0.5 0.5 0.1 0.1\n")
    exported.extra = {
        "data.yaml": f"path: /\ntrain: {secret}/images\nnames: [scratch, residue]\n".encode()
    }
    drawings, _ = read(workspace, exported.yolo(BOXES))
    assert [d.image for d in drawings] == sorted(BOXES)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"[" * 100_000, "cannot be read as JSON"),
        (b'{"images": [], "annotations"', "not JSON"),
        (b"\xff", "cannot be read as JSON"),
        (b"[]", "not a COCO file"),
    ],
)
def test_a_coco_file_that_cannot_be_read_is_said(
    workspace: Workspace, exported: Any, text: bytes, problem: str
) -> None:
    exported.extra = {"train/_annotations.coco.json": text}
    assert problem in problems(workspace, exported.coco(BOXES))[0]


def test_an_archive_of_something_else_is_said(workspace: Workspace) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("notes.txt", "hello")
    assert problems(workspace, out.getvalue()) == [
        "neither a data.yaml nor an _annotations.coco.json"
    ]


# Names


def test_names_are_found_by_content_then_by_letters(workspace: Workspace) -> None:
    cache = workspace.image_cache()
    images = [s.image for s in workspace.samples()]
    names = LocalNames(images, cache=cache)
    for image in images:
        name = remote_name(image, sha256=cache.sha256(image), suffix=".png")
        stem = name.removesuffix(".png")
        for seen in (name, f"{stem}_png.rf.00ff00ff.jpg", f"{stem}.rf.AbC123.png"):
            assert names.find(seen) == image
    assert names.find("lot1-a_png.rf.0123456789abcdef.jpg") == "lot1/a.png"
    assert names.find("b-ü_png.rf.0123.jpg") == "b ü.png"
    with pytest.raises(LookupError, match=r"may be lot1/a\.png or lot2/a\.png"):
        names.find("a_png.rf.0123.jpg")
    with pytest.raises(LookupError, match="no image for"):
        names.find("x-000000000000_png.rf.0123.jpg")


def test_equal_images_are_told_apart_by_name(workspace: Workspace) -> None:
    twin = workspace.images / "twin.png"
    twin.write_bytes(workspace.image_path("b ü.png").read_bytes())
    cache = workspace.image_cache()
    names = LocalNames(["b ü.png", "twin.png"], cache=cache)
    digest = cache.sha256("twin.png")
    assert names.find(remote_name("twin.png", sha256=digest, suffix=".png")) == "twin.png"
    with pytest.raises(LookupError, match="may be"):
        names.find(f"other-{digest[:12]}_png.rf.01.jpg")


# Fetching


def fetched(workspace: Workspace, remote: Any, pauses: list[float], **options: Any) -> Path:
    path = workspace.root / "got.zip"
    project = open_project(remote.name, pause=pauses.append)
    download_version(project, 3, path, pause=pauses.append, **options)
    return path


def test_a_version_is_packed_on_demand_and_fetched_whole(
    workspace: Workspace, remote: Any, pauses: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    remote.archive = bytes(range(256)) * 20_000
    remote.packing = 2
    told: list[tuple[int, int | None]] = []
    caplog.set_level("INFO", logger="wafer")
    path = fetched(
        workspace, remote, pauses, progress=lambda done, total: told.append((done, total))
    )
    assert path.read_bytes() == remote.archive
    assert told[-1] == (len(remote.archive), len(remote.archive))
    assert pauses == [2, 2]
    assert f"from {remote.url.removeprefix('http://')}" in caplog.text
    assert "private" not in caplog.text


@pytest.mark.parametrize("kind", ["export", "download"])
@pytest.mark.parametrize("trouble", [429, 503, "cut"])
def test_trouble_is_asked_again(
    workspace: Workspace, remote: Any, pauses: list[float], kind: str, trouble: object
) -> None:
    remote.archive = b"PK" * 500_000
    remote.troubles[kind] = [trouble]
    assert fetched(workspace, remote, pauses).read_bytes() == remote.archive
    assert len(pauses) == 1
    assert remote.count(kind) == 2


def test_a_connection_that_is_always_cut_leaves_no_half_file(
    workspace: Workspace, remote: Any, pauses: list[float]
) -> None:
    remote.archive = b"PK" * 500_000
    remote.troubles["download"] = ["cut"] * 6
    before = sorted(workspace.root.iterdir())
    with pytest.raises(ExchangeError, match="no answer after 6 tries") as caught:
        fetched(workspace, remote, pauses)
    assert sorted(workspace.root.iterdir()) == before
    assert "private" not in str(caught.value)


def test_a_version_with_augmentation_is_refused(
    workspace: Workspace, remote: Any, pauses: list[float]
) -> None:
    remote.augmentation = {"flip": {"horizontal": True}, "image": {"versions": 3}}
    with pytest.raises(ExchangeError, match=r"has augmentation \(flip\)"):
        fetched(workspace, remote, pauses)
    assert remote.count("export") == 0


@pytest.mark.parametrize(
    ("preprocessing", "named"),
    [
        ({"static-crop": {"x_min": 10, "x_max": 90, "y_min": 0, "y_max": 100}}, "static-crop"),
        ({"tile": {"rows": 2, "columns": 2}, "isolate": True}, "tile, isolate"),
        *(
            ({"resize": {"width": 640, "height": 640, "format": how}}, f"resize '{how}'")
            for how in ("Fit (black edges) in", "Fit (reflect edges) in")
        ),
        (
            {"resize": {"format": "Fill (with center crop) in"}},
            "resize 'Fill (with center crop) in'",
        ),
    ],
)
def test_a_version_that_is_cropped_or_padded_is_refused(
    workspace: Workspace, remote: Any, pauses: list[float], preprocessing: Any, named: str
) -> None:
    remote.preprocessing = {"auto-orient": True, **preprocessing}
    with pytest.raises(ExchangeError) as caught:
        fetched(workspace, remote, pauses)
    assert str(caught.value) == (
        f"version 3 of {remote.name} has preprocessing that crops or pads ({named}): its boxes are "
        "not those of the images; generate a version with resize 'Stretch to' or none, and without "
        "the rest"
    )
    assert remote.count("export") == 0


@pytest.mark.parametrize("how", ["Stretch to", "Fit within"])
def test_a_version_that_is_only_resized_is_fetched(
    workspace: Workspace, remote: Any, pauses: list[float], how: str
) -> None:
    remote.archive = b"PK"
    remote.preprocessing = {
        **{"auto-orient": True, "grayscale": True, "contrast": {"type": "Contrast Stretching"}},
        **{"resize": {"width": 640, "height": 640, "format": how}, "tile": None},
        "static-crop": {"enabled": False, "x_min": 0},
    }
    assert fetched(workspace, remote, pauses).read_bytes() == b"PK"


def test_a_version_that_is_not_there_is_said(
    workspace: Workspace, remote: Any, pauses: list[float]
) -> None:
    project = open_project(remote.name)
    with pytest.raises(ExchangeError, match="Version number 4 is not found"):
        download_version(project, 4, workspace.root / "x.zip", pause=pauses.append)
    assert pauses == []


def test_a_link_that_is_refused_is_said_without_its_signature(
    workspace: Workspace, remote: Any, pauses: list[float]
) -> None:
    remote.troubles["download"] = [404]
    with pytest.raises(ExchangeError, match="status 404 instead of a file") as caught:
        fetched(workspace, remote, pauses)
    assert "private" not in str(caught.value)


# Into the workspace


@pytest.mark.parametrize("form", ["yolo", "coco"])
def test_the_circle_closes(workspace: Workspace, remote: Any, exported: Any, form: str) -> None:
    remote.archive = getattr(exported, form)({**BOXES, "b ü.png": []})
    taken = import_labels(workspace, f"roboflow:{remote.name}/3")
    assert [d.image for d in taken.written] == sorted(BOXES)
    found = {s.image: s.annotations for s in workspace.samples()}
    assert found["b ü.png"] is None
    for image, boxes in BOXES.items():
        assert corners(Drawing(image, found[image] or ())) == boxes
    assert list((workspace.cache / "roboflow").iterdir()) == []
    again = import_labels(workspace, f"roboflow:{remote.name}/3")
    assert (len(again.written), len(again.unchanged)) == (0, 2)


def test_an_archive_on_disk_is_taken_in_too(workspace: Workspace, exported: Any) -> None:
    path = saved(workspace, exported.yolo(BOXES))
    assert len(import_labels(workspace, str(path)).written) == 2
    label = workspace.label_path("lot1/a.png")
    label.write_text("0 0.5 0.5 0.2 0.2\n")
    with pytest.raises(DataError, match="changed by hand since the ledger recorded it"):
        import_labels(workspace, str(path))
    Ledger(workspace).adopt(who="Ada")
    with pytest.raises(DataError, match=r"2 boxes of lot1/a\.png, where .* has other boxes"):
        import_labels(workspace, str(path))
    assert label.read_text() == "0 0.5 0.5 0.2 0.2\n"


def test_a_source_that_is_nothing_known_is_said(workspace: Workspace) -> None:
    for source in ("roboflow:defects/3", "roboflow:a/b/c", "gone.zip"):
        with pytest.raises(WaferError, match="no such file; name a JSON export"):
            import_labels(workspace, source)


@pytest.mark.slow
def test_the_command_names_the_host_and_takes_the_boxes(
    workspace: Workspace, remote: Any, exported: Any
) -> None:
    remote.archive = exported.yolo(BOXES)
    done = subprocess.run(
        [Path(sys.executable).with_name("wafer"), "labels", "import", f"roboflow:{remote.name}/3"],
        cwd=workspace.root,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{workspace.labels}\n"
    assert f"looking up {remote.name} at {remote.url}" in done.stderr
    assert "2 images written (0 of them replaced), 0 unchanged" in done.stderr
    assert remote.key not in done.stderr
