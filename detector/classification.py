"""`wafer classify`: a detector's answer for every image file; from a bundle, without torch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path

from wafer.datasets.classes import ClassTable
from wafer.datasets.errors import WaferError, WeightsError
from wafer.datasets.images import decode_bytes
from wafer.datasets.runs import Run, newest_finished_run
from wafer.datasets.workspace import Workspace, open_workspace, workspace_folder
from wafer.detector.torch_backend import TORCH, torch_backend
from wafer.inference.all_boxes import BoxFile
from wafer.inference.bundle import Bundle, open_bundle
from wafer.inference.engines.backend import Backend
from wafer.inference.engines.choosing import AUTO, BACKENDS, choose_backend, open_predictor
from wafer.inference.output import (
    Classify,
    Progress,
    Summary,
    check_output,
    classify_to_file,
    columns_wanted,
    is_wanted,
)
from wafer.inference.pictures import Draw, Pictures, check_pictures
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
CONFIDENCE = 0.25
"""The score from which on a box is one of all boxes, as in YOLOv5's detect.py."""

Wanted = Callable[[Row], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model:
    """A model at work, what decides about its answers in words, and how it is shown images."""

    words: str
    classify: Classify
    classes: ClassTable
    colour: bool
    white_level: int


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
    all_boxes: Path | None = None,
    min_confidence: float | None = None,
    save_images: Path | None = None,
    crops: Path | None = None,
    explain: Path | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Summary:
    """Write one row for each image that the arguments mean.

    Args:
        images: folders, patterns, list files or single files; ``-`` for a list on standard input.
        weights: a run folder, model file or bundle; None takes the model of the workspace.
        workspace: its folder; None takes the one at or above the current folder, if there is one.
        output: a ``.csv``, ``.jsonl`` or ``.parquet`` file.
        recursive: walk into sub-folders of folders.
        batch: images a step.
        device: ``auto``, ``cpu`` or ``cuda:N``; a bundle runs on a GPU only where one is named.
        engine: what runs a bundle: ``openvino``, ``onnxruntime``, ``torch``, or ``auto`` for the
            fastest that gives its golden answers. Other models run on torch.
        where: conditions ``COLUMN=VALUE`` on the rows that are written.
        all_boxes: a ``.json`` or ``.jsonl`` file for every box of these rows; needs torch.
        min_confidence: the score above which a box is one of them, 0 to 1; None is 0.25.
        save_images: a new folder for copies of the images of these rows, with their boxes.
        crops: a new folder for what is in the boxes.
        explain: a new folder for copies that show what made the model decide; slow.
        force: replace ``output`` and ``all_boxes`` where they exist.
        progress: called after each row with the rows done and their number.

    Raises:
        WeightsError: no model, a damaged one, or an engine that cannot run it.
        WaferError: the output exists or cannot be written, a folder for pictures that is not empty,
            or a condition that is none.
        DataError: an argument that means no image, or a bundle with missing or altered files.
    """
    check_output(output, force=force, boxes=all_boxes)
    wanted = columns_wanted(where)
    draws = _draws(save_images, crops, explain)
    check_pictures(draws)
    above = _above(all_boxes, min_confidence)
    if above is not None:
        if engine not in (AUTO, TORCH):
            raise WeightsError(f"--all-boxes runs on torch; leave out --engine {engine}")
        engine = TORCH
    heat = None if explain is None else partial(is_wanted, where=wanted)
    place = _workspace(workspace)
    folder = _bundle_folder(place, weights, device, engine)
    model = (
        _from_run(place, weights, device, engine, batch, above, heat)
        if folder is None
        else _from_bundle(open_bundle(folder), device, engine, batch, above, heat)
    )
    decode = partial(decode_bytes, colour=model.colour, white_level=model.white_level)
    return classify_to_file(
        images,
        model.classify,
        output,
        model=model.words if above is None else f"{model.words}, boxes above {above}",
        recursive=recursive,
        batch=batch,
        where=wanted,
        boxes=None if all_boxes is None else BoxFile(all_boxes, model.classes),
        pictures=Pictures(draws=draws, decode=decode) if draws else None,
        force=force,
        progress=progress,
    )


def _draws(save_images: Path | None, crops: Path | None, explain: Path | None) -> dict[Path, Draw]:
    """Return what is drawn, by folder."""
    folders = [folder for folder in (save_images, crops, explain) if folder is not None]
    if len(set(folders)) < len(folders):
        raise WaferError(f"{folders[0]}: one folder for two kinds of pictures; name two")
    if not folders:
        return {}
    from wafer.inference.drawing import annotated, cut_out, explained

    kinds = ((save_images, annotated), (crops, cut_out), (explain, explained))
    return {folder: draw for folder, draw in kinds if folder is not None}


def _above(all_boxes: Path | None, min_confidence: float | None) -> float | None:
    """Return the score above which all boxes are wanted, None where they are not."""
    if all_boxes is None and min_confidence is not None:
        raise WaferError("--min-confidence goes with --all-boxes FILE")
    above = CONFIDENCE if min_confidence is None else min_confidence
    if not 0 <= above <= 1:
        raise WaferError(f"--min-confidence must lie between 0 and 1, not {above}")
    return None if all_boxes is None else above


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


def _from_bundle(
    bundle: Bundle,
    device: str,
    engine: str,
    batch: int,
    above: float | None,
    heat: Wanted | None,
) -> _Model:
    if device not in (AUTO, "cpu"):
        backend = _on_gpu(bundle, device, engine, above)
    else:
        backends = (*BACKENDS, torch_backend(above=above))
        backend = choose_backend(bundle, backends, engine=engine, batch=batch)
    log.info("model %s (%s), engine %s", bundle.label, bundle.folder, backend.name)
    opened = partial(_opened, bundle.folder, backend, batch, heat)
    answering: Classify = (
        partial(_in_this_process, opened(), batch=batch)
        if backend.name == TORCH
        else partial(_on_all_cores, opened, batch, FEW if heat is None else 1)
    )
    return _Model(
        words=f"{bundle.digest} on {backend.name} {backend.version} {device}",
        classify=answering,
        classes=bundle.classes,
        colour=bundle.description.channels == 3,
        white_level=bundle.description.white_level,
    )


def _on_gpu(bundle: Bundle, device: str, engine: str, above: float | None) -> Backend:
    if engine not in (AUTO, TORCH):
        raise WeightsError(f"--engine {engine} runs on the CPU; leave out --device {device}")
    backend = torch_backend(device, above=above)
    if (precision := bundle.description.precision) not in backend.precisions:
        raise WeightsError(f"{bundle.folder} is of {precision}, for the CPU; leave out --device")
    return backend


def _from_run(
    place: Workspace | None,
    weights: Path | None,
    device: str,
    engine: str,
    batch: int,
    above: float | None,
    heat: Wanted | None,
) -> _Model:
    from wafer.detector.loading import choose_model, load_detector

    path = choose_model(place, weights=weights)
    if engine not in (AUTO, TORCH):
        raise WeightsError(
            f"--engine {engine} runs bundles, and {path} is none; make one with `wafer export`"
        )
    detector = load_detector(path, device=device)
    predictor = replace(detector.predictor, engine=detector.engine(above=above), explain=heat)
    log.info("model %s (%s)", predictor.model, path)
    return _Model(
        words=f"{detector.checkpoint.digest} on torch {torch_backend().version} {device}",
        classify=partial(_in_this_process, predictor, batch=batch),
        classes=predictor.classes,
        colour=predictor.colour,
        white_level=predictor.white_level,
    )


def _opened(folder: Path, backend: Backend, batch: int, heat: Wanted | None) -> Predictor:
    return replace(open_predictor(folder, backend, batch), explain=heat)


def _on_all_cores(
    opened: partial[Predictor], batch: int, few: int, inputs: Iterable[ImageInput]
) -> Generator[Row, None, None]:
    """Classify a few images in this process, more in one for each core."""
    waiting = iter(inputs)
    first = list(islice(waiting, few + 1))
    if len(first) <= few:
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
