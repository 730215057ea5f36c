"""Freed blocks are kept, in real processes: how often the kernel is asked for pages tells."""

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="another C library decides for itself"
)
BLOCK = 64 << 20
PAGES = BLOCK // os.sysconf("SC_PAGE_SIZE")
AGAIN = 4
SCRIPT = f"""
import ctypes, resource, sys
exec(sys.argv[1])
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
def once():
    block = ctypes.c_void_p(libc.malloc(ctypes.c_size_t({BLOCK})))
    ctypes.memset(block, 1, {BLOCK})
    libc.free(block)
once()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({AGAIN}):
    once()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages_asked_for(start: str, **environment: str) -> int:
    """Return how many pages four large blocks took, one after the other, after a first one."""
    given = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")} | environment
    done = subprocess.run(
        [sys.executable, "-P", "-c", SCRIPT, start],
        capture_output=True,
        text=True,
        check=True,
        env=given,
    )
    return int(done.stdout)


TRAINING = "from wafer.inference.precision import use_cores; use_cores()"
SERVICE = "import wafer.classifier, wafer.detector.shipped_bundle, wafer.service.models"


@pytest.mark.slow
def test_a_training_keeps_freed_blocks() -> None:
    assert pages_asked_for(TRAINING) < PAGES / 10


def test_a_service_gives_them_back() -> None:
    assert pages_asked_for(SERVICE) > AGAIN * PAGES * 0.9


@pytest.mark.slow
def test_what_the_user_has_settled_stays() -> None:
    found = pages_asked_for(TRAINING, MALLOC_TRIM_THRESHOLD_="131072")
    assert found > AGAIN * PAGES * 0.9
