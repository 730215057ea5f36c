"""Which engine runs a bundle: the fastest of those that give its golden answers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from wafer.datasets.errors import WeightsError
from wafer.inference.bundle import Bundle, open_bundle
from wafer.inference.engines.backend import Backend
from wafer.inference.engines.onnx_runtime import ONNX_RUNTIME
from wafer.inference.engines.open_vino import OPEN_VINO
from wafer.inference.engines.probe import probe
from wafer.inference.records import Predictor

__all__ = ["AUTO", "BACKENDS", "check_bundle", "choose_backend", "open_predictor"]

log = logging.getLogger(__name__)

AUTO = "auto"
BACKENDS = (OPEN_VINO, ONNX_RUNTIME)


def check_bundle(bundle: Bundle) -> None:
    """Check that an engine other than torch gives a bundle's golden answers here.

    Raises:
        WeightsError: none does.
    """
    choose_backend(bundle, BACKENDS)


def choose_backend(
    bundle: Bundle, backends: Sequence[Backend], *, engine: str = AUTO, batch: int = 16
) -> Backend:
    """Return the backend that a command uses.

    Args:
        bundle: the model.
        backends: those there are.
        engine: the name of one of them, or ``auto`` for the fastest that passes; one with
            ``reserve`` is taken only where no other passes.
        batch: images a call.

    Raises:
        WeightsError: no such engine, or none that gives the golden answers here; each with why.
    """
    named = [b for b in backends if engine in (AUTO, b.name)]
    if not named:
        known = ", ".join(backend.name for backend in backends)
        raise WeightsError(f"no engine is called {engine!r}; choose {AUTO} or one of {known}")
    refusals = []
    for reserve in (False, True):
        passing = []
        for backend in (b for b in named if b.reserve == reserve):
            verdict = probe(backend, bundle, batch=batch)
            if verdict.refusal:
                refusals.append(f"{backend.name}: {verdict.refusal}")
                log.info("engine %s not used: %s", backend.name, verdict.refusal)
            else:
                passing.append((verdict.seconds, backend.name, backend))
        if passing:
            return min(passing, key=lambda found: found[:2])[2]
    raise WeightsError(
        f"no engine gives the golden answers of {bundle.folder} here ({'; '.join(refusals)}); "
        "export the model again"
    )


def open_predictor(folder: Path, backend: Backend, batch: int, *, looks: bool = False) -> Predictor:
    """Open a bundle on a backend, ready to answer for files.

    Args:
        folder: the bundle; all its files are checked once more.
        backend: one that gives its golden answers here.
        batch: images a call.
        looks: rows say how images look (`Appearance`), which takes a little of each.

    Raises:
        DataError: files that are missing or altered.
        WeightsError: the runtime refuses it.
    """
    bundle = open_bundle(folder)
    predictor = bundle.predictor(backend.open(bundle, batch))
    return replace(predictor, known=bundle.golden().features) if looks else predictor
