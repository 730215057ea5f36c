"""Checking the ledger of a workspace against itself, its files, and the copies of its head."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from wafer.datasets.errors import Fault
from wafer.datasets.ledger import Chain, image_states, read_chain, whole_revisions
from wafer.datasets.workspace import Workspace
from wafer.labelling.copies import copy_faults
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
    faults = [*chain.faults, *copy_faults(workspace.root, chain)]
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
