"""Torch as an engine of a classifier's bundle, from its model file; where no other engine passes.

``-m wafer.classifier.torch_backend BUNDLE BATCH`` probes it.
"""

from __future__ import annotations

from functools import partial

from wafer.inference.bundle import WEIGHTS, Bundle
from wafer.inference.engines.backend import TORCH, Backend
from wafer.inference.engines.probe import answer_probe
from wafer.inference.records import Engine

__all__ = ["torch_backend"]


def torch_backend(device: str = "cpu") -> Backend:
    """Return torch on a device as a backend; torch itself is imported where it is opened."""
    return Backend(
        name=TORCH,
        distribution="torch",
        module="wafer.classifier.torch_backend",
        precisions=frozenset({"f32"}),
        open=partial(_open, device=device),
        reserve=True,
    )


def _open(bundle: Bundle, _batch: int, *, device: str) -> Engine:
    from wafer.classifier.loading import load_classifier

    return load_classifier(bundle.folder / WEIGHTS, device=device).predictor.engine


if __name__ == "__main__":
    answer_probe(torch_backend())
