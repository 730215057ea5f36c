"""Several processes answer like one, and whatever ends of them, no image is lost or doubled."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest
from PIL import Image

from wafer.datasets.errors import WaferError, WeightsError
from wafer.inference.pipeline import classify
from wafer.inference.records import Predictor, Row
from wafer.inference.sources import ImageInput
from wafer.inference.workers import AHEAD, TRIES, classify_in_processes

# A model in a module of its own, as the processes import it. What it does besides answering is
# decided by files in the current folder.
MODULE = """
import os, signal, time
from functools import partial
from pathlib import Path
import numpy as np
from wafer.datasets.classes import ClassTable, DefectClass
from wafer.datasets.errors import WeightsError
from wafer.evaluation.calibration import PlattMap, decide
from wafer.inference import pipeline
from wafer.inference.records import Predictor, TopOne

class Brightness:
    def infer(self, images, /):
        if Path("slow").exists():
            time.sleep(0.03)
        if Path("deadly").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        if Path("once").exists():
            Path("once").unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        bright = images.mean((1, 2)) / 255
        scores = np.stack([bright, 1 - bright], axis=1).astype(np.float32)
        return TopOne.of(np.tile(np.float32([1, 2, 9, 9]), (len(images), 1)), scores)

    def close(self):
        pass

def opened():
    if Path("refuse").exists():
        raise WeightsError("no such model any more")
    with Path("pids").open("a") as pids:
        pids.write(f"{os.getpid()}\\n")
    return Predictor(
        model="brightness-1", engine=Brightness(),
        classes=ClassTable((DefectClass(1, "spot"), DefectClass(2, "line"))),
        decide=partial(decide, platt=PlattMap(1.0, 0.0), none_class=None, none_review_above=None),
        image_size=32, colour=False, white_level=255,
    )

decode = pipeline.decode_bytes

def reading(data, name, **options):
    if name == "poison.png":
        os.kill(os.getpid(), signal.SIGSEGV)
    return decode(data, name, **options)

def deadly_reader():
    pipeline.decode_bytes = reading
    return opened()
"""

KILLED = """
import sys
from functools import partial
from pathlib import Path
from wafer.inference import unfinished
from wafer.inference.output import classify_to_file
from wafer.inference.workers import classify_in_processes
from processes_model import opened

unfinished.PIECE_SECONDS = 0.0
many = partial(classify_in_processes, opened=opened, batch=1, processes=2)
done = classify_to_file(["images"], many, Path(sys.argv[1]), model="m", batch=1)
print(done.rows, done.before)
"""

Opened = Callable[[], Predictor]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opened]:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "processes_model.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "code")
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))
    yield import_module("processes_model").opened
    del sys.modules["processes_model"]


@pytest.fixture
def inputs(tmp_path: Path) -> list[ImageInput]:
    (tmp_path / "images").mkdir()
    for number in range(60):
        path = tmp_path / "images" / f"{number:02d}.png"
        if number % 7 == 3:
            path.write_bytes(b"\x89PNG\r\n\x1a\n")
        else:
            side = 600 if number % 11 == 0 else 40
            Image.new("L", (side, 30), number * 4).save(path)
    return [ImageInput(path, path.name) for path in sorted((tmp_path / "images").iterdir())]


def many(inputs: list[ImageInput], model: Opened, processes: int = 2, batch: int = 4) -> list[Row]:
    return list(classify_in_processes(inputs, model, batch=batch, processes=processes))


def pids(tmp_path: Path) -> list[int]:
    return [int(line) for line in (tmp_path / "pids").read_text().split()]


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "batch"), [(1, 7), (3, 4), (2, 100)])
def test_the_rows_are_those_of_one_process(
    inputs: list[ImageInput], model: Opened, tmp_path: Path, processes: int, batch: int
) -> None:
    expected = list(classify(inputs, model(), batch=batch))
    assert sum(bool(row.error) for row in expected) == 9
    (tmp_path / "pids").unlink()
    assert many(inputs, model, processes, batch) == expected
    assert 1 <= len(pids(tmp_path)) <= processes


@pytest.mark.slow
def test_what_a_killed_process_had_been_given_is_done_again(
    inputs: list[ImageInput], model: Opened, tmp_path: Path
) -> None:
    expected = list(classify(inputs, model(), batch=4))
    (tmp_path / "once").touch()
    assert many(inputs, model) == expected
    assert not (tmp_path / "once").exists()


@pytest.mark.slow
def test_an_image_that_ends_every_process_is_a_row(
    inputs: list[ImageInput], model: Opened, tmp_path: Path
) -> None:
    path = tmp_path / "images" / "poison.png"
    Image.new("L", (40, 40)).save(path)
    inputs[17:17] = [ImageInput(path, path.name)]
    found = many(inputs, import_module("processes_model").deadly_reader)
    assert found[17].error == "ends the process that reads it (SIGSEGV)"
    # Without it the others are alone in their batches.
    harmless = [*inputs[:17], ImageInput(path, "poison.png", found[17].error), *inputs[18:]]
    assert found == list(classify(harmless, model(), batch=4))
    assert len(pids(tmp_path)) <= 1 + 2 + 1 + TRIES


@pytest.mark.slow
def test_a_model_that_ends_every_process_is_an_error_and_no_endless_loop(
    inputs: list[ImageInput], model: Opened, tmp_path: Path
) -> None:
    (tmp_path / "deadly").touch()
    with pytest.raises(WaferError, match=r"processes have ended with SIGKILL over the images '0"):
        many(inputs, model)
    (tmp_path / "deadly").unlink()
    (tmp_path / "refuse").touch()
    with pytest.raises(WeightsError, match="no such model any more"):
        many(inputs, model)


@pytest.mark.slow
def test_inputs_are_taken_as_they_are_needed_and_processes_end(
    inputs: list[ImageInput], model: Opened, tmp_path: Path
) -> None:
    taken = 0

    def endless() -> Iterator[ImageInput]:
        nonlocal taken
        while True:
            taken += 1
            yield inputs[0]

    rows = classify_in_processes(endless(), model, batch=2, processes=2)
    for _ in range(100):
        next(rows)
    rows.close()
    assert taken <= 100 + 2 * 2 * (AHEAD + 2)
    for pid in pids(tmp_path):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.02)
    pytest.fail("it did not happen")


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_killed_at_any_moment_the_output_is_that_of_an_uninterrupted_run(
    inputs: list[ImageInput], model: Opened, tmp_path: Path
) -> None:
    """Ten times the parent or one of its processes is killed, or Ctrl-C is pressed twice."""

    def started(output: str) -> subprocess.Popen[str]:
        # A shell starts what runs in the background, as the tests may, with SIGINT ignored.
        command = ["env", "--default-signal=INT", sys.executable, "-c", KILLED, output]
        piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, **piped, text=True, start_new_session=True)

    with started("whole.csv") as whole:
        assert whole.communicate()[0] == "60 0\n"
    (tmp_path / "slow").touch()
    journal = tmp_path / ".out.csv.journal"

    def pieces() -> int:
        return len(journal.read_bytes().splitlines()) if journal.exists() else 0

    chance = random.Random(6)
    kept = [0]
    for attempt in range(10):
        (tmp_path / "pids").unlink()
        wanted = pieces() + chance.randrange(4)
        with started("out.csv") as process:
            wait_for(lambda wanted=wanted: (tmp_path / "pids").exists() and pieces() >= wanted)
            if attempt % 3 == 1:
                os.kill(pids(tmp_path)[0], signal.SIGKILL)
                wait_for(lambda wanted=wanted: pieces() > wanted)
            time.sleep(chance.uniform(0, 0.03))
            if attempt % 3 == 2:
                os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to all of them
                time.sleep(chance.uniform(0, 0.03))
                os.killpg(process.pid, signal.SIGINT)
            else:
                process.kill()
            process.communicate()
        wait_for(lambda: not any(map(lives, pids(tmp_path))))
        assert not (tmp_path / "out.csv").exists()
        kept.append(pieces())
    assert kept == sorted(kept)
    (tmp_path / "slow").unlink()
    with started("out.csv") as last:
        rows, before = map(int, last.communicate()[0].split())
    assert rows == 60
    assert before > 0
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert [p.name for p in tmp_path.iterdir() if p.name[0] == "."] == []
