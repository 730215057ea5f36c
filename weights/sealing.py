"""The description inside our own model files, sealed with a digest over it and all tensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch  # noqa: TID253 - this module reads and writes tensors

from wafer.datasets.errors import WeightsError
from wafer.weights.description import METADATA_KEY
from wafer.weights.manifest import altered

__all__ = ["check_seal", "seal"]

DIGEST_KEY = "content_sha256"


def seal(description: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> bytes:
    """Return the content of a safetensors file; equal input gives equal bytes.

    Args:
        description: JSON values.
        tensors: the state dict.
    """
    plain = {name: tensors[name].detach().cpu().contiguous().clone() for name in sorted(tensors)}
    sealed = {**description, DIGEST_KEY: _digest(description, plain)}
    return safetensors.torch.save(plain, {METADATA_KEY: _canonical(sealed)})


def check_seal(
    metadata: Mapping[str, str], tensors: Mapping[str, torch.Tensor], path: Path
) -> None:
    """Check that description and tensors are those that were sealed; other files pass.

    Raises:
        WeightsError: they are not.
    """
    if METADATA_KEY not in metadata:
        return
    try:
        description = json.loads(metadata[METADATA_KEY])
        if not isinstance(description, dict):
            raise TypeError
        expected = str(description.pop(DIGEST_KEY, "missing"))
        digest = _digest(description, tensors)
    except (ValueError, TypeError, RecursionError) as error:
        raise WeightsError(f"{path}: its description is damaged; copy it again") from error
    if digest != expected:
        raise altered(path, digest=digest, expected=expected)


def _canonical(description: Mapping[str, Any]) -> str:
    return json.dumps(
        description, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":")
    )


def _digest(description: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256(_canonical(description).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
