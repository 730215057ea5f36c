"""The cores that a process may use: how many, and how threads of numeric libraries share them."""

from __future__ import annotations

import os

__all__ = ["core_count", "settle_openmp", "thread_count"]


def core_count() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_count() -> int:
    """Return how many threads may compute at once: the cores, or ``OMP_NUM_THREADS`` if fewer."""
    bound = os.environ.get("OMP_NUM_THREADS", "")
    return min(core_count(), (int(bound) if bound.isdigit() else 0) or core_count())


def settle_openmp() -> None:
    """Settle how many threads OpenMP starts and how they wait, where the user has not.

    OpenMP reads this once, when torch is first loaded: rooms that train call it before. Threads
    that wait by spinning for long, the default, make a training several times slower as soon as
    other work shares the cores; threads that do not spin at all lose half of the speed on small
    images. ultralytics would set the number of threads to one.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    os.environ.setdefault("OMP_NUM_THREADS", str(core_count()))
