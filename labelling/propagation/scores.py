"""What a teacher says about images, all class scores of every candidate box, kept on disk.

Those of a teacher that was trained here come from the raw head, before any arg-max: a box that it
gives 0.60 for one class and 0.55 for another is a candidate for both. Images are scored in chunks,
each written in one step, so that a killed run repeats at most one of them.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wafer.datasets.errors import ImageError
from wafer.datasets.files import write_bytes
from wafer.datasets.records import Annotation
from wafer.datasets.workspace import Workspace
from wafer.detector.loading import Detector, load_detector
from wafer.detector.model import forward
from wafer.detector.prediction import load_letterboxed
from wafer.inference.preprocess import Letterboxed, to_original

__all__ = ["VIEWS", "Ask", "Candidates", "ask_about_images", "score_images"]

VIEWS = ((False, False), (True, False), (False, True))
"""How an image is shown: (mirrored left to right, mirrored top to bottom)."""
CHUNK = 128
ASKED_AT_ONCE = 16
"""Images of a chunk where each is a request to somebody else's machine."""
BATCH = 32
LEAST_SCORE = 0.01
SUPPRESS_IOU = 0.6
MOST = 100
"""Pairs of a box and a class that are kept of one view."""

Floats = NDArray[np.float32]
Ask = Callable[[str], Sequence[Annotation]]
"""Returns the boxes with scores that a model elsewhere sees in an image of a workspace."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """The boxes that a teacher may mean in one image.

    ``boxes`` are corners in pixels of the original, shape (n, 4); ``scores`` those of every class,
    0 to 1, shape (n, classes); ``views`` the number of the view each is from, shape (n,). ``error``
    says why the image cannot be read.
    """

    boxes: Floats
    scores: Floats
    views: NDArray[np.uint8]
    error: str = ""


def score_images(
    model: Path,
    images: Sequence[str],
    *,
    workspace: Workspace,
    folder: Path,
    device: str,
    progress: Callable[[int], None],
) -> Mapping[str, Candidates]:
    """Return the candidates of a model for images; chunks that are on disk are read.

    Args:
        model: a model file of wafer.
        images: their paths below the image root.
        workspace: says where they are and how they are decoded.
        folder: for the chunks; one that holds chunks of other images must not be given.
        device: ``auto``, ``cpu`` or ``cuda:N``.
        progress: called with the number of images after each chunk.
    """
    detector: Detector | None = None

    def score(chunk: Sequence[str]) -> Iterator[Candidates]:
        nonlocal detector
        detector = load_detector(model, device=device) if detector is None else detector
        return _score(detector, chunk, workspace)

    return _in_chunks(images, score, size=CHUNK, folder=folder, progress=progress)


def ask_about_images(
    ask: Ask,
    images: Sequence[str],
    *,
    workspace: Workspace,
    folder: Path,
    progress: Callable[[int], None],
) -> Mapping[str, Candidates]:
    """Return what a model elsewhere says about images; chunks that are on disk are read.

    Args:
        ask: is called once for each image, and may raise what it likes.
        images: their paths below the image root.
        workspace: says which classes there are.
        folder: as for `score_images`.
        progress: called with the number of images after each chunk.
    """
    names = workspace.classes.detector_names

    def candidates(image: str) -> Candidates:
        try:
            return _told(ask(image), names)
        except ImageError as error:
            return _nothing(len(names), error.reason)

    def score(chunk: Sequence[str]) -> Iterator[Candidates]:
        return map(candidates, chunk)

    return _in_chunks(images, score, size=ASKED_AT_ONCE, folder=folder, progress=progress)


def _in_chunks(
    images: Sequence[str],
    score: Callable[[Sequence[str]], Iterator[Candidates]],
    *,
    size: int,
    folder: Path,
    progress: Callable[[int], None],
) -> Mapping[str, Candidates]:
    found: dict[str, Candidates] = {}
    for start in range(0, len(images), size):
        chunk = images[start : start + size]
        path = folder / f"{start // size:05d}.npz"
        if not path.is_file():
            write_bytes(path, _packed(list(score(chunk))))
        found.update(zip(chunk, _unpacked(path), strict=True))
        progress(len(chunk))
    return found


def _told(boxes: Sequence[Annotation], names: Sequence[str]) -> Candidates:
    """Return the boxes of a model that tells no other scores than those of its answers.

    It is asked once; what it says counts as seen in every view.
    """
    corners = np.array([a.box.corners for a in boxes], np.float32).reshape(-1, 4)
    scores = np.zeros((len(boxes), len(names)), np.float32)
    for row, box in enumerate(boxes):
        scores[row, names.index(box.class_name)] = 1.0 if box.score is None else box.score
    return Candidates(
        np.tile(corners, (len(VIEWS), 1)),
        np.tile(scores, (len(VIEWS), 1)),
        np.repeat(np.arange(len(VIEWS)), len(boxes)).astype(np.uint8),
    )


def _score(detector: Detector, images: Sequence[str], workspace: Workspace) -> Iterator[Candidates]:
    checkpoint = detector.checkpoint
    classes = len(checkpoint.classes.detector_names)

    def load(image: str) -> Letterboxed | str:
        try:
            return load_letterboxed(
                workspace.image_path(image),
                image_size=checkpoint.image_size,
                colour=checkpoint.colour,
                white_level=checkpoint.white_level,
            )
        except ImageError as error:
            return error.reason

    with ThreadPoolExecutor() as pool:
        loaded = list(pool.map(load, images))
    good = [each for each in loaded if isinstance(each, Letterboxed)]
    scored = _all_views(detector, good)
    for each in loaded:
        yield next(scored) if isinstance(each, Letterboxed) else _nothing(classes, each)


def _nothing(classes: int, error: str) -> Candidates:
    boxes, scores = np.zeros((0, 4), np.float32), np.zeros((0, classes), np.float32)
    return Candidates(boxes, scores, np.zeros(0, np.uint8), error)


def _all_views(detector: Detector, pixels: Sequence[Letterboxed]) -> Iterator[Candidates]:
    for start in range(0, len(pixels), BATCH):
        batch = pixels[start : start + BATCH]
        stacked = np.stack([each.image for each in batch])
        views = [_one_view(detector, stacked, mirrored) for mirrored in VIEWS]
        for row, boxed in enumerate(batch):
            kept = [view[row] for view in views]
            corners = np.concatenate([boxes for boxes, _ in kept])
            original = [to_original(box, boxed).corners for box in corners]
            yield Candidates(
                np.asarray(original, np.float32).reshape(-1, 4),
                np.concatenate([scores for _, scores in kept]),
                np.repeat(np.arange(len(kept)), [len(b) for b, _ in kept]).astype(np.uint8),
            )


def _one_view(
    detector: Detector, images: NDArray[np.uint8], mirrored: tuple[bool, bool]
) -> list[tuple[Floats, Floats]]:
    """Return corners in pixels of the letterboxed image, mirrored back, and scores of each."""
    left_right, top_bottom = mirrored
    size = images.shape[1]
    shown = images[:, :: -1 if top_bottom else 1, :: -1 if left_right else 1]
    decoded = forward(detector.model, np.ascontiguousarray(shown)).float().cpu().numpy()
    centre, side = decoded[:, :2].copy(), decoded[:, 2:4]
    if left_right:
        centre[:, 0] = size - centre[:, 0]
    if top_bottom:
        centre[:, 1] = size - centre[:, 1]
    corners = np.concatenate([centre - side / 2, centre + side / 2], axis=1)
    return [_kept(corners[row].T, decoded[row, 4:].T) for row in range(len(images))]


def _kept(corners: Floats, scores: Floats) -> tuple[Floats, Floats]:
    """Return the boxes that are the best of their place for some class.

    Args:
        corners: shape (anchors, 4).
        scores: shape (anchors, classes).
    """
    import torch
    from torchvision.ops import batched_nms

    anchors, classes = np.nonzero(scores >= LEAST_SCORE)
    pairs = batched_nms(
        torch.from_numpy(corners[anchors]),
        torch.from_numpy(scores[anchors, classes]),
        torch.from_numpy(classes),
        SUPPRESS_IOU,
    )
    chosen = np.unique(anchors[pairs[:MOST].numpy()])
    return corners[chosen], np.clip(scores[chosen], 0, 1)


def _packed(items: Iterable[Candidates]) -> bytes:
    items = list(items)
    content = io.BytesIO()
    np.savez_compressed(
        content,
        counts=np.array([len(item.views) for item in items]),
        boxes=np.concatenate([item.boxes for item in items]),
        scores=np.concatenate([item.scores for item in items]).astype(np.float16),
        views=np.concatenate([item.views for item in items]),
        errors=np.array([item.error for item in items]),
    )
    return content.getvalue()


def _unpacked(path: Path) -> Iterator[Candidates]:
    with np.load(path, allow_pickle=False) as file:
        counts, errors = file["counts"], file["errors"]
        ends = np.cumsum(counts)
        boxes, views = file["boxes"], file["views"]
        scores = file["scores"].astype(np.float32)
        for end, count, error in zip(ends, counts, errors, strict=True):
            rows = slice(end - count, end)
            yield Candidates(boxes[rows], scores[rows], views[rows], str(error))
