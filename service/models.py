"""Which bundle is at work: the named one, else the promoted one, once it has passed the gate."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from wafer.datasets.classes import ClassTable
from wafer.datasets.errors import WeightsError
from wafer.datasets.runs import newest_finished_run
from wafer.datasets.workspace import Workspace
from wafer.detector.shipped_bundle import shipped_bundle
from wafer.inference.bundle import Bundle, open_bundle
from wafer.inference.engines.backend import Backend
from wafer.inference.engines.choosing import AUTO, BACKENDS, choose_backend, open_predictor
from wafer.inference.records import Predictor
from wafer.inference.registry import CURRENT, current_bundle, named_bundle

__all__ = ["Served", "bundle_to_serve", "first_bundle", "passed", "promoted_at"]

log = logging.getLogger(__name__)

BATCH = 1
"""Images a call of the network: what an image gets never depends on who else asked just then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A bundle that gave its golden answers here, and the engine that gave them."""

    bundle: Bundle
    backend: Backend

    @property
    def opened(self) -> partial[Predictor]:
        """Return what opens the model in another process."""
        return partial(open_predictor, self.bundle.folder, self.backend, BATCH, looks=True)


def first_bundle(workspace: Workspace | None, *, weights: Path | None) -> Path | None:
    """Return the bundle of the shipped model where there is no other one to begin with.

    That is where none is named, nothing was ever promoted or trained in the workspace, and its
    classes are those of the shipped model; or where there is no workspace. Else None.

    Raises:
        OSError: it was never made, and the cache folder cannot be written.
    """
    if weights is not None:
        return None
    if workspace is None:
        return _shipped(None)
    if current_bundle(workspace.models) or newest_finished_run(workspace.runs):
        return None
    return _shipped(workspace.classes)


def _shipped(classes: ClassTable | None) -> Path | None:
    found = shipped_bundle(classes)
    if found is not None:
        log.info(
            "no bundle is promoted here: the small model that ships answers, which was trained on "
            "synthetic images alone"
        )
    return found


def bundle_to_serve(
    workspace: Workspace | None, *, weights: Path | None, instead: Path | None = None
) -> Path:
    """Return the folder of the bundle to work with.

    Args:
        workspace: whose promoted bundle, where none is named.
        weights: a bundle.
        instead: the bundle where neither is.

    Raises:
        WeightsError: it is no bundle, or none was promoted.
        DataError: ``models/current`` is damaged.
    """
    found = named_bundle(workspace, weights=weights)
    if found is not None:
        return found
    if instead is not None:
        return instead
    if weights is not None:
        raise WeightsError(f"{weights}: no bundle; make one of a model with `wafer export`")
    raise WeightsError(
        "no bundle is promoted here; run `wafer promote` in the workspace, or name a bundle with "
        "--weights"
    )


def passed(folder: Path, *, engine: str = AUTO) -> Served:
    """Return a bundle whose files are whole, and the engine that gives its golden answers.

    Args:
        folder: the bundle.
        engine: ``openvino``, ``onnxruntime``, or ``auto`` for the fastest that passes.

    Raises:
        DataError: files that are missing or altered.
        WeightsError: a bundle of a newer wafer, or no engine gives its golden answers.
    """
    bundle = open_bundle(folder)
    return Served(
        bundle=bundle, backend=choose_backend(bundle, BACKENDS, engine=engine, batch=BATCH)
    )


def promoted_at(folder: Path) -> int | None:
    """Return when it was last said that a bundle is promoted, in nanoseconds; None where nowhere.

    That is so of a bundle that was named, and of the one that ships.
    """
    try:
        return (folder.parent / CURRENT).stat().st_mtime_ns
    except FileNotFoundError:
        return None
