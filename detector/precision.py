"""Training steps as fast as the processor does them: channels last, and bfloat16 if it helps."""

from __future__ import annotations

import json
import os
import time
from typing import Any, Literal

import torch  # noqa: TID253

from wafer.datasets.files import cache_folder, write_text
from wafer.detector.ultralytics_adapter import DetectionModel, get_cfg
from wafer.inference.processor import processor_digest

__all__ = ["CpuModel", "Precision", "fastest_precision", "use_cores"]

Precision = Literal["float32", "bfloat16"]

# bfloat16 has to win clearly before its rounding is taken into account.
WORTHWHILE = 0.9
PROBE_BATCH = 16
PROBE_STEPS = 5


class CpuModel(DetectionModel):  # type: ignore[misc]
    """A detection model whose training pass on a CPU runs channels last, in bfloat16 if asked.

    Losses, weights, optimizer and validation stay in float32. Without channels last bfloat16 is
    slower than float32 on a CPU, so the two go together.
    """

    precision: Precision = "float32"

    def _predict_once(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        x = x.contiguous(memory_format=torch.channels_last)
        if not self.training or self.precision == "float32":
            return super()._predict_once(x, *args, **kwargs)
        with torch.autocast("cpu", torch.bfloat16):
            output = super()._predict_once(x, *args, **kwargs)
        return _to_float32(output)


def use_cores(*, share: int = 1) -> None:
    """Let torch use all cores that this process may use, or its share of them.

    ultralytics would leave one core idle.
    """
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // share))


def fastest_precision(
    model: CpuModel, *, architecture: str, channels: int, image_size: int
) -> Precision:
    """Return the faster precision of a training step on this processor.

    It is timed once and remembered in the user's cache folder, because the same command has to
    train the same network again. The model is left as it was.
    """
    path = cache_folder() / "precision.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    images = f"{PROBE_BATCH}x{channels}x{image_size}"
    key = f"{architecture} {images} torch {torch.__version__} {_processor()}"
    if key not in known:
        use_cores()
        faster = _timed_precision(model, channels, image_size)
        write_text(path, json.dumps({**known, key: faster}, indent=2) + "\n")
        return faster
    remembered: Precision = "bfloat16" if known[key] == "bfloat16" else "float32"
    return remembered


def _processor() -> str:
    """Name the processor and what it can do; several machines may share a home folder."""
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{capability} {processor_digest()}"


def _timed_precision(model: CpuModel, channels: int, image_size: int) -> Precision:
    """Time both in turn and compare the fastest steps: other work on the machine only slows."""
    before, state = model.precision, {k: v.clone() for k, v in model.state_dict().items()}
    model.train()
    model.args = get_cfg()
    seconds: dict[Precision, list[float]] = {"float32": [], "bfloat16": []}
    for _ in range(PROBE_STEPS):
        for precision, times in seconds.items():
            model.precision = precision
            times.append(_step_seconds(model, channels, image_size))
    model.zero_grad(set_to_none=True)
    model.criterion = None
    model.load_state_dict(state)
    model.precision = before
    fastest = {precision: min(times) for precision, times in seconds.items()}
    return "bfloat16" if fastest["bfloat16"] < WORTHWHILE * fastest["float32"] else "float32"


def _step_seconds(model: CpuModel, channels: int, image_size: int) -> float:
    batch = {
        "img": torch.zeros(PROBE_BATCH, channels, image_size, image_size),
        "batch_idx": torch.arange(PROBE_BATCH, dtype=torch.float32),
        "cls": torch.zeros(PROBE_BATCH, 1),
        "bboxes": torch.full((PROBE_BATCH, 4), 0.5),
    }
    start = time.perf_counter()
    model(batch)[0].sum().backward()
    return time.perf_counter() - start


def _to_float32(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.float()
    if isinstance(value, dict):
        return {key: _to_float32(item) for key, item in value.items()}
    return type(value)(_to_float32(item) for item in value)
