"""A folder of `wafer reproduce`: what it belongs to, and the workspace that is in it."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wafer.datasets.errors import DataError, Fault, ImageError, StorageError, WorkspaceError
from wafer.datasets.files import write_text
from wafer.datasets.images import decode_image
from wafer.datasets.records import Sample
from wafer.datasets.runs import Run, locked
from wafer.datasets.synthetic.generate import generate_workspace
from wafer.datasets.workspace import Workspace

__all__ = ["Progress", "check_files", "check_folder", "claim_folder", "opened_folder"]

Progress = Callable[[str, float, float | None], None]
"""Called with the name of the step, what is done of it, and its size where that is known."""

WORKSPACE = "workspace"
"""The folder of the synthetic images."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
RECORD = "reproduce.json"
DATA = "data"
"""What the record says once a table is begun: the data that it is of."""
SPLITS = ("train", "val", "test")
# What a command leaves that was killed before it wrote the record.
BEGUN = (".lock", f".{RECORD}.tmp-")


@contextmanager
def opened_folder(
    folder: Path,
    known: Mapping[str, Any],
    *,
    own: Workspace | None,
    progress: Progress,
    **synthetic: Any,
) -> Iterator[Workspace]:
    """Hold a folder for this process and yield the workspace that its table is of.

    Args:
        folder: a new one, or that of a table for which all of ``known`` holds.
        known: the arguments of the table.
        own: the workspace of the user; None is a synthetic one in the folder, made where needed.
        progress: called as it is made.
        synthetic: as for ``generate_workspace``.

    Raises:
        WorkspaceError: the folder belongs to something else, or lies among the images of ``own``.
        TrainingError: another process works in it.
        StorageError: the disk is full, here or in the block.
    """
    if own is not None and folder.is_relative_to(own.images):
        raise WorkspaceError(f"{folder} is inside the images of {own.root}; name another folder")
    check_folder(folder, known)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(Run(folder)), _room_for(folder):
        if own is not None:
            yield own
            return
        # Rendering takes long; killed in it, the folder already is that of these arguments.
        claim_folder(folder, known)
        yield generate_workspace(
            folder / WORKSPACE,
            progress=lambda done, total: progress("rendering", done, total),
            **synthetic,
        )


def check_files(folder: Path, workspace: Workspace, *, progress: Progress) -> None:
    """Decode every image that is used before a table is begun in a folder.

    Else one that is met after hours could only be taken out by beginning again. Used are those of
    train, val and test of which anything is known.

    Raises:
        DataError: images that cannot be decoded, all of them by name.
    """
    if DATA in _read(folder):
        return
    samples = [
        s
        for s in workspace.samples()
        if s.split in SPLITS and not (s.image_class is None and s.annotations is None)
    ]

    def fault_of(sample: Sample) -> Fault | None:
        path = workspace.image_path(sample.image)
        try:
            decode_image(path, colour=workspace.colour, white_level=workspace.white_level)
        except ImageError as error:
            return error.fault()
        return None

    faults = []
    with ThreadPoolExecutor() as pool:
        for done, fault in enumerate(pool.map(fault_of, samples), 1):
            progress("checking images", done, len(samples))
            faults += [] if fault is None else [fault]
    if faults:
        raise DataError(sorted(faults, key=lambda fault: fault.file))


@contextmanager
def _room_for(folder: Path) -> Iterator[None]:
    """Say what to do where a disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise StorageError(
            f"{folder}: {error.strerror}; what is finished is kept. Make room and start the same "
            "command again"
        ) from error


def check_folder(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Check that a folder is new, or that of a table for which all of ``wanted`` holds.

    Raises:
        WorkspaceError: it belongs to another table, to other data, or to something else.
    """
    record = _read(folder)
    differing = [key for key, value in _plain(wanted).items() if record.get(key, value) != value]
    if differing == [DATA]:
        raise WorkspaceError(
            f"{folder}: images, labels or splits have changed since this table was begun; put "
            "them back, or name a new folder"
        )
    if differing:
        raise WorkspaceError(
            f"{folder} holds a table of other arguments ({', '.join(differing)} differ); name "
            "another folder"
        )


def claim_folder(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Make a folder that of the table for which all of ``wanted`` holds, as well as before.

    Raises:
        WorkspaceError: as ``check_folder``.
    """
    check_folder(folder, wanted)
    record = _read(folder)
    if not wanted.keys() <= record.keys():
        write_text(folder / RECORD, json.dumps({**record, **wanted}, indent=2) + "\n")


def _read(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    if not path.is_file():
        if folder.exists() and not (folder.is_dir() and all(map(_is_begun, folder.iterdir()))):
            raise WorkspaceError(f"{folder} is not of `wafer reproduce`; name a new folder")
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError):
        record = None
    if not isinstance(record, dict):
        raise WorkspaceError(f"{path} is damaged; bring it back, or name a new folder")
    return record


def _is_begun(path: Path) -> bool:
    return path.name.startswith(BEGUN)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain
