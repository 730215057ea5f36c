"""What a folder of `wafer reproduce` belongs to: the first command fixes it, others compare."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wafer.datasets.errors import WorkspaceError
from wafer.datasets.files import write_text

__all__ = ["check_folder", "claim_folder"]

RECORD = "reproduce.json"
# What a command leaves that was killed before it wrote the record.
BEGUN = (".lock", f".{RECORD}.tmp-")


def check_folder(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Check that a folder is new, or that of a table for which all of ``wanted`` holds.

    Raises:
        WorkspaceError: it belongs to another table, to other data, or to something else.
    """
    record = _read(folder)
    differing = [key for key, value in _plain(wanted).items() if record.get(key, value) != value]
    if differing == ["data"]:
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
