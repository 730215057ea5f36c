"""The audit log: nothing in it can be changed unseen, and no kill or full disk harms it."""

import json
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import wafer.service.audit
from wafer.datasets.errors import DataError, WaferError
from wafer.service.audit import AuditLog, verify_audit


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def fill(path: Path, number: int = 5, *, first: int = 0) -> None:
    log = AuditLog(path)
    for each in range(first, first + number):
        log.append([{"image": f"{each}.png", "class": "spot"}])
    log.close()


def test_lines_are_numbered_and_bound_across_runs(path: Path) -> None:
    fill(path)
    log = AuditLog(path)
    log.append([{"image": "a"}, {"image": "b"}])
    log.append([])
    log.close()
    done = verify_audit(path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["number"] for line in lines] == [1, 2, 3, 4, 5, 6, 7]
    assert lines[6]["before"] == lines[5]["hash"]
    assert (done.lines, done.digest) == (7, lines[6]["hash"])
    assert json.loads((path.parent / "audit.head").read_text())["count"] == 7


def changed(lines: list[bytes]) -> None:
    lines[2] = lines[2].replace(b"spot", b"none")


def removed(lines: list[bytes]) -> None:
    del lines[2]


def swapped(lines: list[bytes]) -> None:
    lines[1], lines[2] = lines[2], lines[1]


def cut(lines: list[bytes]) -> None:
    del lines[3:]


def doubled(lines: list[bytes]) -> None:
    lines.append(lines[-1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed, ":3: changed, or no line of an audit log"),
        (removed, ":3: it does not follow from the line before"),
        (swapped, ":2: it does not follow from the line before"),
        (cut, ": the last 2 lines are cut off"),
        (doubled, ":6: it does not follow from the line before"),
    ],
)
def test_whatever_is_changed_shows(
    path: Path, change: Callable[[list[bytes]], None], message: str
) -> None:
    fill(path)
    lines = path.read_bytes().splitlines(keepends=True)
    change(lines)
    path.write_bytes(b"".join(lines))
    with pytest.raises(DataError) as caught:
        verify_audit(path)
    assert f"audit.jsonl{message}" in str(caught.value)


def test_a_log_that_was_written_anew_does_not_fit_its_head(path: Path) -> None:
    fill(path)
    head = (path.parent / "audit.head").read_bytes()
    path.unlink()
    (path.parent / "audit.head").unlink()
    fill(path, first=3)
    (path.parent / "audit.head").write_bytes(head)
    with pytest.raises(DataError, match="not the line that audit"):
        verify_audit(path)
    (path.parent / "audit.head").unlink()
    with pytest.raises(DataError, match="head is missing"):
        verify_audit(path)


def test_it_does_not_go_on_where_lines_are_missing_or_the_last_was_changed(path: Path) -> None:
    fill(path)
    whole = path.read_bytes()
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:3]))
    with pytest.raises(DataError, match="the last 2 of 5 lines are cut off"):
        AuditLog(path)
    path.write_bytes(whole.replace(b"4.png", b"9.png"))
    with pytest.raises(DataError, match="its last line was changed"):
        AuditLog(path)


def test_what_a_kill_left_of_a_line_is_put_aside(path: Path) -> None:
    fill(path)
    whole = path.read_bytes()
    for _ in range(2):
        with path.open("ab") as handle:
            handle.write(b'{"number":6,"ti')
        assert verify_audit(path).lines == 5
        AuditLog(path).close()
        assert path.read_bytes() == whole
    names = sorted(found.name for found in path.parent.glob("*.torn-*"))
    assert names == ["audit.jsonl.torn-1", "audit.jsonl.torn-2"]
    fill(path, 1)
    assert verify_audit(path).lines == 6


def test_a_head_that_cannot_be_written_refuses_nothing_and_is_told(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(wafer.service.audit, "HEAD_SECONDS", 0.0)
    head = path.with_suffix(".head")
    log = AuditLog(path)
    head.unlink()
    head.mkdir()
    log.append([{"image": "a"}, {"image": "b"}])
    (record,) = caplog.records
    assert record.getMessage() == "head of the audit log cannot be written"
    assert vars(record)["fields"]["file"] == str(head)
    assert "Is a directory" in vars(record)["fields"]["error"]
    head.rmdir()
    log.append([{"image": "c"}])
    assert json.loads(head.read_text())["count"] == 3
    log.close()
    assert verify_audit(path).lines == 3


def test_two_logs_of_one_folder_have_a_head_each(path: Path) -> None:
    names = ["audit.8080", "audit.8081", "audit", "audit.2026.jsonl"]
    for number, name in enumerate(names, 1):
        fill(path.with_name(name), number)
    assert [verify_audit(path.with_name(name)).lines for name in names] == [1, 2, 3, 4]
    heads = sorted(found.name for found in path.parent.glob("*.head"))
    assert heads == ["audit.2026.head", "audit.8080.head", "audit.8081.head", "audit.head"]


@pytest.mark.parametrize(
    ("name", "head"),
    [("audit-2026.jsonl", "audit-2026.head"), ("audit.jsonl.1", "audit.jsonl.1.head")],
)
def test_a_log_that_is_put_aside_with_its_head_is_whole(path: Path, name: str, head: str) -> None:
    fill(path)
    aside = path.rename(path.with_name(name))
    with pytest.raises(DataError) as caught:
        verify_audit(aside)
    assert str(caught.value) == (
        f"{aside}: {head} is missing; bring it back; where the log was renamed, give its head this "
        "name"
    )
    path.with_suffix(".head").rename(path.with_name(head))
    assert verify_audit(aside).lines == 5
    fill(path, 2)
    assert (verify_audit(path).lines, verify_audit(aside).lines) == (2, 5)


def test_two_cannot_write_one_log(path: Path) -> None:
    log = AuditLog(path)
    code = "import sys, pathlib, wafer.service.audit as a; a.AuditLog(pathlib.Path(sys.argv[1]))"
    command = [sys.executable, "-P", "-c", code, str(path)]
    other = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "another process writes to it already" in other.stderr
    log.close()


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_refuses_whole_answers_and_leaves_no_half_line(path: Path) -> None:
    fill(path)
    size = path.stat().st_size
    log = AuditLog(path)
    with full_disk(size + 300), pytest.raises(OSError, match="File too large"):
        log.append([{"image": "a" * 100}, {"image": "b" * 100}])
    assert path.stat().st_size == size
    log.append([{"image": "c"}])
    log.close()
    assert verify_audit(path).lines == 6
    assert json.loads(path.read_bytes().splitlines()[5])["image"] == "c"
    with pytest.raises(WaferError, match="no such file"):
        verify_audit(path.with_name("other.jsonl"))
