"""The journal and the claims: what is written survives, what is torn is cut off, one owner each."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wafer.datasets.errors import DataError
from wafer.detector.evolve.claims import STALE, Claim, is_alive, owner
from wafer.detector.evolve.journal import JOURNAL, Journal
from wafer.detector.evolve.records import Trial, TrialState, Verdict

FIRST = Trial(number=0, candidate=0, hyp={"lr0": 0.01}, epochs=3, seed=0)
DONE = {"fitness": 0.25, "metrics": {"map50": 0.5}, "folder": "trials/000/m-001", "seconds": 1.5}


def test_a_history_is_what_the_lines_add_up_to(tmp_path: Path) -> None:
    with Journal.locked(tmp_path) as journal:
        journal.propose(FIRST)
        journal.append("failed", trial=0, reason="no memory")
        journal.append("reopened", trial=0)
        journal.append("finished", trial=0, **DONE)
        verdict = {"trial": 0, "adopted": False, "reason": "the only one"}
        journal.append("verdict", verdict=verdict)
    with Journal.locked(tmp_path) as journal:
        history = journal.history
    assert history.trials == [
        TrialState(trial=FIRST, status="finished", **DONE)  # type: ignore[arg-type]
    ]
    assert history.verdict == Verdict(trial=0, adopted=False, reason="the only one")
    lines = (tmp_path / JOURNAL).read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == [
        *("proposed", "failed", "reopened", "finished", "verdict"),
    ]


def test_half_a_line_of_a_killed_process_is_cut_off(tmp_path: Path) -> None:
    with Journal.locked(tmp_path) as journal:
        journal.propose(FIRST)
    whole = (tmp_path / JOURNAL).read_bytes()
    for length in (1, 20, len(whole) - 1):
        (tmp_path / JOURNAL).write_bytes(whole + whole[:length])
        with Journal.locked(tmp_path) as journal:
            assert len(journal.history.trials) == 1
            journal.append("finished", trial=0, **DONE)
        assert (tmp_path / JOURNAL).read_bytes().startswith(whole)
        assert (tmp_path / JOURNAL).read_bytes().count(b"\n") == 2


@pytest.mark.parametrize(
    "line",
    [b"not json", b'{"event": "finished", "trial": 9}', b'{"trial": 1}', b'{"event": "proposed"}'],
)
def test_a_line_of_something_else_is_named(tmp_path: Path, line: bytes) -> None:
    with Journal.locked(tmp_path) as journal:
        journal.propose(FIRST)
    with (tmp_path / JOURNAL).open("ab") as handle:
        handle.write(line + b"\n")
    with pytest.raises(DataError) as caught, Journal.locked(tmp_path):
        pass
    (fault,) = caught.value.faults
    assert fault.file == str(tmp_path / JOURNAL)
    assert fault.line == 2


APPEND = """
import sys
from pathlib import Path
from wafer.detector.evolve.journal import Journal
from wafer.detector.evolve.records import Trial
for _ in range(40):
    with Journal.locked(Path(sys.argv[1])) as journal:
        number = len(journal.history.trials)
        journal.propose(Trial(number=number, candidate=0, hyp={}, epochs=1, seed=0))
"""


def test_processes_append_one_after_the_other(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-c", APPEND, str(tmp_path)]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    with Journal.locked(tmp_path) as journal:
        assert [state.trial.number for state in journal.history.trials] == list(range(120))


def test_a_claim_is_alive_until_it_is_released(tmp_path: Path) -> None:
    assert not is_alive(tmp_path)
    claim = Claim(tmp_path)
    assert is_alive(tmp_path)
    assert claim.held
    assert (owner(tmp_path) or "").endswith(f":{os.getpid()}")
    claim.release()
    assert not is_alive(tmp_path)
    assert owner(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_a_claim_that_was_taken_over_is_left_to_the_new_owner(tmp_path: Path) -> None:
    first = Claim(tmp_path)
    second = Claim(tmp_path)
    assert not first.held
    first.release()
    assert second.held
    assert is_alive(tmp_path)
    second.release()


HOLD = """
import sys, time
from pathlib import Path
from wafer.detector.evolve.claims import Claim
Claim(Path(sys.argv[1]))
time.sleep(600)
"""


def test_the_claim_of_a_killed_process_of_this_machine_is_dead_at_once(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-P", "-c", HOLD, str(tmp_path)])
    for _ in range(400):
        if owner(tmp_path) is not None:
            break
        time.sleep(0.05)
    assert is_alive(tmp_path)
    process.send_signal(signal.SIGKILL)
    for _ in range(400):  # nobody has waited for it yet: a zombie
        if not is_alive(tmp_path):
            break
        time.sleep(0.05)
    assert not is_alive(tmp_path)
    process.wait()
    assert not is_alive(tmp_path)


def test_the_claim_of_a_process_that_is_stopped_ends_with_its_heartbeat(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-P", "-c", HOLD, str(tmp_path)])
    for _ in range(400):
        if owner(tmp_path) is not None:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGSTOP)
    assert is_alive(tmp_path)
    long_ago = time.time() - STALE - 5
    os.utime(tmp_path / "claim.json", (long_ago, long_ago))
    assert not is_alive(tmp_path)
    process.kill()
    process.wait()


def test_the_claim_of_another_machine_lives_as_long_as_its_heart_beats(tmp_path: Path) -> None:
    claim = Claim(tmp_path)
    content = json.loads(claim.path.read_text())
    claim.release()
    claim.path.write_text(json.dumps({**content, "machine": "another", "token": "other"}))
    assert is_alive(tmp_path)
    long_ago = time.time() - STALE - 5
    os.utime(claim.path, (long_ago, long_ago))
    assert not is_alive(tmp_path)


def test_a_heart_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wafer.detector.evolve.claims.BEAT", 0.02)
    claim = Claim(tmp_path)
    long_ago = time.time() - 1000
    os.utime(claim.path, (long_ago, long_ago))
    time.sleep(0.5)
    assert claim.path.stat().st_mtime > time.time() - 10
    claim.release()
