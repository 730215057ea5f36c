"""Which bundle is at work: the named one, else the promoted one, once it has passed the gate."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from wafer.datasets.errors import WeightsError
from wafer.datasets.workspace import Workspace
from wafer.inference.bundle import Bundle, open_bundle
from wafer.inference.engines.backend import Backend
from wafer.inference.engines.choosing import AUTO, BACKENDS, choose_backend, open_predictor
from wafer.inference.records import Predictor
from wafer.inference.registry import named_bundle

__all__ = ["Served", "bundle_to_serve", "passed"]

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
        return partial(open_predictor, self.bundle.folder, self.backend, BATCH)


def bundle_to_serve(workspace: Workspace | None, *, weights: Path | None) -> Path:
    """Return the folder of the bundle to work with.

    Args:
        workspace: whose promoted bundle, where none is named.
        weights: a bundle.

    Raises:
        WeightsError: it is no bundle, or none was promoted.
        DataError: ``models/current`` is damaged.
    """
    found = named_bundle(workspace, weights=weights)
    if found is not None:
        return found
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
