"""Room for the decoded images of a training: in memory, else in a file that no one else sees."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

__all__ = ["pixel_slots"]

log = logging.getLogger(__name__)

GROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
GROUP_USED = Path("/sys/fs/cgroup/memory.current")
"""What a container may use, where there is a limit, and what it uses."""
MEMORY_SHARE = 0.5
"""Of the free memory: the rest is for the network and for other programs."""
DISK_SHARE = 0.5


def pixel_slots(
    number: int, size: int, *, folder: Path, processes: int = 1
) -> NDArray[np.uint8] | None:
    """Return room for the pixels of ``number`` images of at most ``size`` bytes each.

    It is in memory where that takes less than half of what is free (several processes of one
    training share that half), else on disk. The file has no name, so that it is gone when the
    process is, however that ends; its space is reserved first, so that a full disk is noticed here.

    Args:
        number: of images.
        size: bytes of the largest image.
        folder: where the file goes, made where needed.
        processes: how many processes of one training ask for as much each.

    Returns:
        uint8, not initialised; None where neither memory nor disk has room. Shape: (number, size).
    """
    needed = number * size
    if needed * processes < MEMORY_SHARE * _free_memory():
        return np.empty((number, size), np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    if needed * processes < DISK_SHARE * shutil.disk_usage(folder).free:
        with tempfile.TemporaryFile(dir=folder) as file, suppress(OSError):
            os.posix_fallocate(file.fileno(), 0, needed)
            pixels = np.memmap(file, np.uint8, "r+", shape=(number, size))
            log.info("note: the images do not fit into memory; %d MB are on disk", needed >> 20)
            return pixels
    log.info("note: the images fit neither into memory nor on disk and are decoded at every use")
    return None


def _free_memory() -> int:
    """Return the bytes that are free on the machine or, where that is less, in the container."""
    free = int(psutil.virtual_memory().available)
    limit = GROUP_LIMIT.read_text(encoding="ascii").strip() if GROUP_LIMIT.is_file() else ""
    if not limit.isdecimal():
        return free
    return min(free, int(limit) - int(GROUP_USED.read_text(encoding="ascii")))
