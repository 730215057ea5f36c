"""What this processor computes training steps in, fastest: found out once, and remembered."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Literal

import torch  # noqa: TID253

from wafer.datasets.files import cache_folder, write_text
from wafer.inference.cores import thread_count
from wafer.inference.memory import settle_memory
from wafer.inference.processor import processor_digest

__all__ = ["Precision", "faster_precision", "use_cores"]

Precision = Literal["float32", "bfloat16"]

# bfloat16 has to win clearly before its rounding is taken into account.
WORTHWHILE = 0.9
PROBE_STEPS = 5
# A processor without bfloat16 takes many times as long for it, minutes for five steps of a large
# network; other work on a machine hardly slows that much.
HOPELESS = 10.0


def use_cores(*, share: int = 1) -> None:
    """Let torch use all cores that this process may use, or its share of them.

    ultralytics would leave one core idle. ``OMP_NUM_THREADS`` bounds them where the user has set it
    (`wafer.inference.cores`). Memory that a step frees is kept for the next (`settle_memory`).
    """
    settle_memory()
    torch.set_num_threads(max(1, thread_count() // share))


def faster_precision(step: str, seconds: Callable[[Precision], float]) -> Precision:
    """Return the faster precision of a training step on this processor.

    It is timed once and remembered in the user's cache folder, because the same command has to
    train the same network again. Both are timed in turn and their fastest steps compared: other
    work on the machine only slows.

    Args:
        step: what it depends on besides the processor: the network and the size of its images.
        seconds: does one step and returns how long it took.
    """
    path = cache_folder() / "precision.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    key = f"{step} torch {torch.__version__} {_processor()}"
    if key not in known:
        use_cores()
        faster = _timed_precision(seconds)
        write_text(path, json.dumps({**known, key: faster}, indent=2) + "\n")
        return faster
    remembered: Precision = "bfloat16" if known[key] == "bfloat16" else "float32"
    return remembered


def _processor() -> str:
    """Name the processor and what it can do; several machines may share a home folder."""
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{capability} {processor_digest()}"


def _timed_precision(seconds: Callable[[Precision], float]) -> Precision:
    times: dict[Precision, list[float]] = {"float32": [], "bfloat16": []}
    for _ in range(PROBE_STEPS):
        for precision, taken in times.items():
            taken.append(seconds(precision))
        # The first steps also prepare: from them alone nothing is concluded.
        if len(times["float32"]) > 1 and min(times["bfloat16"]) > HOPELESS * max(times["float32"]):
            break
    fastest = {precision: min(taken) for precision, taken in times.items()}
    return "bfloat16" if fastest["bfloat16"] < WORTHWHILE * fastest["float32"] else "float32"
