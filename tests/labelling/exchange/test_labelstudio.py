"""Label Studio: tasks out, what people drew back in, and nothing of it lost on the way."""

import base64
import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from wafer.datasets.classes import ClassTable, DefectClass
from wafer.datasets.errors import ConflictError, DataError, WaferError
from wafer.datasets.image_names import ImageNames
from wafer.datasets.images import is_plain
from wafer.datasets.records import Annotation, Box, Sample
from wafer.datasets.workspace import Workspace, create_workspace
from wafer.labelling.exchange.drawings import Drawing, agree, take_in
from wafer.labelling.exchange.labelstudio import labelling_config, read_export, write_tasks
from wafer.labelling.importing import import_labels
from wafer.labelling.ledger import BoxEvent, Ledger, Revision
from wafer.labelling.verdicts import ReviewedBox, reviewed
from wafer.labelling.verifying import verify_ledger

CLASSES = ClassTable(
    (
        DefectClass(0, "clean", "none"),
        DefectClass(1, "residue"),
        DefectClass(2, 'a "b" <c> & d'),
        DefectClass(3, "deviation", "whole_image"),
    )
)
SIZE = (100, 50)
SAMPLES = (
    Sample("lot1/a.png", "residue", None, None, "train"),
    Sample("lot2/a.png", 'a "b" <c> & d', None, None, "train"),
    Sample("b ü.png", None, None, None, "train"),
    Sample("c.png", "clean", None, None, "train"),
    Sample("dev.png", "deviation", None, None, "train"),
    Sample("e.png", "residue", None, None, "val"),
)


def made(folder: Path, samples: tuple[Sample, ...] = SAMPLES) -> Workspace:
    for number, sample in enumerate(samples):
        path = folder / "images" / sample.image
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, SIZE[::-1], dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return create_workspace(folder, images=folder / "images", classes=CLASSES, samples=samples)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return made(tmp_path)


def region(box: Box, name: str = "residue", *, rotation: float = 0, **more: Any) -> dict[str, Any]:
    width, height = SIZE
    return {
        "id": "x1",
        "type": "rectanglelabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {
            "x": box.xmin / width * 100,
            "y": box.ymin / height * 100,
            "width": box.width / width * 100,
            "height": box.height / height * 100,
            "rotation": rotation,
            "rectanglelabels": [name],
        },
        **more,
    }


def annotation(*regions: Any, **more: Any) -> dict[str, Any]:
    return {"id": 7, "completed_by": 3, "was_cancelled": False, "result": list(regions), **more}


def task(image: str, *annotations: Any, **more: Any) -> dict[str, Any]:
    return {
        "id": 1,
        "data": {"image": f"/data/local-files/?d=images/{image}", "wafer_image": image},
        "annotations": list(annotations),
        **more,
    }


def smaller(full: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the records of JSON-MIN that Label Studio's converter makes of a task."""
    records = []
    for each in full["annotations"] or [{}]:
        if each.get("was_cancelled"):
            continue
        outputs: dict[str, list[dict[str, Any]]] = {}
        for part in each.get("result", []):
            sizes = {key: part[key] for key in ("original_width", "original_height")}
            outputs.setdefault(part["from_name"], []).append({**part["value"], **sizes})
        records.append(
            {
                **full["data"],
                "id": full["id"],
                **outputs,
                "annotator": each.get("completed_by"),
                "annotation_id": each.get("id"),
                "created_at": each.get("created_at"),
                "updated_at": each.get("updated_at"),
                "lead_time": 1.5,
            }
        )
    return records


Shape = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]
SHAPES: dict[str, Shape] = {
    "full": lambda tasks: tasks,
    "min": lambda tasks: [record for each in tasks for record in smaller(each)],
}


@pytest.fixture(params=sorted(SHAPES))
def shape(request: pytest.FixtureRequest) -> Shape:
    return SHAPES[request.param]


def saved(folder: Path, tasks: Any) -> Path:
    path = folder / "export.json"
    path.write_text(json.dumps(tasks), encoding="utf-8")
    return path


def read(workspace: Workspace, tasks: Any) -> tuple[tuple[Drawing, ...], tuple[str, ...]]:
    return read_export(
        saved(workspace.root, tasks),
        images=ImageNames(sample.image for sample in workspace.samples()),
        size=workspace.image_cache().size,
        classes=CLASSES,
    )


def problems(workspace: Workspace, tasks: Any) -> list[str]:
    with pytest.raises(DataError) as caught:
        read(workspace, tasks)
    assert all(fault.remedy for fault in caught.value.faults)
    return [fault.problem for fault in caught.value.faults]


BOX = Box(10, 5, 40, 25)
OTHER = Box(50, 10, 90, 50)


# Tasks


def test_tasks_name_the_image_and_its_class_and_the_url_leads_to_the_file(
    workspace: Workspace,
) -> None:
    handed = write_tasks(workspace, SAMPLES[:3], workspace.root / "tasks.json")
    tasks = json.loads(handed.tasks.read_text(encoding="utf-8"))
    assert [each["data"]["wafer_image"] for each in tasks] == [s.image for s in SAMPLES[:3]]
    assert [each["data"]["image_class"] for each in tasks] == ["residue", 'a "b" <c> & d', ""]
    assert all(each.keys() == {"data"} for each in tasks)
    root = workspace.images.parent
    for each, sample in zip(tasks, SAMPLES, strict=False):
        url = urlsplit(each["data"]["image"])
        assert url.path == "/data/local-files/"
        assert root / parse_qs(url.query)["d"][0] == workspace.image_path(sample.image)
    assert f"LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={root}," in handed.notes[0]


def test_the_config_has_the_classes_that_are_drawn(workspace: Workspace) -> None:
    root = ET.fromstring(labelling_config(CLASSES))
    labels = root.findall("RectangleLabels/Label")
    assert [each.get("value") for each in labels] == ["residue", 'a "b" <c> & d']
    assert [each.get("hotkey") for each in labels] == ["1", "2"]
    (image,) = root.findall("Image")
    (boxes,) = root.findall("RectangleLabels")
    assert boxes.get("toName") == image.get("name")
    assert image.get("value") == "$image"


def test_boxes_of_a_model_are_predictions_in_percent_with_scores(workspace: Workspace) -> None:
    found = (
        Annotation(BOX, "residue", "model", 0.75),
        Annotation(OTHER, "residue", "model", 0.5),
        Annotation(Box(0, 0, 100, 50), "deviation", "rule"),
    )
    sample = replace(SAMPLES[0], annotations=found)
    handed = write_tasks(
        workspace, [sample], workspace.root / "tasks.json", model_version="yolov5n-1234"
    )
    (made_task,) = json.loads(handed.tasks.read_text(encoding="utf-8"))
    assert "annotations" not in made_task
    (prediction,) = made_task["predictions"]
    assert (prediction["model_version"], prediction["score"]) == ("yolov5n-1234", 0.5)
    first, second = prediction["result"]
    assert first["value"] == {
        **{"x": 10, "y": 10, "width": 30, "height": 40},
        **{"rotation": 0, "rectanglelabels": ["residue"]},
    }
    assert (first["score"], second["score"]) == (0.75, 0.5)
    assert (first["original_width"], first["original_height"]) == SIZE
    assert first["id"] != second["id"]


def test_images_that_a_browser_shows_otherwise_are_embedded(tmp_path: Path) -> None:
    samples = (Sample("wide.png"), Sample("turned.jpg"), Sample("t.tif"), Sample("plain.png"))
    folder = tmp_path / "images"
    folder.mkdir()
    wide = np.linspace(0, 4095, 5000).reshape(50, 100).astype(np.uint16)
    Image.fromarray(wide).save(folder / "wide.png")
    grey = Image.fromarray(np.arange(5000, dtype=np.uint32).reshape(50, 100).astype(np.uint8))
    exif = Image.Exif()
    exif[274] = 6
    grey.save(folder / "turned.jpg", exif=exif)
    grey.save(folder / "t.tif")
    grey.save(folder / "plain.png")
    workspace = create_workspace(
        tmp_path, images=folder, classes=CLASSES, samples=samples, white_level=4095
    )
    assert [is_plain(folder / s.image) for s in samples] == [False, False, False, True]
    handed = write_tasks(workspace, samples, tmp_path / "tasks.json")
    urls = [each["data"]["image"] for each in json.loads(handed.tasks.read_text())]
    assert [url.startswith("data:image/png;base64,") for url in urls] == [True] * 3 + [False]
    assert handed.notes[1].startswith("3 images are embedded")
    with Image.open(io.BytesIO(base64.b64decode(urls[0].partition(",")[2]))) as shown:
        assert (np.asarray(shown) == np.rint(wide.astype(float) * 255 / 4095)).all()
    with Image.open(io.BytesIO(base64.b64decode(urls[1].partition(",")[2]))) as shown:
        assert shown.size == (100, 50)


def test_embedded_images_are_the_files_own_bytes_where_they_can_be(workspace: Workspace) -> None:
    handed = write_tasks(workspace, SAMPLES[:1], workspace.root / "t.json", embed=True)
    (each,) = json.loads(handed.tasks.read_text())
    data = base64.b64decode(each["data"]["image"].removeprefix("data:image/png;base64,"))
    assert data == workspace.image_path(SAMPLES[0].image).read_bytes()
    assert handed.notes == ()


def test_a_config_that_somebody_changed_is_kept(workspace: Workspace) -> None:
    tasks = workspace.root / "t.json"
    handed = write_tasks(workspace, SAMPLES[:1], tasks)
    write_tasks(workspace, SAMPLES[:1], tasks)
    assert not list(workspace.root.glob("labelstudio.xml.bak-*"))
    handed.config.write_text("<View/>")
    write_tasks(workspace, SAMPLES[:1], tasks)
    assert (workspace.root / "labelstudio.xml.bak-1").read_text() == "<View/>"
    assert handed.config.read_text(encoding="utf-8") == labelling_config(CLASSES)


def test_images_that_cannot_be_read_are_all_named_and_nothing_is_written(
    workspace: Workspace,
) -> None:
    for sample in SAMPLES[:2]:
        workspace.image_path(sample.image).write_bytes(b"no image")
    with pytest.raises(DataError) as caught:
        write_tasks(workspace, SAMPLES, workspace.root / "tasks.json")
    assert len(caught.value.faults) == 2
    assert not (workspace.root / "tasks.json").exists()


# Exports


shares = st.floats(0, 1, allow_nan=False)


@given(corners=st.tuples(shares, shares, shares, shares), minimal=st.booleans())
def test_a_box_comes_back_as_it_was_drawn(
    tmp_path_factory: pytest.TempPathFactory, corners: tuple[float, ...], minimal: bool
) -> None:
    width, height = SIZE
    xs, ys = sorted(corners[:2]), sorted(corners[2:])
    box = (xs[0] * width, ys[0] * height, xs[1] * width, ys[1] * height)
    if box[2] - box[0] < 1e-3 or box[3] - box[1] < 1e-3:
        return
    tasks = [task("lot1/a.png", annotation(region(Box(*box))))]
    path = tmp_path_factory.mktemp("export") / "e.json"
    path.write_text(json.dumps(SHAPES["min" if minimal else "full"](tasks)))
    (drawing,), _ = read_export(
        path, images=ImageNames(["lot1/a.png"]), size=lambda _: SIZE, classes=CLASSES
    )
    assert drawing.annotations[0].box.corners == pytest.approx(box, abs=1e-9)


def test_an_export_says_who_drew_and_when(workspace: Workspace, shape: Shape) -> None:
    when = "2026-01-02T03:04:05Z"
    (drawing,), notes = read(
        workspace, shape([task("lot1/a.png", annotation(region(BOX), updated_at=when))])
    )
    assert drawing.image == "lot1/a.png"
    assert drawing.annotations[0].class_name == "residue"
    assert drawing.annotations[0].box.corners == pytest.approx(BOX.corners)
    assert (drawing.author, drawing.when) == ("3", when)
    assert notes == ()


def test_boxes_of_a_prediction_are_told_from_those_drawn(workspace: Workspace) -> None:
    parts = [
        region(BOX, origin=origin) for origin in ("manual", "prediction", "prediction-changed")
    ]
    (drawing,), _ = read(workspace, [task("lot1/a.png", annotation(*parts))])
    assert [a.source for a in drawing.annotations] == ["human", "model+confirmed", "model+edited"]


def test_an_annotation_without_a_box_is_a_background_and_a_skipped_task_is_not(
    workspace: Workspace, shape: Shape
) -> None:
    tasks = [
        task("lot1/a.png", annotation()),
        task("lot2/a.png", annotation(region(BOX), was_cancelled=True)),
        task("e.png"),
    ]
    drawings, notes = read(workspace, shape(tasks))
    assert drawings == (Drawing("lot1/a.png", (), "3", None),)
    assert "1 tasks that nobody has annotated" in notes


def test_what_was_skipped_cancelled_or_not_submitted_is_counted(workspace: Workspace) -> None:
    cancelled = annotation(region(OTHER), was_cancelled=True, id=8)
    tasks = [
        task("lot1/a.png", annotation(region(BOX)), cancelled, drafts=[{"result": []}]),
        task("lot2/a.png", cancelled),
    ]
    (drawing,), notes = read(workspace, tasks)
    assert len(drawing.annotations) == 1
    assert set(notes) == {
        "1 cancelled annotations left out",
        "1 skipped tasks: nobody has looked",
        "1 tasks with drafts that were not submitted, left out",
    }


def test_predictions_are_never_taken_for_drawings(workspace: Workspace) -> None:
    prediction = [{"model_version": "m", "result": [region(BOX)]}]
    drawings, _ = read(workspace, [task("lot1/a.png", predictions=prediction)])
    assert drawings == ()


@pytest.mark.parametrize("angle", [30.0, 90.0, 200.5, -45.0])
def test_a_turned_box_becomes_the_upright_one_around_it(
    workspace: Workspace, shape: Shape, angle: float
) -> None:
    start, width, height = complex(50, 25), 10, 4
    turn = complex(math.cos(math.radians(angle)), math.sin(math.radians(angle)))
    points = [start + complex(x, y) * turn for x in (0, width) for y in (0, height)]
    wanted = (
        *(min(p.real for p in points), min(p.imag for p in points)),
        *(max(p.real for p in points), max(p.imag for p in points)),
    )
    part = region(Box(50, 25, 50 + width, 25 + height), rotation=angle)
    (drawing,), notes = read(workspace, shape([task("lot1/a.png", annotation(part))]))
    assert drawing.annotations[0].box.corners == pytest.approx(wanted)
    assert notes == ("1 turned boxes became the upright ones around them",)


def test_a_turned_box_is_cut_at_the_frame(workspace: Workspace, shape: Shape) -> None:
    part = region(Box(90, 10, 110, 30), rotation=45)
    (drawing,), _ = read(workspace, shape([task("lot1/a.png", annotation(part))]))
    box = drawing.annotations[0].box
    assert (box.xmax, box.ymin) == (100, 10)


def test_an_outline_becomes_the_box_around_it(workspace: Workspace, shape: Shape) -> None:
    value = {"points": [[10, 10], [30, 20], [20, 60]], "polygonlabels": ["residue"]}
    part = {**region(BOX), "type": "polygonlabels", "value": value}
    (drawing,), notes = read(workspace, shape([task("lot1/a.png", annotation(part))]))
    assert drawing.annotations[0].box.corners == pytest.approx((10, 5, 30, 30))
    assert notes == ("1 outlines became the boxes around them",)


@pytest.mark.parametrize(
    ("url", "image"),
    [
        ("/data/local-files/?d=images/lot2/a.png", "lot2/a.png"),
        ("/data/local-files/?d=home/fab/images/lot1/a.png", "lot1/a.png"),
        ("/data/local-files/?d=images%2Fb%20%C3%BC.png", "b ü.png"),
        ("/data/upload/3/1a2b3c4d-e.png", "e.png"),
        ("https://host/bucket/lot1/a.png?X-Amz-Signature=1", "lot1/a.png"),
        ("C:\\fab\\images\\lot2\\a.png", "lot2/a.png"),
    ],
)
def test_an_image_is_found_by_its_url_where_the_task_was_not_ours(
    workspace: Workspace, url: str, image: str
) -> None:
    (drawing,), _ = read(workspace, [{"data": {"image": url}, "annotations": [annotation()]}])
    assert drawing.image == image


@pytest.mark.parametrize("url", ["/data/local-files/?d=images/lot1/f.png", "s3://fab/lot1/f.png"])
def test_an_image_of_another_folder_is_not_taken_for_it(tmp_path: Path, url: str) -> None:
    workspace = made(tmp_path, (Sample("lot2/f.png", "residue", None, None, "train"),))
    (found,) = problems(workspace, [{"data": {"image": url}, "annotations": [annotation()]}])
    assert "lot1/f.png', only lot2/f.png" in found
    for bare in ("f.png", "/data/upload/3/1a2b3c4d-f.png"):
        (drawing,), _ = read(workspace, [{"data": {"image": bare}, "annotations": [annotation()]}])
        assert drawing.image == "lot2/f.png"


@pytest.mark.parametrize(
    ("part", "problem"),
    [
        (region(BOX, "unheard of"), "unknown class 'unheard of'"),
        (region(BOX, "clean"), "a box of class clean, which has none"),
        (region(Box(10, 5, 140, 25)), "outside its image of 100 x 50 pixels"),
        ({**region(BOX), "original_width": 50, "original_height": 100}, "50 x 100 pixels"),
        ({**region(BOX), "type": "ellipselabels"}, "a region of kind ellipselabels"),
        ({**region(BOX), "type": "brushlabels"}, "a region of kind brushlabels"),
        ({**region(BOX), "value": None}, "a rectanglelabels without a value"),
        ("text", "a region that is not an object"),
    ],
)
def test_a_region_that_cannot_be_taken_is_a_fault(
    workspace: Workspace, part: Any, problem: str
) -> None:
    (found,) = problems(workspace, [task("lot1/a.png", annotation(part))])
    assert found.startswith("task 1, annotation 7 of lot1/a.png: ")
    assert problem in found


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"x": "10"}, "x is '10' instead of a number"),
        ({"x": True}, "x is True instead of a number"),
        ({"y": math.nan}, "y is not a finite number"),
        ({"y": 10**400}, "y is not a finite number"),
        ({"width": None}, "width is None instead of a number"),
        ({"width": -3}, "a box of -3 x 20 pixels"),
        ({"height": 0}, "a box of 30 x 0 pixels"),
        ({"rotation": "left"}, "rotation is 'left' instead of a number"),
        ({"rectanglelabels": []}, "a box with 0 classes instead of one"),
        ({"rectanglelabels": ["residue", "clean"]}, "a box with 2 classes instead of one"),
        ({"rectanglelabels": [3]}, "a box with 1 classes instead of one"),
    ],
)
def test_a_value_that_is_no_box_is_a_fault(
    workspace: Workspace, shape: Shape, change: dict[str, Any], problem: str
) -> None:
    part = region(BOX)
    part["value"] = {**part["value"], **change}
    (found,) = problems(workspace, shape([task("lot1/a.png", annotation(part))]))
    assert found.endswith(problem)


def test_answers_beside_the_image_are_left_out(workspace: Workspace) -> None:
    answer = {"type": "choices", "from_name": "q", "value": {"choices": ["sharp"]}}
    (drawing,), notes = read(workspace, [task("lot1/a.png", annotation(answer, region(BOX)))])
    assert len(drawing.annotations) == 1
    assert notes == ("1 answers that are no boxes left out",)


def test_all_faults_are_named_together(workspace: Workspace, shape: Shape) -> None:
    tasks = [
        task("gone.png", annotation()),
        task("lot1/a.png", annotation(region(BOX, "x"), region(BOX, "y"))),
        task("lot2/a.png", annotation(region(Box(10, 5, 140, 25)))),
    ]
    found = problems(workspace, shape(tasks))
    assert len(found) == 4
    assert found[0] == "task 1: no image 'gone.png'"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "not JSON"),
        ("[{", "not JSON"),
        ("[]", "no task in it"),
        ("[" * 100_000, "not JSON that can be read"),
        ("[1]", "task 1 is not of an export with annotations"),
        ('[{"data": {"image": "a.png"}}]', "task 1 is not of an export with annotations"),
        ('[{"id": 5, "annotations": [1]}]', "task 5 is not of an export with annotations"),
        ('[{"data": 3, "annotations": [{"result": []}]}]', "no wafer_image and no URL"),
        ('[{"data": {"image": "data:x"}, "annotations": [{"result": []}]}]', "no wafer_image"),
        ('[{"data": {"image": "/"}, "annotations": [{"result": []}]}]', "no image in the URL '/'"),
        ('[{"data": {"image": "http://[a/b.png"}, "annotations": [{"result": []}]}]', "no URL: "),
        (
            '[{"data": {"wafer_image": "e.png"}, "annotations": [{"id": 2}]}]',
            "task 1, annotation 2 of e.png has no list `result`",
        ),
    ],
)
def test_what_is_no_export_is_said(workspace: Workspace, text: str, problem: str) -> None:
    path = workspace.root / "export.json"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        import_labels(workspace, str(path))
    (fault,) = caught.value.faults
    assert problem in fault.problem
    assert fault.file == str(path)


# Several people


def by(person: int, *boxes: Box, when: str = "2026-01-01", **more: Any) -> dict[str, Any]:
    parts = [region(box) for box in boxes]
    return annotation(*parts, id=person, completed_by=person, updated_at=when, **more)


def test_of_people_who_agree_the_latest_counts(workspace: Workspace, shape: Shape) -> None:
    near = Box(11, 5, 41, 24)
    people = by(1, BOX, OTHER), by(2, OTHER, near, when="2026-01-03"), by(3, BOX, OTHER)
    (drawing,), notes = read(workspace, shape([task("lot1/a.png", *people)]))
    assert drawing.author == "2"
    assert drawing.annotations[1].box.corners == pytest.approx(near.corners)
    assert notes == ("1 images were drawn by several people who agree; the latest counts",)


def test_an_image_in_two_tasks_is_one_image(workspace: Workspace, shape: Shape) -> None:
    tasks = [task("lot1/a.png", by(1, BOX)), {**task("lot1/a.png", by(2, BOX)), "id": 2}]
    drawings, _ = read(workspace, shape(tasks))
    assert [d.image for d in drawings] == ["lot1/a.png"]


@pytest.mark.parametrize("other", [(), (OTHER,), (BOX, OTHER), (Box(10, 5, 18, 25),)])
def test_people_who_disagree_are_named(
    workspace: Workspace, shape: Shape, other: tuple[Box, ...]
) -> None:
    people = by(1, BOX), by(2, *other, when="2026-01-03")
    (found,) = problems(workspace, shape([task("lot1/a.png", *people)]))
    assert found == "lot1/a.png: task 1, annotation 2 and task 1, annotation 1 disagree"


def test_ground_truth_settles_it(workspace: Workspace) -> None:
    people = by(1, BOX, ground_truth=True), by(2, OTHER, when="2026-01-03")
    (drawing,), _ = read(workspace, [task("lot1/a.png", *people)])
    assert drawing.author == "1"


def test_agreement_is_box_for_box() -> None:
    a, b = Annotation(BOX, "residue"), Annotation(OTHER, "residue")
    assert agree([a, b], [b, a])
    assert agree([], [])
    assert not agree([a, a], [a, b])
    assert not agree([a], [replace(a, class_name="deviation")])
    # Half of the box: exactly at the bound, and just below it.
    assert agree([Annotation(Box(0, 0, 10, 10), "x")], [Annotation(Box(0, 0, 5, 10), "x")])
    assert not agree([Annotation(Box(0, 0, 10, 10), "x")], [Annotation(Box(0, 0, 4.9, 10), "x")])


# Into the workspace


def test_the_circle_closes(workspace: Workspace, shape: Shape) -> None:
    """Tasks as they are written, annotated as a person would, exported and taken in."""
    handed = write_tasks(workspace, SAMPLES[:3], workspace.root / "tasks.json", embed=True)
    tasks = json.loads(handed.tasks.read_text(encoding="utf-8"))
    answers = [(BOX, OTHER), (), (OTHER,)]
    for number, (each, boxes) in enumerate(zip(tasks, answers, strict=True)):
        each |= {"id": number, "annotations": [annotation(*(region(b) for b in boxes))]}
    taken = import_labels(workspace, str(saved(workspace.root, shape(tasks))))
    assert [d.image for d in taken.written] == ["b ü.png", "lot1/a.png", "lot2/a.png"]
    read_back = {s.image: s.annotations for s in workspace.samples()}
    for sample, boxes in zip(SAMPLES, answers, strict=False):
        found = read_back[sample.image]
        assert found is not None
        assert [a.class_name for a in found] == ["residue"] * len(boxes)
        for a, box in zip(found, boxes, strict=True):
            assert a.box.corners == pytest.approx(box.corners, abs=1e-6)
    assert read_back["e.png"] is None
    view = workspace.cache / "yolo" / "labels" / "train"
    assert (view / "lot1" / "a.txt").read_text().count("\n") == 2
    assert (view / "lot2" / "a.txt").read_text() == ""
    assert taken.notes == (
        "no box on 1 image (lot2/a.png) though the class says there is a defect",
    )
    again = import_labels(workspace, str(saved(workspace.root, shape(tasks))))
    assert (len(again.written), len(again.unchanged)) == (0, 3)


def test_what_a_person_drew_otherwise_is_named_and_kept(workspace: Workspace) -> None:
    label, second = (workspace.label_path(image) for image in ("lot1/a.png", "e.png"))
    for path in (label, second):
        path.parent.mkdir(parents=True, exist_ok=True)
    label.write_text("0 0.5 0.5 0.1 0.1\n")
    second.write_text("")
    before = label.read_bytes()
    tasks = [task(image, annotation(region(BOX))) for image in ("lot1/a.png", "e.png", "b ü.png")]
    path = saved(workspace.root, tasks)
    with pytest.raises(DataError) as caught:
        import_labels(workspace, str(path))
    assert [fault.problem for fault in caught.value.faults] == [
        f"1 box of e.png, where {second} has other boxes",
        f"1 box of lot1/a.png, where {label} has other boxes",
    ]
    assert (label.read_bytes(), second.read_bytes()) == (before, b"")
    assert not workspace.label_path("b ü.png").exists()
    taken = import_labels(workspace, str(path), force=True)
    assert taken.replaced == ("e.png", "lot1/a.png")
    assert label.with_name("a.txt.bak-1").read_bytes() == before
    assert second.with_name("e.txt.bak-1").read_bytes() == b""
    assert len(workspace.samples()) == len(SAMPLES)


def test_the_same_boxes_in_another_order_and_rounding_are_no_conflict(
    workspace: Workspace,
) -> None:
    label = workspace.label_path("lot1/a.png")
    label.parent.mkdir(parents=True, exist_ok=True)
    label.write_text("0 0.7 0.6 0.4 0.8\n0 0.2503 0.3 0.3 0.4\n")
    before = label.read_bytes()
    tasks = [task("lot1/a.png", annotation(region(BOX), region(OTHER)))]
    taken = import_labels(workspace, str(saved(workspace.root, tasks)))
    assert len(taken.unchanged) == 1
    assert label.read_bytes() == before


def test_boxes_on_a_background_are_a_fault_and_none_confirm_it(workspace: Workspace) -> None:
    path = saved(workspace.root, [task("c.png", annotation(region(BOX)))])
    with pytest.raises(DataError, match=r"1 box on c\.png, whose class is clean"):
        import_labels(workspace, str(path))
    taken = import_labels(workspace, str(saved(workspace.root, [task("c.png", annotation())])))
    assert [d.image for d in taken.unchanged] == ["c.png"]
    assert {s.image: s.annotations for s in workspace.samples()}["c.png"] == ()


def test_a_whole_image_class_keeps_its_full_frame(workspace: Workspace) -> None:
    tasks = [task("dev.png", annotation(region(BOX, "deviation"), region(OTHER)))]
    import_labels(workspace, str(saved(workspace.root, tasks)))
    found = {s.image: s.annotations for s in workspace.samples()}["dev.png"]
    assert found is not None
    assert [(a.class_name, a.box.corners) for a in found] == [
        ("deviation", (0, 0, 100, 50)),
        ("residue", pytest.approx(OTHER.corners)),
    ]


def test_boxes_of_another_class_are_taken_and_named(workspace: Workspace) -> None:
    tasks = [task("lot2/a.png", annotation(region(BOX)))]
    taken = import_labels(workspace, str(saved(workspace.root, tasks)))
    assert taken.notes == ("boxes of another class than the image's on 1 image (lot2/a.png)",)


def test_only_a_file_that_can_be_an_export_is_read(workspace: Workspace) -> None:
    with pytest.raises(WaferError, match="no such file"):
        import_labels(workspace, str(workspace.root / "gone.json"))
    with pytest.raises(WaferError, match="not an export that is known"):
        import_labels(workspace, str(workspace.root / "wafer.toml"))


def test_drawings_are_taken_in_at_once_or_not_at_all(workspace: Workspace) -> None:
    drawings = [
        Drawing("lot1/a.png", (Annotation(BOX, "residue"),)),
        Drawing("c.png", (Annotation(BOX, "residue"),)),
    ]
    with pytest.raises(DataError):
        take_in(workspace, drawings, source="here")
    assert not workspace.label_path("lot1/a.png").exists()


# The ledger


def entries(workspace: Workspace, image: str) -> list[tuple[Any, ...]]:
    last = Ledger(workspace).history(image)[-1]
    return [(e.decision, e.source, e.box, e.who, e.supersedes) for e in last]


def sound(workspace: Workspace) -> bool:
    found = verify_ledger(workspace)
    return (found.faults, found.edits) == ((), ()) and Ledger(workspace).rebuild().written == 0


def test_every_box_and_every_no_box_is_in_the_ledger_with_who_and_when(
    workspace: Workspace,
) -> None:
    when = "2026-01-02T03:04:05Z"
    tasks = [
        task("lot1/a.png", annotation(region(BOX), region(OTHER), updated_at=when)),
        task("lot2/a.png", annotation(completed_by=5)),
    ]
    import_labels(workspace, str(saved(workspace.root, tasks)))
    assert entries(workspace, "lot1/a.png") == [
        ("drawn", "human", pytest.approx(BOX.corners), "3", None),
        ("drawn", "human", pytest.approx(OTHER.corners), "3", None),
    ]
    assert entries(workspace, "lot2/a.png") == [("empty", None, None, "5", None)]
    (first, _), (empty,) = (
        Ledger(workspace).states()[image].entries for image in ("lot1/a.png", "lot2/a.png")
    )
    assert first.note == f"imported from export.json, drawn {when}"
    assert (empty.note, empty.image_class) == ("imported from export.json", 'a "b" <c> & d')
    assert sound(workspace)
    import_labels(workspace, str(saved(workspace.root, tasks)))
    assert len(Ledger(workspace).history("lot1/a.png")) == 1
    shutil.rmtree(workspace.labels)
    assert Ledger(workspace).rebuild().written == 4  # with those of c.png and dev.png, by rule
    assert workspace.label_path("lot2/a.png").read_bytes() == b""
    assert {s.image: len(s.annotations or ()) for s in workspace.samples()}["lot1/a.png"] == 2


def test_what_somebody_draws_while_an_import_is_taken_in_is_a_conflict(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = reviewed("lot1/a.png", [ReviewedBox(OTHER, "residue")], state=None)
    adopt = Ledger.adopt

    def ada_draws_and_adopt(self: Ledger, *, who: str, edited: bool) -> int:
        Ledger(workspace).record([drawn], who="Ada")
        return adopt(self, who=who, edited=edited)

    monkeypatch.setattr(Ledger, "adopt", ada_draws_and_adopt)
    drawing = Drawing("lot1/a.png", (Annotation(BOX, "residue"),))
    with pytest.raises(ConflictError, match=r"lot1/a\.png was changed meanwhile"):
        take_in(workspace, [drawing], source="here")
    assert entries(workspace, "lot1/a.png") == [
        ("drawn", "human", pytest.approx(OTHER.corners), "Ada", None)
    ]


def test_what_is_replaced_is_named_by_number(workspace: Workspace) -> None:
    label = workspace.label_path("lot1/a.png")
    label.parent.mkdir(parents=True)
    label.write_text("0 0.25 0.3 0.3 0.4\n0 0.9 0.9 0.1 0.1\n")  # BOX and one more
    tasks = [task("lot1/a.png", annotation(region(BOX), region(OTHER)))]
    path = str(saved(workspace.root, tasks))
    with pytest.raises(DataError, match="other boxes"):
        import_labels(workspace, path)
    assert not (workspace.root / "ledger.jsonl").exists()
    import_labels(workspace, path, force=True)
    adopted = Ledger(workspace).history("lot1/a.png")[0]
    assert [(e.decision, e.source) for e in adopted] == [("adopted", "human")] * 2
    assert [(e[0], e[4]) for e in entries(workspace, "lot1/a.png")] == [
        ("drawn", adopted[0].number),
        ("drawn", None),
        ("rejected", adopted[1].number),
    ]
    assert sound(workspace)


def test_a_models_boxes_give_way_and_keep_their_scores_where_a_person_left_them(
    workspace: Workspace,
) -> None:
    of_model = [
        BoxEvent(decision="accepted", box=b, class_name="residue", source="model", raw=0.75)
        for b in (BOX, OTHER)
    ]
    Ledger(workspace).record([Revision("lot1/a.png", tuple(of_model))], who="model")
    parts = region(BOX, origin="prediction"), region(Box(2, 30, 9, 48))
    taken = import_labels(
        workspace, str(saved(workspace.root, [task("lot1/a.png", annotation(*parts))]))
    )
    assert (len(taken.written), taken.replaced) == (1, ())
    state = Ledger(workspace).states()["lot1/a.png"]
    assert [(e.decision, e.source, e.raw, e.supersedes) for e in state.entries] == [
        ("confirmed", "model+confirmed", 0.75, 1),
        ("drawn", "human", None, None),
        ("rejected", "model", 0.75, 2),
    ]
    assert sound(workspace)


@pytest.mark.parametrize("edit", ["changed", "removed"])
def test_a_label_file_edited_behind_the_ledgers_back_is_asked_about_and_kept(
    workspace: Workspace, edit: str
) -> None:
    path = str(saved(workspace.root, [task("lot1/a.png", annotation(region(BOX)))]))
    import_labels(workspace, path)
    label = workspace.label_path("lot1/a.png")
    if edit == "changed":
        label.write_text("0 0.9 0.9 0.1 0.1\n")
    else:
        label.unlink()
    tasks = [task(image, annotation(region(OTHER))) for image in ("lot1/a.png", "e.png")]
    for force in (False, True):
        with pytest.raises(DataError) as caught:
            import_labels(workspace, str(saved(workspace.root, tasks)), force=force)
        (fault,) = caught.value.faults
        assert fault.problem == f"{edit} by hand since the ledger recorded it"
        assert "wafer ledger adopt" in (fault.remedy or "")
    assert (label.read_text() if label.exists() else None) == (
        "0 0.9 0.9 0.1 0.1\n" if edit == "changed" else None
    )
    assert not workspace.label_path("e.png").exists()
    Ledger(workspace).adopt(who="somebody")
    import_labels(workspace, str(saved(workspace.root, tasks)), force=True)
    assert sound(workspace)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["began", "recorded", "writing"])
def test_an_import_killed_at_any_moment_is_whole_in_the_ledger_or_not_there(
    tmp_path: Path, moment: str
) -> None:
    samples = tuple(Sample(f"{i:03}.png", "residue", None, None, "train") for i in range(150))
    workspace = made(tmp_path, samples)
    tasks = [task(sample.image, annotation(region(BOX), region(OTHER))) for sample in samples]
    command = [Path(sys.executable).with_name("wafer"), "labels", "import"]
    command.append(saved(tmp_path, tasks))
    ready = {
        "began": lambda: (tmp_path / ".ledger.lock").exists(),
        "recorded": lambda: (tmp_path / "ledger.jsonl").exists(),
        "writing": lambda: len(list(workspace.labels.glob("*.txt"))) >= 5,
    }[moment]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    while not ready():
        assert process.poll() is None
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    there = list(workspace.labels.glob("*.txt"))
    assert len(there) < 150
    assert {path.read_text().count("\n") for path in there} <= {2}
    found = verify_ledger(workspace)
    assert (found.faults, found.edits) == ((), ())
    assert (found.images > 0) or not there
    taken = import_labels(workspace, str(tmp_path / "export.json"))
    if moment == "writing":  # all of it was recorded, and whoever opens the ledger writes the rest
        assert (len(taken.written), len(taken.unchanged)) == (0, 150)
    assert len(taken.written) + len(taken.unchanged) == 150
    assert len(list(workspace.labels.glob("*.txt"))) == 150
    assert {state.revision for state in Ledger(workspace).states().values()} == {1}
    assert sound(workspace)


@pytest.mark.slow
def test_an_import_onto_a_full_disk_says_so_and_is_whole_the_next_time(tmp_path: Path) -> None:
    samples = tuple(Sample(f"{i:03}.png", "residue", None, None, "train") for i in range(150))
    workspace = made(tmp_path, samples)
    tasks = [task(sample.image, annotation(region(BOX), region(OTHER))) for sample in samples]
    command = [Path(sys.executable).with_name("wafer"), "labels", "import"]
    command.append(saved(tmp_path, tasks))
    for size in (0, 60, 20_000):  # the ledger would be larger than any, a label file than the first
        done = subprocess.run(
            ["prlimit", f"--fsize={size}:{size}", *command],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert line.startswith("wafer: ")
        assert "File too large" in line
        assert list(workspace.labels.glob("*.txt")) == []
        found = verify_ledger(workspace)
        assert (found.faults, found.edits, found.images) == ((), (), 0)
    taken = import_labels(workspace, str(tmp_path / "export.json"))
    assert (len(taken.written), len(list(workspace.labels.glob("*.txt")))) == (150, 150)
    assert {state.revision for state in Ledger(workspace).states().values()} == {1}
    assert sound(workspace)
