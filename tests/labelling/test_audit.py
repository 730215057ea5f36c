"""The audit of files: a blind sample, checked answers, certificates, labels taken back."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wafer.datasets.errors import DataError, WaferError
from wafer.labelling.audit import draw_audit, finish_audit
from wafer.labelling.ledger import Ledger
from wafer.labelling.propagation.decisions import exactly_right
from wafer.labelling.propagation.outcome import DECISIONS, read_decisions
from wafer.labelling.propagation.propagating import propagate
from wafer.labelling.queue import newest_queue
from wafer.labelling.verifying import verify_ledger

ARGUMENTS: dict[str, int] = {"epochs": 8, "batch": 4, "imgsz": 64, "folds": 2, "rounds": 1}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def fill(table: Path, answer: Callable[[dict[str, str]], str]) -> list[dict[str, str]]:
    with table.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    for row in rows:
        row["right"] = answer(row)
    with table.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return rows


def truth_of(own: Any) -> dict[str, bool]:
    decisions = read_decisions(own.workspace.runs.parent / "propagate" / "latest" / DECISIONS)
    return {d.image: exactly_right(d.boxes, own.truth[d.image]) for d in decisions if d.accepted}


def test_a_sample_is_blind_and_waits_until_it_is_answered(own: Any) -> None:
    drawn = draw_audit(own.workspace)
    with drawn.table.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == drawn.images
    assert list(rows[0]) == ["picture", "image", "class", "boxes", "right", "remark"]
    assert all((drawn.table.parent / row["picture"]).is_file() for row in rows)
    assert [row["class"] for row in rows] == sorted(row["class"] for row in rows)
    again = draw_audit(own.workspace)
    assert (again.table, again.images) == (drawn.table, drawn.images)


def test_right_answers_certify_and_confirm(own: Any) -> None:
    drawn = draw_audit(own.workspace)
    right = truth_of(own)
    rows = fill(drawn.table, lambda row: "yes" if right[row["image"]] else "no")
    done = finish_audit(own.workspace, drawn.table, who="Ada")
    wrong = sum(not right[row["image"]] for row in rows)
    for row in done.classes:
        if row.name in {r["class"] for r in rows} and wrong <= 1:
            assert row.answer == "certified"
            assert row.bound is not None
            assert row.bound >= 0.9
    states = Ledger(own.workspace).states()
    for row in rows:
        sources = {entry.source for entry in states[row["image"]].live}
        assert sources == ({"model+confirmed"} if right[row["image"]] else set())
    entries = len(Ledger(own.workspace).history(rows[0]["image"]))
    finish_audit(own.workspace, drawn.table, who="Ada")  # once more, as after a kill
    assert len(Ledger(own.workspace).history(rows[0]["image"])) == entries
    assert verify_ledger(own.workspace).faults == ()
    assert "at least 0.9" in done.report.read_text()
    with pytest.raises(WaferError, match="nothing to audit"):
        draw_audit(own.workspace)


def test_a_class_that_fails_loses_labels_and_they_are_in_the_queue(own: Any) -> None:
    first = draw_audit(own.workspace)
    rows = fill(first.table, lambda row: "no" if row["class"] == "bright" else "yes")
    before = Ledger(own.workspace).states()
    number = sum(s.annotations is not None and s.image[0] == "p" for s in before.values())
    done = finish_audit(own.workspace, first.table, who="Ada")
    bright, dark = done.classes
    # half of so few images is too little for a second sample
    assert (bright.answer, dark.answer) == ("review it whole", "certified")
    states = Ledger(own.workspace).states()
    gone = [i for i, s in states.items() if s.annotations is None]
    seen = sum(row["class"] == "bright" for row in rows)
    assert seen < len(gone) < number
    queued = {item.image: item for item in newest_queue(own.workspace).items}
    assert set(gone) <= queued.keys()
    assert all(queued[image].candidates for image in gone)
    assert all(queued[image].revision == states[image].revision for image in gone)
    assert all(not own.workspace.label_path(image).exists() for image in gone)
    assert verify_ledger(own.workspace).edits == ()


def test_what_an_audit_found_wrong_is_not_accepted_again(own: Any) -> None:
    drawn = draw_audit(own.workspace)
    images = iter(range(10**6))
    rows = fill(drawn.table, lambda row: "yes" if next(images) else "no")
    finish_audit(own.workspace, drawn.table, who="Ada")
    wrong = rows[0]["image"]
    propagate(own.workspace, **{**ARGUMENTS, "epochs": ARGUMENTS["epochs"] + 1})
    item = next(item for item in newest_queue(own.workspace).items if item.image == wrong)
    assert item.reason == "a person rejected such a box"
    assert not own.workspace.label_path(wrong).exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows: rows[0].update(right=""), "2: no answer; write yes or no"),
        (lambda rows: rows[0].update(right="perhaps"), "2: 'perhaps' is no answer"),
        (lambda rows: rows[0].update(image="other.png"), "'other.png' is not in the sample"),
        (lambda rows: rows[0].update(image=rows[1]["image"]), "twice; keep one"),
        (lambda rows: rows.pop(), "no row of"),
    ],
)
def test_a_table_with_faults_records_nothing(
    own: Any, spoil: Callable[[list[dict[str, str]]], object], message: str
) -> None:
    drawn = draw_audit(own.workspace)
    rows = fill(drawn.table, lambda row: "yes")
    spoil(rows)
    with drawn.table.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    before = (own.workspace.root / "ledger.jsonl").read_bytes()
    with pytest.raises(DataError, match=message):
        finish_audit(own.workspace, drawn.table)
    assert (own.workspace.root / "ledger.jsonl").read_bytes() == before
    assert not (drawn.table.parent / "answers.json").exists()


def test_a_table_elsewhere_with_semicolons_is_read(own: Any, tmp_path: Path) -> None:
    drawn = draw_audit(own.workspace)
    rows = fill(drawn.table, lambda row: "Yes")
    lines = ["image;right", *(f"{row['image']};y" for row in rows)]
    copy = tmp_path / "filled.csv"
    copy.write_text("\n".join(lines), encoding="utf-8-sig")
    finish_audit(own.workspace, copy, who="Grace")
    answers = json.loads((drawn.table.parent / "answers.json").read_text())
    assert answers["who"] == "Grace"
    assert set(answers["right"].values()) == {True}
