"""One round: teachers, what they say, how far to believe it, and what becomes of each image."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wafer.datasets.errors import TrainingError
from wafer.datasets.files import sha256_file
from wafer.datasets.records import Annotation, Sample
from wafer.datasets.workspace import Workspace
from wafer.labelling.propagation.calibration import Calibrator, calibration_error
from wafer.labelling.propagation.decisions import (
    ImageDecision,
    Judged,
    assess,
    contradiction,
    counted_class,
    decide_image,
    exactly_right,
    fit_images,
    image_probability,
    thresholds,
)
from wafer.labelling.propagation.places import (
    Example,
    Place,
    Reader,
    all_places,
    class_scores,
    fit_places,
    fused_places,
    matched,
    places_of,
)
from wafer.labelling.propagation.roles import Roles
from wafer.labelling.propagation.scores import VIEWS, Candidates, ask_about_images, score_images
from wafer.labelling.propagation.teachers import (
    HostedTeacher,
    TeacherSettings,
    Teaching,
    plan_teaching,
    train_teacher,
)

__all__ = [
    "Reading",
    "RoundResult",
    "Spoken",
    "decide_pool",
    "hosted_cost",
    "listen",
    "listen_to_hosted",
    "round_cost",
]

UNREADABLE = "the image cannot be read"
# Work of one image in training, and of one view of it in scoring or validation, in like units.
TRAINED, LOOKED_AT = 1.0, 0.4
HOSTED = 30.0
"""Of one image that is sent to a model elsewhere, in the same units."""

Advance = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Spoken:
    """What the teachers of a round say of every image: one answer for each that may be asked.

    ``model`` is the SHA-256 over the model files, or the name of a hosted model.
    """

    number: int
    model: str
    answers: Mapping[str, tuple[Candidates, ...]]


@dataclass(frozen=True, slots=True)
class Reading:
    """One way to read the answers: with the expert's class (guided) or without (open).

    ``boxes`` and ``images`` are the calibrators, ``limits`` the thresholds, ``judged`` the drawn
    images as they would have been labelled, ``error`` the calibration error over their boxes.
    """

    boxes: Calibrator
    images: Calibrator
    limits: Mapping[str, float | None]
    judged: tuple[Judged, ...]
    error: float | None


@dataclass(frozen=True, slots=True)
class RoundResult:
    """What comes of a round: how it was read, the decisions, and the drawn images beside it."""

    spoken: Spoken
    guided: Reading
    open: Reading
    decisions: tuple[ImageDecision, ...]
    examples: tuple[Example, ...]
    contradicted: tuple[tuple[str, str, float], ...]
    false_boxes: float | None


def listen(
    workspace: Workspace,
    roles: Roles,
    *,
    number: int,
    labelled: Mapping[str, Sequence[Annotation]] | None,
    hardest: Mapping[str, float],
    settings: TeacherSettings,
    folder: Path,
    advance: Advance,
) -> Spoken:
    """Train the teachers of a round and ask each about the images that it has not learnt from.

    In the first round that is all of the pool for every teacher. Later teachers learn from images
    of the pool too, and each is asked about its own fold alone: what it was taught it would repeat.
    """
    answers: dict[str, list[Candidates]] = {}
    digests = []
    for fold in range(roles.folds):
        here = folder / f"round-{number}" / f"fold-{fold}"
        teaching = plan_teaching(
            roles,
            fold=fold,
            labelled=labelled,
            hardest=hardest,
            epochs=settings.epochs,
            seed=settings.seed + fold,
        )
        cost = _training_cost(teaching)
        model = train_teacher(
            workspace,
            teaching,
            folder=here / "teacher",
            settings=settings,
            progress=_shares(advance, cost),
        )
        digests.append(sha256_file(model))
        found = score_images(
            model,
            _asked(roles, fold, first=labelled is None),
            workspace=workspace,
            folder=here / "scores",
            device=settings.device,
            progress=lambda images: advance(images * len(VIEWS) * LOOKED_AT),
        )
        for image, candidates in found.items():
            answers.setdefault(image, []).append(candidates)
    model_digest = hashlib.sha256("".join(digests).encode()).hexdigest()
    return Spoken(number, model_digest, {image: tuple(each) for image, each in answers.items()})


def listen_to_hosted(
    workspace: Workspace,
    roles: Roles,
    hosted: HostedTeacher,
    *,
    folder: Path,
    advance: Advance,
) -> Spoken:
    """Ask a model elsewhere about every image: the first round, without a training here."""
    found = ask_about_images(
        hosted.ask,
        _asked_of_hosted(roles),
        workspace=workspace,
        folder=folder / "round-1" / "hosted",
        progress=lambda images: advance(images * HOSTED),
    )
    return Spoken(1, hosted.name, {image: (each,) for image, each in found.items()})


def hosted_cost(roles: Roles) -> float:
    """Return the work of a round with a hosted model."""
    return HOSTED * len(_asked_of_hosted(roles))


def _asked_of_hosted(roles: Roles) -> list[str]:
    known = [s.image for s in [*roles.drawn, *roles.empty, *roles.val]]
    return [*known, *(s.image for s in roles.pool if s.image not in roles.unreadable)]


def _shares(advance: Advance, cost: float) -> Callable[[float], None]:
    """Turn a growing share of a cost into steps."""
    done = 0.0

    def report(share: float) -> None:
        nonlocal done
        advance((share - done) * cost)
        done = share

    return report


def _asked(roles: Roles, fold: int, *, first: bool) -> list[str]:
    own = [s.image for s in [*roles.drawn, *roles.empty] if roles.fold[s.image] == fold]
    val = [s.image for index, s in enumerate(roles.val) if index % roles.folds == fold]
    pool = [s.image for s in roles.pool if s.image not in roles.unreadable]
    return [*own, *val, *(image for image in pool if first or roles.fold[image] == fold)]


def _training_cost(teaching: Teaching) -> float:
    return teaching.epochs * (TRAINED * len(teaching.train) + LOOKED_AT * len(teaching.val))


def round_cost(roles: Roles, settings: TeacherSettings, *, number: int) -> float:
    """Return the work of a round, as far as it is known before what is accepted is."""
    cost = 0.0
    for fold in range(roles.folds):
        labelled: dict[str, Sequence[Annotation]] | None = None
        if number > 1:  # as if half of the pool were accepted
            labelled = {s.image: () for s in roles.pool[::2] if s.image not in roles.unreadable}
        teaching = plan_teaching(
            roles, fold=fold, labelled=labelled, hardest={}, epochs=settings.epochs, seed=0
        )
        asked = _asked(roles, fold, first=number == 1)
        cost += _training_cost(teaching) + len(asked) * len(VIEWS) * LOOKED_AT
    return cost


def decide_pool(
    workspace: Workspace, roles: Roles, spoken: Spoken, *, promise: float
) -> RoundResult:
    """Calibrate on the drawn images and decide about every image of the pool.

    Raises:
        TrainingError: a drawn image that cannot be read.
    """
    names = workspace.classes.detector_names
    reader = Reader(names, workspace.classes.box_names, roles.rare)
    examples = tuple(_example(sample, spoken) for sample in roles.people)
    own = {s.image: _own_class(s) for s in roles.people}
    asked = {image: (name,) if name else () for image, name in own.items()}
    guided = _fit(examples, reader, {i: a for i, a in asked.items() if a}, promise=promise)
    everything = dict.fromkeys(own, reader.local)
    unguided = _fit(examples, reader, everything, promise=promise)
    decisions = [
        _decide(sample, roles, spoken, reader, guided=guided, unguided=unguided)
        for sample in roles.pool
    ]
    empty = [s for s in roles.empty if s.image in spoken.answers]
    return RoundResult(
        spoken=spoken,
        guided=guided,
        open=unguided,
        decisions=tuple(decisions),
        examples=examples,
        contradicted=tuple(_contradicted(empty, spoken, reader)),
        false_boxes=_false_boxes(empty, spoken, reader, unguided),
    )


def _example(sample: Sample, spoken: Spoken) -> Example:
    (candidates,) = spoken.answers[sample.image]
    if candidates.error:
        raise TrainingError(f"{sample.image}: {candidates.error}; replace the file")
    return Example(sample.image, candidates, sample.annotations or ())


def _own_class(sample: Sample) -> str | None:
    """Return the class of a drawn image: the expert's, else that of all its boxes."""
    names = {a.class_name for a in sample.annotations or ()}
    if sample.image_class is not None:
        return sample.image_class if sample.image_class in names else None
    return names.pop() if len(names) == 1 else None


def _fit(
    examples: Sequence[Example],
    reader: Reader,
    asked: Mapping[str, Sequence[str]],
    *,
    promise: float,
) -> Reading:
    known = [example for example in examples if example.image in asked]
    boxes = fit_places(known, reader, asked=asked)
    found = {e.image: _read([e.candidates], asked[e.image], reader, boxes) for e in known}
    assessed = []
    for example in known:
        assessment = assess(found[example.image])
        expert = asked[example.image][0] if len(asked[example.image]) == 1 else None
        name = counted_class(assessment, expert)
        if name is not None:
            right = exactly_right(assessment.boxes, example.truth)
            assessed.append((example.image, assessment, name, right))
    images = fit_images([(a, n, r) for _, a, n, r in assessed], reader.names)
    judged = tuple(
        Judged(
            image,
            name,
            image_probability(assessment, name, images, reader.names),
            bool(assessment.boxes) and not assessment.doubtful,
            right,
        )
        for image, assessment, name, right in assessed
    )
    limits = thresholds(judged, names=reader.local, promise=promise)
    return Reading(boxes, images, limits, judged, _error(known, found))


def _error(examples: Sequence[Example], found: Mapping[str, Sequence[Place]]) -> float | None:
    probabilities: list[float] = []
    right: list[bool] = []
    for example in examples:
        for name in {place.class_name for place in found[example.image]}:
            places = [p for p in found[example.image] if p.class_name == name]
            truth = [a.box for a in example.truth if a.class_name == name]
            probabilities += [place.probability for place in places]
            right += [match is not None for match in matched([p.box for p in places], truth)]
    return calibration_error(probabilities, right)


def _read(
    answers: Sequence[Candidates], asked: Sequence[str], reader: Reader, calibrator: Calibrator
) -> tuple[Place, ...]:
    return all_places(
        fused_places([places_of(each, name, reader, calibrator) for each in answers])
        for name in asked
    )


def _decide(
    sample: Sample,
    roles: Roles,
    spoken: Spoken,
    reader: Reader,
    *,
    guided: Reading,
    unguided: Reading,
) -> ImageDecision:
    image, expert = sample.image, sample.image_class
    answers = spoken.answers.get(image, ())
    error = roles.unreadable.get(image) or next((a.error for a in answers if a.error), "")
    if error:
        return _unreadable(sample, error)
    one_class = expert is not None and roles.exclusive
    reading = guided if one_class else unguided
    places = _read(
        answers, (expert,) if expert and one_class else reader.local, reader, reading.boxes
    )
    found = assess(places)
    name = counted_class(found, expert)
    return decide_image(
        image,
        places,
        image_class=expert,
        probability=image_probability(found, name, reading.images, reader.names),
        limits=reading.limits,
        drawn=roles.classes_drawn,
        other=contradiction(class_scores(answers, reader), expert) if one_class else None,
    )


def _unreadable(sample: Sample, error: str) -> ImageDecision:
    return ImageDecision(
        image=sample.image,
        image_class=sample.image_class,
        class_name=sample.image_class,
        accepted=False,
        reason=f"{UNREADABLE}: {error}",
        boxes=(),
        places=(),
        probability=0.0,
        threshold=None,
    )


def _contradicted(
    empty: Sequence[Sample], spoken: Spoken, reader: Reader
) -> list[tuple[str, str, float]]:
    """Return the images that are said to be empty and where the teachers are sure of a defect."""
    found = []
    for sample in empty:
        scores = class_scores(spoken.answers[sample.image], reader)
        other = contradiction(scores, sample.image_class or "")
        if other is not None:
            found.append((sample.image, *other))
    return sorted(found, key=lambda each: -each[2])


def _false_boxes(
    empty: Sequence[Sample], spoken: Spoken, reader: Reader, reading: Reading
) -> float | None:
    """Return the boxes an empty image would get if nobody knew that it is empty, None without."""
    counts = [
        len(assess(_read(spoken.answers[s.image], reader.local, reader, reading.boxes)).boxes)
        for s in empty
    ]
    return sum(counts) / len(counts) if counts else None
