"""`wafer export`: a model file becomes a bundle that answers without torch."""

from __future__ import annotations

import io
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch  # noqa: TID253
from numpy.typing import NDArray
from torch.jit import TracerWarning  # type: ignore[attr-defined]  # noqa: TID253

from wafer.datasets.errors import ImageError, WeightsError
from wafer.datasets.images import decode_image
from wafer.datasets.records import Sample
from wafer.datasets.runs import Run, versions
from wafer.datasets.workspace import Workspace
from wafer.detector.deployed import DeployedModel, best_boxes, pooled
from wafer.detector.loading import Detector, choose_model, load_detector
from wafer.detector.quantising import quantise_network
from wafer.detector.usual import usual_answers
from wafer.inference.bundle import (
    DESCRIPTION,
    GOLDEN,
    ONNX,
    OPENVINO,
    PREPROCESSING,
    TOLERANCES,
    WEIGHTS,
    Bundle,
    Description,
    Precision,
)
from wafer.inference.engines.onnx_runtime import OUTPUTS
from wafer.inference.engines.open_vino import OpenVinoEngine, onnx_to_openvino
from wafer.inference.engines.quantising import nncf_version
from wafer.inference.golden import Golden, Tolerance
from wafer.inference.preprocess import letterbox
from wafer.inference.registry import add_bundle
from wafer.weights.checkpoint import Checkpoint

__all__ = ["export_model", "golden_of", "int8_golden"]

OPSET = 17
GOLDEN_IMAGES = 32
LOOKED_AT = 64
"""So many images are looked at for golden ones, because of some any class would be right."""
PACKAGES = ("onnx", "openvino")

Pixels = NDArray[np.uint8]


def export_model(workspace: Workspace, model: Path, *, precision: Precision = "f32") -> Bundle:
    """Make a bundle of a model in the models folder of a workspace.

    Its golden images are those of the validation images, class by class, on which the model
    decides clearly. Exported again with the same tools on the same processor, the same model over
    the same images gives the same bundle.

    Args:
        workspace: whose images are the golden ones, and for int8 those it is calibrated on and
            compared with f32.
        model: a run folder or model file.
        precision: what engines compute in, ``f32``, ``bf16`` or ``int8``.

    Raises:
        WeightsError: no such model, a damaged one, or no image to look at; for int8 also NNCF that
            is not installed, images that are missing, or answers that moved too far.
        ImageError: for int8, a validation image that cannot be decoded.
    """
    tools = {"nncf": nncf_version()} if precision == "int8" else {}
    path = choose_model(workspace, weights=model)
    detector = load_detector(path, device="cpu")
    if precision == "int8":
        detector.checkpoint.check_classes(workspace.classes)
    checkpoint = detector.checkpoint
    tolerance = TOLERANCES[precision]
    network = DeployedModel(detector.model.to(memory_format=torch.contiguous_format))
    images = _golden_candidates(workspace, checkpoint)
    golden = golden_of(network, images, tolerance)
    description = Description(
        architecture=checkpoint.architecture,
        classes=checkpoint.classes.classes,
        image_size=checkpoint.image_size,
        channels=3 if checkpoint.colour else 1,
        white_level=checkpoint.white_level,
        preprocessing=dict(PREPROCESSING),
        precision=precision,
        tolerance=tolerance,
        golden_images=len(golden),
        decision=checkpoint.decision,
        dataset_hash=checkpoint.dataset_hash,
        metrics=_metrics(model),
        training=dict(checkpoint.training),
        versions={"training": dict(checkpoint.versions), "export": {**_tools(), **tools}},
        weights_sha256=checkpoint.digest,
        licence=checkpoint.licence,
        provenance=checkpoint.provenance,
        usual=usual_answers(workspace, detector.predictor, known=golden.features),
    )

    def fill(folder: Path) -> None:
        shutil.copyfile(path, folder / WEIGHTS)
        (folder / ONNX).write_bytes(_graph(network, images[:2]))
        onnx_to_openvino(folder / ONNX, folder / OPENVINO)
        answers, about = golden, description
        if precision == "int8":
            shift = _in_int8(folder, workspace, detector)
            answers = int8_golden(golden, folder / OPENVINO, tolerance)
            about = description.model_copy(update={"metrics": {**description.metrics, **shift}})
        (folder / GOLDEN).write_bytes(answers.to_bytes())
        (folder / DESCRIPTION).write_bytes(about.to_bytes())

    return add_bundle(workspace.models, fill)


def golden_of(network: DeployedModel, images: Pixels, tolerance: Tolerance) -> Golden:
    """Return the images that a network decides most clearly, with its answers.

    An image is decided where every box within twice the tolerance of the best score, of whatever
    class, is of the same class and nearly the same place: then every engine within the tolerance
    has to give that class and that box.

    Args:
        network: the model on torch, in float32.
        images: letterboxed, at least one; decided ones come first, else in their order.
        tolerance: of the bundle.
    """
    with torch.inference_mode():
        decoded, levels = network.look(torch.from_numpy(images))
        answers = [output.numpy() for output in (*best_boxes(decoded), pooled(levels))]
        decided = np.array([_is_decided(row, tolerance) for row in decoded])
    chosen = np.argsort(~decided, kind="stable")[:GOLDEN_IMAGES]
    boxes, scores, features = (answer[chosen] for answer in answers)
    return Golden(
        images=images[chosen],
        boxes=boxes,
        scores=scores,
        features=features,
        decided=decided[chosen],
    )


def int8_golden(golden: Golden, network: Path, tolerance: Tolerance) -> Golden:
    """Return golden images with the answers of a network of eight bits instead.

    Decided are those that both networks decide alike: what float32 has no rival for, and where
    eight bits give the same class by more than twice the tolerance, and nearly the same box.

    Args:
        golden: with the answers of the float32 network.
        network: an .xml file of OpenVINO.
        tolerance: of the bundle.
    """
    with closing(OpenVinoEngine(network, batch=len(golden), precision="int8")) as engine:
        answer = engine.infer(golden.images)
    assert answer.features is not None
    best = answer.scores.max(axis=1, keepdims=True)
    alone = (answer.scores >= best - 2 * tolerance.score).sum(axis=1) == 1
    same = answer.classes == golden.scores.argmax(axis=1)
    near = (np.abs(answer.boxes - golden.boxes) <= tolerance.box).all(axis=1)
    return Golden(
        images=golden.images,
        boxes=answer.boxes,
        scores=answer.scores,
        features=answer.features,
        decided=golden.decided & alone & same & near,
    )


def _in_int8(folder: Path, workspace: Workspace, detector: Detector) -> dict[str, float]:
    """Put a network of eight bits in the place of the float32 one, and return what that moved."""
    # Nodes are named after their layers, of which the last is the head.
    layers = tuple(f"/model/model.{number}/" for number in range(len(detector.model.model) - 1))

    with TemporaryDirectory(dir=folder) as scratch:
        made = Path(scratch, OPENVINO)
        shift = quantise_network(
            folder / OPENVINO,
            made,
            workspace=workspace,
            samples=workspace.samples(),
            predictor=detector.predictor,
            may_be_int8=lambda name: name.startswith(layers),
        )
        for suffix in (".xml", ".bin"):
            made.with_suffix(suffix).replace((folder / OPENVINO).with_suffix(suffix))
    return {
        "int8_images": float(shift.overall.images),
        "int8_agreement": shift.overall.agreement,
        "int8_recall_loss": shift.recall_loss,
    }


def _is_decided(decoded: torch.Tensor, tolerance: Tolerance) -> bool:
    """Return whether the best box of one image, shape (4 + classes, anchors), has no rival."""
    scores = decoded[4:]
    classes, anchors = torch.nonzero(scores >= scores.max() - 2 * tolerance.score, as_tuple=True)
    if bool((classes != classes[0]).any()):
        return False
    rivals = torch.cat([decoded[:4, anchors].T, scores[classes, anchors][:, None]], dim=1)
    corners, _ = best_boxes(rivals[:, :, None])
    return bool((corners.amax(dim=0) - corners.amin(dim=0)).max() <= tolerance.box / 2)


def _golden_candidates(workspace: Workspace, checkpoint: Checkpoint) -> Pixels:
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


def _class_by_class(samples: Sequence[Sample]) -> Iterator[Sample]:
    """Yield validation images, one of each class in turn; then all others in their order."""
    of_class: dict[str | None, list[Sample]] = {}
    for sample in samples:
        if sample.split == "val":
            of_class.setdefault(sample.image_class, []).append(sample)
    for turn in zip_longest(*of_class.values()):
        yield from (sample for sample in turn if sample is not None)
    yield from (sample for sample in samples if sample.split != "val")


def _graph(network: DeployedModel, images: Pixels) -> bytes:
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
