"""How the C library keeps memory that is given back to it."""

from __future__ import annotations

import ctypes
import os
import sys

__all__ = ["settle_memory"]

# Of malloc.h.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
KEPT = 2**31 - 1
LARGEST = 2**30


def settle_memory() -> None:
    """Let freed memory be kept for the next step of a training, where the user has not settled it.

    glibc gets each block above 32 MB from the kernel, which fills it with zeros page by page, and
    gives it back as soon as it is free. Activations of a batch may be larger: a step would spend up
    to a third of its time there. A user settles it with one of glibc's ``MALLOC_`` variables. With
    another C library nothing is changed.
    """
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(MMAP_THRESHOLD, LARGEST)
        mallopt(TRIM_THRESHOLD, KEPT)
