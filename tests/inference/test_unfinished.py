"""Stopped at any byte, an output goes on to what it would have been without the stop."""

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Generator, Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wafer.datasets.errors import WaferError
from wafer.inference import unfinished
from wafer.inference.output import Summary, classify_to_file
from wafer.inference.records import Row
from wafer.inference.sources import ImageInput
from wafer.inference.unfinished import Growing, unfinished_output

NUMBER, BATCH = 23, 4
SHARE = st.just(1.0) | st.floats(0, 1)


class Stop(Exception):
    """What ends a run in the middle."""


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(unfinished, "PIECE_SECONDS", 0.0)
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(NUMBER):
        (folder / f"{number:02d}.png").write_text(str(number))
    return folder


def run(
    images: Path,
    *,
    stop: int = NUMBER + 1,
    model: str = "m",
    answered: list[str] | None = None,
    output: Path | None = None,
) -> Summary:
    def sizes(inputs: Iterable[ImageInput]) -> Generator[Row, None, None]:
        for number, item in enumerate(inputs):
            if number == stop:
                raise Stop
            if answered is not None:
                answered.append(item.name)
            yield Row(image=item.name, model=model, error=item.path.read_text())

    place = output or images.parent / "out.csv"
    return classify_to_file([images], sizes, place, model=model, batch=BATCH, force=True)


def stopped(images: Path, at: int, *, model: str = "m") -> None:
    with pytest.raises(Stop):
        run(images, stop=at, model=model)


def content(images: Path) -> bytes:
    return (images.parent / "out.csv").read_bytes()


def hidden(images: Path) -> list[str]:
    return sorted(p.name for p in images.parent.iterdir() if p.name[0] == ".")


@pytest.mark.parametrize(("at", "kept"), [(0, 0), (3, 0), (4, 4), (9, 8), (22, 20), (23, 20)])
def test_whole_pieces_are_kept_and_nothing_is_done_twice(images: Path, at: int, kept: int) -> None:
    run(images)
    whole = content(images)
    (images.parent / "out.csv").unlink()
    if at < NUMBER:
        stopped(images, at)
    else:  # ended by what came between the last row and the name
        (images.parent / "out.csv").mkdir()
        with pytest.raises(WaferError):
            run(images)
        (images.parent / "out.csv").rmdir()
        stopped(images, at - 1)
    assert hidden(images) == ([".out.csv.journal", ".out.csv.rows"] if kept else [])
    answered: list[str] = []
    summary = run(images, answered=answered)
    assert content(images) == whole
    assert summary.before == kept
    assert (summary.rows, summary.errors, summary.review) == (NUMBER, NUMBER, 0)
    assert answered == [f"{number:02d}.png" for number in range(kept, NUMBER)]
    assert hidden(images) == []


@pytest.mark.slow
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(4, NUMBER - 1), SHARE, SHARE, st.binary(max_size=20))
def test_whatever_reached_the_disk_the_output_is_the_same(
    images: Path, at: int, rows: float, journal: float, torn: bytes
) -> None:
    """The rows or the journal, cut anywhere, or with bytes behind them that nobody vouches for."""
    run(images)
    whole = content(images)
    stopped(images, at)
    for name, share in ((".out.csv.rows", rows), (".out.csv.journal", journal)):
        path = images.parent / name
        data = path.read_bytes()
        cut = data[: round(share * len(data))]
        path.write_bytes(cut if len(cut) < len(data) else cut + torn.replace(b"\n", b" "))
    run(images)
    assert content(images) == whole


@pytest.mark.parametrize("change", ["content", "gone", "new", "touched"])
def test_an_image_that_changed_is_looked_at_again(images: Path, change: str) -> None:
    stopped(images, 18)
    if change == "content":
        (images / "09.png").write_text("other")
    elif change == "gone":
        (images / "09.png").unlink()
    elif change == "new":
        (images / "09a.png").write_text("new")
    else:
        os.utime(images / "09.png", (1, 1))
    summary = run(images)
    assert summary.before == 8
    resumed = content(images)
    run(images)
    assert content(images) == resumed
    assert summary.rows == len(list(images.iterdir()))


def test_a_stop_while_it_looks_at_what_is_there_loses_nothing(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(images, 18)

    def interrupted(_items: object) -> str:
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(unfinished, "_digest", interrupted)
        with pytest.raises(Stop):
            run(images)
    assert run(images).before == 16


def test_another_run_begins_anew(images: Path) -> None:
    stopped(images, 18)
    assert run(images, model="other").before == 0
    assert content(images).count(b"other") == NUMBER


def test_a_stop_leaves_an_output_that_was_there(images: Path) -> None:
    run(images, model="old")
    before = content(images)
    stopped(images, 18)
    assert content(images) == before
    run(images)
    assert content(images) != before


def test_two_runs_do_not_write_one_output(images: Path) -> None:
    script = f"""
import sys
from pathlib import Path
from wafer.inference.unfinished import Growing, unfinished_output
with unfinished_output([Growing(Path({str(images.parent / "out.csv")!r}))], run=[], batch=1):
    print("running", flush=True)
    sys.stdin.read()
"""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", script], stdin=pipe, stdout=pipe) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"running\n"
        with pytest.raises(WaferError, match="another process is writing it"):
            run(images)
        other.communicate(b"")
    assert run(images).rows == NUMBER
    with unfinished_output([Growing(images.parent / "out.csv")], run=[], batch=1):
        pass
    assert hidden(images) == []


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.EAGAIN, "another process is writing it; name another"),
        (errno.EACCES, "another process is writing it; name another"),
        (errno.ENOLCK, rf"cannot be locked \({os.strerror(errno.ENOLCK)}\); name one on another"),
    ],
)
def test_only_a_lock_that_is_taken_is_another_process(
    images: Path, monkeypatch: pytest.MonkeyPatch, number: int, message: str
) -> None:
    def refused(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "lockf", refused)
    with pytest.raises(WaferError, match=rf"out\.csv:? {message}"):
        run(images)


def test_an_output_folder_that_is_moved_away_is_noticed_and_its_rows_are_gone_on_with(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, away = images.parent / "results", images.parent / "away"
    output = folder / "out.csv"
    run(images, output=output)
    whole = output.read_bytes()
    output.unlink()
    answered: list[str] = []
    identity = unfinished._identity

    def moving(item: ImageInput) -> bytes:
        if item.name == "10.png":
            folder.rename(away)
        return identity(item)

    monkeypatch.setattr(unfinished, "_identity", moving)
    with pytest.raises(
        WaferError, match=r"out\.csv cannot be written .* bring the folder back and"
    ):
        run(images, output=output, answered=answered)
    assert len(answered) == 12
    monkeypatch.setattr(unfinished, "_identity", identity)
    away.rename(folder)
    assert run(images, output=output).before == 8
    assert output.read_bytes() == whole
