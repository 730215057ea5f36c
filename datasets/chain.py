"""Lines of JSON that are bound to each other: a changed, missing or reordered one shows.

Each line ends with its own hash, and has the hash of the line before it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

__all__ = ["GENESIS", "chained_line", "parse_line"]

GENESIS = "0" * 64
"""What the first line has for the hash of the line before it."""
HASH_LENGTH = len('"hash":""}') + 64


def chained_line(values: Mapping[str, object], *, before: str) -> tuple[bytes, str]:
    """Return a line with its line end, and its hash.

    Args:
        values: what it says, without ``before`` and ``hash``.
        before: the hash of the line before.
    """
    body = json.dumps(
        {**values, "before": before}, ensure_ascii=False, allow_nan=False, separators=(",", ":")
    )
    digest = hashlib.sha256(body.encode()).hexdigest()
    return f'{body[:-1]},"hash":"{digest}"}}\n'.encode(), digest


def parse_line(line: bytes) -> tuple[dict[str, Any], str, str]:
    """Return what a line says, the hash of the line before, and its own hash.

    Args:
        line: without its line end.

    Raises:
        ValueError, TypeError, KeyError: it is no such line, or was changed.
    """
    body, tail = line[: -HASH_LENGTH - 1] + b"}", line[-HASH_LENGTH:]
    digest = hashlib.sha256(body).hexdigest()
    if tail != f'"hash":"{digest}"}}'.encode():
        raise ValueError("its hash does not fit")
    values: dict[str, Any] = json.loads(body)
    return values, str(values.pop("before")), digest
