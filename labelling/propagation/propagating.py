"""`wafer label-propagate`: from the boxes that people drew to boxes for the rest of a workspace."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from wafer.datasets.errors import ImageError, TrainingError
from wafer.datasets.files import sha256_file
from wafer.datasets.ledger import Entry, ImageState
from wafer.datasets.records import Annotation, Sample
from wafer.datasets.runs import Run, locked, open_run
from wafer.datasets.workspace import Workspace, dataset_hash
from wafer.detector.training import prepare_training
from wafer.inference.devices import training_devices
from wafer.labelling.ledger import Ledger, renew_view, this_user
from wafer.labelling.propagation.decisions import ImageDecision
from wafer.labelling.propagation.gate import Comparison, compare
from wafer.labelling.propagation.outcome import (
    DECISIONS,
    annotations_of,
    queue_items,
    rejected_by_person,
    revisions,
    small_classes,
    write_decisions,
)
from wafer.labelling.propagation.places import Reader, all_places, places_of
from wafer.labelling.propagation.report import ClassRow, Summary, summarise, write_report
from wafer.labelling.propagation.roles import Roles, assign_roles
from wafer.labelling.propagation.rounds import (
    RoundResult,
    decide_pool,
    hosted_cost,
    listen,
    listen_to_hosted,
    round_cost,
)
from wafer.labelling.propagation.suspicion import Suspicion, suspicions
from wafer.labelling.propagation.teachers import HostedTeacher, TeacherSettings
from wafer.labelling.queue import QUEUE, Queue, QueueItem, propagation_runs, write_queue
from wafer.weights.manifest import shipped

__all__ = ["Propagated", "propagate"]

WHO = "wafer label-propagate"
ENOUGH = 0.005
"""A round whose mean AP50 on drawn images is better by less is the last."""
LARGEST, STRIDE = 256, 32
"""Pixels of the teachers' input where none are given: at most, and in steps of."""
REJECTED = "a person rejected such a box"
HARMED = "labels of a model made the teachers of this class worse"

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Propagated:
    """What a propagation came to: its folder, the report, how each class fares, what to look at.

    ``left_out`` are images that somebody changed while the command ran.
    """

    folder: Path
    report: Path
    summary: Summary
    queue: tuple[QueueItem, ...]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def classes(self) -> tuple[ClassRow, ...]:
        """Return one row for each class with boxes."""
        return self.summary.classes


class _Meter:
    """Work done and to do, over all rounds; what a round really costs replaces the estimate."""

    def __init__(self, expected: Sequence[float], progress: Progress | None) -> None:
        self._expected = list(expected)
        self._done = 0.0
        self._before = 0.0
        self._progress = progress

    def advance(self, work: float) -> None:
        self._done += work
        total = max(self._before + sum(self._expected), self._done)
        if self._progress is not None:
            self._progress(round(self._done), round(total))

    def end_round(self, *, last: bool = False) -> None:
        """Forget the estimate of the round that ended, or of all where it was the last."""
        self._expected = [] if last else self._expected[1:]
        self._before = self._done
        self.advance(0.0)


def propagate(
    workspace: Workspace,
    *,
    model: str = "yolov5n",
    weights: Path | Literal["none"] | None = None,
    folds: int = 3,
    rounds: int = 2,
    epochs: int = 60,
    batch: int = 16,
    imgsz: int | None = None,
    promise: float = 0.9,
    confidence: float = 0.9,
    seed: int = 0,
    device: str = "auto",
    hosted: HostedTeacher | None = None,
    progress: Progress | None = None,
) -> Propagated:
    """Label the images that nobody has drawn boxes in, as far as that can be trusted.

    A run of the same arguments and images that was killed is gone on with. Boxes of an earlier run
    that no person has touched are decided anew.

    Args:
        workspace: with some drawn images in the split train.
        model: ``yolov5n``, ``s``, ``m``, ``l`` or ``x``.
        weights: first weights of the teachers, as for a training.
        folds: how many teachers there are, each without one fold of the drawn images, 2 to 10.
        rounds: 1 to 3; from the second on teachers learn from accepted images too.
        epochs: of the first round; later ones are shorter, as they have more images.
        batch: images a step.
        imgsz: size in pixels, a multiple of 32; else 256, or what suffices for the drawn images.
        promise: share of accepted images of a class that should be right, 0.5 to 0.99.
        confidence: of the audit that certifies it, 0.5 to 0.99.
        seed: decides every random choice.
        device: ``auto``, ``cpu`` or ``cuda:N``.
        hosted: the only teacher of the first round, instead of those that are trained here.
        progress: called with (work done, work in all).

    Raises:
        WaferError: nothing to learn from, nothing to label, or an argument out of range.
        DataError: faults in the workspace, or label files that were edited by hand.
    """
    _check(folds=folds, rounds=rounds, promise=promise, confidence=confidence)
    ledger = Ledger(workspace)
    ledger.check_edits()
    ledger.adopt(who=this_user(), edited=False)
    states, histories = ledger.states(), _histories(workspace, ledger)
    samples = workspace.samples()
    roles = assign_roles(workspace, samples, folds=folds, seed=seed)
    size = _sufficient_size(workspace, roles) if imgsz is None else imgsz
    settings = TeacherSettings(model, weights, epochs, batch, size, seed, device)
    _check_training(workspace, roles, settings)
    run, resumed = open_run(
        propagation_runs(workspace),
        model=model,
        arguments=_arguments(settings, folds, rounds, promise, confidence, hosted),
        dataset_hash=_data(workspace, samples, roles),
    )
    digests = _digests(workspace, roles)
    with locked(run):
        results, comparisons = _rounds(
            workspace, roles, settings, run.folder, rounds, promise, hosted, histories, progress
        )
        best = _best(results, comparisons)
        result = _without_harmed(best, comparisons)
        result = _without_rejected(result, histories)
        result = _without_changed(workspace, result, digests)
        suspicious = _suspicions(workspace, roles, result)
        return _finish(
            workspace,
            run,
            ledger,
            states,
            roles,
            result,
            comparisons=comparisons,
            found=suspicious,
            notes=(*roles.notes, *_notes(resumed, hosted)),
            promise=promise,
            confidence=confidence,
        )


def _check(*, folds: int, rounds: int, promise: float, confidence: float) -> None:
    faults = []
    if not 2 <= folds <= 10:
        faults.append("--folds must be from 2 to 10")
    if not 1 <= rounds <= 3:
        faults.append("--rounds must be from 1 to 3")
    if not 0.5 <= promise <= 0.99:
        faults.append("--promise must be from 0.5 to 0.99")
    if not 0.5 <= confidence <= 0.99:
        faults.append("--confidence must be from 0.5 to 0.99")
    if faults:
        raise TrainingError("; ".join(faults))


def _sufficient_size(workspace: Workspace, roles: Roles) -> int:
    """Return the least multiple of 32 that holds every drawn image, 256 at most."""
    cache = workspace.image_cache()
    longest = max(max(cache.size(s.image)) for s in roles.people)
    return min(LARGEST, -(-longest // STRIDE) * STRIDE)


def _check_training(workspace: Workspace, roles: Roles, settings: TeacherSettings) -> None:
    """Refuse arguments that a training would refuse, before anything is begun."""
    val = [replace(s, split="val") for s in (roles.val or roles.drawn)]
    prepare_training(
        workspace,
        samples=[*roles.drawn, *val],
        model=settings.model,
        weights=settings.weights,
        epochs=settings.epochs,
        batch=settings.batch,
        imgsz=settings.imgsz,
        seed=settings.seed,
        device=settings.device,
    )


def _arguments(
    settings: TeacherSettings,
    folds: int,
    rounds: int,
    promise: float,
    confidence: float,
    hosted: HostedTeacher | None,
) -> dict[str, Any]:
    first = shipped(settings.model) if settings.weights is None else settings.weights
    return {
        "model": settings.model,
        "weights": sha256_file(first) if isinstance(first, Path) else first,
        "epochs": settings.epochs,
        "batch": settings.batch,
        "imgsz": settings.imgsz,
        "seed": settings.seed,
        "device": training_devices(settings.device),
        "folds": folds,
        "rounds": rounds,
        "promise": promise,
        "confidence": confidence,
        "teacher": None if hosted is None else hosted.name,
    }


def _data(workspace: Workspace, samples: Sequence[Sample], roles: Roles) -> str:
    """Return the hash of all that the run rests on; what a model labelled before is not in it.

    Scores are kept in the order of the images and teachers by the number of their fold, so names
    and folds count too.
    """
    pool = {s.image for s in roles.pool}
    seen = dataset_hash(
        workspace, [replace(s, annotations=None) if s.image in pool else s for s in samples]
    )
    places = [[s.image, roles.fold.get(s.image)] for s in samples]
    return hashlib.sha256(json.dumps([seen, places]).encode()).hexdigest()


def _histories(workspace: Workspace, ledger: Ledger) -> dict[str, tuple[tuple[Entry, ...], ...]]:
    """Return what was said of every image that is there, in pixels of the image as it is now."""
    cache = workspace.image_cache()
    found = {}
    for image, history in ledger.histories().items():
        with suppress(ImageError, OSError):
            size = cache.size(image)
            found[image] = tuple(tuple(e.resized(size) for e in each) for each in history)
    return found


def _digests(workspace: Workspace, roles: Roles) -> dict[str, str]:
    cache = workspace.image_cache()
    return {s.image: cache.sha256(s.image) for s in roles.pool}


def _rounds(
    workspace: Workspace,
    roles: Roles,
    settings: TeacherSettings,
    folder: Path,
    rounds: int,
    promise: float,
    hosted: HostedTeacher | None,
    histories: Mapping[str, Sequence[Sequence[Entry]]],
    progress: Progress | None,
) -> tuple[list[RoundResult], list[tuple[Comparison, ...]]]:
    """Run the rounds; what was learnt from accepted images is compared with the round before."""
    costs = [round_cost(roles, settings, number=n) for n in range(1, rounds + 1)]
    if hosted is not None:
        costs[0] = hosted_cost(roles)
    meter = _Meter(costs, progress)
    results: list[RoundResult] = []
    comparisons: list[tuple[Comparison, ...]] = []
    reader = Reader(workspace.classes.detector_names, workspace.classes.box_names, roles.rare)
    for number in range(1, rounds + 1):
        labelled = None
        if results:
            sound = _without_harmed(results[-1], comparisons)
            labelled = _labels(_without_rejected(sound, histories).decisions)
            if not any(s.image in labelled and s.split == "train" for s in roles.pool):
                break  # nothing new to learn from
        if number == 1 and hosted is not None:
            spoken = listen_to_hosted(
                workspace, roles, hosted, folder=folder, advance=meter.advance
            )
        else:
            spoken = listen(
                workspace,
                roles,
                number=number,
                labelled=labelled,
                hardest=_hardest(roles, results),
                settings=settings,
                folder=folder,
                advance=meter.advance,
            )
        meter.end_round()
        results.append(decide_pool(workspace, roles, spoken, promise=promise))
        if len(results) > 1:
            before, after = results[-2].examples, results[-1].examples
            comparisons.append(compare(before, after, reader, seed=settings.seed))
            if _gain(comparisons[-1]) < ENOUGH:
                break
    meter.end_round(last=True)
    return results, comparisons


def _labels(decisions: Sequence[ImageDecision]) -> Mapping[str, Sequence[Annotation]]:
    return {d.image: annotations_of(d) for d in decisions if d.accepted}


def _hardest(roles: Roles, results: Sequence[RoundResult]) -> dict[str, float]:
    if not results:
        return {}
    answers = results[-1].spoken.answers
    return {
        s.image: max((float(a.scores.max(initial=0.0)) for a in answers[s.image]), default=0.0)
        for s in roles.empty
        if s.image in answers
    }


def _gain(comparison: Sequence[Comparison]) -> float:
    measured = [each.gain for each in comparison if each.before is not None]
    return sum(measured) / len(measured) if measured else 0.0


def _best(
    results: Sequence[RoundResult], comparisons: Sequence[Sequence[Comparison]]
) -> RoundResult:
    """Return the last round that did not make the mean over classes worse."""
    best = results[0]
    for result, comparison in zip(results[1:], comparisons, strict=True):
        if _gain(comparison) < 0:
            break
        best = result
    return best


def _without_harmed(
    result: RoundResult, comparisons: Sequence[Sequence[Comparison]]
) -> RoundResult:
    """Withdraw the classes whose teachers got worse by labels of a model."""
    harmed = {each.class_name for c in comparisons for each in c if each.harmed}
    return _refused(result, HARMED, lambda d: bool(harmed & {p.class_name for p in d.boxes}))


def _without_rejected(
    result: RoundResult, histories: Mapping[str, Sequence[Sequence[Entry]]]
) -> RoundResult:
    """Refuse boxes that a person has said are wrong."""
    return _refused(result, REJECTED, lambda d: rejected_by_person(d, histories.get(d.image, ())))


def _without_changed(
    workspace: Workspace, result: RoundResult, digests: Mapping[str, str]
) -> RoundResult:
    """Refuse images that are not what the teachers saw."""
    cache = workspace.image_cache()

    def changed(decision: ImageDecision) -> bool:
        there = (workspace.images / decision.image).is_file()
        return not there or cache.sha256(decision.image) != digests[decision.image]

    return _refused(result, "the image was changed or removed meanwhile", changed)


def _refused(
    result: RoundResult, reason: str, applies: Callable[[ImageDecision], bool]
) -> RoundResult:
    decisions = tuple(
        replace(d, accepted=False, reason=reason) if d.accepted and applies(d) else d
        for d in result.decisions
    )
    return replace(result, decisions=decisions)


def _notes(resumed: bool, hosted: HostedTeacher | None) -> tuple[str, ...]:
    notes = ("going on with an unfinished run",) if resumed else ()
    if hosted is None:
        return notes
    seen = (
        f"{hosted.name} may have learnt from the drawn images that it is judged by: what is "
        "estimated here may be too good; let `wafer audit` tell"
    )
    return (*notes, seen)


def _suspicions(workspace: Workspace, roles: Roles, result: RoundResult) -> tuple[Suspicion, ...]:
    reader = Reader(workspace.classes.detector_names, workspace.classes.box_names, roles.rare)
    plain = replace(reader, rare=frozenset())  # by rare classes' rule every defect is one of them
    places = {
        e.image: all_places(
            places_of(e.candidates, name, plain, result.open.boxes) for name in plain.local
        )
        for e in result.examples
    }
    return suspicions(result.examples, places)


def _finish(
    workspace: Workspace,
    run: Run,
    ledger: Ledger,
    states: Mapping[str, ImageState],
    roles: Roles,
    result: RoundResult,
    *,
    comparisons: Sequence[Sequence[Comparison]],
    found: Sequence[Suspicion],
    notes: tuple[str, ...],
    promise: float,
    confidence: float,
) -> Propagated:
    spoken = result.spoken
    changes = revisions(result.decisions, states, model=spoken.model, round_number=spoken.number)
    left_out = ledger.record_possible(changes, who=WHO)
    small = small_classes(result.decisions, promise=promise, confidence=confidence)
    items = tuple(
        item
        for item in queue_items(result, roles, found, ledger.states(), small=small)
        if item.image not in left_out
    )
    write_decisions(result.decisions, run.folder / DECISIONS)
    write_queue(Queue(run.folder.name, spoken.model, spoken.number, items), run.folder / QUEUE)
    notes = (*notes, *renew_view(workspace))
    head = ledger.head()
    summary = summarise(
        roles,
        result,
        comparisons,
        items,
        found,
        classes=workspace.classes,
        promise=promise,
        confidence=confidence,
        ledger=head,
        notes=notes,
    )
    report = write_report(run.folder, summary, workspace=workspace, decisions=result.decisions)
    run.update(status="finished", ledger=head)
    return Propagated(run.folder, report, summary, items, left_out, notes)
