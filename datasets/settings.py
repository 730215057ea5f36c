"""``wafer.toml``: where the images of a workspace are and how they are read."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from wafer.datasets.errors import Fault, WorkspaceError
from wafer.datasets.files import write_text

__all__ = ["FILE_NAME", "Settings", "checked_settings", "read_settings", "write_settings"]

FILE_NAME = "wafer.toml"
REMEDY = "correct it, or make the workspace again with `wafer init --force`"


class Settings(BaseModel):
    """What ``wafer.toml`` says; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    images: str = Field(default="images", min_length=1)
    """Folder of the images; relative to the workspace, or absolute."""
    white_level: int = Field(default=65535, ge=1, le=65535)
    """Value of 16-bit images that is shown as white."""
    colour: bool = False
    """Whether models see RGB (true) or grey (false)."""
    group_pattern: str | None = None
    """Regular expression that finds the group (lot, wafer) in an image's path."""

    @field_validator("group_pattern")
    @classmethod
    def _has_group(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            groups = re.compile(value).groups
        except re.error as error:
            raise ValueError(f"not a regular expression ({error})") from error
        if groups == 0:
            raise ValueError("no group in it: put ( ) around the part that names the group")
        return value


def checked_settings(
    *, images: str, white_level: int, colour: bool, group_pattern: str | None
) -> Settings:
    """Return the settings of a new workspace.

    Raises:
        WorkspaceError: a value out of range, or a pattern without a group; one line for each.
    """
    try:
        return Settings(
            images=images, white_level=white_level, colour=colour, group_pattern=group_pattern
        )
    except ValidationError as error:
        lines = [
            f"{e['loc'][0]}: {_message(e['msg'])}; choose another value" for e in error.errors()
        ]
        raise WorkspaceError("\n".join(lines)) from error


def read_settings(path: Path) -> Settings:
    """Read ``wafer.toml``.

    Raises:
        WorkspaceError: no such file, not TOML, an unknown key or a value out of range; one line
            for each fault.
    """
    try:
        return Settings.model_validate(tomllib.loads(path.read_bytes().decode("utf-8-sig")))
    except OSError as error:
        raise WorkspaceError(f"{path}: cannot be read ({error.strerror})") from error
    except ValidationError as error:
        lines = [_fault(path, str(e["loc"][0]), e["type"], e["msg"]) for e in error.errors()]
        raise WorkspaceError("\n".join(lines)) from error
    except ValueError as error:  # of decoding or of tomllib, which names the line
        raise WorkspaceError(f"{path}: not a TOML file ({error}); {REMEDY}") from error


def _fault(path: Path, key: str, kind: str, message: str) -> str:
    if kind == "extra_forbidden":
        remedy = f"delete it or use one of {', '.join(Settings.model_fields)}"
        return str(Fault(file=str(path), problem=f"unknown key {key!r}", remedy=remedy))
    problem = f"{key}: {_message(message)}"
    return str(Fault(file=str(path), problem=problem, remedy=REMEDY))


def _message(text: str) -> str:
    return text.removeprefix("Value error, ")


def write_settings(path: Path, settings: Settings) -> None:
    """Write ``wafer.toml``, atomically, with a comment above each key."""
    lines = [
        "# A workspace of wafer; the commands use the one at or above the current folder.",
        "",
        "# Folder of the images, relative to this file or absolute. Nothing in it is ever changed.",
        f"images = {_quoted(settings.images)}",
        "# 16-bit images: the value that is white. 8-bit images stay as they are.",
        f"white_level = {settings.white_level}",
        "# Whether the images are in colour; false reads every image as grey.",
        f"colour = {str(settings.colour).lower()}",
    ]
    if settings.group_pattern is not None:
        lines += [
            "# Finds the group (lot, wafer) in the path of an image without one in the table.",
            f"group_pattern = {_quoted(settings.group_pattern)}",
        ]
    write_text(path, "\n".join([*lines, ""]))


def _quoted(text: str) -> str:
    """Return a basic string of TOML, which JSON's is but for the delete character."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
