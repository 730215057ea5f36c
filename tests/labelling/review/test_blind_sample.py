"""The audit in the page: blind, every answer in its table at once, taken once all are there."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from wafer.labelling.audit import draw_audit
from wafer.labelling.ledger import Ledger
from wafer.labelling.propagation.decisions import exactly_right
from wafer.labelling.propagation.outcome import DECISIONS, read_decisions
from wafer.labelling.verifying import verify_ledger

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ADA = {"session": "ada-00001", "who": "Ada"}


@pytest.fixture
def table(own: Any) -> Path:
    return draw_audit(own.workspace).table


@pytest.fixture
def audit(own: Any, table: Path, serving: Any) -> Iterator[Any]:
    with serving(own.workspace) as page:
        yield page


@pytest.fixture
def right(own: Any) -> dict[str, bool]:
    decisions = read_decisions(own.workspace.runs.parent / "propagate" / "latest" / DECISIONS)
    return {d.image: exactly_right(d.boxes, own.truth[d.image]) for d in decisions if d.accepted}


def answers(table: Path) -> dict[str, str]:
    with table.open(newline="") as handle:
        return {row["image"]: row["right"] for row in csv.DictReader(handle)}


def following(page: Any) -> Any:
    status, answer = page.ask("/api/next", {**ADA, "pile": "audit"})
    assert status == 200, answer
    return answer["task"]


def test_nothing_of_the_model_is_told(audit: Any, table: Path) -> None:
    task = following(audit)
    assert task["boxes"]
    for box in task["boxes"]:
        assert (box["probability"], box["entry"], box["candidate"]) == (None, None, None)
    assert (task["image_class"], task["changed_by"], task["changed_at"]) == (None, None, None)
    assert set(answers(table).values()) == {""}


def test_every_answer_is_in_the_table_and_can_be_taken_back(audit: Any, table: Path) -> None:
    image = following(audit)["image"]
    for right, written in ((True, "yes"), (False, "no"), (None, "")):
        body = {**ADA, "image": image, "right": right}
        assert audit.ask("/api/answer", body) == (200, {})
        assert answers(table)[image] == written
    status, answer = audit.ask("/api/answer", {**ADA, "image": "other.png", "right": True})
    assert (status, "not among the images" in answer["error"]) == (422, True)


def test_boxes_are_not_taken_and_an_audit_with_gaps_does_not_end(
    own: Any, audit: Any, table: Path
) -> None:
    task = following(audit)
    given = {"pile": "audit", "image": task["image"], "revision": task["revision"], "boxes": []}
    ledger = (own.workspace.root / "ledger.jsonl").read_bytes()
    assert audit.ask("/api/decide", {**ADA, **given})[0] == 422
    audit.ask("/api/answer", {**ADA, "image": task["image"], "right": True})
    status, answer = audit.ask("/api/finish", ADA)
    assert (status, answer["error"]) == (
        422,
        f"{len(answers(table)) - 1} images of the sample have no answer yet",
    )
    assert (own.workspace.root / "ledger.jsonl").read_bytes() == ledger


def test_a_finished_audit_is_in_the_ledger(
    own: Any, audit: Any, table: Path, right: dict[str, bool]
) -> None:
    sample = list(answers(table))
    for image in sample:
        audit.ask("/api/answer", {**ADA, "image": image, "right": right[image]})
    status, found = audit.ask("/api/finish", ADA)
    assert status == 200, found
    assert {row["name"] for row in found["classes"]} == {"bright", "dark"}
    states = Ledger(own.workspace).states()
    for image in sample:
        sources = {entry.source for entry in states[image].live}
        assert sources == ({"model+confirmed"} if right[image] else set())
        assert {entry.who for entry in states[image].entries} == {"Ada"}
    assert verify_ledger(own.workspace).faults == ()
    piles = {each["pile"]: each["total"] for each in audit.ask("/api/start")[1]["piles"]}
    assert piles["audit"] == 0


@pytest.mark.browser
def test_keys_are_enough_for_a_whole_audit(
    chromium: Any, own: Any, audit: Any, table: Path, right: dict[str, bool]
) -> None:
    tab = chromium.new_page(viewport={"width": 1280, "height": 800})
    tab.goto(audit.address)
    tab.wait_for_selector("#piles button[data-pile=audit]")
    while tab.locator("#piles button[aria-pressed=true]").get_attribute("data-pile") != "audit":
        tab.keyboard.press("q")
        tab.wait_for_function("() => !document.body.classList.contains('busy')")
    seen: list[str] = []
    for _ in answers(table):
        tab.wait_for_function(
            "seen => { const now = document.querySelector('#name').textContent;"
            " return now && now !== seen && !document.body.classList.contains('busy') }",
            arg=seen[-1] if seen else "",
        )
        seen.append(tab.inner_text("#name"))
        assert "·" in tab.inner_text("#reason")
        if len(seen) == 2:  # an answer by mistake
            tab.keyboard.press("n")
            tab.wait_for_selector("#status:has-text('wrong, noted')")
            tab.wait_for_function("() => !document.body.classList.contains('busy')")
            tab.keyboard.press("u")
            tab.wait_for_selector("#status:has-text('taken back')")
        tab.keyboard.press("y" if right[seen[-1]] else "n")
    tab.wait_for_selector("#empty:has-text('have an answer')")
    assert answers(table) == {image: "yes" if right[image] else "no" for image in seen}
    tab.keyboard.press("f")
    tab.wait_for_selector("#empty:has-text('What the audit says')")
    rows = tab.locator("#empty tr").all_inner_texts()
    assert [row.split("\t")[0] for row in rows] == ["class", "bright", "dark"]
    assert verify_ledger(own.workspace).faults == ()
    tab.close()
