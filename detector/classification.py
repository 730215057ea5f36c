"""`wafer classify`: a detector's answer for every image file; from a bundle, without torch."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from functools import partial
from itertools import chain, islice
from pathlib import Path

from wafer.datasets.errors import WeightsError
from wafer.datasets.runs import Run, newest_finished_run
from wafer.datasets.workspace import Workspace, open_workspace, workspace_folder
from wafer.detector.torch_backend import TORCH, torch_backend
from wafer.inference.bundle import Bundle, open_bundle
from wafer.inference.engines.backend import Backend
from wafer.inference.engines.choosing import AUTO, BACKENDS, choose_backend
from wafer.inference.output import (
    Classify,
    Progress,
    Summary,
    check_output,
    classify_to_file,
    columns_wanted,
)
from wafer.inference.pipeline import classify
from wafer.inference.records import Predictor, Row
from wafer.inference.registry import named_bundle
from wafer.inference.sources import ImageInput
from wafer.inference.workers import classify_in_processes, core_count

__all__ = ["classify_images"]

log = logging.getLogger(__name__)

GPU = Path("/dev/nvidiactl")
FEW = 48
"""So many images are classified sooner than processes are started for them."""


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
    where: Sequence[str] = (),
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
        where: conditions ``COLUMN=VALUE`` on the rows that are written.
        force: replace ``output`` where it exists.
        progress: called after each row with the rows done and their number.

    Raises:
        WeightsError: no model, a damaged one, or an engine that cannot run it.
        WaferError: the output exists or cannot be written, or a condition that is none.
        DataError: an argument that means no image, or a bundle with missing or altered files.
    """
    check_output(output, force=force)
    wanted = columns_wanted(where)
    place = _workspace(workspace)
    folder = _bundle_folder(place, weights, device, engine)
    model, answering = (
        _from_run(place, weights, device, engine, batch)
        if folder is None
        else _from_bundle(open_bundle(folder), device, engine, batch)
    )
    return classify_to_file(
        images,
        answering,
        output,
        model=model,
        recursive=recursive,
        batch=batch,
        where=wanted,
        force=force,
        progress=progress,
    )


def _bundle_folder(
    place: Workspace | None, weights: Path | None, device: str, engine: str
) -> Path | None:
    """Return the bundle that is meant, or that of the run that is; None to run a model on torch."""
    named = named_bundle(place, weights=weights)
    on_gpu = GPU.exists() if device == AUTO else device != "cpu"
    on_torch = engine == TORCH or (engine == AUTO and on_gpu)
    if named is not None or on_torch:
        return named
    if weights is not None:
        return Run(weights).bundle
    newest = None if place is None else newest_finished_run(place.runs)
    return None if newest is None else newest.bundle


def _from_bundle(bundle: Bundle, device: str, engine: str, batch: int) -> tuple[str, Classify]:
    if device not in (AUTO, "cpu"):
        backend = _on_gpu(bundle, device, engine)
    else:
        backend = choose_backend(bundle, (*BACKENDS, torch_backend()), engine=engine, batch=batch)
    log.info("model %s (%s), engine %s", bundle.label, bundle.folder, backend.name)
    opened = partial(_opened, bundle.folder, backend, batch)
    model = f"{bundle.digest} on {backend.name} {backend.version} {device}"
    if backend.name == TORCH:
        return model, partial(_in_this_process, opened(), batch=batch)
    return model, partial(_on_all_cores, opened, batch)


def _on_gpu(bundle: Bundle, device: str, engine: str) -> Backend:
    if engine not in (AUTO, TORCH):
        raise WeightsError(f"--engine {engine} runs on the CPU; leave out --device {device}")
    backend = torch_backend(device)
    if (precision := bundle.description.precision) not in backend.precisions:
        raise WeightsError(f"{bundle.folder} is of {precision}, for the CPU; leave out --device")
    return backend


def _from_run(
    place: Workspace | None, weights: Path | None, device: str, engine: str, batch: int
) -> tuple[str, Classify]:
    from wafer.detector.loading import choose_model, load_detector

    path = choose_model(place, weights=weights)
    if engine not in (AUTO, TORCH):
        raise WeightsError(
            f"--engine {engine} runs bundles, and {path} is none; make one with `wafer export`"
        )
    detector = load_detector(path, device=device)
    log.info("model %s (%s)", detector.checkpoint.label, path)
    model = f"{detector.checkpoint.digest} on torch {torch_backend().version} {device}"
    return model, partial(_in_this_process, detector.predictor, batch=batch)


def _opened(folder: Path, backend: Backend, batch: int) -> Predictor:
    bundle = open_bundle(folder)
    return bundle.predictor(backend.open(bundle, batch))


def _on_all_cores(
    opened: partial[Predictor], batch: int, inputs: Iterable[ImageInput]
) -> Generator[Row, None, None]:
    """Classify a few images in this process, more in one for each core."""
    waiting = iter(inputs)
    first = list(islice(waiting, FEW + 1))
    if len(first) <= FEW:
        return _in_this_process(opened(), first, batch=batch)
    return classify_in_processes(chain(first, waiting), opened, batch=batch, processes=core_count())


def _in_this_process(
    predictor: Predictor, inputs: Iterable[ImageInput], *, batch: int
) -> Generator[Row, None, None]:
    with closing(predictor.engine):
        yield from classify(inputs, predictor, batch=batch)


def _workspace(folder: Path | None) -> Workspace | None:
    found = workspace_folder() if folder is None else folder
    return None if found is None else open_workspace(found)
