"""The list of model files we know, by name and digest."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import yaml

from wafer.datasets.errors import WeightsError
from wafer.datasets.files import sha256_file

__all__ = ["WeightsRecord", "altered", "find_record", "read_manifest", "shipped", "verify"]

PACKAGE = Path(__file__).parent

DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsRecord:
    """One known model file.

    ``file`` is its name, ``sha256`` the digest of its content, ``classes`` the names it was
    trained on in the order of its outputs, ``input_size`` the side of its training images in
    pixels, ``channels`` 1 or 3, ``provenance`` where it comes from, ``url`` where it can be
    fetched (None: nowhere), ``shipped`` whether it is part of this package.

    Raises:
        ValueError: a field that is empty or out of its range, named.
    """

    name: str
    file: str
    sha256: str
    licence: str
    architecture: str
    classes: tuple[str, ...]
    input_size: int
    channels: int
    provenance: str
    url: str | None = None
    shipped: bool = False

    def __post_init__(self) -> None:
        for field in ("name", "file", "licence", "architecture", "classes", "provenance"):
            if not getattr(self, field):
                raise ValueError(f"{field} must not be empty")
        if Path(self.file).name != self.file:
            raise ValueError(f"file must be a bare name, not {self.file!r}")
        if not DIGEST.fullmatch(self.sha256):
            raise ValueError(f"sha256 must be 64 hexadecimal digits, not {self.sha256!r}")
        if self.channels not in (1, 3):
            raise ValueError(f"channels must be 1 or 3, not {self.channels}")
        if self.input_size < 32:
            raise ValueError(f"input_size must be at least 32, not {self.input_size}")


@cache
def read_manifest() -> tuple[WeightsRecord, ...]:
    """Return the records of the package's manifest, in its order."""
    text = files("wafer.weights").joinpath("manifest.yaml").read_text(encoding="utf-8")
    rows = yaml.safe_load(text)["weights"]
    return tuple(WeightsRecord(**{**row, "classes": tuple(row["classes"])}) for row in rows)


def find_record(
    *, sha256: str | None = None, name: str | None = None, file: str | None = None
) -> WeightsRecord | None:
    """Return the record that has all the given properties, or None."""
    wanted = {"sha256": sha256, "name": name, "file": file}
    given = {field: value for field, value in wanted.items() if value is not None}
    matching = (
        record
        for record in read_manifest()
        if all(getattr(record, field) == value for field, value in given.items())
    )
    return next(matching, None)


def shipped(architecture: str) -> Path | None:
    """Return the model file of an architecture that is part of this package, its digest checked.

    Raises:
        WeightsError: the file is missing from the installation, or altered.
    """
    for record in read_manifest():
        if record.shipped and record.architecture == architecture:
            return verify(record, (PACKAGE,))
    return None


def verify(record: WeightsRecord, folders: Iterable[Path]) -> Path:
    """Return the file of a record after checking its digest.

    Args:
        record: what to look for.
        folders: where to look, in this order.

    Raises:
        WeightsError: the file is in none of the folders, or its content is another one.
    """
    places = [folder / record.file for folder in folders]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        looked = ", ".join(str(place.parent) for place in places)
        raise WeightsError(f"{record.file} is not in {looked}; copy it there or name its path")
    digest = sha256_file(path)
    if digest != record.sha256:
        raise altered(path, digest=digest, expected=record.sha256)
    return path


def altered(path: Path, *, digest: str, expected: str) -> WeightsError:
    """Return the error for a file whose content is not the expected one."""
    return WeightsError(
        f"{path} is cut off or altered: its sha256 is {digest}, expected {expected}; copy it again"
    )
