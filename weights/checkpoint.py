"""Our own model file: tensors and all that is needed to use them, in one safetensors file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Any, Literal

import torch  # noqa: TID253 - this module reads and writes tensors
from pydantic import AfterValidator, BaseModel, Field, JsonValue, ValidationError

from wafer.datasets.classes import ClassTable, DefectClass
from wafer.datasets.errors import WeightsError
from wafer.datasets.files import write_bytes
from wafer.weights.decision_rule import DecisionRule
from wafer.weights.description import LARGEST_SIDE, METADATA_KEY
from wafer.weights.loading import Tensors, read_tensors
from wafer.weights.sealing import seal

__all__ = [
    "FIRST_WEIGHTS",
    "LICENCE",
    "Checkpoint",
    "read_checkpoint",
    "save_checkpoint",
]

FIRST_WEIGHTS = "first weights"
"""The ``kind`` of a file that a training may start from and that cannot answer itself."""

LICENCE = "AGPL-3.0-or-later"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A trained model as it lies in its file.

    ``tensors`` is its state dict, ``digest`` the SHA-256 of the file. ``image_size`` is the side
    of the square input in pixels, ``channels`` 1 (grey) or 3 (RGB), ``white_level`` the value of
    16-bit images that becomes 255. ``dataset_hash``, ``training`` (a summary of the arguments)
    and ``versions`` (of the tools) say where it comes from.
    """

    architecture: str
    classes: ClassTable
    image_size: int
    channels: int
    white_level: int
    decision: DecisionRule
    dataset_hash: str | None
    training: Mapping[str, Any]
    versions: Mapping[str, str]
    licence: str
    provenance: str
    tensors: Tensors = field(repr=False)
    digest: str

    @property
    def colour(self) -> bool:
        """Return whether the input is RGB."""
        return self.channels == 3

    @property
    def label(self) -> str:
        """Return a short name that tells models apart: architecture and 12 digits of digest."""
        return f"{self.architecture}-{self.digest[:12]}"

    def check_classes(self, classes: ClassTable) -> None:
        """Check that the model knows just these classes, in their order and of these kinds.

        Raises:
            WeightsError: it knows others, or knows one as of another kind.
        """
        if self.classes.names != classes.names:
            raise WeightsError(
                f"the model {self.label} knows the classes {', '.join(self.classes.names)}, the "
                f"workspace {', '.join(classes.names)}; train one here with `wafer train`"
            )
        if not self.classes.answers_as(classes):
            changed = (
                f"{ours.name} as {ours.kind}, the workspace as {theirs.kind}"
                for ours, theirs in zip(self.classes, classes, strict=True)
                if ours.kind != theirs.kind
            )
            raise WeightsError(
                f"the model {self.label} knows the class {'; '.join(changed)}; set the kind back "
                "in classes.yaml, or train one here with `wafer train`"
            )


def _one_or_three(channels: int) -> int:
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 or 3, not {channels}")
    return channels


class _Record(BaseModel, extra="forbid", strict=True):
    """The JSON under ``wafer`` in the metadata of the file."""

    format: Literal[1] = 1
    kind: Literal["model"] = "model"
    content_sha256: str = ""
    architecture: Annotated[str, Field(min_length=1)]
    classes: tuple[DefectClass, ...]
    image_size: Annotated[int, Field(ge=32, le=LARGEST_SIDE, multiple_of=32)]
    channels: Annotated[int, AfterValidator(_one_or_three)]
    white_level: Annotated[int, Field(ge=1, le=65535)]
    decision: DecisionRule
    dataset_hash: str | None
    training: dict[str, JsonValue]
    versions: dict[str, str]
    licence: str
    provenance: str


def save_checkpoint(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    *,
    architecture: str,
    classes: ClassTable,
    image_size: int,
    channels: int,
    white_level: int = 65535,
    decision: DecisionRule | None = None,
    dataset_hash: str | None = None,
    training: Mapping[str, Any] | None = None,
    versions: Mapping[str, str] | None = None,
    licence: str = LICENCE,
    provenance: str = "trained with wafer",
) -> str:
    """Write a model file, atomically; the same input gives the same bytes.

    Args:
        path: usually ``*.safetensors``; replaced where it exists.
        tensors: the state dict.
        architecture: ``yolov5n``, ``s``, ``m``, ``l`` or ``x``.
        classes: the class table the model was trained on.
        image_size: side of the square input in pixels, a multiple of 32.
        channels: 1 or 3.
        white_level: 1 to 65535.
        decision: fitted on validation images; None where nothing was fitted.
        dataset_hash: of the training data.
        training: a summary of the arguments, JSON values without absolute paths.
        versions: of the tools, by name.
        licence: of the weights.
        provenance: one line.

    Returns:
        The SHA-256 of the file.

    Raises:
        ValueError: a field out of its range, a value that is not JSON, or an absolute path,
            which would tell a stranger about the machine.
    """
    record = _Record(
        architecture=architecture,
        classes=classes.classes,
        image_size=image_size,
        channels=channels,
        white_level=white_level,
        decision=decision or DecisionRule(),
        dataset_hash=dataset_hash,
        training=json.loads(json.dumps(dict(training or {}), allow_nan=False)),
        versions=dict(versions or {}),
        licence=licence,
        provenance=provenance,
    )
    _refuse_absolute_paths([record.training, record.versions, record.provenance])
    data = seal(record.model_dump(mode="json", exclude={"content_sha256"}), tensors)
    write_bytes(path, data)
    return hashlib.sha256(data).hexdigest()


def read_checkpoint(path: Path, *, expected: str | None = None) -> Checkpoint:
    """Read a model file and check that its content is what was written.

    Args:
        path: the file.
        expected: SHA-256 the file must have, 64 hexadecimal digits.

    Raises:
        WeightsError: no such file, not a wafer model, one of a newer wafer, or one that is cut
            off or altered.
    """
    tensors, metadata, digest = read_tensors(path, expected=expected)
    record = _parse(metadata, path)
    return Checkpoint(
        architecture=record.architecture,
        classes=_table(record.classes, path),
        image_size=record.image_size,
        channels=record.channels,
        white_level=record.white_level,
        decision=record.decision,
        dataset_hash=record.dataset_hash,
        training=record.training,
        versions=record.versions,
        licence=record.licence,
        provenance=record.provenance,
        tensors=tensors,
        digest=digest,
    )


def _parse(metadata: Mapping[str, str], path: Path) -> _Record:
    text = metadata.get(METADATA_KEY)
    if text is None or json.loads(text).get("kind") == FIRST_WEIGHTS:
        raise WeightsError(
            f"{path} is not a trained wafer model: it has tensors but no classes; give it to "
            "`wafer train --weights` to start a training from it"
        )
    try:
        return _Record.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise WeightsError(
            f"{path}: its description is damaged or of a newer wafer ({where}: {first['msg']}); "
            "copy it again, or update wafer"
        ) from error


def _table(classes: tuple[DefectClass, ...], path: Path) -> ClassTable:
    try:
        return ClassTable(classes)
    except ValueError as error:
        raise WeightsError(f"{path}: {error}; train the model again") from error


def _refuse_absolute_paths(value: object) -> None:
    if isinstance(value, str):
        if PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute():
            raise ValueError(f"a model file must not hold an absolute path: {value!r}")
    elif isinstance(value, dict):
        _refuse_absolute_paths(list(value.values()))
    elif isinstance(value, list):
        for item in value:
            _refuse_absolute_paths(item)
