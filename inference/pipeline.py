"""From files to rows: read, decode, resize and infer with bounded look-ahead, in input order."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wafer.datasets.errors import ImageError, WeightsError
from wafer.datasets.images import MAX_PIXELS, decode_bytes
from wafer.datasets.records import Box
from wafer.evaluation.calibration import Answer
from wafer.evaluation.records import Detection, Prediction
from wafer.inference.appearance import appearance_of, distance_to_known
from wafer.inference.cores import core_count
from wafer.inference.occlusion import heat_map
from wafer.inference.preprocess import Letterboxed, letterbox, to_original
from wafer.inference.records import Appearance, Predictor, Row, TopOne
from wafer.inference.sources import ImageInput

__all__ = ["CANNOT_BE_READ", "MAX_BYTES", "answer", "classify", "read_bytes"]

MAX_BYTES = 8 * MAX_PIXELS
"""A larger file is refused unread: so much takes the largest image that may be decoded."""

CANNOT_BE_READ = "cannot be read"
"""Begins the reason of an image that the system did not give, and may give another time."""

MOST_THREADS = 8


@dataclass(frozen=True, slots=True)
class Prepared:
    """An input that was decoded, ready for the network."""

    name: str
    sha256: str
    pixels: Letterboxed


def classify(
    inputs: Iterable[ImageInput],
    predictor: Predictor,
    *,
    batch: int = 16,
    threads: int | None = None,
) -> Generator[Row, None, None]:
    """Answer for each input, in input order.

    Files are read and decoded by threads while the network runs. At most three batches are held
    in memory, whatever the number of inputs. An input that cannot be read, or decoded in full,
    becomes a row with an error and no prediction.

    Args:
        inputs: taken as they are needed.
        predictor: the model.
        batch: inputs a call of the network, at least 1. Answers depend on it only as far as the
            runtime's arithmetic does.
        threads: decoding threads, at least 1, without influence on the answers; None takes one
            for each core, at most 8.

    Raises:
        ValueError: ``batch`` or ``threads`` below 1.
        WeightsError: the model answers with something else than finite boxes and scores from 0
            to 1.
    """
    if batch < 1:
        raise ValueError(f"batch must be at least 1, not {batch}")
    pool = ThreadPoolExecutor(min(MOST_THREADS, core_count()) if threads is None else threads)
    return _classify(iter(inputs), predictor, batch, pool)


def _classify(
    inputs: Iterator[ImageInput], predictor: Predictor, batch: int, pool: ThreadPoolExecutor
) -> Generator[Row, None, None]:
    prepare = partial(_prepare, predictor=predictor)
    waiting: deque[Future[Prepared | Row]] = deque()

    def look_ahead(number: int) -> None:
        waiting.extend(pool.submit(prepare, item) for item in islice(inputs, number))

    try:
        look_ahead(2 * batch)
        while waiting:
            ready = [waiting.popleft().result() for _ in range(min(batch, len(waiting)))]
            look_ahead(len(ready))  # decoded while the network runs
            yield from _answer(ready, predictor)
    finally:
        pool.shutdown(cancel_futures=True)


def answer(
    items: Sequence[ImageInput],
    predictor: Predictor,
    *,
    begin: Callable[[int | None], None] | None = None,
) -> list[Row]:
    """Answer for the inputs of one batch, in this thread.

    Args:
        items: at most as many as a call of the network takes.
        predictor: the model.
        begin: called with the position of each input before it is read, and then with None.

    Raises:
        WeightsError: as `classify`.
    """
    ready = []
    for position, item in enumerate(items):
        if begin is not None:
            begin(position)
        ready.append(_prepare(item, predictor=predictor))
    if begin is not None:
        begin(None)
    return list(_answer(ready, predictor))


def _prepare(item: ImageInput, *, predictor: Predictor) -> Prepared | Row:
    """Return the pixels of an input, or the row that says why there are none."""
    name, digest = os.fsencode(item.name).decode("utf-8", "backslashreplace"), ""
    try:
        if item.error or name != item.name:
            reason = item.error or "a file name that is not UTF-8; rename the file"
            raise ImageError(name, reason)
        data = read_bytes(item.path) if item.content is None else item.content
        digest = hashlib.sha256(data).hexdigest()
        image = decode_bytes(data, name, colour=predictor.colour, white_level=predictor.white_level)
    except ImageError as error:
        reason = " ".join(error.reason.split())
        return Row(image=name, model=predictor.model, sha256=digest, error=reason)
    return Prepared(name, digest, letterbox(image, predictor.image_size))


def read_bytes(path: Path) -> bytes:
    """Return the content of a regular file; a pipe or a device might never end.

    Raises:
        ImageError: it is none, too large, or cannot be read.
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(path, "a folder, not a file")
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(path, "not a regular file")
        if status.st_size > MAX_BYTES:
            raise ImageError(path, f"{status.st_size:,} bytes, more than the limit {MAX_BYTES:,}")
        return path.read_bytes()
    except OSError as error:
        raise ImageError(path, f"{CANNOT_BE_READ} ({error.strerror or error})") from error
    except ValueError as error:  # a zero byte in a line of a list file
        raise ImageError(path, f"not a file name ({error})") from error


def _answer(ready: Sequence[Prepared | Row], predictor: Predictor) -> Iterator[Row]:
    """Yield the rows of some inputs, those with an error in their places."""
    answered = _infer([item for item in ready if isinstance(item, Prepared)], predictor)
    for item in ready:
        yield item if isinstance(item, Row) else next(answered)


def _infer(items: Sequence[Prepared], predictor: Predictor) -> Iterator[Row]:
    if not items:
        return
    answers = predictor.engine.infer(np.stack([item.pixels.image for item in items]))
    names = predictor.names
    for position, item in enumerate(items):
        score, corners = float(answers.scores[position].max()), answers.boxes[position]
        found = () if answers.found is None else answers.found[position]
        if not (0 <= score <= 1 and np.isfinite(corners).all() and np.isfinite(found).all()):
            raise WeightsError(
                f"the model {predictor.model} gives no usable numbers for {item.name!r} "
                f"(score {score}); its file is damaged or its training diverged"
            )
        name = names[answers.classes[position]]
        answer = predictor.decide(score, name, _box(corners, name, item.pixels, predictor))
        if predictor.reject is not None:
            answer = _judged(answer, answers, position, item.name, predictor)
        prediction = Prediction(image=item.name, **answer._asdict())
        row = Row(
            image=item.name,
            model=predictor.model,
            sha256=item.sha256,
            prediction=prediction,
            class_code=predictor.classes[prediction.class_name].code,
            detections=tuple(_detection(each, item, predictor) for each in found),
            appearance=_appearance(item, answers, position, predictor),
        )
        if predictor.explain is not None and predictor.explain(row):
            label = int(answers.classes[position])
            heat = heat_map(predictor.engine, item.pixels, label=label, score=score)
            row = replace(row, heat=heat)
        yield row


def _judged(
    answer: Answer, answers: TopOne, position: int, image: str, predictor: Predictor
) -> Answer:
    """Return the answer after the question whether the image is of any class at all."""
    assert predictor.reject is not None
    features = answers.features
    if features is None or not np.isfinite(features[position]).all():
        raise WeightsError(
            f"the model {predictor.model} gives no usable features for {image!r}; its file is "
            "damaged or its training diverged"
        )
    label = predictor.classes.names.index(answer.class_name)
    scores = answers.scores[position]
    return predictor.reject.judge(answer, scores, features[position], label=label)


def _appearance(
    item: Prepared, answers: TopOne, position: int, predictor: Predictor
) -> Appearance | None:
    """Return how an image looks, None where nobody asked."""
    if predictor.known is None:
        return None
    looks = appearance_of(item.pixels)
    if answers.features is None:
        return looks
    distance = distance_to_known(answers.features[position], predictor.known)
    return looks._replace(distance=distance)


def _detection(found: NDArray[np.float32], item: Prepared, predictor: Predictor) -> Detection:
    name = predictor.names[int(found[5])]
    box = _box(found[:4], name, item.pixels, predictor)
    assert box is not None  # a model without boxes finds none
    return Detection(item.name, box, name, min(1.0, float(found[4])))


def _box(
    corners: NDArray[np.floating], name: str, pixels: Letterboxed, predictor: Predictor
) -> Box | None:
    """Return the box of an answer in pixels of the original, None where nobody says where it is."""
    if predictor.classes[name].kind == "whole_image":
        width, height = pixels.original_size
        return Box(0.0, 0.0, float(width), float(height))
    return None if predictor.boxless else to_original(corners, pixels)
