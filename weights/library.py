"""What ``wafer weights`` does: list the known files, verify one, import one as first weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from wafer.datasets.errors import WeightsError
from wafer.datasets.files import cache_folder, sha256_file, write_bytes
from wafer.weights.checkpoint import FIRST_WEIGHTS, read_checkpoint
from wafer.weights.convert import ConversionReport, architecture_of, convert_yolov5
from wafer.weights.description import METADATA_KEY
from wafer.weights.loading import read_tensors
from wafer.weights.manifest import PACKAGE, WeightsRecord, find_record, read_manifest, verify
from wafer.weights.sealing import seal

__all__ = [
    "Imported",
    "Listed",
    "Verified",
    "import_weights",
    "list_weights",
    "verify_weights",
    "weights_folder",
]

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of the list: a known or imported file, and where it is (None: not here)."""

    name: str
    architecture: str
    licence: str
    sha256: str
    path: Path | None


@dataclass(frozen=True, slots=True)
class Verified:
    """A file that is what it should be: its digest, and what it is in a few words."""

    path: Path
    sha256: str
    content: str


@dataclass(frozen=True, slots=True)
class Imported:
    """First weights in the cache folder, where they come from, and what of the source fits."""

    path: Path
    architecture: str
    record: WeightsRecord | None
    report: ConversionReport


def weights_folder() -> Path:
    """Return the folder of imported weights, in the user's cache folder."""
    return cache_folder() / "weights"


def list_weights() -> tuple[Listed, ...]:
    """Return the files of the manifest, then the imported ones by name."""
    known = [
        Listed(r.name, r.architecture, r.licence, r.sha256, _place(r)) for r in read_manifest()
    ]
    return (*known, *(_imported(path) for path in sorted(weights_folder().glob("*.safetensors"))))


def verify_weights(name: Path | str) -> Verified:
    """Check a file, or the file of a name in the manifest.

    Args:
        name: a path, or a name that ``list_weights`` gives.

    Raises:
        WeightsError: no such file, a cut or altered one, or one that nothing vouches for: its
            digest is not in the manifest and it is no wafer model.
    """
    record = find_record(name=str(name))
    if record is not None:
        path = verify(record, (PACKAGE, weights_folder()))
        return Verified(path, record.sha256, record.provenance)
    imported = weights_folder() / f"{name}.safetensors"
    path = imported if imported.is_file() else Path(name)
    _, metadata, digest = read_tensors(path)
    record = find_record(sha256=digest)
    if record is not None:
        return Verified(path, digest, record.provenance)
    description = json.loads(metadata.get(METADATA_KEY, "{}"))
    if description.get("kind") == FIRST_WEIGHTS:
        return Verified(path, digest, f"first weights: {description.get('provenance')}")
    if description:
        return Verified(path, digest, f"a trained {read_checkpoint(path).architecture}")
    raise WeightsError(
        f"nothing vouches for {path}: its sha256 {digest} is not in the manifest "
        "and it is no wafer model; compare it with the digest its source publishes"
    )


def import_weights(path: Path, *, shapes_of: Callable[[str], Shapes]) -> Imported:
    """Turn an official YOLOv5 state dict into first weights in the user's cache folder.

    The file is recognised by its digest where the manifest knows it. The copy has float32
    tensors under ultralytics' names, without the head, and a digest of its own content; it is
    replaced where the same file was imported before. The source stays as it is.

    Args:
        path: safetensors, or a ``.pt`` file that holds a state dict.
        shapes_of: gives the tensor shapes of an architecture with three input channels.

    Raises:
        WeightsError: the file cannot be read safely, or does not belong to a YOLOv5 v6/v7 model.
    """
    tensors, _, digest = read_tensors(path)
    record = find_record(sha256=digest)
    architecture = architecture_of(tensors)
    report = convert_yolov5(tensors, shapes_of(architecture))
    description = {
        "kind": FIRST_WEIGHTS,
        "architecture": architecture,
        "source_sha256": digest,
        "licence": "unknown" if record is None else record.licence,
        "provenance": path.name if record is None else record.provenance,
    }
    stem = path.stem if record is None else record.name
    target = weights_folder() / f"{stem}-{digest[:12]}.safetensors"
    write_bytes(target, seal(description, report.tensors))
    return Imported(target, architecture, record, report)


def _place(record: WeightsRecord) -> Path | None:
    folders = (PACKAGE, weights_folder())
    return next((f / record.file for f in folders if (f / record.file).is_file()), None)


def _imported(path: Path) -> Listed:
    try:
        _, metadata, digest = read_tensors(path)
    except WeightsError:
        return Listed(path.stem, "damaged", "unknown", sha256_file(path), path)
    description = json.loads(metadata.get(METADATA_KEY, "{}"))
    return Listed(
        name=path.stem,
        architecture=str(description.get("architecture", "unknown")),
        licence=str(description.get("licence", "unknown")),
        sha256=digest,
        path=path,
    )
