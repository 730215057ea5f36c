"""Training, measuring and timing the models of Tables 1 and 2 one after the other, none twice.

What is finished is seen from the run folders: each model has a folder of runs of its own, in which
a finished run is its result, answers of a split say that it was measured on it, and a file of
timings that it was timed. So nothing is lost or repeated at whatever moment the command is killed.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wafer.classifier.course import RESULTS, Course, read_epochs
from wafer.classifier.evaluating import Measured, measure_answers
from wafer.classifier.images import Chosen, choose_images
from wafer.classifier.loading import load_classifier
from wafer.classifier.names import NETWORKS
from wafer.classifier.pretrained import first_weights
from wafer.classifier.training import train_classifier
from wafer.datasets.errors import DataError, Fault, WeightsError, WorkspaceError
from wafer.datasets.files import sha256_file, write_text
from wafer.datasets.runs import MODEL_FILE, newest_finished_run
from wafer.datasets.workspace import Workspace, dataset_hash
from wafer.detector.loading import load_detector
from wafer.detector.training import prepare_training, train_detector
from wafer.evaluation.metrics import Interval, weighted_accuracy
from wafer.evaluation.paired import resampled_interval
from wafer.evaluation.reliability import calibration_error, equal_mass_bins
from wafer.evaluation.report import METRICS_FILE, REPORT_FILE
from wafer.evaluation.results import Evaluation
from wafer.experiments.comparison.plan import CLASSIFIERS, Scale, Training
from wafer.experiments.comparison.speed import (
    Speed,
    conditions_here,
    measure_speed,
    read_speed,
    write_speed,
)
from wafer.experiments.record import Progress
from wafer.inference.devices import training_devices
from wafer.inference.records import Predictor
from wafer.weights.loading import read_tensors

__all__ = [
    "Answered",
    "Models",
    "Outcome",
    "check_images",
    "data_of",
    "digests",
    "first_weights_here",
]

Part = Literal["train", "val", "test"]
SPLITS: tuple[Part, ...] = ("train", "val", "test")
MEASURED: tuple[Part, ...] = ("val", "test")
ANSWERS = "answers.csv"
TIMED_IMAGES = 32


@dataclass(frozen=True, slots=True)
class Answered:
    """The answers of a model to the images of a split, in the order of ``images``.

    ``correct`` and ``confidence`` have shape (n,); ``metrics`` is the content of metrics.json.
    """

    images: tuple[str, ...]
    correct: NDArray[np.bool_]
    confidence: NDArray[np.float64]
    metrics: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A model that is trained, and measured and timed as far as that was asked for.

    ``arguments`` are what its training was told, ``epochs`` how many it took, ``stopped`` whether
    it ended because validation got no better. ``answers`` are those to each split it was measured
    on, none before it was, and ``intervals`` those of figures on test, where they are spread by
    resampling; ``speed`` is None before it was timed.
    """

    name: str
    run: Path
    arguments: Mapping[str, Any]
    epochs: int
    stopped: bool
    answers: Mapping[str, Answered]
    intervals: Mapping[str, Interval | None]
    speed: Speed | None

    @property
    def from_scratch(self) -> bool:
        """Return whether this is a network that began with random weights."""
        network = self.name in NETWORKS or self.name not in CLASSIFIERS
        return network and self.arguments.get("pretrained", self.arguments.get("weights")) is None


@dataclass(frozen=True, slots=True)
class Models:
    """All models on one workspace.

    ``folder`` gets a folder of runs for each. ``detector`` is what its training is told besides
    what the scale says: model, weights, seed and device. ``data`` is what ``data_of`` said of the
    workspace, ``boxed`` whether it has boxes to train a detector on, ``starts`` the files of first
    weights of the networks that have one here.
    """

    folder: Path
    workspace: Workspace
    scale: Scale
    detector: Mapping[str, Any]
    data: str
    boxed: bool
    starts: Mapping[str, Path]
    progress: Progress

    @property
    def names(self) -> tuple[str, ...]:
        """Return the models in the order of the tables; no detector where there are no boxes."""
        return (*CLASSIFIERS, str(self.detector["model"])) if self.boxed else CLASSIFIERS

    @property
    def _in_turn(self) -> list[str]:
        """Return the models in the order in which they are trained: networks last."""
        return sorted(
            reversed(self.names), key=lambda name: (name in NETWORKS, name not in CLASSIFIERS)
        )

    def check(self) -> str | None:
        """Check first weights and what the detector is told, before a training takes its hour.

        Returns:
            The SHA-256 of the detector's first weights, None from scratch or without a detector.

        Raises:
            TrainingError, DataError, WeightsError: as ``prepare_training``.
        """
        for path in self.starts.values():
            read_tensors(path)
        if not self.boxed:
            return None
        ready = prepare_training(self.workspace, **self._detector_arguments())
        digest: str | None = ready.arguments["weights"]
        return digest

    def run(self, table: int) -> Iterator[Outcome]:
        """Yield one model after the other as they are finished, networks last.

        Args:
            table: 1 measures what they answer, 2 how long they take.

        Raises:
            TrainingError, DataError, WeightsError: as the trainings.
            WorkspaceError: the data have changed on the way.
        """
        for number, name in enumerate(self._in_turn):
            if data_of(self.workspace) != self.data:
                raise WorkspaceError(
                    f"{self.workspace.root}: images, labels or splits have changed; put them back "
                    f"and start the same command again, it goes on with {name}"
                )
            run = self._trained(name, number)
            if table == 1:
                self._measure(name, run)
            else:
                self._time(name, run)
            yield self.outcome(name, run)
            self.progress("all", number + 1, len(self.names))

    def report(self, outcome: Outcome) -> None:
        """Write the report of a model on test, with its pictures, unless it is there."""
        folder = outcome.run / "test"
        if not (folder / REPORT_FILE).is_file():  # it is written last
            measured = self._answers(self._predictor(outcome.name, outcome.run), "test")
            measured.report(self.workspace, folder=folder)

    def outcome(self, name: str, run: Path) -> Outcome:
        """Return what is known of a model from the folder of its finished run."""
        arguments: Mapping[str, Any] = _read(run / "run.json")["arguments"]
        epochs, stopped = _course(run, arguments, classifier=name in CLASSIFIERS)
        answers: dict[str, Answered] = {
            split: _read_answers(run / split)
            for split in SPLITS
            if (run / split / ANSWERS).is_file()
        }
        return Outcome(
            name=name,
            run=run,
            arguments=arguments,
            epochs=epochs,
            stopped=stopped,
            answers=answers,
            intervals=_intervals(answers["test"]) if "test" in answers else {},
            speed=read_speed(run),
        )

    def _trained(self, name: str, before: int) -> Path:
        runs = self._runs(name)
        finished = newest_finished_run(runs)
        if finished is not None:
            return finished.folder

        def progress(epoch: int, epochs: int, batch: int, batches: int) -> None:
            done = epoch - 1 + batch / batches
            self.progress(name, done, epochs)
            self.progress("all", before + done / epochs, len(self.names))

        if name not in CLASSIFIERS:
            arguments = self._detector_arguments()
            return train_detector(self.workspace, runs=runs, progress=progress, **arguments).folder
        told = self.scale.trainings.get(name, Training())
        return train_classifier(
            self.workspace,
            model=name,
            pretrained=self.starts.get(name, "none") if name in NETWORKS else None,
            epochs=told.epochs,
            batch=told.batch,
            imgsz=told.image_size,
            patience=told.patience,
            seed=self.detector["seed"],
            device=self._device,
            runs=runs,
            progress=progress,
        ).folder

    def _measure(self, name: str, run: Path) -> None:
        # The paper's figures of its detector are of images that it was trained on.
        wanted = MEASURED if name in CLASSIFIERS else SPLITS
        missing = [split for split in wanted if not (run / split / ANSWERS).is_file()]
        if not missing:
            return
        predictor = self._predictor(name, run)
        for split in missing:
            done = self._answers(predictor, split)
            metrics = json.dumps(done.evaluation.to_dict(), indent=2, allow_nan=False)
            write_text(run / split / METRICS_FILE, metrics + "\n")
            _write_answers(run / split, done.evaluation)  # last: says that all is there

    def _answers(self, predictor: Predictor, split: Part) -> Measured:
        return measure_answers(
            self.workspace,
            predictor,
            split=split,
            progress=lambda done, total: self.progress("evaluating", done, total),
        )

    def _time(self, name: str, run: Path) -> None:
        on_torch = name in NETWORKS or name not in CLASSIFIERS
        device = self._device if on_torch else "cpu"
        before = read_speed(run)
        if before is not None and before.conditions == conditions_here(self.scale.speed, device):
            return
        samples = choose_images(self.workspace, self.workspace.samples(), "test").samples
        speed = measure_speed(
            self._predictor(name, run),
            [self.workspace.image_path(sample.image) for sample in samples[:TIMED_IMAGES]],
            test=self.scale.speed,
            model_file=run / MODEL_FILE,
            device=device,
        )
        write_speed(run, speed)

    def _predictor(self, name: str, run: Path) -> Predictor:
        path = run / MODEL_FILE
        if name in CLASSIFIERS:
            return load_classifier(path, device=self._device).predictor
        return load_detector(path, device=self._device).predictor

    def _detector_arguments(self) -> Any:
        return {**self.scale.detector, "img_weights": True, **self.detector}

    @property
    def _device(self) -> str:
        return training_devices(self.detector["device"]).split(",")[0]

    def _runs(self, name: str) -> Path:
        return self.folder / "runs" / name


def first_weights_here() -> dict[str, Path]:
    """Return the files of ImageNet weights that are on this machine, by the name of the network."""
    found = {}
    for name in NETWORKS:
        try:
            path = first_weights(name, "cached")
        except WeightsError:
            continue
        if path is not None:
            found[name] = path
    return found


def digests(starts: Mapping[str, Path]) -> dict[str, str]:
    """Return the SHA-256 of files of first weights."""
    return {name: sha256_file(path) for name, path in starts.items()}


def data_of(workspace: Workspace) -> str:
    """Return 64 digits that change with any image, class or box of train, val or test.

    And with the names of images, by which answers are compared, and with what is taken for truth.
    """
    samples = [sample for sample in workspace.samples() if sample.split in SPLITS]
    digest = hashlib.sha256(dataset_hash(workspace, samples).encode())
    truth = workspace.true_samples()
    for split in SPLITS:
        chosen = choose_images(workspace, truth, split)
        pairs = sorted((s.image, n) for s, n in zip(chosen.samples, chosen.names, strict=True))
        digest.update(json.dumps([split, pairs]).encode())
    return digest.hexdigest()


def has_boxes(workspace: Workspace) -> bool:
    """Return whether there is a box to learn from; a full frame by rule says nothing of where."""
    drawn = set(workspace.classes.box_names)
    samples = (sample for sample in workspace.samples() if sample.split == "train")
    return any(box.class_name in drawn for sample in samples for box in sample.annotations or ())


def check_images(workspace: Workspace) -> tuple[str, ...]:
    """Check that there are images of known classes to train on, to choose by and to report on.

    Returns:
        Notes about classes that a split has no image of.

    Raises:
        DataError: a split without such an image; all such splits together.
    """
    samples = workspace.samples()
    parts: dict[str, Chosen] = {s: choose_images(workspace, samples, s) for s in SPLITS}
    empty = [split for split, chosen in parts.items() if not chosen.samples]
    if empty:
        remedy = "give images a class in image_labels.csv, or run `wafer split`"
        problem = "no image of a known class in the split {}"
        root = str(workspace.root)
        raise DataError(Fault(file=root, problem=problem.format(s), remedy=remedy) for s in empty)
    notes = []
    for name in workspace.classes.names:
        lacking = [split for split, chosen in parts.items() if not chosen.counts[name]]
        if lacking:
            notes.append(f"no image of class {name} in {' and '.join(lacking)}")
    return tuple(notes)


def _course(run: Path, arguments: Mapping[str, Any], *, classifier: bool) -> tuple[int, bool]:
    """Return how many epochs a training took, and whether validation ended it."""
    if classifier:
        course = Course(run, int(arguments["patience"]), list(read_epochs(run)))
        return len(course.epochs), course.over
    with (run / RESULTS).open(encoding="utf-8", newline="") as handle:
        epochs = sum(1 for _ in csv.DictReader(handle))
    return epochs, epochs < int(arguments["epochs"])


def _write_answers(folder: Path, evaluation: Evaluation) -> None:
    answers, names = evaluation.answers, evaluation.classes.names
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "truth", "class", "confidence", "automatic"])
    for i, image in enumerate(answers.images):
        truth, answer = names[answers.truth[i]], names[answers.predicted[i]]
        automatic = int(answers.automatic[i])
        writer.writerow([image, truth, answer, repr(float(answers.confidence[i])), automatic])
    write_text(folder / ANSWERS, text.getvalue())


def _read_answers(folder: Path) -> Answered:
    with (folder / ANSWERS).open(encoding="utf-8", newline="") as handle:
        rows = sorted(csv.DictReader(handle), key=lambda row: row["image"])
    return Answered(
        images=tuple(row["image"] for row in rows),
        correct=np.array([row["truth"] == row["class"] for row in rows], np.bool_),
        confidence=np.array([float(row["confidence"]) for row in rows]),
        metrics=_read(folder / METRICS_FILE),
    )


def _intervals(answered: Answered) -> dict[str, Interval | None]:
    figures = {"weighted_accuracy": weighted_accuracy, "ece": _ece}
    return {
        name: resampled_interval(figure, answered.confidence, answered.correct)
        for name, figure in figures.items()
    }


def _ece(confidence: NDArray[np.float64], correct: NDArray[np.bool_]) -> float | None:
    return calibration_error(equal_mass_bins(confidence, correct))


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
