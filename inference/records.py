"""What travels through the pipeline: a model ready to answer, and the row an image becomes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from wafer.datasets.classes import ClassTable
from wafer.datasets.records import Box
from wafer.evaluation.calibration import Answer
from wafer.evaluation.records import Detection, Prediction
from wafer.evaluation.rejecting import Rejection

__all__ = ["Appearance", "Decide", "Engine", "Predictor", "Row", "TopOne"]


class TopOne(NamedTuple):
    """The best box of each image of a batch.

    ``boxes`` are corners (xmin, ymin, xmax, ymax) in pixels of the letterboxed image, shape
    (N, 4); ``classes`` positions in ``Predictor.names``, shape (N,); ``scores`` the
    highest score of each class over all boxes, 0 to 1, shape (N, classes). ``features`` are what
    the head was given, pooled over the image, shape (N, features); None where nobody asked.
    ``found`` are the boxes of each image that survive NMS, best first: corners, score and class,
    shape (boxes, 6); None where nobody asked.
    """

    boxes: NDArray[np.floating]
    classes: NDArray[np.integer]
    scores: NDArray[np.floating]
    features: NDArray[np.float32] | None = None
    found: Sequence[NDArray[np.float32]] | None = None

    @classmethod
    def of(
        cls,
        boxes: NDArray[np.floating],
        scores: NDArray[np.floating],
        features: NDArray[np.float32] | None = None,
        found: Sequence[NDArray[np.float32]] | None = None,
    ) -> TopOne:
        """Return the answer of a network; the class is that of the highest score."""
        return cls(boxes, scores.argmax(axis=1), scores, features, found)


class Appearance(NamedTuple):
    """How an image looks: brightness, sharpness, and the distance to what the model knows.

    ``brightness`` is the mean in grey levels, 0 to 255; ``sharpness`` the standard deviation of the
    Laplacian, in grey levels, 0 or more. Both are of the resized image without its padding.
    ``distance`` is Euclid's between its features and those of the nearest golden image; None where
    the engine gives no features.
    """

    brightness: float
    sharpness: float
    distance: float | None = None


class Engine(Protocol):
    """A network on some runtime, open until it is closed."""

    def infer(self, images: NDArray[np.uint8], /) -> TopOne:
        """Return the best box of each letterboxed image.

        Args:
            images: grey (N, size, size) or RGB (N, size, size, 3); N is at least 1 and may
                differ from call to call.
        """
        ...

    def close(self) -> None:
        """Let go of the network; it may be called again."""
        ...


Decide = Callable[[float, str, Box | None], Answer]
"""Turns the highest score, its class and its box in pixels of the original into the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictor:
    """A model with all that is needed to answer for a file.

    ``model`` is the label in the output, such as ``yolov5n-694634a01063``. ``image_size`` is the
    side of the letterboxed input in pixels; ``colour`` and ``white_level`` say how files are
    decoded (`wafer.datasets.images.decode_image`). ``boxless`` marks a model that names a class for
    the whole image and says nothing of where: its scores are of all classes, "no defect" included,
    and only classes whose label is the full frame have a box. ``reject`` tells images of no class;
    None never does. ``explain`` says of a row whether its heat is wanted; None for no row.
    ``known`` are the features of images that the model knows, shape (N, features); None where
    nobody wants to know how images look.
    """

    model: str
    engine: Engine
    classes: ClassTable
    decide: Decide
    image_size: int
    colour: bool
    white_level: int
    boxless: bool = False
    reject: Rejection | None = None
    explain: Callable[[Row], bool] | None = None
    known: NDArray[np.float32] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Return the classes that the engine's scores follow."""
        return self.classes.names if self.boxless else self.classes.detector_names


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What is said about one input: a prediction, or an error.

    ``image`` is the name of the input, ``class_code`` the code of the predicted class, ``sha256``
    the digest of the file's content (empty where it could not be read), ``model`` the label of
    the model of the run. ``detections`` are all boxes, best first, where the engine gave them;
    ``heat`` says what made the model decide, where that was wanted (`wafer.inference.occlusion`).
    ``appearance`` is how the image looks, where there is a prediction and somebody asked.

    Raises:
        ValueError: both a prediction and an error, or neither.
    """

    image: str
    model: str
    sha256: str = ""
    prediction: Prediction | None = None
    class_code: int | None = None
    error: str = ""
    detections: tuple[Detection, ...] = ()
    heat: NDArray[np.float32] | None = field(default=None, compare=False)
    appearance: Appearance | None = None

    def __post_init__(self) -> None:
        if (self.prediction is None) == (not self.error):
            raise ValueError(f"{self.image!r} needs either a prediction or an error")
