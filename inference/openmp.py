"""How the threads of numeric libraries wait for each other."""

from __future__ import annotations

import os

__all__ = ["settle_openmp"]


def settle_openmp() -> None:
    """Settle how many threads OpenMP starts and how they wait, where the user has not.

    OpenMP reads this once, when torch is first loaded: rooms that train call it before. Threads
    that wait by spinning for long, the default, make a training several times slower as soon as
    other work shares the cores; threads that do not spin at all lose half of the speed on small
    images. ultralytics would set the number of threads to one.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count() or 1))
