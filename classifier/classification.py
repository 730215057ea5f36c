"""`wafer classify` with a classifier: its class for every image file."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import torch  # noqa: TID253

from wafer.classifier.loading import load_classifier
from wafer.datasets.errors import WeightsError
from wafer.inference.output import (
    Progress,
    Summary,
    check_output,
    classify_to_file,
    columns_wanted,
)
from wafer.inference.pipeline import classify
from wafer.inference.records import Predictor, Row
from wafer.inference.sources import ImageInput

__all__ = ["classify_with_classifier"]

log = logging.getLogger(__name__)


def classify_with_classifier(
    images: Sequence[str],
    path: Path,
    *,
    output: Path,
    recursive: bool = False,
    batch: int = 16,
    device: str = "auto",
    engine: str = "auto",
    where: Sequence[str] = (),
    force: bool = False,
    progress: Progress | None = None,
) -> Summary:
    """Write one row for each image that the arguments mean.

    Args:
        images: folders, patterns, list files or single files.
        path: the model file.
        output: a ``.csv`` or ``.jsonl`` file.
        recursive: walk into sub-folders of folders.
        batch: images a step.
        device: ``auto``, ``cpu`` or ``cuda:N``.
        engine: ``auto`` or ``torch``: others run bundles, and a classifier has none.
        where: conditions ``COLUMN=VALUE`` on the rows that are written.
        force: replace ``output`` where it exists.
        progress: called after each row with the rows done and their number.

    Raises:
        WeightsError: a damaged model, or an engine that cannot run it.
        WaferError: the output exists or cannot be written, or a condition that is none.
        DataError: an argument that means no image.
    """
    check_output(output, force=force)
    wanted = columns_wanted(where)
    if engine not in ("auto", "torch"):
        raise WeightsError(
            f"--engine {engine} runs bundles, and {path} is a classifier; leave it out"
        )
    classifier = load_classifier(path, device=device)
    log.info("model %s (%s)", classifier.checkpoint.label, path)
    return classify_to_file(
        images,
        partial(_classify, classifier.predictor, batch=batch),
        output,
        model=f"{classifier.checkpoint.digest} on torch {torch.__version__} {device}",
        recursive=recursive,
        batch=batch,
        where=wanted,
        force=force,
        progress=progress,
    )


def _classify(
    predictor: Predictor, inputs: Iterable[ImageInput], *, batch: int
) -> Generator[Row, None, None]:
    with closing(predictor.engine):
        yield from classify(inputs, predictor, batch=batch)
