"""Official YOLOv5 v6/v7 tensors under the names and shapes of another YOLOv5 model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch  # noqa: TID253 - this module computes with tensors

from wafer.datasets.errors import WeightsError

__all__ = ["ARCHITECTURE_BY_STEM", "ConversionReport", "architecture_of", "convert_yolov5"]

STEM = "model.0.conv.weight"
ARCHITECTURE_BY_STEM: Mapping[int, str] = {
    16: "yolov5n",
    32: "yolov5s",
    48: "yolov5m",
    64: "yolov5l",
    80: "yolov5x",
}
"""The architecture by the number of filters of its first convolution."""

SMALLEST_SHARE = 0.5
LEAST_FILLED = 0.25
"""A backbone alone is half of a model without its head."""
HEAD = "model.24."
SHOWN_SHAPES = 3
WRAPPERS = re.compile(r"^(?:module\.|model\.)*(?=\d+\.)")

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ConversionReport:
    """What of a source fits a target.

    ``tensors`` has the fitting ones under the target's names, floating ones in float32.
    ``skipped`` says for each tensor of the source that was left out why, and ``untouched`` names
    the tensors of the target that got nothing.
    """

    tensors: Mapping[str, torch.Tensor]
    skipped: Mapping[str, str]
    untouched: tuple[str, ...]

    @property
    def matched(self) -> int:
        """Return how many tensors fit."""
        return len(self.tensors)


def convert_yolov5(
    tensors: Mapping[str, torch.Tensor], target_shapes: Mapping[str, Shape]
) -> ConversionReport:
    """Fit YOLOv5 tensors to a target model by name and shape.

    Official v6/v7 state dicts and ultralytics' ``yolov5*.yaml`` name backbone and neck alike;
    wrappers (``model.``, ``module.``) before the number of the layer are dropped. The anchor-based
    head of the official files has no place in the anchor-free target and is skipped. Where the
    target has one input channel and the source three, the filters of the first convolution are
    summed, and where it is the other way round, each gets a third of the one: for an image whose
    three channels are equal that is the same convolution.

    Args:
        tensors: of the source, any floating type.
        target_shapes: shapes of the target by name, as in its state dict.

    Raises:
        WeightsError: a tensor holds NaN, infinity or complex numbers, less than half of the
            source's weights fit: it is another architecture, or they fill less than a quarter of
            the target without its head.
    """
    fitting: dict[str, torch.Tensor] = {}
    skipped: dict[str, str] = {}
    for original, value in tensors.items():
        name = WRAPPERS.sub("model.", original)
        tensor = _plain(original, value)
        shape = target_shapes.get(name)
        if name == STEM and shape is not None:
            tensor = _with_channels_of(shape, tensor)
        if shape is None:
            skipped[original] = "the target has no tensor of this name"
        elif tuple(tensor.shape) != shape:
            skipped[original] = f"shape {tuple(tensor.shape)}, the target has {shape}"
        else:
            fitting[name] = tensor
    _check_share(tensors, fitting, skipped)
    _check_filled(fitting, target_shapes)
    untouched = tuple(name for name in target_shapes if name not in fitting)
    return ConversionReport(fitting, skipped, untouched)


def architecture_of(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return which YOLOv5 v6/v7 model tensors belong to, by the width of the first convolution.

    Raises:
        WeightsError: they belong to none of the five.
    """
    stems = [t for name, t in tensors.items() if WRAPPERS.sub("model.", name) == STEM]
    filters = int(stems[0].shape[0]) if stems and stems[0].ndim == 4 else 0
    if filters not in ARCHITECTURE_BY_STEM:
        known = ", ".join(ARCHITECTURE_BY_STEM.values())
        raise WeightsError(f"not the tensors of a YOLOv5 v6/v7 model; known are {known}")
    return ARCHITECTURE_BY_STEM[filters]


def _plain(name: str, tensor: torch.Tensor) -> torch.Tensor:
    if tensor.is_complex():
        raise WeightsError(f"tensor {name} holds complex numbers; the file is of no use")
    if not tensor.is_floating_point():
        return tensor
    if not bool(torch.isfinite(tensor).all()):
        raise WeightsError(f"tensor {name} holds NaN or infinity; the file is of no use")
    return tensor.float()


def _with_channels_of(shape: Shape, stem: torch.Tensor) -> torch.Tensor:
    """Return a first convolution for grey in place of colour, or for colour in place of grey."""
    if stem.ndim != 4:
        return stem
    filters, channels, *sides = stem.shape
    if channels == 3 and shape == (filters, 1, *sides):
        return stem.sum(dim=1, keepdim=True)
    if channels == 1 and shape == (filters, 3, *sides):
        return stem.repeat(1, 3, 1, 1) / 3
    return stem


def _check_share(
    tensors: Mapping[str, torch.Tensor],
    fitting: Mapping[str, torch.Tensor],
    skipped: Mapping[str, str],
) -> None:
    """Refuse another architecture; batch counters, which fit everywhere, are not counted."""
    telling = sum(tensor.ndim > 0 for tensor in tensors.values())
    found = sum(tensor.ndim > 0 for tensor in fitting.values())
    if telling and found >= SMALLEST_SHARE * telling:
        return
    examples = [f"{name}: {why}" for name, why in skipped.items() if why.startswith("shape")]
    shown = "; ".join((examples or list(skipped))[:SHOWN_SHAPES])
    raise WeightsError(
        f"these are the weights of another architecture: {found} of {telling} tensors fit"
        + (f" ({shown})" if shown else "")
        + "; choose the model they belong to with --model"
    )


def _check_filled(fitting: Mapping[str, torch.Tensor], target_shapes: Mapping[str, Shape]) -> None:
    """Refuse a file that holds hardly anything, as a training from it would be one from scratch."""
    wanted = [name for name, shape in target_shapes.items() if shape and not name.startswith(HEAD)]
    found = sum(name in fitting for name in wanted)
    if found < LEAST_FILLED * len(wanted):
        raise WeightsError(
            f"these weights are of {found} tensors, and the model has {len(wanted)} below its "
            "head; name a file of a whole model"
        )
