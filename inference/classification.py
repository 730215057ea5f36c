"""`wafer classify`: an answer for every image file; from a bundle, without torch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Required, TypedDict

from wafer.datasets.classes import ClassTable
from wafer.datasets.errors import WaferError, WeightsError
from wafer.datasets.images import decode_bytes
from wafer.datasets.runs import Run, newest_finished_run
from wafer.datasets.workspace import Workspace
from wafer.evaluation.rejecting import Rejection
from wafer.inference.all_boxes import BoxFile
from wafer.inference.bundle import Bundle, open_bundle
from wafer.inference.cores import core_count
from wafer.inference.engines.backend import TORCH, Backend
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
from wafer.inference.rejecting import reject_method, rejection_of
from wafer.inference.sources import ImageInput
from wafer.inference.workers import classify_in_processes

__all__ = ["OnTorch", "Options", "TorchModel", "classify_with"]

log = logging.getLogger(__name__)

GPU = Path("/dev/nvidiactl")
FEW = 48
"""So many images are classified sooner than processes are started for them."""

Wanted = Callable[[Row], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchModel:
    """A model file at work on torch, and the digest of that file."""

    path: Path
    digest: str
    predictor: Predictor


@dataclass(frozen=True, slots=True, kw_only=True)
class OnTorch:
    """How a kind of models runs on torch.

    ``backend`` is called with a device and returns torch as an engine of bundles; ``load`` with the
    workspace, the weights that were named and a device, and returns the model that they mean, which
    is none of a bundle. ``boxes`` is where all boxes go, None where nobody asked for them, and
    ``about`` says more in words of what decides about the answers.
    """

    backend: Callable[[str], Backend]
    load: Callable[[Workspace | None, Path | None, str], TorchModel]
    boxes: Path | None = None
    about: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model:
    """A model at work, what decides about its answers in words, and how it is shown images."""

    words: str
    classify: Classify
    classes: ClassTable
    colour: bool
    white_level: int


class Options(TypedDict, total=False):
    """What classifying can be told, whatever the model; `classify_with` says what each means."""

    weights: Path | None
    output: Required[Path]
    recursive: bool
    batch: int
    device: str
    engine: str
    where: Sequence[str]
    save_images: Path | None
    crops: Path | None
    explain: Path | None
    reject: str | None
    force: bool
    progress: Progress | None


def classify_with(
    on_torch: OnTorch,
    images: Sequence[str],
    *,
    workspace: Workspace | None,
    weights: Path | None = None,
    output: Path,
    recursive: bool = False,
    batch: int = 16,
    device: str = "auto",
    engine: str = AUTO,
    where: Sequence[str] = (),
    save_images: Path | None = None,
    crops: Path | None = None,
    explain: Path | None = None,
    reject: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Summary:
    """Write one row for each image that the arguments mean.

    Args:
        on_torch: how models of this kind run on torch.
        images: folders, patterns, list files or single files; ``-`` for a list on standard input.
        workspace: whose model, where none is named.
        weights: a run folder, model file or bundle; None takes the model of the workspace.
        output: a ``.csv``, ``.jsonl`` or ``.parquet`` file.
        recursive: walk into sub-folders of folders.
        batch: images a step.
        device: ``auto``, ``cpu`` or ``cuda:N``; a bundle runs on a GPU only where one is named.
        engine: what runs a bundle: ``openvino``, ``onnxruntime``, ``torch``, or ``auto`` for the
            fastest that gives its golden answers. Other models run on torch.
        where: conditions ``COLUMN=VALUE`` on the rows that are written.
        save_images: a new folder for copies of the images of these rows, with their boxes.
        crops: a new folder for what is in the boxes, where there are any.
        explain: a new folder for copies that show what made the model decide; slow.
        reject: how images of no class are told: ``softmax``, ``openmax``, ``nn``,
            ``mahalanobis``, or ``none``; None leaves it to the bundle.
        force: replace the output where it exists.
        progress: called after each row with the rows done and their number.

    Raises:
        WeightsError: no model, a damaged one, one that knows a class as of another kind than the
            workspace, or an engine that cannot run it.
        WaferError: the output exists or cannot be written, a folder for pictures that is not empty,
            or a condition that is none.
        DataError: an argument that means no image, or a bundle with missing or altered files.
    """
    check_output(output, force=force, boxes=on_torch.boxes)
    wanted = columns_wanted(where)
    draws = _draws(save_images, crops, explain)
    check_pictures(draws)
    heat = None if explain is None else partial(is_wanted, where=wanted)
    folder = _bundle_folder(workspace, weights, device, engine)
    model = (
        _from_file(on_torch, workspace, weights, device, engine, batch, heat, reject)
        if folder is None
        else _from_bundle(on_torch, open_bundle(folder), device, engine, batch, heat, reject)
    )
    _note_other_classes(model.classes, workspace)
    decode = partial(decode_bytes, colour=model.colour, white_level=model.white_level)
    return classify_to_file(
        images,
        model.classify,
        output,
        model=model.words + on_torch.about,
        recursive=recursive,
        batch=batch,
        where=wanted,
        boxes=None if on_torch.boxes is None else BoxFile(on_torch.boxes, model.classes),
        pictures=Pictures(draws=draws, decode=decode) if draws else None,
        force=force,
        progress=progress,
    )


def _note_other_classes(classes: ClassTable, place: Workspace | None) -> None:
    """Say in what the answers are not in the terms of the workspace.

    Raises:
        WeightsError: a class is of another kind there, so that its boxes would mean something else.
    """
    if place is None:
        return
    both = [(ours, place.classes[ours.name]) for ours in classes if ours.name in place.classes]
    kinds = [
        f"{ours.name} as {ours.kind}, the workspace as {theirs.kind}"
        for ours, theirs in both
        if ours.kind != theirs.kind
    ]
    if kinds:
        raise WeightsError(
            f"the model knows the class {'; '.join(kinds)}; set the kind back in classes.yaml, or "
            "train one here with `wafer train`"
        )
    if classes.names != place.classes.names:
        log.warning(
            "the model knows the classes %s, the workspace %s; answers are of the model's, "
            "`wafer train` makes one of the others",
            ", ".join(classes.names),
            ", ".join(place.classes.names),
        )
    codes = [(ours, theirs) for ours, theirs in both if ours.code != theirs.code]
    if codes:
        log.warning(
            "codes are those of the model (%s), the workspace has others (%s); `wafer train` makes "
            "a model of these",
            ", ".join(f"{ours.name} {ours.code}" for ours, _ in codes),
            ", ".join(f"{theirs.name} {theirs.code}" for _, theirs in codes),
        )
    killers = [ours.name for ours, theirs in both if ours.killer != theirs.killer]
    if killers:
        log.warning(
            "killer was changed for %s after the training, and the limit on automatic "
            '"no defect" is still that of the model; train it again with `wafer train`',
            ", ".join(killers),
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


def _bundle_folder(
    place: Workspace | None, weights: Path | None, device: str, engine: str
) -> Path | None:
    """Return the bundle that is meant, or that of the run that is; None to run a model on torch."""
    named = named_bundle(place, weights=weights)
    on_gpu = GPU.exists() if device == AUTO else device != "cpu"
    if named is not None or engine == TORCH or (engine == AUTO and on_gpu):
        return named
    if weights is not None:
        return Run(weights).bundle
    newest = None if place is None else newest_finished_run(place.runs)
    return None if newest is None else newest.bundle


def _from_bundle(
    on_torch: OnTorch,
    bundle: Bundle,
    device: str,
    engine: str,
    batch: int,
    heat: Wanted | None,
    reject: str | None,
) -> _Model:
    method = reject_method(reject, bundle.description.decision.reject)
    rejection = bundle.rejection(method)
    if device not in (AUTO, "cpu"):
        backend = _on_gpu(on_torch, bundle, device, engine)
    else:
        backends = (*BACKENDS, on_torch.backend("cpu"))
        backend = choose_backend(bundle, backends, engine=engine, batch=batch)
    log.info("model %s (%s), engine %s", bundle.label, bundle.folder, backend.name)
    opened = partial(_opened, bundle.folder, backend, batch, heat, rejection)
    answering: Classify = (
        partial(_in_this_process, opened(), batch=batch)
        if backend.name == TORCH
        else partial(_on_all_cores, opened, batch, FEW if heat is None else 1)
    )
    return _Model(
        words=f"{bundle.digest} on {backend.name} {backend.version} {device}, reject {method}",
        classify=answering,
        classes=bundle.classes,
        colour=bundle.description.channels == 3,
        white_level=bundle.description.white_level,
    )


def _on_gpu(on_torch: OnTorch, bundle: Bundle, device: str, engine: str) -> Backend:
    if engine not in (AUTO, TORCH):
        raise WeightsError(f"--engine {engine} runs on the CPU; leave out --device {device}")
    backend = on_torch.backend(device)
    if (precision := bundle.description.precision) not in backend.precisions:
        raise WeightsError(f"{bundle.folder} is of {precision}, for the CPU; leave out --device")
    return backend


def _from_file(
    on_torch: OnTorch,
    place: Workspace | None,
    weights: Path | None,
    device: str,
    engine: str,
    batch: int,
    heat: Wanted | None,
    reject: str | None,
) -> _Model:
    if engine not in (AUTO, TORCH):
        named = "the model meant here" if weights is None else str(weights)
        raise WeightsError(
            f"--engine {engine} runs bundles, and {named} is none; make one with `wafer export`"
        )
    model = on_torch.load(place, weights, device)
    method = reject_method(reject, None)
    rejection = rejection_of(model.path, method, classes=len(model.predictor.classes))
    predictor = replace(model.predictor, explain=heat, reject=rejection)
    log.info("model %s (%s)", predictor.model, model.path)
    version = on_torch.backend("cpu").version
    return _Model(
        words=f"{model.digest} on torch {version} {device}, reject {method}",
        classify=partial(_in_this_process, predictor, batch=batch),
        classes=predictor.classes,
        colour=predictor.colour,
        white_level=predictor.white_level,
    )


def _opened(
    folder: Path, backend: Backend, batch: int, heat: Wanted | None, rejection: Rejection | None
) -> Predictor:
    return replace(open_predictor(folder, backend, batch), explain=heat, reject=rejection)


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
