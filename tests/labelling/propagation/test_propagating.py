"""`wafer label-propagate` end to end, on real trainings of seconds, killed half-way."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from wafer.datasets.errors import DataError, ExchangeError, TrainingError
from wafer.datasets.ledger import read_chain
from wafer.datasets.records import Annotation, Box
from wafer.datasets.workspace import Workspace, trusted
from wafer.labelling.ledger import Ledger
from wafer.labelling.propagation.decisions import exactly_right
from wafer.labelling.propagation.outcome import DECISIONS, read_decisions, revisions
from wafer.labelling.propagation.propagating import propagate
from wafer.labelling.propagation.report import read_summary
from wafer.labelling.propagation.teachers import HostedTeacher
from wafer.labelling.queue import newest_queue, open_items
from wafer.labelling.verdicts import ReviewedBox, reviewed
from wafer.labelling.verifying import verify_ledger

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_a_killed_run_goes_on_and_repeats_no_teacher(labelled: Any) -> None:
    folder = labelled.done.folder
    assert folder.name == "yolov5n-001"
    assert [p.name for p in sorted(folder.parent.iterdir())] == ["latest", "yolov5n-001"]
    (teacher,) = (folder / "round-1" / "fold-0" / "teacher").glob("yolov5n-*")
    path = teacher / "weights" / "best.safetensors"
    assert path.read_bytes() + str(path.stat().st_mtime_ns).encode() == labelled.first_teacher
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"


def test_nothing_that_a_person_drew_is_changed(labelled: Any) -> None:
    now = {p.name: p.read_bytes() for p in labelled.workspace.labels.iterdir()}
    assert {name: now[name] for name in labelled.drawn} == labelled.drawn
    samples = {s.image: s for s in labelled.workspace.samples()}
    people = [s for s in samples.values() if s.image[0] in "dv"]
    assert all(trusted(s) for s in people)


def test_most_of_an_easy_pool_is_accepted_and_right(labelled: Any) -> None:
    decisions = read_decisions(labelled.done.folder / DECISIONS)
    accepted = [d for d in decisions if d.accepted]
    right = [exactly_right(d.boxes, labelled.truth[d.image]) for d in accepted]
    assert len(accepted) >= 120
    assert sum(right) >= 0.9 * len(accepted)
    samples = {s.image: s for s in labelled.workspace.samples()}
    for decision in accepted:
        boxes = samples[decision.image].annotations
        assert boxes is not None
        assert {a.source for a in boxes} == {"model"}
        assert all(a.score is not None and 0.5 <= a.score <= 1 for a in boxes)


def test_a_doubtful_image_never_becomes_background(labelled: Any) -> None:
    samples = {s.image: s for s in labelled.workspace.samples()}
    decisions = read_decisions(labelled.done.folder / DECISIONS)
    for decision in decisions:
        if not decision.accepted:
            assert samples[decision.image].annotations is None
            assert not labelled.workspace.label_path(decision.image).exists()
    empty = [s.image for s in samples.values() if s.annotations == ()]
    assert empty == [f"n{k:03d}.png" for k in range(8)]


def test_what_is_wrong_with_an_image_is_in_the_queue(labelled: Any) -> None:
    items = {item.image: item for item in newest_queue(labelled.workspace).items}
    assert items["corrupt.png"].kind == "unreadable"
    assert items["empty.png"].reason in ("no box found", "a doubtful box")
    assert items["wrong.png"].kind == "class"
    assert items["wrong.png"].other == "dark"
    undecided = {
        d.image for d in read_decisions(labelled.done.folder / DECISIONS) if not d.accepted
    }
    assert undecided <= items.keys()


def test_the_ledger_is_sound_and_names_the_model_of_every_box(labelled: Any) -> None:
    found = verify_ledger(labelled.workspace)
    assert (found.faults, found.edits) == ((), ())
    entries = [e for e in read_chain(labelled.workspace.root).entries if e.source == "model"]
    summary = read_summary(labelled.done.folder / "report.json")
    assert {e.model for e in entries} == {summary.model}
    assert all(e.who == "wafer label-propagate" and e.round == 1 for e in entries)
    assert all(e.raw and e.votes and e.threshold is not None for e in entries)
    head = json.loads((labelled.done.folder / "run.json").read_text())["ledger"]
    assert head["count"] == found.entries
    assert dict(summary.ledger or {}) == head


def test_the_report_needs_nothing_but_itself(labelled: Any) -> None:
    page = labelled.done.report.read_text()
    assert page.count("<svg") >= 8
    assert "http" not in page.replace("http://www.w3.org", "")
    assert "estimated" in page
    assert "corrupt.png" in page


def test_ending_twice_records_nothing_twice(labelled: Any) -> None:
    decisions = read_decisions(labelled.done.folder / DECISIONS)
    summary = read_summary(labelled.done.folder / "report.json")
    states = Ledger(labelled.workspace).states()
    changes = revisions(decisions, states, model=summary.model, round_number=1)
    assert changes == ()


def test_a_person_reviews_the_queue_from_its_records(own: Any) -> None:
    ledger = Ledger(own.workspace)
    queue = newest_queue(own.workspace)
    before = open_items(queue, ledger.states())
    item = next(i for i in before if i.candidates and i.kind != "suspicion")
    candidate = item.candidates[0]
    event = candidate.event(queue)
    assert event.box is not None
    boxes = [ReviewedBox(event.box, candidate.class_name, event)]
    state = ledger.states().get(item.image)
    ledger.record([reviewed(item.image, boxes, state=state)], who="Ada")
    (entry,) = ledger.states()[item.image].live
    assert (entry.source, entry.model) == ("model+confirmed", queue.model)
    assert len(open_items(queue, ledger.states())) == len(before) - 1


def test_an_edited_label_file_stops_the_command_before_it_begins(own: Any) -> None:
    image = next(d.image for d in read_decisions(own.done.folder / DECISIONS) if d.accepted)
    own.workspace.label_path(image).write_text("0 0.5 0.5 0.5 0.5\n")
    with pytest.raises(DataError, match="wafer ledger adopt"):
        propagate(own.workspace)
    assert own.workspace.label_path(image).read_text() == "0 0.5 0.5 0.5 0.5\n"


def test_all_arguments_out_of_range_are_told_together(own: Any) -> None:
    with pytest.raises(TrainingError, match=r"--folds .*; --rounds .*; --promise .*; --confidence"):
        propagate(own.workspace, folds=1, rounds=9, promise=1.0, confidence=0.0)


def test_a_second_round_learns_from_accepted_images_and_is_compared(small: Any) -> None:
    told: list[tuple[int, int]] = []
    arguments = {"epochs": 6, "batch": 4, "imgsz": 64, "folds": 2, "rounds": 2}
    done = propagate(small, **arguments, progress=lambda *counts: told.append(counts))
    assert all(done_ <= total for done_, total in told)
    assert [d for d, _ in told] == sorted(d for d, _ in told)
    assert told[-1][0] == told[-1][1]
    (comparison,) = done.summary.gate
    assert {c.class_name for c in comparison} == {"bright", "dark"}
    plans = sorted(done.folder.glob("round-2/fold-*/teacher/yolov5n-001/plan.json"))
    assert len(plans) == 2
    learnt = [{Path(i["path"]).name for i in json.loads(p.read_text())["train"]} for p in plans]
    pool = [{name for name in names if name[0] == "p"} for names in learnt]
    assert pool[0]
    assert not pool[0] & pool[1]  # each teacher without its own fold
    assert not any(name[0] in "v" for names in learnt for name in names)
    teachers = sorted(done.folder.glob("round-*/fold-*/teacher/yolov5n-001/weights/*.safetensors"))
    assert len(teachers) == 4
    for teacher in teachers:  # nobody asks a teacher about images of no class
        assert not [name for name in load_file(teacher) if name.startswith("known.")]


def test_images_that_come_and_go_meanwhile_do_not_cost_the_run(small: Workspace) -> None:
    def change(done: float, total: float) -> None:
        if done > total / 2 and gone.exists():
            gone.unlink()
            small.image_path("p005.png").write_bytes(small.image_path("p006.png").read_bytes())
            (small.images / "new.png").write_bytes(small.image_path("p007.png").read_bytes())

    gone = small.image_path("p003.png")
    arguments = {"epochs": 1, "batch": 8, "imgsz": 64, "folds": 2, "rounds": 1}
    done = propagate(small, progress=change, **arguments)  # type: ignore[arg-type]
    decisions = {d.image: d for d in read_decisions(done.folder / DECISIONS)}
    assert decisions["p003.png"].reason.startswith("the image cannot be read")
    assert not decisions["p005.png"].accepted
    assert "new.png" not in decisions
    assert json.loads((done.folder / "run.json").read_text())["status"] == "finished"
    assert any("no image 'p003.png'" in note for note in done.notes)


class _Hosted:
    """A model elsewhere: finds all, sees ghosts now and then, and is out of order at times."""

    def __init__(self, truth: dict[str, tuple[Annotation, ...]]) -> None:
        self.truth = truth
        self.asked: list[str] = []
        self.answers = 10**9

    def __call__(self, image: str) -> tuple[Annotation, ...]:
        if len(self.asked) == self.answers:
            raise ExchangeError("no answer")
        self.asked.append(image)
        found = [Annotation(a.box, a.class_name, "model", 0.9) for a in self.truth[image]]
        if image == "p000.png":
            return ()
        ghost = Annotation(Box(0, 0, 9, 9), "bright", "model", 0.05)
        return (*found, ghost) if image[1:4].endswith("4") else tuple(found)


def test_a_hosted_model_is_the_teacher_and_nothing_is_trained(easy: Any) -> None:
    workspace, truth = easy
    hosted = _Hosted(truth)
    hosted.answers = 50
    teacher = HostedTeacher("roboflow:fab/defects/3", hosted)
    with pytest.raises(ExchangeError, match="no answer"):
        propagate(workspace, rounds=1, hosted=teacher)
    hosted.answers = 10**9
    done = propagate(workspace, rounds=1, hosted=teacher)
    assert "going on with an unfinished run" in done.notes
    # What was answered in whole chunks before is not asked again.
    assert 0 < len(hosted.asked) - len(set(hosted.asked)) < 16
    assert not list(done.folder.rglob("*.safetensors"))
    record = json.loads((done.folder / "run.json").read_text())
    assert record["arguments"]["imgsz"] == 64  # what the images have
    decisions = {d.image: d for d in read_decisions(done.folder / DECISIONS)}
    accepted = [d for d in decisions.values() if d.accepted]
    assert len(accepted) >= 150
    assert all(exactly_right(d.boxes, truth[d.image]) for d in accepted)
    assert decisions["p000.png"].reason == "no box found"
    assert decisions["empty.png"].reason == "no box found"
    entries = [e for e in read_chain(workspace.root).entries if e.image == accepted[0].image]
    assert entries[-1].model == "roboflow:fab/defects/3"
    assert any("may have learnt from the drawn images" in note for note in done.summary.notes)
    assert "(model roboflow:fab/defects/3)" in done.report.read_text()
    assert verify_ledger(workspace).faults == ()


def test_a_run_is_not_gone_on_with_where_an_image_has_another_name(easy: Any) -> None:
    workspace, truth = easy
    hosted = _Hosted(truth)
    hosted.answers = 150
    teacher = HostedTeacher("roboflow:fab/defects/3", hosted)
    with pytest.raises(ExchangeError, match="no answer"):
        propagate(workspace, rounds=1, hosted=teacher)
    hosted.answers = 10**9
    workspace.image_path("p001.png").rename(workspace.images / "p999.png")
    truth["p999.png"] = truth.pop("p001.png")
    head, *rows = workspace.table.read_text().splitlines()
    rows = sorted(row.replace("p001.png", "p999.png") for row in rows)
    workspace.table.write_text("\n".join([head, *rows]) + "\n")
    done = propagate(workspace, rounds=1, hosted=teacher)
    assert done.folder.name == "yolov5n-002"
    accepted = [d for d in read_decisions(done.folder / DECISIONS) if d.accepted]
    assert len(accepted) >= 150
    assert all(exactly_right(d.boxes, truth[d.image]) for d in accepted)
