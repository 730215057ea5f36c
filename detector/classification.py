"""`wafer classify`: a detector's answer for every image file; from a bundle, without torch."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from wafer.datasets.errors import WeightsError
from wafer.datasets.workspace import Workspace, open_workspace, workspace_folder
from wafer.detector.torch_backend import torch_backend
from wafer.inference.bundle import Bundle, open_bundle
from wafer.inference.engines.choosing import AUTO, BACKENDS, choose_backend
from wafer.inference.output import Progress, Summary, check_output, classify_to_file
from wafer.inference.records import Predictor
from wafer.inference.registry import named_bundle

__all__ = ["check_bundle", "classify_images"]

log = logging.getLogger(__name__)

NO_GPU = ("auto", "cpu")


def classify_images(
    images: Sequence[str],
    *,
    weights: Path | None = None,
    workspace: Path | None = None,
    output: Path,
    recursive: bool = False,
    batch: int = 16,
    device: str = "auto",
    engine: str = AUTO,
    force: bool = False,
    progress: Progress | None = None,
) -> Summary:
    """Write one row for each image that the arguments mean.

    Args:
        images: folders, patterns, list files or single files.
        weights: a run folder, model file or bundle; None takes the model of the workspace.
        workspace: its folder; None takes the one at or above the current folder, if there is one.
        output: a ``.csv`` or ``.jsonl`` file.
        recursive: walk into sub-folders of folders.
        batch: images a step.
        device: ``auto``, ``cpu`` or ``cuda:N``; a bundle runs on a GPU only where one is named.
        engine: what runs a bundle: ``openvino``, ``onnxruntime``, ``torch``, or ``auto`` for the
            fastest that gives its golden answers. Other models run on torch.
        force: replace ``output`` where it exists.
        progress: called after each row with the rows done and their number.

    Raises:
        WeightsError: no model, a damaged one, or an engine that cannot run it.
        WaferError: the output exists or cannot be written.
        DataError: an argument that means no image, or a bundle with missing or altered files.
    """
    check_output(output, force=force)
    place = _workspace(workspace)
    folder = named_bundle(place, weights=weights)
    predictor = (
        _from_run(place, weights, device, engine)
        if folder is None
        else _from_bundle(open_bundle(folder), device, engine, batch)
    )
    with closing(predictor.engine):
        return classify_to_file(
            images,
            predictor,
            output,
            recursive=recursive,
            batch=batch,
            force=force,
            progress=progress,
        )


def check_bundle(bundle: Bundle) -> None:
    """Check that an engine other than torch gives a bundle's golden answers here.

    Raises:
        WeightsError: none does.
    """
    choose_backend(bundle, BACKENDS)


def _from_bundle(bundle: Bundle, device: str, engine: str, batch: int) -> Predictor:
    backends = (*BACKENDS, torch_backend())
    if device not in NO_GPU:
        if engine not in (AUTO, "torch"):
            raise WeightsError(f"--engine {engine} runs on the CPU; leave out --device {device}")
        backend = torch_backend(device)
        if (precision := bundle.description.precision) not in backend.precisions:
            raise WeightsError(
                f"{bundle.folder} is of {precision}, for the CPU; leave out --device"
            )
    else:
        backend = choose_backend(bundle, backends, engine=engine, batch=batch)
    log.info("model %s (%s), engine %s", bundle.label, bundle.folder, backend.name)
    return bundle.predictor(backend.open(bundle, batch))


def _from_run(place: Workspace | None, weights: Path | None, device: str, engine: str) -> Predictor:
    from wafer.detector.loading import choose_model, load_detector

    path = choose_model(place, weights=weights)
    if engine not in (AUTO, "torch"):
        raise WeightsError(
            f"--engine {engine} runs bundles, and {path} is none; make one with `wafer export`"
        )
    detector = load_detector(path, device=device)
    log.info("model %s (%s)", detector.checkpoint.label, path)
    return detector.predictor


def _workspace(folder: Path | None) -> Workspace | None:
    found = workspace_folder() if folder is None else folder
    return None if found is None else open_workspace(found)
