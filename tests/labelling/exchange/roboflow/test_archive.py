"""Hostile archives: nothing leaves the folder, nothing fills the disk, all faults together."""

import stat
import struct
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wafer.datasets.errors import DataError
from wafer.labelling.exchange.roboflow.archive import Limits, unpack


def packed(folder: Path, *entries: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    path = folder / "export.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry, data in entries:
            archive.writestr(entry, data)
    return path


def special(name: str, mode: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (mode | 0o777) << 16
    return entry


def refused(archive: Path, folder: Path, limits: Limits | None = None) -> list[str]:
    before = {path for path in folder.parent.rglob("*")}
    with pytest.raises(DataError) as caught:
        unpack(archive, folder, limits=limits or Limits())
    assert {path for path in folder.parent.rglob("*")} == before
    assert all(fault.file == str(archive) for fault in caught.value.faults)
    return [fault.problem for fault in caught.value.faults]


def test_a_good_archive_is_unpacked_byte_for_byte(tmp_path: Path) -> None:
    files = {"data.yaml": b"names: [a]\n", "train/images/a_png.rf.0f.jpg": bytes(range(256)) * 99}
    archive = packed(tmp_path, ("train/", b""), *files.items())
    unpack(archive, tmp_path / "out")
    found = {
        path.relative_to(tmp_path / "out").as_posix(): path.read_bytes()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    assert found == files


def test_an_entry_with_two_names_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = packed(tmp_path, ("readme.txt", b"evil"))
    names = zipfile.ZipFile.infolist

    def as_from_python_3_12_on(self: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
        entries = names(self)
        for entry in entries:
            entry.filename = "../../evil.txt"  # of an Info-ZIP Unicode Path field
        return entries

    monkeypatch.setattr(zipfile.ZipFile, "infolist", as_from_python_3_12_on)
    assert refused(archive, tmp_path / "out") == ["readme.txt: two names"]


@pytest.mark.parametrize(
    "name",
    [
        *("../evil.txt", "a/../../evil.txt", "/etc/evil.txt", "..", "a//b.txt", "./a.txt"),
        *("C:/evil.txt", "a\\..\\..\\evil.txt", "nul\0.txt", "line\nbreak.txt", ""),
    ],
)
def test_a_path_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    entry = zipfile.ZipInfo("x")
    entry.filename = name
    archive = packed(tmp_path, ("good.txt", b""), (entry, b"evil"))
    (problem,) = refused(archive, tmp_path / "out")
    assert problem.endswith(("leads out of the folder, or none", "colon or control character"))


@pytest.mark.parametrize(
    "kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK]
)
def test_links_and_devices_are_refused(tmp_path: Path, kind: int) -> None:
    archive = packed(tmp_path, (special("train", kind), b"/etc"), ("train/a.txt", b"evil"))
    problems = refused(archive, tmp_path / "out")
    assert problems == [
        "train: a link or device, not a file",
        "train/a.txt: a file and a folder of the same name",
    ]


def test_ten_gigabytes_of_zeros_are_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "zeros.zip"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("zeros.txt", "w", force_zip64=True) as file,
    ):
        for _ in range(16):
            file.write(bytes(1 << 24))
    # 256 MB are really packed; the directory says 10 GB, which the entries would be.
    data = bytearray(path.read_bytes())
    assert refused(path, tmp_path / "out")[0].endswith("more than 100 to 1")
    start = data.rindex(b"PK\x01\x02")
    assert struct.unpack_from("<L", data, start + 24) == (1 << 28,)
    struct.pack_into("<L", data, start + 24, (1 << 32) - 2)
    path.write_bytes(data)
    problems = refused(path, tmp_path / "out", Limits(total=1 << 31))
    assert problems[0] == "4,294,967,294 bytes unpacked, more than the limit 2,147,483,648"
    assert problems[1] == "zeros.txt: 4,294,967,294 bytes, more than the limit 268,435,456"


def test_many_entries_are_refused(tmp_path: Path) -> None:
    archive = packed(tmp_path, *((f"{i}.txt", b"") for i in range(11)))
    assert refused(archive, tmp_path / "out", Limits(files=10)) == [
        "11 entries, more than the limit 10"
    ]


def test_entries_that_share_their_bytes_count_each(tmp_path: Path) -> None:
    """Many names over one packed block, as in bombs that keep each ratio small."""
    data = bytes(range(256)) * 16_000
    archive = packed(tmp_path, ("a.bin", data))
    whole = archive.read_bytes()
    start = whole.index(b"PK\x01\x02")
    end = whole.index(b"PK\x05\x06")
    entry = whole[start:end]
    copies = [entry.replace(b"a.bin", f"{i:05}".encode()) for i in range(200)]
    directory = b"".join(copies)
    tail = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 200, 200, len(directory), start, 0)
    archive.write_bytes(whole[:start] + directory + tail)
    assert "more than 100 to 1" in refused(archive, tmp_path / "out")[0]


def test_names_that_clash_are_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        archive = packed(tmp_path, ("a.txt", b"1"), ("A.txt", b"2"), ("a.txt", b"3"))
    assert refused(archive, tmp_path / "out") == [
        "A.txt: the same name twice",
        "a.txt: the same name twice",
    ]


def test_what_is_encrypted_or_packed_by_an_unusual_method_is_refused(tmp_path: Path) -> None:
    archive = packed(tmp_path, ("a.txt", b"1"))
    data = bytearray(archive.read_bytes())
    start = data.index(b"PK\x01\x02")
    data[start + 8] |= 1
    archive.write_bytes(data)
    assert refused(archive, tmp_path / "out") == ["a.txt: encrypted"]
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_LZMA) as other:
        other.writestr("a.txt", "1")
    assert refused(archive, tmp_path / "out") == ["a.txt: packed by an unusual method"]


@pytest.mark.parametrize("content", [b"", b"PK", b"<html>busy</html>", b"PK\5\6" + bytes(10)])
def test_what_is_no_archive_is_said(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "export.zip"
    path.write_bytes(content)
    (problem,) = refused(path, tmp_path / "out")
    assert problem.startswith("not a ZIP file, or damaged")


@given(st.data())
def test_a_damaged_archive_never_ends_in_another_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    content = bytearray(packed(folder, ("a/b.txt", b"one" * 50), ("c.txt", b"two")).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    path = folder / "damaged.zip"
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    inside = folder / "out"
    with suppress(DataError):
        unpack(path, inside)
    written = {p for p in folder.rglob("*") if p.is_file()} - {path, folder / "export.zip"}
    assert all(inside in p.parents for p in written)
