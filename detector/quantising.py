"""INT8: calibrated on training images, and refused where validation images are answered otherwise.

The gate looks at what `wafer classify` would answer, "no defect" included, image by image with the
float32 network and with the one of eight bits.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wafer.datasets.classes import ClassTable
from wafer.datasets.errors import ImageError, WeightsError
from wafer.datasets.images import decode_image
from wafer.datasets.records import Sample
from wafer.datasets.workspace import Workspace
from wafer.evaluation.answers import true_classes
from wafer.evaluation.records import Prediction
from wafer.inference.engines.open_vino import OpenVinoEngine
from wafer.inference.engines.quantising import quantise
from wafer.inference.pipeline import classify
from wafer.inference.preprocess import letterbox
from wafer.inference.records import Predictor
from wafer.inference.sources import ImageInput

__all__ = ["ClassShift", "Shift", "calibration_draw", "quantise_network", "shift_between"]

BATCH = 16

CALIBRATION_IMAGES = 300
MOST_RECALL_LOSS = 0.005
LEAST_AGREEMENT = 0.995


def calibration_draw(
    samples: Sequence[Sample],
    *,
    classes: ClassTable,
    count: int = CALIBRATION_IMAGES,
    seed: int = 0,
) -> tuple[Sample, ...]:
    """Draw training images whose class is known, as many of each class as there are.

    One of each class in turn, in an order that the seed decides, so that a rare class is there with
    all its images before a frequent one has more. The same samples and seed give the same draw.

    Args:
        samples: of the workspace, in any order.
        classes: its class table.
        count: how many at most; every class is among them if it is no less than their number.
        seed: of the draw.
    """
    of_classes: dict[tuple[str, ...], list[Sample]] = {}
    for sample in sorted(samples, key=lambda sample: sample.image):
        shown = tuple(sorted(true_classes(sample, none_class=_none_class(classes))))
        if sample.split == "train" and shown:
            of_classes.setdefault(shown, []).append(sample)
    random = np.random.default_rng(seed)
    shuffled = [
        [of_class[i] for i in random.permutation(len(of_class))]
        for _, of_class in sorted(of_classes.items())
    ]
    turns = zip_longest(*shuffled)
    return tuple(sample for turn in turns for sample in turn if sample is not None)[:count]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassShift:
    """How the float32 network and that of eight bits answer for the images of one class.

    Of ``images``, ``right_f32`` and ``right_int8`` were answered with the class, and for ``same``
    both gave one class and one decision, right or wrong. ``escapes_f32`` and ``escapes_int8`` are
    images of a killer class that were automatically given a class that is no killer.
    """

    name: str
    images: int
    right_f32: int
    right_int8: int
    same: int
    escapes_f32: int
    escapes_int8: int

    @property
    def recall_loss(self) -> float:
        """Return the recall that is lost, 0 to 1; below 0 where some was gained."""
        return (self.right_f32 - self.right_int8) / self.images

    @property
    def agreement(self) -> float:
        """Return the share of images for which both gave one answer, 0 to 1."""
        return self.same / self.images

    @property
    def passes(self) -> bool:
        """Return whether no recall was lost that matters, and no more killers escape than did."""
        return self.recall_loss <= MOST_RECALL_LOSS and self.escapes_int8 <= self.escapes_f32

    def line(self, width: int, mark: bool) -> str:
        """Return a line of the table, the name so many characters wide."""
        shares = (part / self.images for part in (self.right_f32, self.right_int8, self.same))
        columns = "".join(f"{100 * share:13.1f}" for share in shares)
        return f"  {self.name:{width}}{self.images:8}{columns}{' *' if mark else ''}"


@dataclass(frozen=True, slots=True)
class Shift:
    """How both networks answer for validation images, by their classes."""

    classes: tuple[ClassShift, ...]

    @property
    def overall(self) -> ClassShift:
        """Return the sums over all classes."""
        return ClassShift(
            name="all",
            images=sum(row.images for row in self.classes),
            right_f32=sum(row.right_f32 for row in self.classes),
            right_int8=sum(row.right_int8 for row in self.classes),
            same=sum(row.same for row in self.classes),
            escapes_f32=sum(row.escapes_f32 for row in self.classes),
            escapes_int8=sum(row.escapes_int8 for row in self.classes),
        )

    @property
    def recall_loss(self) -> float:
        """Return the largest loss of recall of any class."""
        return max(row.recall_loss for row in self.classes)

    @property
    def passes(self) -> bool:
        """Return whether no more moved than may."""
        alike = self.overall.agreement >= LEAST_AGREEMENT
        return alike and all(row.passes for row in self.classes)

    def table(self) -> str:
        """Return lines of text, one for each class, with a star where more moved than may."""
        width = max(len(row.name) for row in (*self.classes, self.overall))
        head = f"  {'class':{width}}{'images':>8}{'recall f32':>13}{'recall int8':>13}"
        rows = [row.line(width, not row.passes) for row in self.classes]
        last = self.overall.line(width, self.overall.agreement < LEAST_AGREEMENT)
        return "\n".join([f"{head}{'agreement':>13}", *rows, last])


def shift_between(
    truth: Iterable[str],
    f32: Iterable[Prediction],
    int8: Iterable[Prediction],
    *,
    classes: ClassTable,
) -> Shift:
    """Compare what both networks answer for the same images.

    Args:
        truth: the true class of each image, at least one.
        f32: what the float32 network answers.
        int8: what the network of eight bits answers.
        classes: the table of all these classes.
    """
    answers = list(zip(truth, f32, int8, strict=True))
    harmless = {defect.name for defect in classes if not defect.killer}
    rows = []
    for name in sorted({true for true, _, _ in answers}):
        own = [(a, b) for true, a, b in answers if true == name]
        rows.append(
            ClassShift(
                name=name,
                images=len(own),
                right_f32=sum(a.class_name == name for a, _ in own),
                right_int8=sum(b.class_name == name for _, b in own),
                same=sum((a.class_name, a.decision) == (b.class_name, b.decision) for a, b in own),
                escapes_f32=sum(_escapes(name, a, harmless) for a, _ in own),
                escapes_int8=sum(_escapes(name, b, harmless) for _, b in own),
            )
        )
    return Shift(tuple(rows))


def _escapes(true: str, answer: Prediction, harmless: Collection[str]) -> bool:
    """Return whether an image of a killer class is answered so that nobody looks at it."""
    return true not in harmless and answer.class_name in harmless and answer.decision == "auto"


def quantise_network(
    source: Path,
    target: Path,
    *,
    workspace: Workspace,
    samples: Sequence[Sample],
    predictor: Predictor,
    may_be_int8: Callable[[str], bool],
) -> Shift:
    """Write a network in eight bits if it answers validation images as the float32 one does.

    Args:
        source: the float32 network, an .xml file of OpenVINO.
        target: the .xml file to write.
        workspace: says where the images are and how they are decoded.
        samples: of the workspace.
        predictor: the model; its engine is not used.
        may_be_int8: as for `wafer.inference.engines.quantising.quantise`.

    Returns:
        How the answers moved.

    Raises:
        WeightsError: more moved than may, images are missing, or NNCF is not installed.
        ImageError: a validation image cannot be decoded.
    """
    classes = predictor.classes
    drawn = calibration_draw(samples, classes=classes)
    judges = _judges(samples, workspace=workspace, classes=classes)
    pixels = _pixels(drawn, workspace=workspace, predictor=predictor)
    quantise(source, target, pixels, may_be_int8=may_be_int8)
    f32, int8 = (
        _answers(path, judges, workspace=workspace, predictor=predictor)
        for path in (source, target)
    )
    shift = shift_between(judges.values(), f32, int8, classes=classes)
    if not shift.passes:
        raise WeightsError(
            "the int8 network is refused: it answers validation images otherwise than f32\n"
            f"{shift.table()}\n"
            f"A class may lose {100 * MOST_RECALL_LOSS:g} points of recall, a killer class may not "
            "escape more often (automatically answered as a class that is no killer), and "
            f"{100 * LEAST_AGREEMENT:g} % of the answers must be the same in class and decision; * "
            "is where they are not. Export it with --precision bf16 or f32"
        )
    return shift


def _judges(
    samples: Sequence[Sample], *, workspace: Workspace, classes: ClassTable
) -> dict[str, str]:
    """Return the class of each validation image that is known to show just one.

    Raises:
        WeightsError: there are none of a class that was trained.
    """
    one = [
        (sample, min(shown))
        for sample in samples
        if len(shown := true_classes(sample, none_class=_none_class(classes))) == 1
    ]
    found = {sample.image: name for sample, name in one if sample.split == "val"}
    trained = {name for sample, name in one if sample.split == "train"}
    missing = [name for name in classes.names if name in trained - set(found.values())]
    if missing or not found:
        raise WeightsError(
            f"int8 is compared with f32 on the validation images of every class, and "
            f"{workspace.table} has none of {', '.join(missing or classes.names)}; label some or "
            "run `wafer split`, or export with --precision bf16 or f32"
        )
    return found


def _pixels(
    drawn: Sequence[Sample], *, workspace: Workspace, predictor: Predictor
) -> NDArray[np.uint8]:
    """Return the images as the network sees them, those that cannot be decoded left out."""
    found = []
    for sample in drawn:
        with suppress(ImageError):
            pixels = decode_image(
                workspace.image_path(sample.image),
                colour=predictor.colour,
                white_level=predictor.white_level,
            )
            found.append(letterbox(pixels, predictor.image_size).image)
    if not found:
        raise WeightsError(
            f"int8 is calibrated on training images of known class, and {workspace.table} has none "
            "that can be read; label some, or export with --precision bf16 or f32"
        )
    return np.stack(found)


def _answers(
    network: Path, images: Iterable[str], *, workspace: Workspace, predictor: Predictor
) -> list[Prediction]:
    """Return what a network answers for each image, as `wafer classify` does."""
    answers = []
    with closing(OpenVinoEngine(network, batch=BATCH, precision="int8")) as engine:
        inputs = [ImageInput(workspace.image_path(image), image) for image in images]
        for row in classify(inputs, replace(predictor, engine=engine), batch=BATCH):
            if row.prediction is None:
                raise ImageError(workspace.image_path(row.image), row.error)
            answers.append(row.prediction)
    return answers


def _none_class(classes: ClassTable) -> str | None:
    return None if classes.none_class is None else classes.none_class.name
