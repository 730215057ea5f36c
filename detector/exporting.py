"""`wafer export`: a model file becomes a bundle that answers without torch."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch  # noqa: TID253
from numpy.typing import NDArray

from wafer.datasets.workspace import Workspace
from wafer.detector.deployed import DeployedModel, best_boxes, pooled
from wafer.detector.loading import Detector, choose_model, load_detector
from wafer.detector.quantising import quantise_network
from wafer.evaluation.rejecting import Method
from wafer.inference.bundle import (
    DESCRIPTION,
    GOLDEN,
    OPENVINO,
    TOLERANCES,
    Bundle,
    Precision,
)
from wafer.inference.engines.open_vino import OpenVinoEngine
from wafer.inference.engines.quantising import nncf_version
from wafer.inference.exporting import GOLDEN_IMAGES, describe, golden_candidates, write_networks
from wafer.inference.golden import Golden, Tolerance
from wafer.inference.registry import add_bundle
from wafer.inference.rejecting import rejection_of
from wafer.inference.usual import usual_answers

__all__ = ["export_model", "golden_of", "int8_golden"]

Pixels = NDArray[np.uint8]


def export_model(
    workspace: Workspace,
    model: Path,
    *,
    precision: Precision = "f32",
    reject: Method | None = None,
) -> Bundle:
    """Make a bundle of a model in the models folder of a workspace.

    Its golden images are those of the validation images, class by class, on which the model
    decides clearly. Exported again with the same tools on the same processor, the same model over
    the same images gives the same bundle.

    Args:
        workspace: whose images are the golden ones, and for int8 those it is calibrated on and
            compared with f32.
        model: a run folder or model file.
        precision: what engines compute in, ``f32``, ``bf16`` or ``int8``.
        reject: the method by which images of no class are told where a command names none; None
            for not at all.

    Raises:
        WeightsError: no such model, a damaged one, no image to look at, or a model that keeps
            nothing to tell images of no class by; for int8 also NNCF that
            is not installed, images that are missing, or answers that moved too far.
        ImageError: for int8, a validation image that cannot be decoded.
    """
    tools = {"nncf": nncf_version()} if precision == "int8" else {}
    path = choose_model(workspace, weights=model)
    detector = load_detector(path, device="cpu")
    if precision == "int8":
        detector.checkpoint.check_classes(workspace.classes)
    rejection_of(path, reject, classes=len(detector.checkpoint.classes))
    tolerance = TOLERANCES[precision]
    network = DeployedModel(detector.model.to(memory_format=torch.contiguous_format))
    images = golden_candidates(workspace, detector.checkpoint)
    golden = golden_of(network, images, tolerance)
    description = describe(
        detector.checkpoint,
        model,
        precision=precision,
        golden_images=len(golden),
        reject=reject,
        tools=tools,
        usual=usual_answers(workspace, detector.predictor, known=golden.features),
    )

    def fill(folder: Path) -> None:
        write_networks(folder, weights=path, network=network, images=images)
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
