"""Which images a command means: folders, patterns, list files, single files, standard input."""

from __future__ import annotations

import glob
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO

from wafer.datasets.errors import DataError, Fault
from wafer.datasets.images import IMAGE_SUFFIXES

__all__ = ["LIST_SUFFIX", "STDIN", "ImageInput", "list_inputs", "spooled_stdin"]

LIST_SUFFIX = ".txt"
STDIN = "-"
ANYWHERE = "**"


@dataclass(frozen=True, slots=True)
class ImageInput:
    """One image to look at.

    ``path`` is where it is, ``name`` what the output calls it. ``error`` says why it cannot be
    read where that is known without opening it. ``content`` is that of the file where somebody
    sent it; then nothing is read from ``path``.
    """

    path: Path
    name: str
    error: str = ""
    content: bytes | None = field(default=None, repr=False)


@contextmanager
def spooled_stdin(arguments: Sequence[Path | str]) -> Iterator[BinaryIO | None]:
    """Keep standard input in a temporary file, where an argument is ``-``: it is read only once."""
    if STDIN not in [os.fspath(argument) for argument in arguments] or sys.stdin is None:
        yield None
        return
    with TemporaryFile() as spool:
        shutil.copyfileobj(sys.stdin.buffer, spool)
        yield spool


def list_inputs(
    arguments: Sequence[Path | str], *, recursive: bool = False, stdin: BinaryIO | None = None
) -> Iterator[ImageInput]:
    """Return the images that the arguments mean, in their order, found as they are asked for.

    An argument is one of

    * a folder: its files with an image suffix in any case, sorted by name; with ``recursive``
      also those of its sub-folders, after its own. Names are relative to the folder, or begin
      with the folder as given where there are several arguments;
    * a pattern with ``*``, ``?``, ``[...]`` or one ``**``: the files with an image suffix it
      matches, folder by folder. Names are as a shell would give them;
    * a list file (``.txt``): one path a line, relative to the list file; empty lines are skipped.
      Names are the lines;
    * ``-``: the lines of standard input, read as those of a list file, but relative to the current
      folder;
    * anything else: a single file, named as given.

    Hidden files and folders (leading dot) are left out of folders and patterns, and links to
    folders are not walked into; a link in a folder to a file outside it is listed with an error. A
    file that is named twice is listed twice. What cannot be read
    is listed too: one input, one row.

    Args:
        arguments: at least one.
        recursive: walk into sub-folders of folders.
        stdin: what ``-`` means (`spooled_stdin`); it is read from its beginning, by one at a time.

    Raises:
        DataError: an argument that means no image at all, such as an empty folder; all such
            arguments together, and before the first image is listed.
    """
    texts = [os.fspath(argument) for argument in arguments]
    faults = [fault for text in texts if (fault := _fault(text, recursive, stdin))]
    if not texts:
        faults = [Fault(file="input", problem="nothing is named", remedy="name images or a folder")]
    if faults:
        raise DataError(faults)
    several = len(texts) > 1
    return (found for text in texts for found in _expand(text, recursive, several, stdin))


def _expand(
    text: str, recursive: bool, several: bool, stdin: BinaryIO | None
) -> Iterator[ImageInput]:
    path = Path(text)
    if text == STDIN:
        if stdin is not None:
            stdin.seek(0)
            yield from _lines(stdin, Path())
    elif _is_folder(path):
        root = os.path.realpath(path)
        for found in _images_in(_walk(path) if recursive else [path], "*"):
            name = found.name if several else found.path.relative_to(path).as_posix()
            yield ImageInput(found.path, name, found.error or _way_out(found.path, root))
    elif _is_pattern(text):
        folder, name = (path, "*") if path.name == ANYWHERE else (path.parent, path.name)
        yield from _images_in(_folders(folder), name)
    elif path.suffix.lower() == LIST_SUFFIX:
        yield from _listed(path)
    else:
        yield ImageInput(path, _forward(text))


def _way_out(path: Path, root: str) -> str:
    """Return the error of a link that leads out of a folder, empty where it does not."""
    if not path.is_symlink() or Path(os.path.realpath(path)).is_relative_to(root):
        return ""
    return "a link to a file outside the folder; name that file, or its folder"


def _fault(text: str, recursive: bool, stdin: BinaryIO | None) -> Fault | None:
    """Return why an argument means no image, or None."""
    path = Path(text)
    suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
    if text == STDIN:
        problem, remedy = "no path on standard input", "write one image path a line to it"
    elif _is_folder(path):
        problem = f"no image in this folder ({suffixes})"
        remedy = "name another folder" if recursive else "look into sub-folders with --recursive"
    elif _is_pattern(text):
        problem = f"no image matches this pattern ({suffixes})"
        remedy = "check it, in quotes, against the files there are"
        if path.parts.count(ANYWHERE) > 1:
            return Fault(file=text, problem="more than one ** in a pattern", remedy="use one **")
    elif path.suffix.lower() == LIST_SUFFIX:
        problem, remedy = "no path in this list file", "write one image path a line"
        if not path.is_file():
            return Fault(file=text, problem="no such list file", remedy="check the name")
    else:
        return None
    found = next(_expand(text, recursive, False, stdin), None)
    return Fault(file=text, problem=problem, remedy=remedy) if found is None else None


def _is_pattern(text: str) -> bool:
    return glob.has_magic(text) and not os.path.lexists(text)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # below a folder that may not be entered
        return False


def _forward(text: str) -> str:
    return text.replace(os.sep, "/")


def _folders(pattern: Path) -> Iterator[Path]:
    """Yield the folders that a pattern means, sorted at each level, none twice."""
    if _is_folder(pattern) or not glob.has_magic(str(pattern)):
        yield pattern
        return
    for folder in _folders(pattern.parent):
        if pattern.name == ANYWHERE:
            yield from _walk(folder)
        elif glob.has_magic(pattern.name):
            subfolders = _subfolders(folder, follow=True)
            yield from (path for path in subfolders if fnmatch(path.name, pattern.name))
        else:
            yield folder / pattern.name


def _walk(folder: Path) -> Iterator[Path]:
    """Yield a folder and all folders below it; links to folders are left out."""
    waiting = [folder]
    while waiting:
        folder = waiting.pop()
        yield folder
        waiting.extend(reversed(_subfolders(folder, follow=False)))


def _subfolders(folder: Path, *, follow: bool) -> list[Path]:
    def wanted(entry: os.DirEntry[str]) -> bool:
        # A link may lead to itself, or where nobody may look: asking what it leads to can raise.
        if follow and entry.is_symlink():
            return _is_folder(Path(entry.path))
        return entry.is_dir(follow_symlinks=False)

    try:
        return [folder / name for name in _names(folder, wanted)]
    except OSError:  # the folder itself cannot be read, and `_images_in` says so
        return []


def _images_in(folders: Iterable[Path], pattern: str) -> Iterator[ImageInput]:
    def wanted(entry: os.DirEntry[str]) -> bool:
        return fnmatch(entry.name, pattern) and _has_image_suffix(entry.name)

    for folder in folders:
        try:
            names = _names(folder, wanted)
        except (FileNotFoundError, NotADirectoryError):  # a pattern's folder that is not there
            continue
        except OSError as error:
            reason = f"a folder that cannot be read ({error.strerror})"
            yield ImageInput(folder, folder.as_posix(), reason)
            continue
        for name in names:
            yield ImageInput(folder / name, (folder / name).as_posix())


def _names(folder: Path, wanted: Callable[[os.DirEntry[str]], bool]) -> list[str]:
    """Return the wanted names in a folder, sorted, without hidden ones."""
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if not e.name.startswith(".") and wanted(e))


def _has_image_suffix(name: str) -> bool:
    return Path(name).suffix.lower() in IMAGE_SUFFIXES


def _listed(path: Path) -> Iterator[ImageInput]:
    try:
        with path.open("rb") as lines:
            yield from _lines(lines, path.parent)
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
        fault = Fault(file=str(path), problem=problem, remedy="check the list file")
        raise DataError([fault]) from error


def _lines(lines: BinaryIO, folder: Path) -> Iterator[ImageInput]:
    # Bytes, because a file name need not be UTF-8.
    for number, line in enumerate(lines):
        text = line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line
        name = os.fsdecode(text.rstrip(b"\r\n"))
        if name.strip():
            yield ImageInput(folder / name, _forward(name))
