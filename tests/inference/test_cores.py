"""How many threads compute."""

import os

import pytest
import torch

from wafer.inference.cores import core_count, thread_count
from wafer.inference.precision import use_cores

CORES = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("bound", "share", "threads"),
    [
        ("1", 1, 1),
        ("64", 1, CORES),
        ("", 1, CORES),
        ("two", 1, CORES),
        ("0", 1, CORES),
        ("64", 99, 1),
    ],
)
def test_all_cores_are_used_unless_the_user_bounds_them(
    monkeypatch: pytest.MonkeyPatch, bound: str, share: int, threads: int
) -> None:
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", bound)
    try:
        use_cores(share=share)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_a_process_that_may_use_fewer_cores_counts_those_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 2, 3})
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert (core_count(), thread_count()) == (3, 3)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert (core_count(), thread_count()) == (3, 2)
