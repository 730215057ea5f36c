"""Whose table a folder is."""

import json
from pathlib import Path

import pytest

from wafer.datasets.errors import DataError, WorkspaceError
from wafer.datasets.synthetic.generate import generate_workspace
from wafer.experiments.record import check_files, check_folder, claim_folder

KNOWN = {"table": 3, "seed": 0, "epochs": {100: 2}}
WHOLE = {**KNOWN, "weights": None, "data": "ab"}


def test_a_folder_is_claimed_once_and_for_all(tmp_path: Path) -> None:
    folder = tmp_path / "table"
    check_folder(folder, KNOWN)
    assert not folder.exists()
    claim_folder(folder, WHOLE)
    written = (folder / "reproduce.json").read_bytes()
    assert json.loads(written)["epochs"] == {"100": 2}
    check_folder(folder, KNOWN)
    claim_folder(folder, WHOLE)
    assert (folder / "reproduce.json").read_bytes() == written


def test_what_is_known_later_joins_what_was_known_first(tmp_path: Path) -> None:
    claim_folder(tmp_path, KNOWN)
    (tmp_path / "workspace").mkdir()
    with pytest.raises(WorkspaceError, match="of other arguments"):
        check_folder(tmp_path, KNOWN | {"seed": 1})
    claim_folder(tmp_path, WHOLE)
    with pytest.raises(WorkspaceError, match="have changed"):
        check_folder(tmp_path, {"data": "cd"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, r"of other arguments \(seed differ\)"),
        ({"epochs": {100: 3}, "data": "cd"}, r"of other arguments \(epochs, data differ\)"),
        ({"data": "cd"}, "images, labels or splits have changed"),
    ],
)
def test_other_arguments_and_other_data_are_told_apart(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    claim_folder(tmp_path, WHOLE)
    with pytest.raises(WorkspaceError, match=message):
        claim_folder(tmp_path, WHOLE | change)


def test_what_a_killed_command_left_is_gone_on_with(tmp_path: Path) -> None:
    for name in (".lock", ".reproduce.json.tmp-0123"):
        (tmp_path / name).write_text("")
    claim_folder(tmp_path, WHOLE)
    assert json.loads((tmp_path / "reproduce.json").read_text())["data"] == WHOLE["data"]


@pytest.mark.parametrize("text", ["", "{", "[]", "\udcff"])
def test_a_damaged_record_is_never_replaced(tmp_path: Path, text: str) -> None:
    path = tmp_path / "reproduce.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(WorkspaceError, match="is damaged"):
        claim_folder(tmp_path, WHOLE)
    assert path.read_bytes() == text.encode("utf-8", "surrogateescape")


def test_a_file_or_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("")
    for folder in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(WorkspaceError, match="not of `wafer reproduce`"):
            check_folder(folder, KNOWN)


@pytest.mark.slow
def test_images_that_cannot_be_decoded_are_named_before_a_table_is_begun(tmp_path: Path) -> None:
    source = generate_workspace(
        tmp_path / "w", images=48, counts="balanced", size=64, difficulty="easy", processes=1
    )
    bad = sorted(source.image_path(s.image) for s in source.samples() if s.split != "unused")[3:5]
    for path in bad:
        path.write_bytes(path.read_bytes()[:-40])
    steps: list[tuple[float, float | None]] = []
    folder = tmp_path / "table"
    with pytest.raises(DataError) as caught:
        check_files(folder, source, progress=lambda _, done, total: steps.append((done, total)))
    assert [fault.file for fault in caught.value.faults] == [str(path) for path in bad]
    assert "set its split to `unused`" in str(caught.value)
    assert steps[-1] == (48, 48)
    claim_folder(folder, WHOLE)  # begun: an image may be damaged later, as the data may not change
    check_files(folder, source, progress=lambda *_: pytest.fail("they are not decoded again"))
