"""Reading tensors from model files: safetensors, and state dicts in ``.pt`` files; never code."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch  # noqa: TID253 - this module reads tensors
from safetensors import SafetensorError

from wafer.datasets.errors import WeightsError
from wafer.weights.manifest import altered, find_record
from wafer.weights.sealing import check_seal

__all__ = ["DAMAGED", "Tensors", "load_tensors", "read_tensors"]

Tensors = dict[str, torch.Tensor]

HEADER_LENGTH = 8
# A zip archive, and the pickle protocols that torch.save ever wrote.
TORCH_STARTS = (b"PK\x03\x04", b"\x80")
# What the restricted unpickler lets through on damaged bytes besides its own error.
DAMAGED = (
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    MemoryError,
    OverflowError,
    struct.error,
    zipfile.BadZipFile,
)
HOLDS_CODE = (
    "it holds Python objects beside tensors, and loading those would run code from the file. "
    "Where you trust the file and have the program that wrote it (a yolov5 checkout, or "
    "ultralytics), save its tensors alone: "
    'python -c "import torch, safetensors.torch as s; '
    "c = torch.load('FILE.pt', map_location='cpu', weights_only=False); "
    "m = c.get('ema') or c['model']; "
    "s.save_file({k: v.clone() for k, v in m.state_dict().items()}, 'FILE.safetensors')\""
)


def load_tensors(path: Path, *, expected: str | None = None) -> tuple[Tensors, dict[str, str]]:
    """Read the tensors of a model file, and its metadata.

    The content decides the format: safetensors, or a ``.pt`` file that holds a state dict (a
    plain dict of tensors, or one under ``model`` or ``state_dict``), which is read by torch's
    restricted loader. Nothing in the file is ever executed. The digest is checked before
    anything is parsed: against ``expected``, or else against the manifest where it knows a file
    of this name. A file of our own is checked against the digest it carries.

    Args:
        path: the file.
        expected: SHA-256 the file must have, 64 hexadecimal digits.

    Returns:
        Tensors on the CPU by name, and the metadata (empty for ``.pt`` files).

    Raises:
        WeightsError: no such file, another digest than expected, a damaged file, or one that
            holds more than tensors.
    """
    tensors, metadata, _ = read_tensors(path, expected=expected)
    return tensors, metadata


def read_tensors(path: Path, *, expected: str | None = None) -> tuple[Tensors, dict[str, str], str]:
    """Read as `load_tensors`; returns tensors, metadata and the SHA-256 of the file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    digest = hashlib.sha256(data).hexdigest()
    if expected is None:
        known = find_record(file=path.name)
        expected = None if known is None else known.sha256
    if expected is not None and digest != expected.lower():
        raise altered(path, digest=digest, expected=expected)
    if data.startswith(TORCH_STARTS) and not _has_json_header(data):
        return _from_torch(data, path), {}, digest
    tensors, metadata = _from_safetensors(data, path)
    check_seal(metadata, tensors, path)
    return tensors, metadata, digest


def _has_json_header(data: bytes) -> bool:
    """Return whether a file is laid out as safetensors are: a length, then JSON.

    One header in 32 is of a length whose first byte is that of a pickle.
    """
    length = int.from_bytes(data[:HEADER_LENGTH], "little")
    return HEADER_LENGTH + length <= len(data) and data[HEADER_LENGTH : HEADER_LENGTH + 1] == b"{"


def _from_safetensors(data: bytes, path: Path) -> tuple[Tensors, dict[str, str]]:
    try:
        tensors = safetensors.torch.load(data)
    except (SafetensorError, KeyError, ValueError) as error:
        raise WeightsError(
            f"{path}: neither a whole safetensors file nor a .pt file ({error}); copy it again"
        ) from error
    return {name: tensors[name] for name in sorted(tensors)}, _metadata(data)


def _metadata(data: bytes) -> dict[str, str]:
    """Return the metadata of a valid safetensors file.

    It begins with the length of its JSON header, 8 bytes little-endian
    (https://github.com/huggingface/safetensors, "Format").
    """
    (length,) = struct.unpack("<Q", data[:HEADER_LENGTH])
    header = json.loads(data[HEADER_LENGTH : HEADER_LENGTH + length])
    metadata: dict[str, str] = header.get("__metadata__", {})
    return metadata


def _from_torch(data: bytes, path: Path) -> Tensors:
    try:
        if data.startswith(b"PK"):
            _check_stored(data, path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch warns of is an error below or harmless
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, *DAMAGED) as error:
        if "nsupported" in str(error):  # how torch words every global, class and operand it refuses
            raise WeightsError(f"{path} is refused: {HOLDS_CODE}") from error
        reason = str(error).partition("\n")[0]
        raise WeightsError(f"{path}: a damaged .pt file ({reason}); copy it again") from error
    return _state_dict(content, path)


def _check_stored(data: bytes, path: Path) -> None:
    """Refuse an archive of which little becomes a lot: torch stores all bytes, and each once."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
    packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if packed or sum(entry.file_size for entry in entries) > len(data):
        raise WeightsError(
            f"{path} is refused: it would unpack to more than it holds; save it with torch.save"
        )


def _state_dict(content: object, path: Path) -> Tensors:
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    wrong = f"{path}: not a state dict; save `model.state_dict()` with torch.save or as safetensors"
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(wrong)
    tensors: Tensors = {}
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise WeightsError(wrong)
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise WeightsError(f"{path}: tensor {name} is sparse or quantized; save it dense")
        # A view repeats its values without end, and a meta tensor has none.
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes() or (
            tensor.device.type != "cpu"
        ):
            raise WeightsError(
                f"{path}: tensor {name} has fewer values than its shape says; save its .clone()"
            )
        tensors[name] = tensor.detach().contiguous()
    return tensors
