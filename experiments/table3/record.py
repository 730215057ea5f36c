"""What a folder of Table 3 belongs to, fixed by the first command and compared by the next."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wafer.datasets.errors import WorkspaceError
from wafer.datasets.files import write_text

__all__ = ["claim_folder"]

RECORD = "reproduce.json"


def claim_folder(folder: Path, wanted: Mapping[str, Any], *, empty: bool) -> None:
    """Make a folder that of one table, or check that it is so already.

    Args:
        folder: of the table.
        wanted: all that decides about its figures.
        empty: whether a folder that no table has claimed yet has to be empty.

    Raises:
        WorkspaceError: it belongs to another table, to other data, or to something else.
    """
    path = folder / RECORD
    if not path.is_file():
        if empty and _holds_anything(folder):
            raise WorkspaceError(f"{folder} is not of `wafer reproduce`; name a new folder")
        write_text(path, json.dumps(wanted, indent=2) + "\n")
        return
    before = _read(path)
    differing = [key for key, value in _plain(wanted).items() if before.get(key) != value]
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


def _holds_anything(folder: Path) -> bool:
    if not folder.is_dir():
        return folder.exists()
    leftovers = f".{RECORD}.tmp-"  # of a command that was killed in its first moment
    return not all(path.name.startswith(leftovers) for path in folder.iterdir())


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError):
        record = None
    if not isinstance(record, dict):
        raise WorkspaceError(f"{path} is damaged; bring it back, or name a new folder")
    return record


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain
