import hashlib
from pathlib import Path

import pytest

from wafer.datasets.errors import SHOWN_FAULTS, DataError, Fault, ImageError
from wafer.datasets.files import atomic_file, sha256_file, write_bytes, write_text
from wafer.datasets.keeping import keep_copy, put_aside


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), atomic_file(path) as handle:
        handle.write(b"half")
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "old"


def test_write_makes_folders_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "x" / "y.bin"
    write_bytes(path, b"1")
    write_bytes(path, b"22")
    assert path.read_bytes() == b"22"


def test_sha256_of_a_file_longer_than_a_chunk(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    write_bytes(tmp_path / "a", data)
    assert sha256_file(tmp_path / "a") == hashlib.sha256(data).hexdigest()


def test_copies_get_the_first_free_number(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    for number, text in enumerate(("one", "two"), 1):
        path.write_text(text)
        assert keep_copy(path) == tmp_path / f"t.csv.bak-{number}"
        assert (tmp_path / f"t.csv.bak-{number}").read_text() == text
    assert put_aside(path) == tmp_path / "t.csv.bak-3"
    assert not path.exists()


def test_a_fault_is_one_line_with_place_and_remedy() -> None:
    fault = Fault(file="a.txt", line=3, problem="wrong", remedy="mend it")
    assert str(fault) == "a.txt:3: wrong; mend it"
    assert str(Fault(file="a.txt", problem="wrong", remedy="mend it")) == "a.txt: wrong; mend it"


def test_a_data_error_shows_so_many_faults_and_counts_the_rest() -> None:
    faults = [Fault(file=str(i), problem="p", remedy="r") for i in range(SHOWN_FAULTS + 7)]
    lines = str(DataError(faults)).splitlines()
    assert len(lines) == SHOWN_FAULTS + 1
    assert lines[-1] == "... and 7 more faults of this input"
    with pytest.raises(ValueError, match="at least one"):
        DataError([])


def test_an_image_error_names_file_and_reason() -> None:
    error = ImageError(Path("a/b.png"), "cut off")
    assert (str(error), error.path, error.reason) == ("a/b.png: cut off", "a/b.png", "cut off")
