"""A watched folder: whatever is killed and when, each content has one answer; nothing is lost."""

import csv
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from wafer.cli import app
from wafer.datasets.errors import DataError, WaferError, WeightsError
from wafer.datasets.records import Box
from wafer.detector.classification import classify_images
from wafer.evaluation.records import Prediction
from wafer.inference import pipeline
from wafer.inference.bundle import open_bundle
from wafer.inference.engines.onnx_runtime import ONNX_RUNTIME
from wafer.inference.records import Row
from wafer.inference.sources import ImageInput
from wafer.service.audit import AUDIT, AuditLog, read_audit, verify_audit
from wafer.service.folder import publishing, state, watching
from wafer.service.folder.answering import Answering
from wafer.service.folder.following import Following
from wafer.service.folder.looking import Looking
from wafer.service.folder.state import Seen, open_state
from wafer.service.folder.watching import Watcher, levels_given
from wafer.service.models import Served, bundle_to_serve
from wafer.service.process import Answered

Shot = Callable[..., bytes]
WAFER = str(Path(sys.executable).with_name("wafer"))
DIGEST = "d" * 64


def answer(items: Sequence[ImageInput]) -> tuple[list[Answered], str]:
    """Answer as a process would, from the content alone."""
    rows = []
    for item in items:
        prepared = pipeline._prepare(item, predictor=Grey)  # type: ignore[arg-type]
        if isinstance(prepared, Row):
            rows.append(prepared)
            continue
        confidence = float(prepared.pixels.image.mean()) / 255
        prediction = Prediction(item.name, Box(1, 2, 3, 4), "spot", confidence, "auto")
        rows.append(
            Row(
                image=item.name,
                model="m",
                sha256=prepared.sha256,
                prediction=prediction,
                class_code=1,
            )
        )
    return [Answered(row=row) for row in rows], DIGEST


class Grey:
    model, colour, white_level, image_size = "m", False, 65535, 32


@pytest.fixture
def incoming(tmp_path: Path, shot: Shot) -> Path:
    """Two lots with a broken file and a copy."""
    folder = tmp_path / "incoming"
    for lot in ("lot 1", "lot 2/wafer 7"):
        (folder / lot).mkdir(parents=True)
    for number in range(6):
        (folder / "lot 1" / f"{number}.png").write_bytes(shot(20 + 30 * number))
        (folder / "lot 2/wafer 7" / f"{number}.jpg").write_bytes(
            shot(25 + 30 * number, kind="JPEG")
        )
    (folder / "top.png").write_bytes(shot(5))
    (folder / "lot 1" / "broken.png").write_bytes(shot(99)[:-40])
    shutil.copy(folder / "lot 1" / "3.png", folder / "lot 2/wafer 7" / "again.png")
    (folder / "lot 1" / "notes.txt").write_text("not an image")
    return folder


def work(
    folder: Path, target: Path, ask: watching.Ask = answer, levels: Sequence[str] = ()
) -> tuple[int, int, int]:
    """Do what `wafer watch --once --settle 0` does, without processes."""
    target.mkdir(exist_ok=True)
    with (
        open_state(target / "state.sqlite") as opened,
        closing(AuditLog(target / AUDIT)) as audit,
    ):
        watcher = Watcher(folder, target, opened, audit=audit, settle=0, levels=levels)
        watcher.begin()
        while watcher.round(ask, threading.Event()):
            pass
        return opened.counts()


def table(target: Path, lot: str) -> list[dict[str, str]]:
    with (target / lot / "predictions.csv").open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def files(target: Path) -> dict[str, bytes]:
    """Return the output, without what differs from run to run."""
    found = {
        AUDIT: "\n".join(sorted(line["image"] for line in read_audit(target / AUDIT))).encode()
    }
    for path in sorted(target.rglob("*")):
        name = path.relative_to(target).as_posix()
        if not path.is_file() or name.startswith(("state.sqlite", ".lock", "audit.")):
            continue
        content = path.read_bytes()
        if path.suffix == ".json":
            values = json.loads(content)
            assert values.pop("time").startswith("20")
            content = json.dumps(values).encode()
        elif path.suffix == ".csv":
            content = b"".join(sorted(content.splitlines(keepends=True)))
        found[name] = content
    return found


def test_each_file_has_a_row_and_a_sidecar(incoming: Path, tmp_path: Path) -> None:
    target = tmp_path / "results"
    before = {p: p.read_bytes() for p in incoming.rglob("*") if p.is_file()}
    assert work(incoming, target) == (13, 1, 1)
    rows = [row for lot in ("lot 1", "lot 2/wafer 7", ".") for row in table(target, lot)]
    names = [row["image"] for row in rows]
    expected = [f"lot 1/{k}.png" for k in range(6)] + ["top.png"]
    expected += [f"lot 2/wafer 7/{k}.jpg" for k in range(6)] + ["lot 2/wafer 7/again.png"]
    assert sorted(names) == sorted(expected)
    assert len({row["sha256"] for row in rows}) == 13
    sidecar = json.loads((target / "lot 1" / "3.png.json").read_text())
    (row,) = [row for row in rows if row["image"] == "lot 1/3.png"]
    assert sidecar["vector"] == [1.0, 2.0, 3.0, 4.0, "spot", float(row["confidence"])]
    assert (sidecar["sha256"], sidecar["model_digest"]) == (row["sha256"], DIGEST)
    copy = json.loads((target / "lot 2/wafer 7" / "again.png.json").read_text())
    assert (copy["image"], copy["copy_of"]) == ("lot 2/wafer 7/again.png", "lot 1/3.png")
    assert copy["vector"] == sidecar["vector"]
    reason, dead = sorted((target / "dead-letter" / "lot 1").iterdir())
    assert dead.read_bytes() == before[incoming / "lot 1" / "broken.png"]
    assert "cut off" in json.loads(reason.read_text())["error"]
    assert {p: p.read_bytes() for p in incoming.rglob("*") if p.is_file()} == before


def test_what_was_answered_is_not_asked_again_and_a_changed_file_is(
    incoming: Path, tmp_path: Path, shot: Shot
) -> None:
    target, asked = tmp_path / "results", list[str]()

    def ask(items: Sequence[ImageInput]) -> tuple[list[Answered], str]:
        asked.extend(item.name for item in items)
        return answer(items)

    work(incoming, target, ask)
    assert len(asked) == 15
    first = files(target)
    asked.clear()
    work(incoming, target, ask)
    assert asked == []
    assert files(target) == first
    (incoming / "lot 1" / "broken.png").write_bytes(shot(99))
    (incoming / "lot 1" / "0.png").write_bytes(shot(251))
    assert work(incoming, target, ask) == (15, 1, 1)
    assert sorted(asked) == ["lot 1/0.png", "lot 1/broken.png"]
    names = [row["image"] for row in table(target, "lot 1")]
    assert sorted(names) == sorted([f"lot 1/{k}.png" for k in range(6)] + ["lot 1/broken.png"])
    said = json.loads((target / "lot 1" / "0.png.json").read_text())
    assert table(target, "lot 1")[names.index("lot 1/0.png")]["sha256"] == said["sha256"]
    assert set(first) < set(files(target))
    (incoming / "lot 1" / "0.png").write_bytes(b"broken")
    work(incoming, target, ask)
    assert "lot 1/0.png" not in [row["image"] for row in table(target, "lot 1")]
    assert not (target / "lot 1" / "0.png.json").exists()


def test_a_copy_is_of_its_own_lot_and_tool(tmp_path: Path, shot: Shot) -> None:
    folder, target = tmp_path / "in", tmp_path / "results"
    places = {"sem-1/lot 1": "a.png", "sem-2/lot 2": "=b\r\n, 1.png", "sem-2": "c.png"}
    for place, name in places.items():
        (folder / place).mkdir(parents=True, exist_ok=True)
        (folder / place / name).write_bytes(shot(20))
        (folder / place / "broken.png").write_bytes(b"broken")
        work(folder, target, levels=("tool", "lot"))
    (folder / "=top.png").write_bytes(shot(20))
    assert work(folder, target, levels=("tool", "lot")) == (1, 1, 5)
    rows = {place: table(target, place) for place in (*places, ".")}
    assert {place: [row.pop("image") for row in found] for place, found in rows.items()} == {
        "sem-1/lot 1": ["sem-1/lot 1/a.png"],
        "sem-2/lot 2": ["sem-2/lot 2/=b\r\n, 1.png"],
        "sem-2": ["sem-2/c.png"],
        ".": ["./=top.png"],
    }
    assert all(found == rows["sem-1/lot 1"] for found in rows.values())
    said = [json.loads(path.read_text()) for path in sorted(target.rglob("*.json"))]
    assert {each["image"]: (each.get("tool"), each.get("copy_of")) for each in said} == {
        "sem-1/lot 1/a.png": ("sem-1", None),
        "sem-1/lot 1/broken.png": ("sem-1", None),
        "sem-2/lot 2/=b\r\n, 1.png": ("sem-2", "sem-1/lot 1/a.png"),
        "sem-2/lot 2/broken.png": ("sem-2", "sem-1/lot 1/broken.png"),
        "sem-2/c.png": ("sem-2", "sem-1/lot 1/a.png"),
        "sem-2/broken.png": ("sem-2", "sem-1/lot 1/broken.png"),
        "=top.png": (None, "sem-1/lot 1/a.png"),
    }
    assert verify_audit(target / AUDIT).lines == 2


class Killed(BaseException):
    """What the process would not live to see."""


def killing(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop at the ``at``-th step: before or after a file is replaced or the state changes."""
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1
        if steps == at:
            raise Killed

    def around(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*given: Any, **more: Any) -> Any:
            step()
            result = function(*given, **more)
            step()
            return result

        return wrapped

    monkeypatch.setattr(publishing, "write_text", around(publishing.write_text))
    monkeypatch.setattr(publishing, "write_bytes", around(publishing.write_bytes))
    monkeypatch.setattr(publishing, "atomic_file", around(publishing.atomic_file))
    monkeypatch.setattr(state.State, "add", around(state.State.add))
    monkeypatch.setattr(AuditLog, "append", around(AuditLog.append))
    monkeypatch.setattr(state.State, "publish", around(state.State.publish))


@pytest.mark.slow
def test_stopped_at_any_step_it_ends_with_the_same_results(
    incoming: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "AT_ONCE", 2)
    monkeypatch.setattr(watching, "core_count", lambda: 2)
    work(incoming, tmp_path / "whole")
    whole = files(tmp_path / "whole")
    stopped = 0
    for at in range(1, 200, 5):
        target = tmp_path / "results"
        with monkeypatch.context() as patch:
            killing(at, patch)
            try:
                work(incoming, target)
                break
            except Killed:
                stopped += 1
        assert work(incoming, target) == (13, 1, 1)
        assert files(target) == whole, at
        shutil.rmtree(target)
    assert stopped > 8


def test_each_content_has_one_line_in_the_audit_log(incoming: Path, tmp_path: Path) -> None:
    target = tmp_path / "results"
    assert work(incoming, target, levels=("tool", "step")) == (13, 1, 1)
    assert verify_audit(target / AUDIT).lines == 14
    lines = {line["image"]: line for line in read_audit(target / AUDIT)}
    assert len(lines) == 14
    sidecar = json.loads((target / "lot 2/wafer 7" / "0.jpg.json").read_text())
    kept = lines["lot 2/wafer 7/0.jpg"]
    assert {name: kept[name] for name in sidecar} == sidecar
    assert (sidecar["tool"], sidecar["step"]) == ("lot 2", "wafer 7")
    assert "step" not in lines["lot 1/0.png"]
    assert "tool" not in lines["top.png"]
    assert "cut off" in lines["lot 1/broken.png"]["error"]


def test_a_log_that_is_ahead_of_the_state_or_was_cut_is_refused(
    incoming: Path, tmp_path: Path
) -> None:
    target = tmp_path / "results"
    work(incoming, target)
    for path in target.glob("state.sqlite*"):
        path.rename(tmp_path / path.name)
    with pytest.raises(
        DataError, match=r"results/audit\.jsonl: it has 14 lines more than state\.sqlite has"
    ):
        work(incoming, target)
    for path in target.glob("state.sqlite*"):
        path.unlink()
    for path in tmp_path.glob("state.sqlite*"):
        path.rename(target / path.name)
    log = target / AUDIT
    whole = log.read_bytes()
    log.write_bytes(b"".join(whole.splitlines(keepends=True)[:10]))
    with pytest.raises(DataError, match="the last 4 of 14 lines are cut off"):
        work(incoming, target)
    log.write_bytes(whole)
    assert work(incoming, target) == (13, 1, 1)
    assert log.read_bytes() == whole


@pytest.mark.parametrize("text", ["", "lot", "tool//lot", "tool/tool", "tool/"])
def test_levels_that_say_nothing_are_refused(text: str) -> None:
    with pytest.raises(WaferError, match=f"--folders {text}: name each level once"):
        levels_given(text)


class Away:
    """A share that goes away while images are read, and comes back as it was."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.away = folder, True

    def answer(self, items: Sequence[ImageInput]) -> tuple[list[Answered], str]:
        if not self.away:
            return answer(items)
        gone = self.folder.with_name("gone")
        self.folder.rename(gone)
        try:
            answered = answer(items)
        finally:
            gone.rename(self.folder)
        return answered


@contextmanager
def watcher(
    folder: Path, target: Path, clock: list[float]
) -> Iterator[tuple[Watcher, Callable[[], tuple[int, int, int]]]]:
    """Yield what watches a folder by a clock, and what counts its answers."""
    target.mkdir(exist_ok=True)
    with (
        open_state(target / "state.sqlite") as opened,
        closing(AuditLog(target / AUDIT)) as audit,
    ):
        made = Watcher(folder, target, opened, audit=audit, settle=0, now=lambda: clock[0])
        made.begin()
        yield made, opened.counts


def test_a_share_that_is_away_for_a_moment_costs_no_image(incoming: Path, tmp_path: Path) -> None:
    share, target, clock, ended = Away(incoming), tmp_path / "results", [0.0], threading.Event()
    with watcher(incoming, target, clock) as (made, counts):
        assert not made.round(share.answer, ended)
        assert counts() == (0, 0, 0)
        assert len(made.unread) == 15
        assert made.unread["top.png"] == "cannot be read (No such file or directory)"
        clock[0] = 4.9
        assert not made.round(answer, ended)
        clock[0] = 5.0
        assert not made.round(share.answer, ended)
        share.away = False
        clock[0] = 14.9  # the second pause is twice as long
        assert not made.round(share.answer, ended)
        clock[0] = 15.0
        assert made.round(share.answer, ended)
        assert counts() == (13, 1, 1)
        assert made.unread == {}
    assert verify_audit(target / AUDIT).lines == 14
    work(incoming, tmp_path / "whole")
    assert files(target) == files(tmp_path / "whole")


def test_a_file_that_cannot_be_read_waits_and_one_that_is_gone_is_dropped(
    tmp_path: Path, shot: Shot, caplog: pytest.LogCaptureFixture
) -> None:
    folder, clock, ended = tmp_path / "in", [0.0], threading.Event()
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.png").write_bytes(shot(20 + number))

    def ask(items: Sequence[ImageInput]) -> tuple[list[Answered], str]:
        (folder / "2.png").unlink(missing_ok=True)
        answered, digest = answer(items)
        failed = Row(image="0.png", model="m", error="cannot be read (Input/output error)")
        return [
            Answered(row=failed) if item.name in {"0.png", "1.png"} and clock[0] == 0 else each
            for item, each in zip(items, answered, strict=True)
        ], digest

    with watcher(folder, tmp_path / "results", clock) as (made, counts):
        assert made.round(ask, ended)
        assert counts() == (1, 0, 0)
        reason = "cannot be read (Input/output error)"
        assert made.unread == {"0.png": reason, "1.png": reason}
        (logged,) = [r for r in caplog.records if r.getMessage() == "cannot be read now"]
        assert logged.__dict__["fields"] == {"files": 2, "first": "0.png", "error": reason}
        (folder / "1.png").unlink()
        assert not made.round(ask, ended)
        assert made.unread == {"0.png": reason}
        clock[0] = 5.0
        assert made.round(ask, ended)
        assert (counts(), made.unread) == ((2, 0, 0), {})


def test_an_image_that_ends_processes_is_kept_with_the_reason(tmp_path: Path, shot: Shot) -> None:
    folder, target = tmp_path / "in", tmp_path / "results"
    folder.mkdir()
    (folder / "a.png").write_bytes(shot(20))
    reason = "ends the process that reads it (SIGKILL)"

    def ask(items: Sequence[ImageInput]) -> tuple[list[Answered], str]:
        return [Answered(row=Row(image=i.name, model="m", error=reason)) for i in items], DIGEST

    assert work(folder, target, ask) == (0, 1, 0)
    said, copy = sorted((target / "dead-letter").iterdir())
    assert json.loads(said.read_text())["error"] == reason
    assert copy.read_bytes() == shot(20)
    assert work(folder, target) == (0, 1, 0)


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    folder, target = tmp_path / "in", tmp_path / "results"
    folder.mkdir()
    os.mkfifo(folder / "pipe.png")
    assert work(folder, target) == (0, 1, 0)
    (said,) = (target / "dead-letter").iterdir()
    assert json.loads(said.read_text())["error"] == "not a regular file"


def test_only_temporary_files_of_its_own_are_removed(incoming: Path, tmp_path: Path) -> None:
    target = tmp_path / "results"
    work(incoming, target)
    ours = target / "lot 1" / ".0.png.json.tmp-0123456789ab"
    others = [target / name for name in (".x.tmp-1", ".x.tmp-0123456789AB", ".x.tmp-0123456789abc")]
    for path in (ours, *others):
        path.write_text("half")
    link, folder = target / ".link.tmp-0123456789ab", target / ".folder.tmp-0123456789ab"
    link.symlink_to(others[0])
    folder.mkdir()
    work(incoming, target)
    assert not ours.exists()
    assert all(path.read_text() == "half" for path in (*others, link))
    assert folder.is_dir()


def test_a_full_disk_stops_it_and_costs_nothing_more(incoming: Path, tmp_path: Path) -> None:
    work(incoming, tmp_path / "whole")
    target, stopped = tmp_path / "results", 0
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        for size in (0, 500, 3_000, 30_000, 40_000):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
            try:
                work(incoming, target)
            except (OSError, WaferError):
                stopped += 1
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)
    finally:
        signal.signal(signal.SIGXFSZ, handler)
    assert stopped >= 3
    assert work(incoming, target) == (13, 1, 1)
    assert files(target) == files(tmp_path / "whole")


def test_what_a_full_disk_kept_back_is_published_without_a_new_image(
    incoming: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    work(incoming, tmp_path / "whole")
    target, ended = tmp_path / "results", threading.Event()
    with watcher(incoming, target, [0.0]) as (made, counts):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
            patch.setattr(publishing, "write_text", full)
            made.round(answer, ended)
        assert counts() == (13, 1, 1)
        assert not made.round(answer, ended)
        assert files(target) == files(tmp_path / "whole")


def test_a_file_is_complete_when_it_rests_or_is_marked(tmp_path: Path, shot: Shot) -> None:
    clock = [0.0]
    looking = Looking(tmp_path, settle=2.0, now=lambda: clock[0])
    image, other = tmp_path / "a.png", tmp_path / "b.png"
    image.write_bytes(shot(9)[:50])
    other.write_bytes(shot(8))

    known: dict[str, Seen] = {}

    def found(at: float) -> list[str]:
        clock[0] = at
        complete = list(looking.complete(known))
        known.update({each.path: each.seen for each in complete})
        return [each.path for each in complete]

    assert found(0) == []
    assert looking.changing == 2
    with image.open("ab") as growing:
        growing.write(b"more")
    assert found(1.9) == []
    assert found(2.1) == ["b.png"]
    os.utime(image, (0, 0))  # a copy that keeps the time of the original
    assert found(3.9) == []
    assert found(5.8) == []
    assert found(6.0) == ["a.png"]
    third = tmp_path / "c.png"
    third.write_bytes(shot(7))
    (tmp_path / "c.png.done").touch()
    assert found(6.1) == ["c.png"]
    third.write_bytes(shot(6))
    assert found(6.2) == ["c.png"]
    (tmp_path / "gone.png").symlink_to("nowhere")
    assert found(6.3) == []
    assert found(8.4) == ["gone.png"]
    assert found(99.0) == []


def test_odd_names_get_results_too(tmp_path: Path, shot: Shot) -> None:
    folder, target = tmp_path / "in", tmp_path / "results"
    folder.mkdir()
    long = "x" * 250 + ".png"
    names = [long, "\u00e4\u00df \u4e2d.png", "=cmd.png", "a\nb.png"]
    for number, name in enumerate(names):
        (folder / name).write_bytes(shot(10 + number))
    (folder / os.fsdecode(b"\xff.png")).write_bytes(shot(44))
    (folder / ("y" * 250 + ".png")).write_bytes(b"broken")
    (folder / "gone.png").symlink_to("nowhere")
    assert work(folder, target) == (4, 3, 0)
    assert sorted(row["image"] for row in table(target, ".")) == sorted(
        [long, names[1], "./=cmd.png", names[3]]
    )
    assert len(list(target.glob("*.json"))) == 4
    assert len(list((target / "dead-letter").glob("*.json"))) == 3


@pytest.fixture(scope="module")
def lots(tmp_path_factory: pytest.TempPathFactory, shot: Shot) -> Path:
    folder = tmp_path_factory.mktemp("lots") / "in"
    for lot in "ab":
        (folder / lot).mkdir(parents=True)
        for number in range(40):
            brightness = 5 + 3 * number + (lot == "b")
            (folder / lot / f"{number}.png").write_bytes(shot(brightness, size=(200, 150)))
    (folder / "a" / "broken.png").write_bytes(b"not an image")
    return folder


def command(fab: Any, folder: Path, target: Path, *options: str) -> list[str]:
    where = ["--workspace", str(fab.root), "--output", str(target), "--engine", "onnxruntime"]
    return [WAFER, "watch", str(folder), *where, "--settle", "0", *options]


@pytest.mark.slow
def test_killed_in_the_middle_it_ends_with_the_rows_of_classify(
    fab: Any, lots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", fab.environment["XDG_CACHE_HOME"])
    target = tmp_path / "results"
    once = command(fab, lots, target, "--once")
    process = subprocess.Popen(once, env=fab.environment, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while not list(target.glob("[ab]/*.json")):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.001)
    process.kill()
    process.wait()
    done = subprocess.run(once, env=fab.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1  # a file is broken
    assert done.stderr.splitlines()[-1] == "80 images answered, 1 broken, 0 copies"
    classify_images(
        [str(lots)],
        weights=fab.first.folder,
        output=tmp_path / "rows.csv",
        recursive=True,
        engine="onnxruntime",
    )
    expected = [r for r in table_of(tmp_path / "rows.csv") if not r["error"]]
    rows = table(target, "a") + table(target, "b")
    assert sorted(rows, key=lambda row: row["image"]) == sorted(
        expected, key=lambda row: row["image"]
    )
    assert len(list(target.glob("[ab]/*.json"))) == 80
    assert verify_audit(target / AUDIT).lines == 81
    assert not list(target.rglob(".*.tmp-*"))


def table_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


@pytest.fixture
def watching_process(fab: Any, tmp_path: Path) -> Iterator[Any]:
    (tmp_path / "in" / "lot").mkdir(parents=True)
    fab.promote(fab.first)
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            command(fab, tmp_path / "in", tmp_path / "out"), env=fab.environment, stderr=log
        )
    yield process
    process.kill()
    process.wait()


@pytest.mark.slow
def test_it_answers_what_appears_follows_the_promoted_bundle_and_ends_when_told(
    fab: Any, watching_process: Any, tmp_path: Path, shot: Shot
) -> None:
    def appears(name: str, brightness: int) -> Any:
        (tmp_path / "in" / name).write_bytes(shot(brightness))
        path, end = tmp_path / "out" / f"{name}.json", time.monotonic() + 120
        while not path.exists():
            assert watching_process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < end
            time.sleep(0.02)
        return json.loads(path.read_text())

    assert appears("lot/1.png", 220)["model_digest"] == fab.first.digest
    fab.promote(fab.wrong)
    assert appears("lot/2.png", 221)["model_digest"] == fab.first.digest
    fab.promote(fab.second)
    assert appears("lot/3.png", 222)["model_digest"] == fab.second.digest
    with pytest.raises(WaferError, match="another `wafer watch` writes there already"):
        watching.watch_folder(
            tmp_path / "in",
            workspace=fab.workspace,
            weights=fab.first.folder,
            output=tmp_path / "out",
            engine="onnxruntime",
        )
    watching_process.send_signal(signal.SIGTERM)
    assert watching_process.wait(60) == 0
    assert [row["model"] for row in table(tmp_path / "out", "lot")] == [
        fab.first.label,
        fab.first.label,
        fab.second.label,
    ]
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[-1] == "3 images answered, 0 broken, 0 copies"
    assert "promoted bundle not used" in [json.loads(line)["event"] for line in lines[:-1]]


@pytest.mark.parametrize("named", [".", "..", "../in"])
def test_a_folder_without_a_name_has_results_beside_it(
    fab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", fab.environment["XDG_CACHE_HOME"])
    here = tmp_path / "in" / "lot" if named == ".." else tmp_path / "in"
    here.mkdir(parents=True)
    (tmp_path / "in-results").mkdir()
    (tmp_path / "in-results" / ".lock").touch()  # of a run that was killed while it began
    monkeypatch.chdir(here)
    done = watching.watch_folder(
        Path(named),
        workspace=fab.workspace,
        weights=fab.first.folder,
        once=True,
        settle=0,
        engine="onnxruntime",
    )
    assert done == watching.Done(answered=0, broken=0, copies=0, unread={})
    assert (tmp_path / "in-results" / "state.sqlite").is_file()


def test_once_says_which_file_cannot_be_read(
    fab: Any, tmp_path: Path, shot: Shot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(self: Answering, items: Sequence[ImageInput]) -> list[Answered]:
        return [
            Answered(row=Row(image=i.name, model="m", error="cannot be read (Stale file handle)"))
            for i in items
        ]

    monkeypatch.setenv("XDG_CACHE_HOME", fab.environment["XDG_CACHE_HOME"])
    monkeypatch.setattr(Answering, "answers", asked)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(shot(20))
    arguments = command(fab, tmp_path / "in", tmp_path / "out", "--once")[1:]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1, done.output
    assert done.stderr.splitlines()[-2:] == [
        "a.png: cannot be read (Stale file handle); it is taken when it can be read",
        "0 images answered, 0 broken, 0 copies",
    ]
    assert not (tmp_path / "out" / "dead-letter").exists()


class Bundles:
    """A bundle at work, and a promoted one whose check or start may fail."""

    def __init__(self, fab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fab, self.clock, self.checks = fab, 0.0, 0
        self.fails: Exception | None = None
        self.start_fails = False
        fab.promote(fab.first)
        monkeypatch.setattr(Answering, "start", self._start)
        self.following = Following(
            self._check(fab.first.folder), choose=self._choose, check=self._check, now=self._now
        )

    def digest_at(self, clock: float) -> str:
        """Return the digest of the bundle that answers."""
        self.clock = clock
        return self.following.ask([])[1]

    def _now(self) -> float:
        return self.clock

    def _choose(self) -> Path:
        return bundle_to_serve(self.fab.workspace, weights=None)

    def _check(self, folder: Path) -> Served:
        self.checks += 1
        if self.fails is not None:
            raise self.fails
        return Served(bundle=open_bundle(folder), backend=ONNX_RUNTIME)

    def _start(self) -> None:
        if self.start_fails:
            raise WeightsError("the model cannot be opened: its process SIGKILL")


@pytest.fixture
def bundles(fab: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bundles]:
    made = Bundles(fab, monkeypatch)
    yield made
    made.following.close()


@pytest.mark.parametrize("where", ["check", "start"])
def test_a_bundle_refused_by_a_failure_that_passes_is_tried_again(
    fab: Any, bundles: Bundles, where: str
) -> None:
    if where == "check":
        bundles.fails = OSError(12, "Cannot allocate memory")
    bundles.start_fails = where == "start"
    fab.promote(fab.second)
    tried = []
    for clock in (0, 4.9, 5, 14.9, 15, 34.9, 35, 74.9, 75, 134.9, 135, 194.9):
        before = bundles.checks
        assert bundles.digest_at(clock) == fab.first.digest
        if bundles.checks > before:
            tried.append(clock)
    assert tried == [0, 5, 15, 35, 75, 135]
    bundles.fails, bundles.start_fails = None, False
    assert bundles.digest_at(195) == fab.second.digest
    assert bundles.digest_at(999) == fab.second.digest
    assert bundles.checks == 1 + 7


def test_a_bundle_that_is_wrong_is_looked_at_again_when_it_is_promoted_again(
    fab: Any, bundles: Bundles
) -> None:
    bundles.fails = WeightsError("no engine gives its golden answers")
    fab.promote(fab.second)
    for clock in (0, 5, 9999):
        assert bundles.digest_at(clock) == fab.first.digest
    assert bundles.checks == 2
    bundles.fails = None
    current = fab.workspace.models / "current"
    later = current.stat().st_mtime_ns + 1_000_000
    os.utime(current, ns=(later, later))
    assert bundles.digest_at(9999) == fab.second.digest


def test_a_folder_or_an_output_that_cannot_be_is_refused(fab: Any, tmp_path: Path) -> None:
    with pytest.raises(WaferError, match="no such folder"):
        watching.watch_folder(tmp_path / "none", workspace=fab.workspace)
    with pytest.raises(WaferError, match="lies in the watched folder"):
        watching.watch_folder(tmp_path, workspace=fab.workspace, output=tmp_path / "out")
    (tmp_path / "in").mkdir()
    user = tmp_path / "out" / "predictions.csv"
    user.parent.mkdir()
    user.write_text("of the user")
    with pytest.raises(WaferError, match=r"out is not empty.*; name an empty or new folder"):
        watching.watch_folder(tmp_path / "in", workspace=fab.workspace, output=user.parent)
    assert [path.name for path in user.parent.iterdir()] == ["predictions.csv"]
    assert user.read_text() == "of the user"
    (tmp_path / "state.sqlite").write_bytes(b"no database" * 100)
    with (
        pytest.raises(WaferError, match=r"state\.sqlite: file is not a database"),
        open_state(tmp_path / "state.sqlite"),
    ):
        pass
