"""Training steps as fast as the processor does them: channels last, and bfloat16 if it helps."""

from __future__ import annotations

import time
from typing import Any

import torch  # noqa: TID253

from wafer.detector.ultralytics_adapter import DetectionModel, get_cfg
from wafer.inference.precision import Precision, faster_precision

__all__ = ["CpuModel", "fastest_precision"]

PROBE_BATCH = 16


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


def fastest_precision(
    model: CpuModel, *, architecture: str, channels: int, image_size: int
) -> Precision:
    """Return the faster precision of a training step on this processor, see `faster_precision`.

    The model is left as it was.
    """
    before, state = model.precision, {k: v.clone() for k, v in model.state_dict().items()}

    def seconds(precision: Precision) -> float:
        model.train()
        model.args = get_cfg()
        model.precision = precision
        return _step_seconds(model, channels, image_size)

    faster = faster_precision(f"{architecture} {PROBE_BATCH}x{channels}x{image_size}", seconds)
    model.zero_grad(set_to_none=True)
    model.criterion = None
    model.load_state_dict(state)
    model.precision = before
    return faster


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
