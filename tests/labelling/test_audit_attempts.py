"""Audits without a training: what becomes of accepted images, and of answers.

The promise is 0.5, so that small samples of small classes can certify it.
"""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wafer.datasets.classes import ClassTable, DefectClass
from wafer.datasets.errors import DataError, WaferError
from wafer.datasets.records import Box, Sample
from wafer.datasets.workspace import Workspace, create_workspace
from wafer.labelling.audit import Audited, answer_audit, draw_audit, finish_audit, sampled_images
from wafer.labelling.ledger import Ledger
from wafer.labelling.propagation.decisions import ImageDecision
from wafer.labelling.propagation.outcome import DECISIONS, revisions, write_decisions
from wafer.labelling.propagation.places import Place
from wafer.labelling.propagation.report import ClassRow, Summary, write_report
from wafer.labelling.queue import QUEUE, Queue, newest_queue, propagation_runs, write_queue
from wafer.labelling.review.desk import Desk
from wafer.labelling.verdicts import ReviewedBox, reviewed
from wafer.labelling.verifying import verify_ledger

CLASSES = ClassTable((DefectClass(0, "ok", "none"), DefectClass(1, "bright")))
MODEL = "ab" * 32
Make = Callable[[int], Workspace]


def decision(image: str, probability: float) -> ImageDecision:
    place = Place(Box(4, 4, 20, 20), "bright", 0.8, probability, 1.0, 0.0)
    return ImageDecision(
        image=image,
        image_class="bright",
        class_name="bright",
        accepted=True,
        reason="",
        boxes=(place,),
        places=(place,),
        probability=probability,
        threshold=0.5,
    )


@pytest.fixture
def accepted(tmp_path: Path) -> Make:
    """A workspace of so many images that a propagation accepted; the first is the likeliest."""

    def make(number: int) -> Workspace:
        folder = tmp_path / "images"
        folder.mkdir()
        names = [f"{k:03d}.png" for k in range(number)]
        for k, name in enumerate(names):
            pixels = np.random.default_rng(k).integers(0, 255, (32, 32)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name)
        samples = [Sample(name, image_class="bright", split="train") for name in names]
        workspace = create_workspace(
            tmp_path / "w", images=folder, classes=CLASSES, samples=samples
        )
        record(workspace, [decision(name, 0.99 - k / 2000) for k, name in enumerate(names)])
        return workspace

    return make


def record(workspace: Workspace, decisions: list[ImageDecision]) -> None:
    """Leave what a finished propagation leaves."""
    ledger = Ledger(workspace)
    changes = revisions(decisions, ledger.states(), model=MODEL, round_number=1)
    ledger.record(changes, who="wafer label-propagate")
    run = propagation_runs(workspace) / "yolov5n-001"
    run.mkdir(parents=True)
    arguments = {"promise": 0.5, "confidence": 0.9, "seed": 0}
    head = ledger.head()
    known = {"status": "finished", "model": "yolov5n", "started": "2026-11-01T00:00:00+00:00"}
    (run / "run.json").write_text(json.dumps({**known, "arguments": arguments, "ledger": head}))
    write_decisions(decisions, run / DECISIONS)
    write_queue(Queue(run.name, MODEL, 1, ()), run / QUEUE)
    number = len(decisions)
    row = ClassRow(
        "bright", 10, number, number, 0, number, 0.5, 10, 0.95, (0.7, 1.0), 1.0, "estimated"
    )
    summary = Summary(
        classes=(row,),
        by_rule=0,
        promise=0.5,
        confidence=0.9,
        round=1,
        model=MODEL,
        gate=(),
        calibration_error=None,
        calibration_error_open=None,
        false_boxes=None,
        contradictions=(),
        suspicions=(),
        queue={},
        queue_seconds=0,
        ledger=head,
        notes=(),
    )
    write_report(run, summary, workspace=workspace, decisions=decisions)


def answer(workspace: Workspace, *, wrong: int) -> tuple[Path, Audited]:
    """Draw a sample and say that so many of its images are wrong."""
    table = draw_audit(workspace).table
    say(table, wrong=wrong)
    return table, finish_audit(workspace, table, who="Ada")


def say(table: Path, *, wrong: int) -> None:
    with table.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    for number, row in enumerate(rows):
        row["right"] = "no" if number < wrong else "yes"
    with table.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def by_model(workspace: Workspace) -> set[str]:
    """Return the images whose label no person has seen."""
    states = Ledger(workspace).states().values()
    return {s.image for s in states if any(entry.source == "model" for entry in s.live)}


def remove(workspace: Workspace, image: str) -> None:
    (workspace.images / image).unlink()
    workspace.label_path(image).unlink(missing_ok=True)
    lines = workspace.table.read_text().splitlines()
    left = [line for line in lines if not line.startswith(f"{image},")]
    workspace.table.write_text("\n".join(left) + "\n")


@pytest.mark.slow
def test_a_class_too_small_for_a_second_sample_is_reviewed_whole(accepted: Make) -> None:
    workspace = accepted(20)
    _, done = answer(workspace, wrong=5)
    assert [row.answer for row in done.classes] == ["review it whole"]
    assert by_model(workspace) == set()
    gone = {i for i, s in Ledger(workspace).states().items() if s.annotations is None}
    assert {item.image for item in newest_queue(workspace).items} == gone
    assert done.classes[0].review == len(gone) > 10


@pytest.mark.slow
def test_a_class_large_enough_keeps_its_likelier_half_for_a_second_sample(accepted: Make) -> None:
    workspace = accepted(60)
    table, done = answer(workspace, wrong=5)
    assert [row.answer for row in done.classes] == ["estimated"]
    assert by_model(workspace) == {f"{k:03d}.png" for k in range(30)} - set(sample_of(table))
    _, done = answer(workspace, wrong=0)
    assert [row.answer for row in done.classes] == ["certified"]


def sample_of(table: Path) -> list[str]:
    with table.open(newline="") as handle:
        return [row["image"] for row in csv.DictReader(handle)]


@pytest.mark.slow
def test_answers_given_once_more_change_nothing_and_others_are_refused(accepted: Make) -> None:
    workspace = accepted(60)
    first, _ = answer(workspace, wrong=5)
    _, certified = answer(workspace, wrong=0)
    before = (workspace.root / "ledger.jsonl").read_bytes()
    again = finish_audit(workspace, first)
    assert again.classes == certified.classes
    assert again.report.is_file()
    say(first, wrong=0)
    with pytest.raises(WaferError, match="draw-1 was answered before"):
        finish_audit(workspace, first)
    assert (workspace.root / "ledger.jsonl").read_bytes() == before


@pytest.mark.slow
def test_an_image_that_was_removed_before_the_draw_is_not_sampled(accepted: Make) -> None:
    workspace = accepted(20)
    first = sample_of(draw_audit(workspace).table)[0]
    for part in (propagation_runs(workspace) / "yolov5n-001" / "audit").rglob("*.*"):
        part.unlink()
    remove(workspace, first)
    assert first not in sample_of(draw_audit(workspace).table)


@pytest.mark.slow
def test_an_image_of_the_sample_that_was_removed_is_left_alone(accepted: Make) -> None:
    workspace = accepted(20)
    table = draw_audit(workspace).table
    say(table, wrong=0)
    gone = sample_of(table)[3]
    remove(workspace, gone)
    done = finish_audit(workspace, table, who="Ada")
    assert [row.answer for row in done.classes] == ["certified"]
    assert done.notes == (f"{gone} was changed or removed meanwhile and is left alone",)


@pytest.mark.slow
def test_the_page_counts_an_image_that_cannot_be_judged_any_more_as_wrong(accepted: Make) -> None:
    workspace = accepted(20)
    draw_audit(workspace)
    gone, *others = [each.image for each in sampled_images(workspace)]
    remove(workspace, gone)
    desk = Desk(workspace)
    with pytest.raises(WaferError, match=f"{len(others)} images of the sample have no answer"):
        desk.finish(who="Ada")
    with pytest.raises(WaferError, match="not the images that wait"):
        answer_audit(workspace, dict.fromkeys(others[1:], True), who="Ada")
    for image in others:
        desk.answer(image, image != others[0], session="s")
    done = desk.finish(who="Ada")
    assert [row.answer for row in done.classes] == ["review it whole"]  # one may be wrong
    assert by_model(workspace) == {gone}


@pytest.mark.slow
def test_the_page_asks_about_the_boxes_that_were_drawn_for_the_sample(accepted: Make) -> None:
    workspace = accepted(20)
    draw_audit(workspace)
    images = [each.image for each in sampled_images(workspace)]
    states = Ledger(workspace).states()
    corrected = ReviewedBox(Box(8, 8, 30, 30), "bright")
    changes = [reviewed(image, [corrected], state=states[image]) for image in images]
    Ledger(workspace).record(changes, who="Ada")
    desk = Desk(workspace)
    shown = desk.open("audit", images[0], session="s" * 8, who="Bob")
    assert [(box.box, box.entry) for box in shown.boxes] == [((4, 4, 20, 20), None)]


def test_a_ledger_that_is_gone_is_missed(accepted: Make) -> None:
    workspace = accepted(5)
    (workspace.root / "ledger.jsonl").unlink()
    (workspace.root / "ledger.head").unlink()
    (fault,) = verify_ledger(workspace).faults
    assert "the ledger that yolov5n-001 saw, of 5 lines, is gone" in str(fault)
    with pytest.raises(DataError, match=r"put the ledger back.*ledger\.jsonl\.bak-1 and"):
        Ledger(workspace).adopt(who="Ada")  # boxes of a model would become a person's
    ledger = Ledger(workspace)
    assert ledger.states() == {}
