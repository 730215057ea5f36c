"""Run folders whose run.json is damaged: the file is named, and what to do about it."""

import json
from pathlib import Path

import pytest

from wafer.datasets.errors import DataError
from wafer.datasets.runs import Run, newest_finished_run, open_run

REMEDY = "bring it back, or remove the run folder"


def finished_run(runs: Path, number: int) -> Run:
    run, resumed = open_run(runs, model="yolov5n", arguments={"n": number}, dataset_hash="0" * 64)
    assert not resumed
    run.update(status="finished")
    return run


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'{"status": "fini', "no JSON (Unterminated string starting at: line 1 column 12"),
        (b"", "no JSON (Expecting value: line 1 column 1"),
        (b'{"status": "\xff"}', "no JSON ('utf-8' codec can't decode byte 0xff"),
        (b'["finished"]', "not a JSON object"),
        (b"null", "not a JSON object"),
    ],
)
def test_a_damaged_record_is_named(tmp_path: Path, content: bytes, problem: str) -> None:
    run = finished_run(tmp_path, 1)
    path = run.folder / "run.json"
    path.write_bytes(content)
    for reading in (
        lambda: run.record,
        lambda: run.finished,
        lambda: run.bundle,
        lambda: run.update(status="finished"),
        lambda: newest_finished_run(tmp_path),
    ):
        with pytest.raises(DataError) as caught:
            reading()
        (fault,) = caught.value.faults
        assert (fault.file, fault.remedy) == (str(path), REMEDY)
        assert fault.problem.startswith(problem)
    assert path.read_bytes() == content


def test_a_finished_run_that_never_started_is_named(tmp_path: Path) -> None:
    run = finished_run(tmp_path, 1)
    path = run.folder / "run.json"
    path.write_text(json.dumps({"status": "finished"}))
    with pytest.raises(DataError) as caught:
        newest_finished_run(tmp_path)
    problem = "it says not when the run was started"
    assert str(caught.value) == f"{path}: {problem}; {REMEDY}"


def test_the_newest_finished_run_is_the_one_that_was_adopted_or_started_last(
    tmp_path: Path,
) -> None:
    first, second = finished_run(tmp_path, 1), finished_run(tmp_path, 2)
    assert newest_finished_run(tmp_path) == second
    first.update(adopted="9999-01-01T00:00:00+00:00")
    assert newest_finished_run(tmp_path) == first
