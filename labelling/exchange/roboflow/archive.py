"""Unpacking a ZIP file that somebody else made: within limits, and nowhere else."""

from __future__ import annotations

import errno
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from wafer.datasets.errors import DataError, Fault

__all__ = ["Limits", "unpack"]

CHUNK = 1 << 20
DOWNLOAD = "download it again, or do not trust where it comes from"
# What zipfile lets through on damaged bytes.
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,
    OverflowError,
    NotImplementedError,
)
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
LONGEST_NAME = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What an archive may hold."""

    files: int = 200_000
    """Entries, folders included."""
    total: int = 20 << 30
    """Bytes of all files unpacked."""
    largest: int = 256 << 20
    """Bytes of one file unpacked: some are read as a whole."""
    ratio: int = 100
    """Bytes unpacked for one byte packed, of any file above a megabyte and of the whole."""


DEFAULT_LIMITS = Limits()


def unpack(archive: Path, folder: Path, *, limits: Limits = DEFAULT_LIMITS) -> None:
    """Unpack a ZIP file into a folder.

    Everything is checked by the directory of the archive before a byte is written, and no file can
    grow beyond what that says.

    Args:
        archive: the file.
        folder: a new or empty folder.
        limits: what is refused.

    Raises:
        DataError: not a ZIP file, damaged, or with entries that are refused: paths that lead out,
            links and devices, the same name twice, encrypted, too many or too large, or more than
            the disk has room for. All of them together.
    """
    faults: list[Fault] = []
    try:
        with zipfile.ZipFile(archive) as packed:
            entries = packed.infolist()
            problems = list(_problems(entries, archive.stat().st_size, folder, limits))
            faults = [Fault(file=str(archive), problem=p, remedy=DOWNLOAD) for p in problems]
            if not faults:
                _extract(packed, entries, folder)
    except (*DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise  # of the disk; a place that no file can have is in the archive
        problem = f"not a ZIP file, or damaged ({error})"
        faults = [Fault(file=str(archive), problem=problem, remedy=DOWNLOAD)]
    if faults:
        raise DataError(faults)


def _extract(packed: zipfile.ZipFile, entries: list[zipfile.ZipInfo], folder: Path) -> None:
    for entry in entries:
        target = folder.joinpath(*PurePosixPath(entry.filename).parts)
        if _is_folder(entry):
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with packed.open(entry) as source, target.open("xb") as sink:
            shutil.copyfileobj(source, sink, CHUNK)


def _problems(
    entries: list[zipfile.ZipInfo], packed: int, folder: Path, limits: Limits
) -> Iterator[str]:
    total = sum(entry.file_size for entry in entries)
    if len(entries) > limits.files:
        yield f"{len(entries):,} entries, more than the limit {limits.files:,}"
        return
    if total > limits.total:
        yield f"{total:,} bytes unpacked, more than the limit {limits.total:,}"
    elif total > max(CHUNK, limits.ratio * packed):
        yield f"{total:,} bytes packed into {packed:,}, more than {limits.ratio} to 1"
    elif total > shutil.disk_usage(_existing(folder)).free:
        yield f"{total:,} bytes unpacked, more than the disk has room for"
    seen: set[str] = set()
    files = {entry.filename.casefold() for entry in entries if not _is_folder(entry)}
    for entry in entries:
        problem = _problem(entry, limits) or _clash(entry, seen, files)
        seen.add(entry.filename.rstrip("/").casefold())
        if problem is not None:
            yield f"{ascii(entry.orig_filename)[1:-1][:LONGEST_NAME]}: {problem}"


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def _is_folder(entry: zipfile.ZipInfo) -> bool:
    return entry.filename.endswith("/")


def _problem(entry: zipfile.ZipInfo, limits: Limits) -> str | None:
    name, kind = entry.orig_filename, stat.S_IFMT(entry.external_attr >> 16)
    steps = name.rstrip("/").split("/")
    if entry.filename != name.split("\0")[0]:
        # From Python 3.12 on a second name in the extra field is the one that is written.
        return "two names"
    if "\\" in name or ":" in name or any(ord(c) < 32 or ord(c) == 127 for c in name):
        return "a name with a backslash, colon or control character"
    if any(step in ("", ".", "..") for step in steps):
        return "a path that leads out of the folder, or none"
    if any(len(step.encode("utf-8", "surrogatepass")) > LONGEST_NAME for step in steps):
        return "a name that is too long"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a link or device, not a file"
    if entry.flag_bits & 1:
        return "encrypted"
    if entry.compress_type not in METHODS:
        return "packed by an unusual method"
    if entry.file_size > limits.largest:
        return f"{entry.file_size:,} bytes, more than the limit {limits.largest:,}"
    if entry.file_size > max(CHUNK, limits.ratio * entry.compress_size):
        return f"packed more than {limits.ratio} to 1"
    return None


def _clash(entry: zipfile.ZipInfo, seen: set[str], files: set[str]) -> str | None:
    name = entry.filename.rstrip("/").casefold()
    if name in seen:
        return "the same name twice"
    parents = (parent.as_posix() for parent in PurePosixPath(name).parents)
    if any(parent in files for parent in parents) or (_is_folder(entry) and name in files):
        return "a file and a folder of the same name"
    return None
