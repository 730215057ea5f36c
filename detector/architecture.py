"""Building YOLOv5 models and filling them with weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch  # noqa: TID253 - this module builds torch models

from wafer.datasets.errors import WeightsError
from wafer.detector.precision import CpuModel
from wafer.inference.rejecting import network_tensors
from wafer.weights.convert import ConversionReport, convert_yolov5
from wafer.weights.loading import load_tensors

__all__ = ["ARCHITECTURES", "build_model", "fill_model", "shapes_of", "start_from", "tensor_shapes"]

ARCHITECTURES = ("yolov5n", "yolov5s", "yolov5m", "yolov5l", "yolov5x")


def build_model(architecture: str, *, names: Sequence[str], channels: int) -> CpuModel:
    """Return an untrained YOLOv5 (anchor-free u-head) for the given classes.

    Args:
        architecture: one of ``ARCHITECTURES``.
        names: the classes the detector learns, in the order of their ids.
        channels: input channels, 1 or 3.

    Raises:
        WeightsError: the architecture is not one of the five.
    """
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise WeightsError(f"no detector is called {architecture!r}; choose one of {known}")
    model = CpuModel(f"{architecture}.yaml", ch=channels, nc=len(names), verbose=False)
    model.names = dict(enumerate(names))
    return model


def shapes_of(architecture: str) -> dict[str, tuple[int, ...]]:
    """Return the tensor shapes of an architecture with three input channels and COCO's classes."""
    return tensor_shapes(build_model(architecture, names=[str(n) for n in range(80)], channels=3))


def tensor_shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every tensor of a model."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def fill_model(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Load every tensor of a model, in float32.

    Raises:
        WeightsError: a tensor is missing, left over, or of another shape.
    """
    state = {name: tensor.float() for name, tensor in tensors.items()}
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise WeightsError(
            f"the weights do not fit the architecture ({str(error).splitlines()[1].strip()}); "
            "check --model against the model that was trained"
        ) from error


def start_from(model: torch.nn.Module, path: Path) -> ConversionReport:
    """Fill a model with the first weights of a training, as far as a file has them.

    Args:
        model: keeps its own values where the file has none, as in the head.
        path: an official YOLOv5 v6/v7 state dict or a wafer model.

    Raises:
        WeightsError: the file is damaged or belongs to another architecture.
    """
    report = convert_yolov5(network_tensors(load_tensors(path)[0]), tensor_shapes(model))
    model.load_state_dict(dict(report.tensors), strict=False)
    return report
