"""The ledger: every change shows, a crash is no tampering, and the label files follow from it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from wafer.datasets.boxes import full_frame
from wafer.datasets.chain import GENESIS, chained_line
from wafer.datasets.classes import ClassTable, DefectClass
from wafer.datasets.errors import ConflictError, DataError
from wafer.datasets.ledger import HEAD, LEDGER, image_states, read_chain
from wafer.datasets.records import Annotation, Box, Sample
from wafer.datasets.workspace import Workspace, create_workspace, select
from wafer.labelling.ledger import BoxEvent, Ledger, Revision
from wafer.labelling.verdicts import ReviewedBox, confirmed, emptied, reviewed, undone, withdrawn
from wafer.labelling.verifying import verify_ledger

CLASSES = ClassTable(
    (DefectClass(0, "none", "none"), DefectClass(1, "scratch"), DefectClass(2, "particle"))
)
DRAWN = Annotation(Box(1, 2, 11, 12), "scratch")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    images = tmp_path / "pictures"
    images.mkdir()
    for number in range(6):
        Image.fromarray(np.full((40, 50), 10 * number, np.uint8)).save(images / f"{number}.png")
    samples = [
        Sample("0.png", "scratch", (DRAWN,), split="train"),
        *(Sample(f"{n}.png", "scratch", split="train") for n in range(1, 5)),
        Sample("5.png", "scratch", split="val"),
    ]
    return create_workspace(tmp_path / "w", images=images, classes=CLASSES, samples=samples)


def by_model(image: str, *boxes: Box, name: str = "scratch") -> Revision:
    events = tuple(
        BoxEvent(
            decision="accepted",
            box=box,
            class_name=name,
            source="model",
            model="a" * 64,
            round=1,
            raw=0.5,
            probability=0.75,
            votes=1.0,
            spread=0.125,
            threshold=0.6,
        )
        for box in boxes
    )
    return Revision(image, events, name)


def annotations(workspace: Workspace, image: str) -> tuple[Annotation, ...] | None:
    return next(s.annotations for s in workspace.samples() if s.image == image)


def test_a_recorded_box_is_in_the_label_file_and_is_read_with_its_source(
    workspace: Workspace,
) -> None:
    Ledger(workspace).record([by_model("1.png", Box(0, 0, 25, 20))], who="test")
    assert workspace.label_path("1.png").read_text() == "0 0.25 0.25 0.5 0.5\n"
    assert annotations(workspace, "1.png") == (
        Annotation(Box(0, 0, 25, 20), "scratch", "model", 0.75),
    )
    (entry,) = read_chain(workspace.root).entries
    assert (entry.number, entry.who, entry.image, entry.size) == (1, "test", "1.png", (50, 40))
    assert (entry.model, entry.round, entry.raw, entry.spread) == ("a" * 64, 1, 0.5, 0.125)
    assert entry.image_sha256 == workspace.image_cache().sha256("1.png")


def test_boxes_of_a_model_are_no_validation_until_a_person_confirms_them(
    workspace: Workspace,
) -> None:
    ledger = Ledger(workspace)
    ledger.record([by_model("5.png", Box(0, 0, 25, 20))], who="test")
    before = select(workspace.samples(), "val")
    assert (before.samples, before.excluded_untrusted) == ((), 1)
    ledger.record([confirmed(ledger.states()["5.png"])], who="Ada")
    (sample,) = select(workspace.samples(), "val").samples
    assert sample.annotations is not None
    assert [a.source for a in sample.annotations] == ["model+confirmed"]


def test_what_a_person_drew_is_recorded_before_it_changes(workspace: Workspace) -> None:
    ledger = Ledger(workspace)
    text = workspace.label_path("0.png").read_text()
    ledger.adopt(who="Ada")
    assert workspace.label_path("0.png").read_text() == text
    (entry,) = read_chain(workspace.root).entries
    assert (entry.decision, entry.source) == ("adopted", "human")
    assert entry.box == pytest.approx((1, 2, 11, 12))


def test_a_whole_image_is_adopted_as_by_rule(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    Image.fromarray(np.zeros((40, 50), np.uint8)).save(tmp_path / "pictures" / "0.png")
    classes = ClassTable((DefectClass(0, "scratch"), DefectClass(1, "shift", "whole_image")))
    workspace = create_workspace(
        tmp_path / "w",
        images=tmp_path / "pictures",
        classes=classes,
        samples=[Sample("0.png", "shift", (full_frame("shift", (50, 40)), DRAWN), split="val")],
    )
    Ledger(workspace).adopt(who="Ada")
    sources = {e.class_name: e.source for e in read_chain(workspace.root).entries}
    assert sources == {"shift": "rule", "scratch": "human"}


def test_reviewing_tells_confirmed_edited_drawn_and_rejected_apart(workspace: Workspace) -> None:
    ledger = Ledger(workspace)
    boxes = [Box(0, 0, 10, 10), Box(20, 0, 30, 10), Box(40, 0, 50, 10)]
    ledger.record([by_model("1.png", *boxes)], who="test")
    state = ledger.states()["1.png"]
    first, second, _ = state.live
    left = [
        ReviewedBox(boxes[0], "scratch", first),
        ReviewedBox(Box(20, 0, 31, 10), "scratch", second),
        ReviewedBox(Box(5, 20, 15, 30), "particle"),
    ]
    ledger.record([reviewed("1.png", left, state=state, image_class="scratch")], who="Ada")
    entries = ledger.states()["1.png"].entries
    assert [(e.decision, e.source, e.supersedes) for e in entries] == [
        ("confirmed", "model+confirmed", 1),
        ("edited", "model+edited", 2),
        ("drawn", "human", None),
        ("rejected", "model", 3),
    ]
    assert len(workspace.label_path("1.png").read_text().splitlines()) == 3


def test_rejecting_every_box_is_no_background_but_saying_so_is(workspace: Workspace) -> None:
    ledger = Ledger(workspace)
    ledger.record([by_model("1.png", Box(0, 0, 25, 20))], who="test")
    ledger.record([withdrawn(ledger.states()["1.png"], note="doubt")], who="test")
    assert annotations(workspace, "1.png") is None
    assert not workspace.label_path("1.png").exists()
    ledger.record([emptied("1.png", state=ledger.states()["1.png"])], who="Ada")
    assert annotations(workspace, "1.png") == ()
    assert workspace.label_path("1.png").read_text() == ""


def test_undo_brings_back_the_boxes_and_their_sources(workspace: Workspace) -> None:
    ledger = Ledger(workspace)
    ledger.record([by_model("1.png", Box(0, 0, 25, 20))], who="test")
    ledger.record([emptied("1.png", state=ledger.states()["1.png"])], who="Ada")
    ledger.record([undone(ledger.history("1.png"))], who="Ada")
    assert annotations(workspace, "1.png") == (
        Annotation(Box(0, 0, 25, 20), "scratch", "model", 0.75),
    )
    ledger.record([by_model("2.png", Box(0, 0, 25, 20))], who="test")
    ledger.record([undone(ledger.history("2.png"))], who="Ada")
    assert annotations(workspace, "2.png") is None


def test_two_people_on_one_image_do_not_overwrite_each_other(workspace: Workspace) -> None:
    ledger = Ledger(workspace)
    ledger.record([by_model("1.png", Box(0, 0, 25, 20))], who="test")
    seen = ledger.states()["1.png"]
    Ledger(workspace).record([confirmed(seen)], who="Ada")
    with pytest.raises(ConflictError, match=r"1\.png was changed meanwhile"):
        ledger.record([emptied("1.png", state=seen)], who="Grace")
    assert [e.who for e in read_chain(workspace.root).entries] == ["test", "Ada"]


def test_a_label_file_edited_by_hand_is_asked_about_and_never_overwritten(
    workspace: Workspace,
) -> None:
    ledger = Ledger(workspace)
    ledger.record([by_model("1.png", Box(0, 0, 25, 20), Box(30, 30, 40, 40))], who="test")
    edited = "0 0.25 0.25 0.5 0.48\n0 0.7 0.875 0.2 0.25\n1 0.9 0.1 0.1 0.1\n"
    workspace.label_path("1.png").write_text(edited)
    with pytest.raises(DataError, match="changed by hand since the ledger recorded it"):
        ledger.record([by_model("1.png", Box(0, 0, 5, 5))], who="test")
    with pytest.raises(DataError, match="ledger adopt"):
        ledger.check_edits()
    assert workspace.label_path("1.png").read_text() == edited
    assert [a.source for a in annotations(workspace, "1.png") or ()] == ["human", "model", "human"]
    # 1.png and 0.png, which the ledger did not know yet
    assert ledger.adopt(who="Ada") == 2
    assert workspace.label_path("1.png").read_text() == edited
    assert [a.source for a in annotations(workspace, "1.png") or ()] == [
        "model+edited",
        "model",
        "human",
    ]
    assert ledger.edits() == ()


def test_a_removed_label_file_is_asked_about(workspace: Workspace) -> None:
    ledger = Ledger(workspace)
    ledger.record([by_model("1.png", Box(0, 0, 25, 20))], who="test")
    workspace.label_path("1.png").unlink()
    (edit,) = ledger.edits()
    assert (edit.image, edit.kind) == ("1.png", "removed")
    ledger.adopt(who="Ada")
    assert ledger.edits() == ()
    assert ledger.states()["1.png"].annotations is None


def test_the_label_files_are_rebuilt_from_the_ledger_alone(workspace: Workspace) -> None:
    ledger = Ledger(workspace)
    ledger.adopt(who="Ada")
    ledger.record([by_model("1.png", Box(0, 0, 25, 20))], who="test")
    ledger.record([emptied("2.png", state=None)], who="Ada")
    before = {p.name: p.read_bytes() for p in workspace.labels.iterdir()}
    assert sorted(before) == ["0.txt", "1.txt", "2.txt"]
    shutil.rmtree(workspace.labels)
    assert Ledger(workspace).rebuild().written == 3
    assert {p.name: p.read_bytes() for p in workspace.labels.iterdir()} == before
    workspace.label_path("1.png").write_text("1 0.5 0.5 0.5 0.5\n")
    rebuilt = Ledger(workspace).rebuild()
    assert (rebuilt.written, [p.name for p in rebuilt.kept]) == (1, ["1.txt.bak-1"])
    assert rebuilt.kept[0].read_text() == "1 0.5 0.5 0.5 0.5\n"
    assert workspace.label_path("1.png").read_bytes() == before["1.txt"]


def filled(workspace: Workspace) -> Ledger:
    ledger = Ledger(workspace)
    for number in range(1, 5):
        ledger.record([by_model(f"{number}.png", Box(0, 0, number, 5))], who="test")
    return ledger


def problems(workspace: Workspace) -> list[str]:
    return [f"{f.line}: {f.problem}" for f in verify_ledger(workspace).faults]


def rewrite(workspace: Workspace, change: object) -> None:
    path = workspace.root / LEDGER
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(change(lines)))  # type: ignore[operator]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda x: [x[0], x[1].replace(b'"raw":0.5', b'"raw":0.9'), *x[2:]],
            ["2: changed, or no line of a ledger (its hash does not fit)"],
        ),
        (
            lambda x: [x[0], *x[2:]],
            ["2: entry 2 missing before this line", "None: the last 1 of 4"],
        ),
        (
            lambda x: [x[0], x[2], x[1], x[3]],
            ["2: entry 2 missing", "3: entry 2 out of its order", "4: entry 3 missing"],
        ),
        (lambda x: x[:2], ["None: the last 2 of 4 lines are cut off"]),
        (lambda x: [], ["None: the last 4 of 4 lines are cut off"]),
        (lambda x: [*x[:2], b"nonsense\n", x[3]], ["3: changed, or no line of a ledger"]),
        (lambda x: [*x[:2], x[1], *x[2:]], ["3: entry 2 out of its order, or twice"]),
    ],
)
def test_a_changed_missing_reordered_or_cut_line_shows(
    workspace: Workspace, change: object, expected: list[str]
) -> None:
    filled(workspace)
    rewrite(workspace, change)
    found = problems(workspace)
    assert all(any(f.startswith(e) for f in found) for e in expected), found
    with pytest.raises(DataError, match="wafer ledger verify"):
        workspace.samples()
    with pytest.raises(DataError, match="wafer ledger verify"):
        Ledger(workspace).record([by_model("1.png", Box(0, 0, 9, 9))], who="test")


def test_a_line_that_was_forged_with_a_fitting_hash_does_not_follow(workspace: Workspace) -> None:
    filled(workspace)

    def forge(lines: list[bytes]) -> list[bytes]:
        import hashlib

        body = lines[1][: -len(b',"hash":""}\n') - 64] + b"}"
        body = body.replace(b'"raw":0.5', b'"raw":0.9')
        digest = hashlib.sha256(body).hexdigest()
        return [lines[0], body[:-1] + f',"hash":"{digest}"}}\n'.encode(), *lines[2:]]

    rewrite(workspace, forge)
    assert problems(workspace) == ["3: it does not follow from the line before, which was replaced"]


def test_a_missing_head_and_a_run_that_saw_more_lines_show(workspace: Workspace) -> None:
    ledger = filled(workspace)
    copy = ledger.head()
    assert copy is not None
    assert copy["count"] == 4
    run = workspace.root / "runs" / "propagate" / "yolov5n-001"
    run.mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"ledger": copy}))
    assert problems(workspace) == []
    lines = (workspace.root / LEDGER).read_bytes().splitlines(keepends=True)
    (workspace.root / LEDGER).write_bytes(b"".join(lines[:3]))
    digest = json.loads(lines[2])["hash"]
    head = {"count": 3, "hash": digest, "settled": 3}
    (workspace.root / HEAD).write_text(json.dumps(head))
    assert problems(workspace) == ["None: 1 lines that yolov5n-001 saw are cut off"]
    (workspace.root / HEAD).unlink()
    assert "ledger.head is missing" in problems(workspace)[0]


def test_a_torn_last_line_is_set_aside_and_is_no_tampering(workspace: Workspace) -> None:
    filled(workspace)
    with (workspace.root / LEDGER).open("ab") as handle:
        handle.write(b'{"number":5,"ti')
    found = verify_ledger(workspace)
    assert found.faults == ()
    assert found.notes == ("a last line of 15 bytes was torn by a crash; it is set aside",)
    assert (workspace.root / "ledger.torn-1").read_bytes() == b'{"number":5,"ti'
    assert verify_ledger(workspace).notes == ()
    filled(workspace)
    assert problems(workspace) == []


def test_lines_after_the_head_are_taken_and_their_files_written(workspace: Workspace) -> None:
    ledger = filled(workspace)
    head = (workspace.root / HEAD).read_bytes()
    ledger.record([by_model("1.png", Box(0, 0, 30, 30))], who="test")
    (workspace.root / HEAD).write_bytes(head)
    workspace.label_path("1.png").write_text("0 0.01 0.0625 0.02 0.125\n")  # as it was before
    found = verify_ledger(workspace)
    assert (found.faults, found.edits) == ((), ())
    assert found.notes == (
        "the head is 1 lines behind, as a crash leaves it; they follow and are taken",
    )
    assert workspace.label_path("1.png").read_text() == "0 0.3 0.375 0.6 0.75\n"


def test_part_of_a_change_does_not_count(workspace: Workspace) -> None:
    ledger = filled(workspace)
    head = (workspace.root / HEAD).read_bytes()
    ledger.record([by_model("1.png", Box(0, 0, 3, 3), Box(0, 0, 4, 4))], who="test")
    rewrite(workspace, lambda lines: lines[:-1])
    (workspace.root / HEAD).write_bytes(head)
    workspace.label_path("1.png").write_text("0 0.01 0.0625 0.02 0.125\n")
    states = Ledger(workspace).states()
    assert states["1.png"].revision == 1
    assert [e.box for e in states["1.png"].live] == [(0, 0, 1, 5)]
    Ledger(workspace).record([by_model("1.png", Box(0, 0, 7, 7))], who="test")
    assert [e.box for e in Ledger(workspace).states()["1.png"].live] == [(0, 0, 7, 7)]
    assert [len(r) for r in Ledger(workspace).history("1.png")] == [1, 1]


def test_an_image_that_changed_or_is_gone_is_told(workspace: Workspace) -> None:
    filled(workspace)
    Image.fromarray(np.full((40, 50), 200, np.uint8)).save(workspace.images / "1.png")
    (workspace.images / "2.png").unlink()
    assert verify_ledger(workspace).notes == (
        "1.png: the image was changed since its boxes were recorded; look at it again",
        "2.png: the image is gone",
    )


BOXES = st.tuples(st.floats(0, 40), st.floats(0, 30), st.floats(0.5, 10), st.floats(0.5, 10)).map(
    lambda b: Box(b[0], b[1], b[0] + b[2], b[1] + b[3])
)
CHANGES = st.lists(
    st.tuples(st.integers(1, 5), st.lists(BOXES, max_size=3), st.sampled_from(CLASSES.box_names)),
    min_size=1,
    max_size=6,
)
FIXTURE = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.slow
@FIXTURE
@given(changes=CHANGES)
def test_what_is_recorded_is_what_is_read_and_rebuilt(
    workspace: Workspace, changes: list[tuple[int, list[Box], str]]
) -> None:
    ledger = Ledger(workspace)
    wanted: dict[str, list[Box]] = {}
    for number, boxes, name in changes:
        image = f"{number}.png"
        revision = (
            by_model(image, *boxes, name=name)
            if boxes
            else emptied(image, state=ledger.states().get(image))
        )
        ledger.record([revision], who="test")
        wanted[image] = boxes
    fresh = image_states(read_chain(workspace.root).entries)
    for image, boxes in wanted.items():
        assert [e.box for e in fresh[image].live] == [b.corners for b in boxes]
    shutil.rmtree(workspace.labels)
    Ledger(workspace).rebuild()
    for image, boxes in wanted.items():
        read = annotations(workspace, image)
        assert read is not None
        corners = [c for a in read for c in a.box.corners]
        assert corners == pytest.approx([c for b in boxes for c in b.corners], abs=1e-5)
    assert problems(workspace) == []


@FIXTURE
@given(data=st.data())
def test_no_changed_byte_of_the_ledger_goes_unseen(
    workspace: Workspace, data: st.DataObject
) -> None:
    if not (workspace.root / LEDGER).exists():
        filled(workspace)
    path = workspace.root / LEDGER
    content = path.read_bytes()
    place = data.draw(st.integers(0, len(content) - 2))
    byte = data.draw(st.integers(0, 255).filter(lambda b: b != content[place]))
    path.write_bytes(content[:place] + bytes([byte]) + content[place + 1 :])
    try:
        assert read_chain(workspace.root).faults
    finally:
        path.write_bytes(content)


WRITER = """
import sys
from pathlib import Path
from wafer.datasets.records import Box
from wafer.datasets.workspace import open_workspace
from wafer.labelling.ledger import BoxEvent, Ledger, Revision
ledger = Ledger(open_workspace(Path(sys.argv[1])))
for n in range(10**6):
    events = tuple(
        BoxEvent(decision="accepted", box=Box(k, 0, k + 1 + n % 7, 5), class_name="scratch",
                 source="model", probability=0.5)
        for k in range(3)
    )
    ledger.record([Revision(f"{1 + n % 4}.png", events)], who="writer")
    print(n, flush=True)
"""


@pytest.mark.slow
def test_a_writer_killed_at_any_moment_leaves_a_sound_ledger(workspace: Workspace) -> None:
    told = 0
    for delay in (0.05, 0.1, 0.17, 0.23, 0.4):
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", WRITER, str(workspace.root)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
        told += 1 + process.stdout.read().count("\n")
        process.wait()
        process.stdout.close()
        found = verify_ledger(workspace)
        assert (found.faults, found.edits) == ((), ())
        assert found.entries >= 3 * told  # what was said to be recorded is
    assert Ledger(workspace).rebuild().written == 0


FULL_DISK = """
import sys
from pathlib import Path
import resource
from wafer.datasets.records import Box
from wafer.datasets.workspace import open_workspace
from wafer.labelling.ledger import BoxEvent, Ledger, Revision
root = Path(sys.argv[1])
ledger = Ledger(open_workspace(root))
size = (root / "ledger.jsonl").stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, resource.RLIM_INFINITY))
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
event = BoxEvent(decision="accepted", box=Box(0, 0, 9, 9), class_name="scratch", source="model")
try:
    ledger.record([Revision("1.png", (event,))], who="writer")
except OSError as error:
    print("refused", error.errno)
"""


def test_a_full_disk_leaves_the_ledger_as_it_was(workspace: Workspace) -> None:
    filled(workspace)
    before = (workspace.root / LEDGER).read_bytes()
    out = subprocess.run(
        [sys.executable, "-P", "-c", FULL_DISK, str(workspace.root)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert out.stdout.startswith("refused")
    assert (workspace.root / LEDGER).read_bytes() == before
    found = verify_ledger(workspace)
    assert (found.faults, found.edits, found.notes) == ((), (), ())


def somebody_writes(
    ledger: Ledger,
    revisions: list[Revision],
    monkeypatch: pytest.MonkeyPatch,
    *,
    after: tuple[str, ...],
) -> None:
    """From now on a change is recorded whenever one of these files was read, while any is left."""
    read, left = Path.read_bytes, iter(revisions)

    def read_and_write(path: Path) -> bytes:
        content = read(path)
        if path.name in after and (revision := next(left, None)) is not None:
            with monkeypatch.context() as during:
                during.setattr(Path, "read_bytes", read)
                ledger.record([revision], who="test")
        return content

    monkeypatch.setattr(Path, "read_bytes", read_and_write)


def test_a_reader_beside_a_writer_sees_no_tampering(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(workspace)
    ledger.record([by_model("1.png", Box(0, 0, 25, 20))], who="test")
    others = [by_model(f"{n}.png", Box(0, 0, 25, 20)) for n in (2, 3, 4)]
    somebody_writes(ledger, others, monkeypatch, after=(HEAD, LEDGER))
    chain = read_chain(workspace.root)
    assert chain.faults == ()
    assert [entry.image for entry in chain.entries] == ["1.png", "2.png"]


def test_a_ledger_that_is_begun_while_it_is_read_is_no_tampering(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Path.read_bytes
    begun = []

    def missing_and_then_somebody_writes(path: Path) -> bytes:
        if path.name == HEAD and not begun:
            begun.append(True)
            with monkeypatch.context() as during:
                during.setattr(Path, "read_bytes", read)
                Ledger(workspace).record([by_model("1.png", Box(0, 0, 25, 20))], who="test")
            raise FileNotFoundError
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", missing_and_then_somebody_writes)
    chain = read_chain(workspace.root)
    assert (chain.faults, len(chain.entries)) == ((), 1)


def test_boxes_whose_files_are_not_written_yet_stay_those_of_a_model(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(workspace)
    ledger.record([by_model("1.png", Box(0, 0, 25, 20))], who="test")
    ledger.record([by_model("5.png", Box(0, 0, 25, 20))], who="test")

    def killed(_: Ledger) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as during, pytest.raises(KeyboardInterrupt):
        during.setattr(Ledger, "_settle", killed)
        states = ledger.states()
        ledger.record(
            [withdrawn(states["5.png"], note="wrong"), by_model("1.png", Box(0, 10, 25, 20))],
            who="test",
        )
    for image in ("1.png", "5.png"):
        found = annotations(workspace, image)
        assert found is not None
        assert [a.source for a in found] == ["model"]
    assert select(workspace.samples(), "val").samples == ()
    Ledger(workspace).states()
    assert annotations(workspace, "5.png") is None
    assert annotations(workspace, "1.png") == (
        Annotation(Box(0, 10, 25, 20), "scratch", "model", 0.75),
    )


@pytest.mark.parametrize("size", [(25, 20), (100, 60)])
def test_boxes_of_resized_images_keep_their_place_and_their_source(
    workspace: Workspace, size: tuple[int, int]
) -> None:
    ledger = Ledger(workspace)
    ledger.record([by_model(f"{n}.png", Box(0, 10, 25, 20)) for n in (1, 2, 3, 5)], who="test")
    for path in workspace.images.iterdir():
        Image.open(path).resize(size).save(path)
    x, y = size[0] / 50, size[1] / 40
    here = Annotation(Box(0, 10 * y, 25 * x, 20 * y), "scratch", "model", 0.75)
    assert annotations(workspace, "5.png") == (here,)
    assert select(workspace.samples(), "val").samples == ()
    states = ledger.states()
    left = [ReviewedBox(here.box, "scratch", states["3.png"].resized(size).live[0])]
    changes = [
        confirmed(states["1.png"]),
        withdrawn(states["2.png"], note="wrong"),
        reviewed("3.png", left, state=states["3.png"].resized(size)),
    ]
    ledger.record(changes, who="Ada")
    for image in ("1.png", "3.png"):
        assert annotations(workspace, image) == (
            Annotation(here.box, "scratch", "model+confirmed", 0.75),
        )
    assert not workspace.label_path("2.png").exists()
    assert ledger.edits() == ()
    ledger.record([undone(ledger.history("2.png"))], who="Ada")
    assert annotations(workspace, "2.png") == (here,)
    assert verify_ledger(workspace).faults == ()


def test_where_the_ledger_of_a_run_is_lost_no_other_is_begun(workspace: Workspace) -> None:
    ledger = Ledger(workspace)
    ledger.record([by_model("1.png", Box(0, 0, 25, 20))], who="test")
    run = workspace.runs / "yolov5n-001"
    run.mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"ledger": ledger.head()}))
    kept = (workspace.root / LEDGER).read_bytes()
    for name in (LEDGER, HEAD):
        (workspace.root / name).unlink()
    drawn = reviewed("2.png", [ReviewedBox(Box(5, 20, 15, 30), "scratch")], state=None)
    with pytest.raises(DataError, match="that yolov5n-001 saw, of 1 lines, is gone"):
        Ledger(workspace).record([drawn], who="Ada")
    assert not (workspace.root / LEDGER).exists()
    assert not workspace.label_path("2.png").exists()
    (workspace.root / LEDGER).write_bytes(entry_of_another_ledger(kept))
    with pytest.raises(DataError):
        Ledger(workspace).adopt(who="Ada")


def entry_of_another_ledger(kept: bytes) -> bytes:
    """Return a sound first line that is not the one that was kept."""
    entry, _ = chained_line({**json.loads(kept), "who": "Bob"}, before=GENESIS)
    return entry


def test_a_ledger_that_was_put_aside_on_purpose_is_not_missed(workspace: Workspace) -> None:
    ledger = Ledger(workspace)
    ledger.record([by_model("1.png", Box(0, 0, 25, 20))], who="test")
    run = workspace.runs / "yolov5n-001"
    run.mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"ledger": ledger.head()}))
    samples = [Sample(f"{n}.png", "scratch", split="train") for n in range(6)]
    workspace = create_workspace(
        workspace.root, images=workspace.images, classes=CLASSES, samples=samples, force=True
    )
    drawn = reviewed("2.png", [ReviewedBox(Box(0, 20, 25, 30), "scratch")], state=None)
    Ledger(workspace).record([drawn], who="Ada")
    assert Ledger(workspace).adopt(who="Ada") == 0
    assert verify_ledger(workspace).faults == ()


@pytest.mark.parametrize("with_head", [True, False])
def test_a_backup_of_the_ledger_hides_no_lines_that_are_cut_off(
    workspace: Workspace, with_head: bool
) -> None:
    ledger = Ledger(workspace)
    for number in (1, 2):
        ledger.record([by_model(f"{number}.png", Box(0, 0, 25, 20))], who="test")
        shutil.copy(workspace.root / LEDGER, workspace.root / f"{LEDGER}.{number}")
        shutil.copy(workspace.root / HEAD, workspace.root / f"{HEAD}.{number}")
    run = workspace.runs / "yolov5n-001"
    run.mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"ledger": ledger.head()}))
    shutil.copy(workspace.root / LEDGER, workspace.root / f"{LEDGER}.bak-1")
    if with_head:
        shutil.copy(workspace.root / HEAD, workspace.root / f"{HEAD}.bak-1")
    for name in (LEDGER, HEAD):  # as they were one line before
        shutil.copy(workspace.root / f"{name}.1", workspace.root / name)
    (fault,) = verify_ledger(workspace).faults
    assert fault.problem == "1 lines that yolov5n-001 saw are cut off"
    if not with_head:
        for name in (LEDGER, HEAD):
            (workspace.root / name).unlink()
        with pytest.raises(DataError, match="of 2 lines, is gone"):
            Ledger(workspace).adopt(who="Ada")


def test_boxes_are_adopted_in_pixels_of_an_image_that_was_resized(workspace: Workspace) -> None:
    ledger = Ledger(workspace)
    ledger.record([by_model("5.png", Box(0, 0, 25, 20), Box(25, 20, 50, 30))], who="test")
    Image.open(workspace.image_path("5.png")).resize((25, 20)).save(workspace.image_path("5.png"))
    with workspace.label_path("5.png").open("a") as file:
        file.write("0 0.25 0.75 0.5 0.5\n")
    assert ledger.adopt(who="Ada") == 2  # with 0.png, which was drawn before there was a ledger
    found = annotations(workspace, "5.png")
    assert found is not None
    assert [(a.box.corners, a.source) for a in found] == [
        ((0, 0, 12.5, 10), "model"),
        ((12.5, 10, 25, 15), "model"),
        ((0, 10, 12.5, 20), "human"),
    ]


def test_a_reader_beside_a_writer_knows_the_boxes_of_a_model(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(workspace)
    ledger.record([by_model("5.png", Box(0, 0, 25, 20))], who="test")
    somebody_writes(ledger, [by_model("5.png", Box(25, 20, 50, 40))], monkeypatch, after=("5.txt",))
    (first,) = annotations(workspace, "5.png") or ()
    (second,) = annotations(workspace, "5.png") or ()
    assert [(a.box.xmin, a.source) for a in (first, second)] == [(0, "model"), (25, "model")]


def test_an_image_that_went_is_left_out_of_what_can_be_recorded(workspace: Workspace) -> None:
    ledger = Ledger(workspace)
    boxes = [by_model(f"{n}.png", Box(0, 0, 25, 20)) for n in (1, 2)]
    ledger.record(boxes, who="test")
    (workspace.images / "1.png").unlink()
    states = ledger.states()
    changes = [withdrawn(states[f"{n}.png"], note="below the threshold") for n in (1, 2)]
    assert Ledger(workspace).record_possible(changes, who="test") == ("1.png",)
    assert not workspace.label_path("2.png").exists()
