"""The copies of the ledger's head in the records of runs: they tell what was cut off behind it.

A ledger that was put aside with its head (``ledger.jsonl.bak-N``, ``ledger.head.bak-N``), as `wafer
init --force` does, is not missed. A copy without the head is a backup, and changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wafer.datasets.chain import parse_line
from wafer.datasets.errors import Fault
from wafer.datasets.ledger import HEAD, LEDGER, Chain

__all__ = ["copy_faults"]

REMEDY = "put the ledger back from a copy"


def copy_faults(root: Path, chain: Chain) -> Iterator[Fault]:
    """Yield where the ledger of a workspace is not what a run of it saw.

    Args:
        root: of the workspace.
        chain: its ledger.
    """
    aside = {
        _first_hash(path)
        for path in root.glob(f"{LEDGER}.bak-*")
        if path.with_name(HEAD + path.suffix).is_file()
    }
    for path in sorted((root / "runs").glob("*/*/run.json")):
        copy = _copy_of(path)
        if copy is None:
            continue
        run, count = path.parent.name, int(copy["count"])
        remedy = REMEDY
        if not chain.hashes or chain.hashes[0] != copy["first"]:
            if copy["first"] in aside:
                continue
            gone = "is gone" if not chain.hashes else "is another one"
            problem = f"the ledger that {run} saw, of {count} lines, {gone}"
            remedy = (
                f"{REMEDY}; where you began anew on purpose, have the old one beside it as "
                f"{LEDGER}.bak-1 and {HEAD}.bak-1, or take `ledger` out of {path.relative_to(root)}"
            )
        elif count > len(chain.hashes):
            problem = f"{count - len(chain.hashes)} lines that {run} saw are cut off"
        elif chain.hashes[count - 1] != copy["hash"]:
            problem = f"line {count} is not the one that {run} saw"
        else:
            continue
        yield Fault(file=str(root / LEDGER), problem=problem, remedy=remedy)


def _first_hash(path: Path) -> str | None:
    """Return the hash of the first line of a ledger, None where it has no such line."""
    try:
        with path.open("rb") as lines:
            return parse_line(lines.readline().rstrip(b"\n"))[2]
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _copy_of(path: Path) -> dict[str, Any] | None:
    try:
        copy = json.loads(path.read_bytes()).get("ledger")
    except (OSError, ValueError, AttributeError):
        return None
    return copy if isinstance(copy, dict) and {"count", "hash", "first"} <= copy.keys() else None
