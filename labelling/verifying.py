"""Checking the ledger of a workspace against itself, its files, and the copies of its head."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wafer.datasets.errors import Fault
from wafer.datasets.ledger import LEDGER, Chain, image_states, read_chain, whole_revisions
from wafer.datasets.workspace import Workspace
from wafer.labelling.ledger import HandEdit, Ledger

__all__ = ["Verification", "verify_ledger"]


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found: ``faults`` are tampering, ``edits`` label files changed by hand, notes not.

    ``edits`` is empty where there are faults, since nothing can be compared then.
    """

    entries: int
    images: int
    faults: tuple[Fault, ...]
    edits: tuple[HandEdit, ...]
    notes: tuple[str, ...]


def verify_ledger(workspace: Workspace) -> Verification:
    """Check every line of the ledger, its head, the copies of the head, and the label files.

    Nothing is changed, but that a torn last line is set aside and pending label files are written
    where the ledger itself is sound.
    """
    chain = read_chain(workspace.root)
    faults = [*chain.faults, *_copies(workspace, chain)]
    edits = () if faults else Ledger(workspace).edits()
    images = image_states(chain.entries)
    return Verification(
        entries=len(chain.entries),
        images=len(images),
        faults=tuple(faults),
        edits=edits,
        notes=tuple(_notes(workspace, chain)),
    )


def _notes(workspace: Workspace, chain: Chain) -> Iterator[str]:
    if chain.torn:
        yield f"a last line of {len(chain.torn)} bytes was torn by a crash; it is set aside"
    if chain.head is not None and chain.head.count < len(chain.hashes):
        newer = len(chain.hashes) - chain.head.count
        yield f"the head is {newer} lines behind, as a crash leaves it; they follow and are taken"
    unfinished = len(chain.entries) - sum(map(len, whole_revisions(chain.entries)))
    if unfinished:
        yield f"{unfinished} entries of changes that a crash cut short do not count"
    cache = workspace.image_cache()
    for image, state in image_states(chain.entries).items():
        if not (workspace.images / image).is_file():
            yield f"{image}: the image is gone"
        elif cache.sha256(image) != state.entries[0].image_sha256:
            yield f"{image}: the image was changed since its boxes were recorded; look at it again"
    cache.save()


def _copies(workspace: Workspace, chain: Chain) -> Iterator[Fault]:
    """Compare with the heads that runs wrote down, as far as they speak of this ledger."""
    for path in sorted((workspace.root / "runs").glob("*/*/run.json")):
        copy = _copy_of(path)
        if copy is None or not chain.hashes or chain.hashes[0] != copy["first"]:
            continue
        count = int(copy["count"])
        if count > len(chain.hashes):
            problem = f"{count - len(chain.hashes)} lines that {path.parent.name} saw are cut off"
        elif chain.hashes[count - 1] != copy["hash"]:
            problem = f"line {count} is not the one that {path.parent.name} saw"
        else:
            continue
        remedy = "put the ledger back from a copy"
        yield Fault(file=str(workspace.root / LEDGER), problem=problem, remedy=remedy)


def _copy_of(path: Path) -> dict[str, Any] | None:
    try:
        copy = json.loads(path.read_bytes()).get("ledger")
    except (OSError, ValueError, AttributeError):
        return None
    return copy if isinstance(copy, dict) and {"count", "hash", "first"} <= copy.keys() else None
