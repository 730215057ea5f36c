"""Torch as an engine of a bundle, from its model file; asked where no other engine passes.

``-m wafer.detector.torch_backend BUNDLE BATCH`` probes it.
"""

from __future__ import annotations

from functools import partial

from wafer.inference.bundle import WEIGHTS, Bundle
from wafer.inference.engines.backend import TORCH, Backend
from wafer.inference.engines.probe import answer_probe
from wafer.inference.records import Engine

__all__ = ["torch_backend"]


def torch_backend(device: str = "cpu", *, above: float | None = None) -> Backend:
    """Return torch on a device as a backend; torch itself is imported where it is opened.

    Args:
        device: ``cpu`` or ``cuda:N``.
        above: the score from which on all boxes are given too, 0 to 1; None for none.
    """
    return Backend(
        name=TORCH,
        distribution="torch",
        module="wafer.detector.torch_backend",
        precisions=frozenset({"f32"}),
        open=partial(_open, device=device, above=above),
        reserve=True,
    )


def _open(bundle: Bundle, _batch: int, *, device: str, above: float | None) -> Engine:
    from wafer.detector.loading import load_detector

    return load_detector(bundle.folder / WEIGHTS, device=device).engine(above=above)


if __name__ == "__main__":
    answer_probe(torch_backend())
