"""Room for the decoded images of a training: in memory, else in a file that no one else sees."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

__all__ = ["pixel_slots"]

log = logging.getLogger(__name__)

MEMORY_SHARE = 0.5
"""Of the free memory: the rest is for the network and for other programs."""
DISK_SHARE = 0.5


def pixel_slots(number: int, size: int, *, folder: Path) -> NDArray[np.uint8] | None:
    """Return room for the pixels of ``number`` images of at most ``size`` bytes each.

    It is in memory where that takes less than half of what is free, else on disk. The file has no
    name, so that it is gone when the process is, however that ends; its space is reserved first,
    so that a full disk is noticed here.

    Args:
        number: of images.
        size: bytes of the largest image.
        folder: where the file goes, made where needed.

    Returns:
        uint8, not initialised; None where neither memory nor disk has room. Shape: (number, size).
    """
    needed = number * size
    if needed < MEMORY_SHARE * psutil.virtual_memory().available:
        return np.empty((number, size), np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    if needed < DISK_SHARE * shutil.disk_usage(folder).free:
        log.info("note: the images do not fit into memory; %d MB of them are on disk", needed >> 20)
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, needed)
            return np.memmap(file, np.uint8, "r+", shape=(number, size))
    log.info("note: the images fit neither into memory nor on disk and are decoded at every use")
    return None
