"""What making a bundle takes, whatever the model: golden images, the graph, the description.

Imported where models are made; running a bundle needs none of it.
"""

from __future__ import annotations

import io
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch  # noqa: TID253
from numpy.typing import NDArray
from torch.jit import TracerWarning  # type: ignore[attr-defined]  # noqa: TID253

from wafer.datasets.errors import ImageError, WeightsError
from wafer.datasets.images import decode_image
from wafer.datasets.records import Sample
from wafer.datasets.runs import Run, versions
from wafer.datasets.workspace import Workspace
from wafer.evaluation.rejecting import Method
from wafer.inference.bundle import (
    ONNX,
    OPENVINO,
    PREPROCESSING,
    TOLERANCES,
    WEIGHTS,
    Description,
    Precision,
)
from wafer.inference.engines.onnx_runtime import OUTPUTS
from wafer.inference.engines.open_vino import onnx_to_openvino
from wafer.inference.preprocess import letterbox
from wafer.inference.tally import Totals
from wafer.weights.checkpoint import Checkpoint

__all__ = ["GOLDEN_IMAGES", "describe", "golden_candidates", "write_networks"]

OPSET = 17
GOLDEN_IMAGES = 32
LOOKED_AT = 64
"""So many images are looked at for golden ones, because of some any class would be right."""
PACKAGES = ("onnx", "openvino")

Pixels = NDArray[np.uint8]


def golden_candidates(workspace: Workspace, checkpoint: Checkpoint) -> Pixels:
    """Return letterboxed images that may become golden ones: validation images, class by class.

    Raises:
        WeightsError: the workspace has none that can be decoded.
    """
    found: list[Pixels] = []
    for sample in _class_by_class(workspace.samples()):
        try:
            pixels = decode_image(
                workspace.image_path(sample.image),
                colour=checkpoint.colour,
                white_level=checkpoint.white_level,
            )
        except ImageError:
            continue
        found.append(letterbox(pixels, checkpoint.image_size).image)
        if len(found) == LOOKED_AT:
            break
    if not found:
        raise WeightsError(f"{workspace.root}: no image that could be a golden one; add some")
    return np.stack(found)


def describe(
    checkpoint: Checkpoint,
    model: Path,
    *,
    precision: Precision,
    golden_images: int,
    boxless: bool = False,
    reject: Method | None = None,
    tools: Mapping[str, str],
    usual: Totals | None,
) -> Description:
    """Return what model.json says.

    Args:
        checkpoint: the model.
        model: its run folder, whose metrics on validation images are taken over, or its file.
        precision: what engines compute in.
        golden_images: how many there are.
        boxless: it names a class for the whole image.
        reject: the method by which images of no class are told where a command names none.
        tools: of the export, besides those of every export, by name.
        usual: what the model answers for validation images.
    """
    return Description(
        architecture=checkpoint.architecture,
        classes=checkpoint.classes.classes,
        image_size=checkpoint.image_size,
        channels=3 if checkpoint.colour else 1,
        white_level=checkpoint.white_level,
        boxless=boxless,
        preprocessing=dict(PREPROCESSING),
        precision=precision,
        tolerance=TOLERANCES[precision],
        golden_images=golden_images,
        decision=replace(checkpoint.decision, reject=reject),
        dataset_hash=checkpoint.dataset_hash,
        metrics=_metrics(model),
        training=dict(checkpoint.training),
        versions={"training": dict(checkpoint.versions), "export": {**_tools(), **tools}},
        weights_sha256=checkpoint.digest,
        licence=checkpoint.licence,
        provenance=checkpoint.provenance,
        usual=usual,
    )


def write_networks(
    folder: Path, *, weights: Path, network: torch.nn.Module, images: Pixels
) -> None:
    """Write a model into the folder of a bundle: its file, and its graph for every engine.

    Args:
        folder: of the bundle.
        weights: the model file.
        network: from letterboxed uint8 images to boxes, scores and features.
        images: some that it can be shown.
    """
    shutil.copyfile(weights, folder / WEIGHTS)
    (folder / ONNX).write_bytes(_graph(network, images[:2]))
    onnx_to_openvino(folder / ONNX, folder / OPENVINO)


def _class_by_class(samples: Sequence[Sample]) -> Iterator[Sample]:
    """Yield validation images, one of each class in turn; then all others in their order."""
    of_class: dict[str | None, list[Sample]] = {}
    for sample in samples:
        if sample.split == "val":
            of_class.setdefault(sample.image_class, []).append(sample)
    for turn in zip_longest(*of_class.values()):
        yield from (sample for sample in turn if sample is not None)
    yield from (sample for sample in samples if sample.split != "val")


def _graph(network: torch.nn.Module, images: Pixels) -> bytes:
    """Return the network as ONNX, for any number of images."""
    graph = io.BytesIO()
    names = ("images", *OUTPUTS)
    with warnings.catch_warnings(), torch.no_grad():
        # The exporter that torch prefers needs onnxscript, one more package to keep in step with
        # torch. The older one warns of itself, and of a branch in the head on a size that is fixed.
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"torch\.onnx")
        warnings.filterwarnings("ignore", "You are using the legacy", DeprecationWarning)
        warnings.filterwarnings("ignore", category=TracerWarning)
        torch.onnx.export(
            network,
            (torch.from_numpy(images),),
            graph,  # type: ignore[arg-type]
            input_names=list(names[:1]),
            output_names=list(names[1:]),
            dynamic_axes={name: {0: "batch"} for name in names},
            opset_version=OPSET,
            dynamo=False,
        )
    return graph.getvalue()


def _metrics(model: Path) -> dict[str, float | None]:
    """Return what a finished run measured on validation images; nothing for a bare file."""
    if not (model / "run.json").is_file():
        return {}
    return dict(Run(model).record.get("metrics") or {})


def _tools() -> dict[str, str]:
    return {**versions(), **{name: version(name) for name in PACKAGES}}
