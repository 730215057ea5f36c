"""Several real processes: one draw shared out among them, and children that end with parents."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from wafer.datasets.errors import StorageError, TrainingError
from wafer.detector.processes import run_child


def script(folder: Path, body: str) -> Path:
    path = folder / "child.py"
    path.write_text(textwrap.dedent(body))
    return path


def test_progress_reaches_the_parent(tmp_path: Path) -> None:
    path = script(
        tmp_path,
        """
        from wafer.detector.processes import child_process, report_progress
        with child_process():
            print("something else")
            report_progress(1, 2, 1, 3)
            report_progress(1, 2, 2, 3)
        """,
    )
    seen: list[tuple[int, ...]] = []
    run_child([sys.executable, str(path)], progress=lambda *counts: seen.append(counts))
    assert seen == [(1, 2, 1, 3), (1, 2, 2, 3)]


def test_what_the_child_found_wrong_is_the_message(tmp_path: Path) -> None:
    path = script(
        tmp_path,
        """
        from wafer.datasets.errors import TrainingError
        from wafer.detector.processes import child_process
        with child_process():
            raise TrainingError("two\\nlines")
        """,
    )
    with pytest.raises(TrainingError) as caught:
        run_child([sys.executable, str(path)])
    assert str(caught.value) == "two\nlines"


def test_a_failing_disk_is_told_apart(tmp_path: Path) -> None:
    path = script(
        tmp_path,
        """
        from pathlib import Path
        from wafer.detector.processes import child_process
        with child_process():
            print("no newline", end="")
            Path("/proc/version").write_text("x")
        """,
    )
    with pytest.raises(StorageError, match="Input/output error"):
        run_child([sys.executable, str(path)])


def test_lines_that_only_look_like_the_protocol_are_text(tmp_path: Path) -> None:
    path = script(
        tmp_path,
        """
        print("wafer-progress of the day")
        print("wafer-fault {")
        raise SystemExit(4)
        """,
    )
    with pytest.raises(TrainingError, match="exit code 4"):
        run_child([sys.executable, str(path)], progress=lambda *counts: None)


def test_a_child_that_is_killed_is_told_with_its_last_lines(tmp_path: Path) -> None:
    path = script(
        tmp_path,
        """
        import os, signal
        print("epoch 3 begins", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
    )
    with pytest.raises(TrainingError, match=r"SIGKILL .*lack of memory.*epoch 3 begins"):
        run_child([sys.executable, str(path)])


def test_a_child_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    child = script(
        tmp_path,
        f"""
        import os, pathlib, time
        from wafer.detector.processes import child_process
        with child_process():
            pathlib.Path({str(mark)!r}).write_text(str(os.getpid()))
            time.sleep(600)
        """,
    )
    code = (
        f"import sys; from wafer.detector.processes import run_child; "
        f"run_child([sys.executable, {str(child)!r}])"
    )
    parent = subprocess.Popen([sys.executable, "-P", "-c", code])
    for _ in range(400):
        if mark.exists() and mark.read_text():
            break
        time.sleep(0.05)
    pid = int(mark.read_text())
    assert psutil.pid_exists(pid)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    for _ in range(200):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.05)
    pytest.fail("the child outlived its parent")


def test_a_parent_that_stops_ends_its_child(tmp_path: Path) -> None:
    path = script(
        tmp_path,
        """
        import time
        from wafer.detector.processes import child_process, report_progress
        with child_process():
            while True:
                report_progress(1, 1, 1, 1)
                time.sleep(0.01)
        """,
    )

    def stop(*counts: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_child([sys.executable, str(path)], progress=stop)
    assert not [
        p for p in psutil.process_iter(["cmdline"]) if str(path) in (p.info["cmdline"] or [])
    ]
