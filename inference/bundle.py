"""Bundles: a folder with one model in every form an engine wants, sealed by digests.

    weights.safetensors   the model file of the training
    model.onnx            the same network as one graph, from pixels to the best box
    model.xml, model.bin  the same for OpenVINO, in the precision of the bundle if that is int8
    golden.safetensors    images with the answers that every engine must give
    model.json            what the model is
    SHA256SUMS            one line for each of these files, as `sha256sum` writes them

The SHA-256 of SHA256SUMS is the digest of the bundle, and `sha256-<digest>` the name of its folder.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from wafer.datasets.classes import ClassTable, DefectClass
from wafer.datasets.errors import DataError, Fault, WeightsError
from wafer.datasets.files import sha256_file
from wafer.evaluation.rejecting import Method, Rejection
from wafer.inference.deciding import class_decision_of, decision_of
from wafer.inference.golden import Golden, Tolerance, read_golden
from wafer.inference.preprocess import PADDING
from wafer.inference.records import Engine, Predictor
from wafer.inference.rejecting import rejection_of
from wafer.inference.tally import Totals
from wafer.weights.decision_rule import DecisionRule
from wafer.weights.description import LARGEST_SIDE

__all__ = [
    "DESCRIPTION",
    "FILES",
    "GOLDEN",
    "ONNX",
    "OPENVINO",
    "PREPROCESSING",
    "SUMS",
    "TOLERANCES",
    "WEIGHTS",
    "Bundle",
    "Description",
    "Precision",
    "bundle_name",
    "is_bundle",
    "open_bundle",
    "sums_of",
]

WEIGHTS = "weights.safetensors"
ONNX = "model.onnx"
OPENVINO = "model.xml"
GOLDEN = "golden.safetensors"
DESCRIPTION = "model.json"
SUMS = "SHA256SUMS"
FILES = (GOLDEN, "model.bin", DESCRIPTION, ONNX, OPENVINO, WEIGHTS)
"""What SHA256SUMS lists, in its order."""

Precision = Literal["f32", "bf16", "int8"]
TOLERANCES: Mapping[Precision, Tolerance] = {
    "f32": Tolerance(score=1e-3, box=1.0),
    "bf16": Tolerance(score=0.05, box=4.0),
    "int8": Tolerance(score=0.05, box=4.0),
}
"""What a new bundle demands of an engine.

bf16 has 8 significant bits, which add up over layers. int8 is compared with what int8 gave where it
was exported: sums are exact, but rounding between layers falls to one side or the other.
"""

PREPROCESSING: Mapping[str, str | int] = {
    "version": 1,
    "resize": "longer side to image_size, bilinear (OpenCV), shorter side rounded up",
    "padding": PADDING,
    "input": "uint8, (batch, image_size, image_size), with a last axis RGB for 3 channels",
}

NAME = re.compile(r"sha256-[0-9a-f]{64}")
LINE = re.compile(r"([0-9a-f]{64})  ([^/\\]+)")


class Description(BaseModel):
    """The content of model.json.

    ``boxless`` marks a classifier, which names a class for the whole image (`Predictor`).
    ``weights_sha256`` is that of the model file, ``training`` a summary of the training's
    arguments, ``metrics`` what was measured on validation images at its end, ``versions`` those of
    the tools of training (as ``training``) and of export (as ``export``). ``usual`` is what the
    model answers for validation images; None in older bundles, or where there are none.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    format: Literal[1] = 1
    kind: Literal["bundle"] = "bundle"
    architecture: Annotated[str, Field(min_length=1)]
    classes: tuple[DefectClass, ...]
    image_size: Annotated[int, Field(ge=32, le=LARGEST_SIDE, multiple_of=32)]
    channels: Literal[1, 3]
    white_level: Annotated[int, Field(ge=1, le=65535)]
    boxless: bool = False
    preprocessing: dict[str, str | int]
    precision: Precision
    tolerance: Tolerance
    golden_images: Annotated[int, Field(ge=1)]
    decision: DecisionRule
    dataset_hash: str | None
    metrics: dict[str, float | None]
    training: dict[str, JsonValue]
    versions: dict[str, dict[str, str]]
    weights_sha256: str
    licence: str
    provenance: str
    usual: Totals | None = None

    def to_bytes(self) -> bytes:
        """Return model.json; equal content gives equal bytes."""
        content: dict[str, Any] = self.model_dump(mode="json")
        return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A bundle whose files were found to be what SHA256SUMS says."""

    folder: Path
    digest: str
    description: Description
    classes: ClassTable

    @property
    def label(self) -> str:
        """Return a short name that tells bundles apart: architecture and 12 digits of digest."""
        return f"{self.description.architecture}-{self.digest[:12]}"

    def golden(self) -> Golden:
        """Read the golden images.

        Raises:
            WeightsError: they are damaged.
        """
        return read_golden(self.folder / GOLDEN)

    def predictor(self, engine: Engine) -> Predictor:
        """Return the model as the pipeline wants it, on an engine that runs it."""
        about = self.description
        return Predictor(
            model=self.label,
            engine=engine,
            classes=self.classes,
            decide=(class_decision_of if about.boxless else decision_of)(
                self.classes, about.decision
            ),
            image_size=about.image_size,
            colour=about.channels == 3,
            white_level=about.white_level,
            boxless=about.boxless,
            reject=self.rejection(about.decision.reject),
        )

    def rejection(self, method: Method | None) -> Rejection | None:
        """Return a method of telling images of no class at work, None for none.

        Raises:
            WeightsError: the model keeps nothing to tell them by.
        """
        return rejection_of(self.folder / WEIGHTS, method, classes=len(self.classes))


def bundle_name(digest: str) -> str:
    """Return the name of the folder of a bundle."""
    return f"sha256-{digest}"


def is_bundle(folder: Path) -> bool:
    """Return whether a folder is meant to be a bundle, damaged or not."""
    return (folder / SUMS).is_file() or (folder / DESCRIPTION).is_file()


def sums_of(folder: Path) -> bytes:
    """Return the content of SHA256SUMS for the files of a bundle."""
    lines = [f"{sha256_file(folder / name)}  {name}\n" for name in FILES]
    return "".join(lines).encode("ascii")


def open_bundle(folder: Path) -> Bundle:
    """Read a bundle after checking the digest of every file.

    Raises:
        DataError: files that are missing, altered or not listed, all of them by name.
        WeightsError: a bundle of a newer wafer.
    """
    digest = _checked(folder)
    path = folder / DESCRIPTION
    try:
        description = Description.model_validate_json(path.read_bytes())
        classes = ClassTable(description.classes)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise WeightsError(
            f"{path}: damaged or of a newer wafer ({where}: {first['msg']}); export the model "
            "again, or update wafer"
        ) from error
    except ValueError as error:
        raise WeightsError(f"{path}: {error}; export the model again") from error
    return Bundle(folder=folder, digest=digest, description=description, classes=classes)


def _checked(folder: Path) -> str:
    """Return the digest of a bundle all of whose files are as listed."""
    sums = folder / SUMS
    if not sums.is_file():
        raise DataError([_fault(sums, "missing, so nothing vouches for this bundle")])
    content = sums.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if NAME.fullmatch(folder.name) and folder.name != bundle_name(digest):
        problem = f"its digest is {digest}, which is not the name of the folder"
        raise DataError([_fault(sums, problem)])
    lines = content.decode("ascii", "replace").splitlines()
    listed = {match[2]: match[1] for line in lines if (match := LINE.fullmatch(line))}
    if tuple(listed) != FILES or len(lines) != len(FILES):
        raise DataError([_fault(sums, f"does not list {', '.join(FILES)}, each once")])
    faults = [f for name in FILES if (f := _file_fault(folder / name, listed[name]))]
    if faults:
        raise DataError(faults)
    return digest


def _file_fault(path: Path, expected: str) -> Fault | None:
    if not path.is_file():
        return _fault(path, "missing")
    digest = sha256_file(path)
    if digest != expected:
        return _fault(path, f"altered: its sha256 is {digest}, expected {expected}")
    return None


def _fault(path: Path, problem: str) -> Fault:
    remedy = "copy the bundle again, or export the model again where you have it"
    return Fault(file=str(path), problem=problem, remedy=remedy)
