"""What a model file says it is, read without its tensors and without torch."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

__all__ = ["LARGEST_SIDE", "METADATA_KEY", "described_architecture"]

METADATA_KEY = "wafer"
"""The one key of the metadata; several keys would be written in a random order."""

LARGEST_SIDE = 16_384
"""Of an input, in pixels; twice that of the largest image sensors of inspection tools."""


def described_architecture(path: Path) -> str | None:
    """Return the architecture that a model file names, None where it names none or is damaged.

    Nothing is checked: whether the file is sound, `wafer.weights.checkpoint.read_checkpoint` says.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(METADATA_KEY, "{}")
        found = json.loads(text).get("architecture")
    except (OSError, SafetensorError, ValueError, AttributeError, RecursionError):
        return None
    return found if isinstance(found, str) else None
