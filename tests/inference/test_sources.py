import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from wafer.datasets.errors import DataError
from wafer.inference.sources import list_inputs

FILES = [
    "b.png",
    "a.JPG",
    "notes.md",
    ".hidden.png",
    "lot2/c.tif",
    "lot1/x.bmp",
    "lot1/deep/y.jpeg",
    ".cache/z.png",
    "lot[1]/br.png",
    "d.txt",
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in FILES:
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(arguments: Sequence[Path | str], *, recursive: bool = False) -> list[str]:
    return [found.name for found in list_inputs(arguments, recursive=recursive)]


@pytest.mark.parametrize(
    ("arguments", "recursive", "expected"),
    [
        (["images"], False, ["a.JPG", "b.png"]),
        (["images/"], False, ["a.JPG", "b.png"]),
        (
            ["images"],
            True,
            ["a.JPG", "b.png", "lot1/x.bmp", "lot1/deep/y.jpeg", "lot2/c.tif", "lot[1]/br.png"],
        ),
        (["images/lot1", "images/lot2"], False, ["images/lot1/x.bmp", "images/lot2/c.tif"]),
        (["images/*.png"], False, ["images/b.png"]),
        (["images/*"], False, ["images/a.JPG", "images/b.png"]),
        (["images/lot?/*"], False, ["images/lot1/x.bmp", "images/lot2/c.tif"]),
        (
            ["images/**/*.[bj]*"],
            False,
            ["images/lot1/x.bmp", "images/lot1/deep/y.jpeg"],
        ),
        (["images/lot1/**"], False, ["images/lot1/x.bmp", "images/lot1/deep/y.jpeg"]),
        (["images/lot[1]/*.png"], False, ["images/lot[1]/br.png"]),  # the folder is there
        (["images/b.png", "images/a.JPG"], False, ["images/b.png", "images/a.JPG"]),
        (["./images/b.png"], False, ["./images/b.png"]),
        (["images/b.png", "images/b.png"], False, ["images/b.png", "images/b.png"]),
        (["gone.png", "images/notes.md"], False, ["gone.png", "images/notes.md"]),
        ([Path("images/b.png")], False, ["images/b.png"]),
    ],
)
def test_what_arguments_mean(
    folder: Path, arguments: Sequence[str], recursive: bool, expected: list[str]
) -> None:
    assert names(arguments, recursive=recursive) == expected


def test_paths_lead_to_the_files(folder: Path) -> None:
    found = list(list_inputs(["images"], recursive=True))
    assert all(item.path.is_file() for item in found)
    assert found[2].path == Path("images/lot1/x.bmp")


def test_a_list_file_is_relative_to_itself(folder: Path) -> None:
    listed = folder / "images" / "list.txt"
    listed.write_bytes("\ufeffb.png\r\n\r\n../images/a.JPG\nlot1/x.bmp".encode())
    found = list(list_inputs([listed]))
    assert [item.name for item in found] == ["b.png", "../images/a.JPG", "lot1/x.bmp"]
    assert all(item.path.is_file() for item in found)


def test_a_list_file_keeps_bytes_that_are_not_utf8(folder: Path) -> None:
    listed = folder / "list.txt"
    listed.write_bytes(b"images/\xff.png\n")
    assert [os.fsencode(item.path.name) for item in list_inputs([listed])] == [b"\xff.png"]


def test_links_to_folders_are_not_walked_into(folder: Path) -> None:
    (folder / "images" / "loop").symlink_to(folder / "images", target_is_directory=True)
    assert "loop/b.png" not in names(["images"], recursive=True)
    assert names(["images/loop"]) == ["a.JPG", "b.png"]


def test_a_link_to_itself_hides_no_other_folder(folder: Path) -> None:
    (folder / "images" / "loop").symlink_to("loop")
    everything = ["a.JPG", "b.png", "lot1/x.bmp", "lot1/deep/y.jpeg", "lot2/c.tif", "lot[1]/br.png"]
    assert names(["images"], recursive=True) == everything
    assert names(["images/**"]) == [f"images/{name}" for name in everything]
    assert names(["images/lo*/?.*"]) == ["images/lot1/x.bmp", "images/lot2/c.tif"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root enters every folder")
def test_a_link_into_a_locked_folder_hides_no_other_folder(folder: Path) -> None:
    locked = folder / "locked"
    (locked / "inside").mkdir(parents=True)
    (folder / "images" / "link").symlink_to(locked / "inside")
    locked.chmod(0)
    try:
        found = names(["images"], recursive=True)
        matched = names(["images/l*/?.*"])
    finally:
        locked.chmod(0o700)
    assert found[2:] == ["lot1/x.bmp", "lot1/deep/y.jpeg", "lot2/c.tif", "lot[1]/br.png"]
    assert matched == ["images/lot1/x.bmp", "images/lot2/c.tif"]


def test_what_cannot_be_read_is_listed(folder: Path) -> None:
    (folder / "images" / "dir.png").mkdir()
    (folder / "images" / "dangling.png").symlink_to("nowhere")
    assert names(["images"]) == ["a.JPG", "b.png", "dangling.png", "dir.png"]


@pytest.mark.slow
def test_deep_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(1200):  # deeper than Python recurses
        Path("d").mkdir()
        os.chdir("d")
    Path("x.png").write_bytes(b"")
    bottom = Path.cwd()
    os.chdir(tmp_path)
    found = names(["d"], recursive=True)
    os.chdir(bottom)
    Path("x.png").unlink()
    for _ in range(1200):  # pytest's own cleaning up recurses
        os.chdir("..")
        Path("d").rmdir()
    assert found == ["d/" * 1199 + "x.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_cannot_be_read_is_listed(folder: Path) -> None:
    (folder / "images" / "lot1").chmod(0)
    try:
        found = list(list_inputs(["images"], recursive=True))
    finally:
        (folder / "images" / "lot1").chmod(0o700)
    assert [(item.name, item.error) for item in found if item.error] == [
        ("lot1", "a folder that cannot be read (Permission denied)")
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing is named"),
        (["empty"], "empty: no image in this folder .*--recursive"),
        (["*.gif"], "no image matches this pattern"),
        (["images/d.txt"], "images/d.txt: no path in this list file"),
        (["gone.txt"], "gone.txt: no such list file"),
        (["**/a/**/*.png"], r"more than one \*\*"),
    ],
)
def test_arguments_without_an_image(folder: Path, arguments: list[str], message: str) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match=message):
        list_inputs(arguments)


def test_all_arguments_without_an_image_are_named_together(folder: Path) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(DataError) as caught:
        list_inputs(["empty", "images", "*.gif", "gone.txt"])
    assert [fault.file for fault in caught.value.faults] == ["empty", "*.gif", "gone.txt"]


def test_images_are_found_as_they_are_asked_for(folder: Path) -> None:
    found = list_inputs(["images/b.png", "images/lot1"])
    assert next(found).name == "images/b.png"
    (folder / "images" / "lot1" / "a.png").write_bytes(b"")
    assert [item.name for item in found] == ["images/lot1/a.png", "images/lot1/x.bmp"]
