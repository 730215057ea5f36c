"""Keeping what is about to be replaced, under the first free ``<name>.bak-N``."""

from __future__ import annotations

from pathlib import Path

from wafer.datasets.files import write_bytes

__all__ = ["keep_copy", "put_aside"]


def keep_copy(path: Path) -> Path:
    """Copy a file to the first free ``<name>.bak-N`` beside it and return the copy's path."""
    copy = _free_name(path)
    write_bytes(copy, path.read_bytes())
    return copy


def put_aside(path: Path) -> Path:
    """Rename a file or folder to the first free ``<name>.bak-N`` and return its new path."""
    return path.rename(_free_name(path))


def _free_name(path: Path) -> Path:
    number = 1
    while (free := path.with_name(f"{path.name}.bak-{number}")).exists():
        number += 1
    return free
