"""Which model a command uses, and that model ready to answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch  # noqa: TID253

from wafer.datasets.errors import WeightsError
from wafer.datasets.runs import MODEL_FILE, newest_finished_run
from wafer.datasets.workspace import Workspace
from wafer.detector.architecture import build_model, fill_model
from wafer.detector.model import TorchEngine
from wafer.detector.precision import CpuModel
from wafer.inference.bundle import WEIGHTS, open_bundle
from wafer.inference.deciding import decision_of
from wafer.inference.devices import torch_device
from wafer.inference.records import Predictor
from wafer.inference.registry import named_bundle
from wafer.inference.rejecting import network_tensors
from wafer.weights.checkpoint import Checkpoint, read_checkpoint
from wafer.weights.manifest import shipped

__all__ = ["Detector", "choose_model", "load_detector"]

SHIPPED = "yolov5n"


@dataclass(frozen=True, slots=True)
class Detector:
    """A model file and the network built from it, in evaluation mode."""

    checkpoint: Checkpoint
    model: CpuModel

    def engine(self, *, above: float | None = None) -> TorchEngine:
        """Return the network as an engine, which gives all boxes above a score if one is given."""
        return TorchEngine(self.model, above=above)

    @property
    def predictor(self) -> Predictor:
        """Return the detector as the inference room wants it."""
        checkpoint = self.checkpoint
        return Predictor(
            model=checkpoint.label,
            engine=self.engine(),
            classes=checkpoint.classes,
            decide=decision_of(checkpoint.classes, checkpoint.decision),
            image_size=checkpoint.image_size,
            colour=checkpoint.colour,
            white_level=checkpoint.white_level,
        )


def choose_model(workspace: Workspace | None, *, weights: Path | None) -> Path:
    """Return the model file that a command uses.

    That is ``weights`` (a run folder, a bundle or a model file) where it is given, else that of the
    promoted bundle of the workspace, else of its newest finished run, else the shipped model, if
    its classes are those of the workspace or there is no workspace.

    Raises:
        WeightsError: there is none.
        DataError: a bundle with files that are missing or altered.
    """
    bundle = named_bundle(workspace, weights=weights)
    if bundle is not None:
        return open_bundle(bundle).folder / WEIGHTS
    if weights is not None:
        path = weights / MODEL_FILE if weights.is_dir() else weights
        if not path.is_file():
            raise WeightsError(
                f"{path}: no such model; name a run folder, a bundle or a .safetensors file"
            )
        return path
    run = None if workspace is None else newest_finished_run(workspace.runs)
    if run is not None:
        return run.folder / MODEL_FILE
    ours = shipped(SHIPPED)
    if ours is not None and (workspace is None or _same_classes(ours, workspace)):
        return ours
    raise WeightsError("no model was trained here yet; run `wafer train`, or name a model")


def _same_classes(path: Path, workspace: Workspace) -> bool:
    return read_checkpoint(path).classes.answers_as(workspace.classes)


def load_detector(path: Path, *, device: str = "auto") -> Detector:
    """Read a model file and build its network.

    Raises:
        WeightsError: the file is damaged, altered, or of another architecture.
        TrainingError: the device is not to be had.
    """
    checkpoint = read_checkpoint(path)
    model = build_model(
        checkpoint.architecture,
        names=checkpoint.classes.detector_names,
        channels=checkpoint.channels,
    )
    fill_model(model, network_tensors(checkpoint.tensors))
    target = torch_device(device)
    model = model.eval().fuse(verbose=False).to(target)
    if target.type == "cpu":
        model = model.to(memory_format=torch.channels_last)
    return Detector(checkpoint, model)
