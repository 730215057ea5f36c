"""The copies of the ledger's head in the records of runs: they tell what was cut off behind it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wafer.datasets.errors import Fault
from wafer.datasets.ledger import LEDGER, Chain

__all__ = ["copy_faults"]

REMEDY = "put the ledger back from a copy"


def copy_faults(root: Path, chain: Chain) -> Iterator[Fault]:
    """Yield where the ledger of a workspace is not what a run of it saw.

    Args:
        root: of the workspace.
        chain: its ledger.
    """
    for path in sorted((root / "runs").glob("*/*/run.json")):
        copy = _copy_of(path)
        if copy is None:
            continue
        run, count = path.parent.name, int(copy["count"])
        remedy = REMEDY
        if not chain.hashes or chain.hashes[0] != copy["first"]:
            gone = "is gone" if not chain.hashes else "is another one"
            problem = f"the ledger that {run} saw, of {count} lines, {gone}"
            remedy = (
                f"{REMEDY}; where you began anew on purpose, delete {path.parent.relative_to(root)}"
            )
        elif count > len(chain.hashes):
            problem = f"{count - len(chain.hashes)} lines that {run} saw are cut off"
        elif chain.hashes[count - 1] != copy["hash"]:
            problem = f"line {count} is not the one that {run} saw"
        else:
            continue
        yield Fault(file=str(root / LEDGER), problem=problem, remedy=remedy)


def _copy_of(path: Path) -> dict[str, Any] | None:
    try:
        copy = json.loads(path.read_bytes()).get("ledger")
    except (OSError, ValueError, AttributeError):
        return None
    return copy if isinstance(copy, dict) and {"count", "hash", "first"} <= copy.keys() else None
