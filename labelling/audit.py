"""`wafer audit`: a blind sample of the accepted images, and what a person's answers certify.

The sample is a folder of pictures with their boxes drawn and a table to fill in. No probability is
shown, and the images of a class come in random order. Answers are checked as a whole before
anything is recorded; the same answers given again change nothing, others are refused.
"""

from __future__ import annotations

import csv
import io
import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from wafer.datasets.errors import DataError, Fault, WaferError
from wafer.datasets.files import write_bytes, write_text
from wafer.datasets.image_names import safe_name
from wafer.datasets.images import decode_image
from wafer.datasets.ledger import ImageState
from wafer.datasets.runs import Run, locked, newest_finished_run
from wafer.datasets.workspace import Workspace
from wafer.labelling.certificate import (
    ATTEMPTS,
    Answer,
    Plan,
    kept_after_failure,
    plan_audit,
    precision_bound,
)
from wafer.labelling.ledger import Ledger, renew_view, this_user
from wafer.labelling.propagation.decisions import ImageDecision
from wafer.labelling.propagation.outcome import DECISIONS, put_back_items, read_decisions
from wafer.labelling.propagation.report import (
    REPORT,
    REPORT_DATA,
    ClassRow,
    Summary,
    read_summary,
    write_report,
)
from wafer.labelling.queue import QUEUE, propagation_runs, read_queue, write_queue
from wafer.labelling.verdicts import WRONG, confirmed, withdrawn

__all__ = [
    "Audited",
    "DrawnAudit",
    "SampledImage",
    "answer_audit",
    "draw_audit",
    "finish_audit",
    "note_answer",
    "sampled_images",
    "waiting_sample",
]

TABLE = "audit.csv"
DRAW = "draw.json"
ANSWERS = "answers.json"
COLUMNS = ("picture", "image", "class", "boxes", "right", "remark")
YES, NO = ("yes", "y", "1", "true", "right"), ("no", "n", "0", "false", "wrong")
FAILED = "its class failed an audit"
PICTURE = 1024
LINE = 2


@dataclass(frozen=True, slots=True)
class DrawnAudit:
    """A sample that waits for answers: the table to fill in, how many images, what to say."""

    table: Path
    images: int
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Audited:
    """What an audit came to, class by class."""

    report: Path
    classes: tuple[ClassRow, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        return {"classes": [asdict(row) for row in self.classes], "notes": list(self.notes)}


@dataclass(frozen=True, slots=True)
class SampledImage:
    """An image of a sample that waits, and what its table says so far; None for no answer.

    ``revision`` is the one whose boxes are judged, whatever became of the image since.
    """

    image: str
    class_name: str
    revision: int
    right: bool | None


@dataclass(frozen=True, slots=True)
class _ClassDraw:
    """The sample of one class: who could be drawn, with revisions, and who was."""

    name: str
    attempt: int
    plan: Plan
    population: Mapping[str, float]
    revisions: Mapping[str, int]
    sample: tuple[str, ...]


def draw_audit(workspace: Workspace) -> DrawnAudit:
    """Draw a sample of every class that has none yet, or return the one that waits for answers.

    Raises:
        WaferError: no finished propagation, or nothing left to audit.
        DataError: label files that were edited by hand.
    """
    run = _run(workspace)
    ledger = Ledger(workspace)
    ledger.check_edits()
    with locked(run):
        waiting = _waiting(run)
        if waiting is not None:
            draws = _read_draws(waiting)
            note = "this sample was drawn before and waits for answers"
            return DrawnAudit(waiting / TABLE, sum(len(d.sample) for d in draws), (note,))
        return _draw(workspace, run, ledger)


def _draw(workspace: Workspace, run: Run, ledger: Ledger) -> DrawnAudit:
    arguments = run.record["arguments"]
    summary = read_summary(run.folder / REPORT_DATA)
    states = ledger.states()
    decisions = {d.image: d for d in read_decisions(run.folder / DECISIONS)}
    draws, notes = [], []
    for row in summary.classes:
        population = _population(workspace, row.name, decisions.values(), states, summary.model)
        attempt = _attempts(run, row.name) + 1
        if row.answer == "certified" or not population or attempt > ATTEMPTS:
            continue
        plan = _plan(run, len(population), attempt)
        if plan is None:
            notes.append(
                f"{row.name}: {len(population)} accepted images are too few for a sample to save "
                "work; look at all of them (`wafer review`)"
            )
            continue
        chosen = random.Random(f"{arguments['seed']} {row.name} {attempt}")
        sample = tuple(chosen.sample(sorted(population), plan.size))
        revisions = {image: states[image].revision for image in population}
        draws.append(_ClassDraw(row.name, attempt, plan, population, revisions, sample))
    if not draws:
        raise WaferError("\n".join([*notes, "there is nothing to audit"]))
    folder = run.folder / "audit" / f"draw-{len(_folders(run)) + 1}"
    _write_draw(workspace, folder, draws, decisions)
    return DrawnAudit(folder / TABLE, sum(len(d.sample) for d in draws), tuple(notes))


def _plan(run: Run, images: int, attempt: int) -> Plan | None:
    told = run.record["arguments"]
    return plan_audit(
        images, promise=told["promise"], confidence=told["confidence"], attempt=attempt
    )


def _run(workspace: Workspace) -> Run:
    run = newest_finished_run(propagation_runs(workspace))
    if run is None:
        raise WaferError("nothing was labelled yet; run `wafer label-propagate`")
    return run


def _folders(run: Run) -> list[Path]:
    """Return the folders of complete draws, in their order."""
    found = [f for f in (run.folder / "audit").glob("draw-*") if (f / DRAW).is_file()]
    return sorted(found, key=lambda folder: int(folder.name.rpartition("-")[2]))


def _waiting(run: Run) -> Path | None:
    return next((f for f in _folders(run) if not (f / ANSWERS).is_file()), None)


def _attempts(run: Run, name: str) -> int:
    return sum(draw.name == name for folder in _folders(run) for draw in _read_draws(folder))


def _population(
    workspace: Workspace,
    name: str,
    decisions: Iterable[ImageDecision],
    states: Mapping[str, ImageState],
    model: str,
) -> dict[str, float]:
    """Return the accepted images of a class that no person has touched, with probabilities."""

    def untouched(image: str) -> bool:
        live = states[image].live if image in states else ()
        ours = bool(live) and all(e.source == "model" and e.model == model for e in live)
        return ours and _is_there(workspace, image)

    return {
        d.image: d.probability
        for d in decisions
        if d.accepted and d.class_name == name and untouched(d.image)
    }


def _is_there(workspace: Workspace, image: str) -> bool:
    return (workspace.images / image).is_file()


def _write_draw(
    workspace: Workspace,
    folder: Path,
    draws: Sequence[_ClassDraw],
    decisions: Mapping[str, ImageDecision],
) -> None:
    rows: list[list[str]] = [list(COLUMNS)]
    for draw in draws:
        for image in draw.sample:
            picture = f"{len(rows):04d}.png"
            write_bytes(folder / picture, _picture(workspace, decisions[image]))
            boxes = str(len(decisions[image].boxes))
            rows.append([picture, safe_name(image), draw.name, boxes, "", ""])
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    write_text(folder / TABLE, out.getvalue())
    write_text(folder / DRAW, json.dumps([asdict(draw) for draw in draws], indent=1) + "\n")


def _picture(workspace: Workspace, decision: ImageDecision) -> bytes:
    """Return the image with its boxes as PNG, small ones enlarged so that they can be judged."""
    pixels = decode_image(
        workspace.image_path(decision.image),
        colour=workspace.colour,
        white_level=workspace.white_level,
    )
    image = Image.fromarray(pixels).convert("RGB")
    scale = PICTURE / max(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)))
    pen = ImageDraw.Draw(image)
    for place in decision.boxes:
        corners = [value * scale for value in place.box.corners]
        pen.rectangle(corners, outline=(0, 230, 90), width=LINE)
        pen.text((corners[0] + 4, corners[1] + 2), place.class_name, fill=(0, 230, 90))
    content = io.BytesIO()
    image.save(content, format="PNG")
    return content.getvalue()


def _read_draws(folder: Path) -> tuple[_ClassDraw, ...]:
    rows = json.loads((folder / DRAW).read_text(encoding="utf-8"))
    return tuple(
        _ClassDraw(**{**row, "plan": Plan(**row["plan"]), "sample": tuple(row["sample"])})
        for row in rows
    )


def waiting_sample(workspace: Workspace) -> tuple[tuple[str, str], ...]:
    """Return image and class of the sample that waits for answers; nothing where none does.

    Raises:
        WaferError: nothing was labelled yet.
    """
    folder = _waiting(_run(workspace))
    return () if folder is None else _sample(folder)


def _sample(folder: Path) -> tuple[tuple[str, str], ...]:
    return tuple((image, draw.name) for draw in _read_draws(folder) for image in draw.sample)


def sampled_images(workspace: Workspace) -> tuple[SampledImage, ...]:
    """Return the images of the sample that waits, with the answers in its table so far.

    Raises:
        WaferError: nothing was labelled yet.
        DataError: the table cannot be read.
    """
    folder = _waiting(_run(workspace))
    if folder is None:
        return ()
    answers = {image: answer.casefold() for _, image, answer in _rows(folder / TABLE)}
    right = {**dict.fromkeys(YES, True), **dict.fromkeys(NO, False)}
    return tuple(
        SampledImage(image, draw.name, draw.revisions[image], right.get(answers.get(image, "")))
        for draw in _read_draws(folder)
        for image in draw.sample
    )


def note_answer(workspace: Workspace, image: str, right: bool | None) -> None:
    """Write the answer for one image into the table of the sample that waits, atomically.

    Args:
        workspace: where the sample was drawn.
        image: one of `sampled_images`.
        right: whether class and boxes are right; None takes an answer back.

    Raises:
        WaferError: no sample waits, or it has no such image.
        DataError: the table cannot be read.
    """
    folder = _waiting(_run(workspace))
    if folder is None:
        raise WaferError("no sample waits for answers; draw one with `wafer audit`")
    rows, delimiter = _table(folder / TABLE)
    header = [cell.strip().casefold() for cell in rows[0][1]]
    at, column = header.index("image"), header.index("right")
    found = [cells for _, cells in rows[1:] if _image_in(cells, at) == image]
    if len(found) != 1:
        raise WaferError(f"{image} is not once in {folder / TABLE}; bring its row back")
    found[0].extend([""] * (len(header) - len(found[0])))
    found[0][column] = {None: "", True: YES[0], False: NO[0]}[right]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n", delimiter=delimiter)
    writer.writerows(cells for _, cells in rows)
    write_text(folder / TABLE, out.getvalue())


def finish_audit(workspace: Workspace, answers: Path, *, who: str | None = None) -> Audited:
    """Take the filled table of a sample, as `answer_audit` takes its answers.

    Args:
        workspace: where the sample was drawn.
        answers: the filled ``audit.csv``.
        who: the person who looked; None takes the user's name.

    Raises:
        WaferError: no sample waits for answers.
        DataError: all faults of the table, and nothing is recorded; or label files that were
            edited by hand.
    """
    folder = _folder_of(_run(workspace), answers)
    right = _read_answers(answers, _read_draws(folder))
    return _answer_audit(workspace, folder, right, who=who or this_user())


def answer_audit(workspace: Workspace, right: Mapping[str, bool], *, who: str) -> Audited:
    """Take the answers of a sample: certify classes, confirm what is right, take back the rest.

    A class whose first sample fails keeps the half of its images that is likelier right, for a
    second sample, where they are enough for one; else, and after that, all that no person has seen
    is taken back. What is taken back has no label any more and is in the queue.

    Args:
        workspace: where the sample was drawn.
        right: the answer for every image of `waiting_sample`. One without an answer whose file is
            gone counts as wrong.
        who: the person who looked.

    Raises:
        WaferError: no sample waits for answers, or answers for other images.
        DataError: label files that were edited by hand.
    """
    folder = _waiting(_run(workspace))
    images = [] if folder is None else [image for image, _ in _sample(folder)]
    gone = [image for image in images if not _is_there(workspace, image)]
    answers = {**dict.fromkeys(gone, False), **right}
    if folder is None or answers.keys() != set(images):
        raise WaferError("these are not the images that wait for answers; run `wafer audit`")
    return _answer_audit(workspace, folder, answers, who=who)


def _answer_audit(
    workspace: Workspace, folder: Path, right: Mapping[str, bool], *, who: str
) -> Audited:
    run = _run(workspace)
    ledger = Ledger(workspace)
    ledger.check_edits()
    with locked(run):
        if (folder / ANSWERS).is_file():
            return _answered(run, folder, right)
        draws = _read_draws(folder)
        left_out = _record(ledger, run, draws, right, who=who)
        summary = _certified(run, draws, right, ledger.states())
        _queue_again(run, ledger, draws)
        head = ledger.head()
        report = write_report(
            run.folder,
            replace(summary, ledger=head),
            workspace=workspace,
            decisions=read_decisions(run.folder / DECISIONS),
        )
        run.update(ledger=head)
        write_text(folder / ANSWERS, json.dumps({"who": who, "right": dict(right)}) + "\n")
    notes = [f"{image} was changed or removed meanwhile and is left alone" for image in left_out]
    return Audited(report, summary.classes, (*notes, *renew_view(workspace)))


def _answered(run: Run, folder: Path, right: Mapping[str, bool]) -> Audited:
    """Return what an audit came to that was answered before, if the answers are the same."""
    before = json.loads((folder / ANSWERS).read_text(encoding="utf-8"))["right"]
    if before != right:
        raise WaferError(
            f"{folder.name} was answered before, and other answers do not change what it came to; "
            "correct images with `wafer review`"
        )
    return Audited(run.folder / REPORT, read_summary(run.folder / REPORT_DATA).classes, ())


def _folder_of(run: Run, answers: Path) -> Path:
    """Return the draw that a table belongs to: the one it lies in, else the one that waits."""
    inside = answers.resolve().parent
    if inside in [folder.resolve() for folder in _folders(run)]:
        return inside
    waiting = _waiting(run)
    if waiting is None:
        raise WaferError("no sample waits for answers; draw one with `wafer audit`")
    return waiting


def _read_answers(path: Path, draws: Sequence[_ClassDraw]) -> dict[str, bool]:
    """Return whether each image of the sample is right.

    Raises:
        DataError: all faults of the table.
    """
    wanted = {image for draw in draws for image in draw.sample}
    faults: list[Fault] = []
    found: dict[str, bool] = {}
    for line, image, answer in _rows(path):
        problem = None
        if image not in wanted:
            problem, remedy = f"{image!r} is not in the sample", "delete the row"
        elif image in found:
            problem, remedy = f"{image} twice", "keep one of the rows"
        elif answer.casefold() not in (*YES, *NO):
            shown = f"{answer!r} is no answer" if answer else "no answer"
            problem, remedy = shown, "write yes or no into the column `right`"
        if problem is None:
            found[image] = answer.casefold() in YES
        else:
            faults.append(Fault(file=str(path), line=line, problem=problem, remedy=remedy))
    missing = sorted(wanted - found.keys()) if not faults else []
    for image in missing:
        remedy = "put its row back"
        faults.append(Fault(file=str(path), problem=f"no row of {image}", remedy=remedy))
    if faults:
        raise DataError(faults)
    return found


def _rows(path: Path) -> list[tuple[int, str, str]]:
    """Return line, image and answer of each row."""
    rows, _ = _table(path)
    header = [cell.strip().casefold() for cell in rows[0][1]]
    image, right = header.index("image"), header.index("right")
    padded = [(line, [*cells, *[""] * len(header)]) for line, cells in rows[1:]]
    return [(line, _image_in(cells, image), cells[right].strip()) for line, cells in padded]


def _image_in(cells: Sequence[str], column: int) -> str:
    return cells[column].strip().removeprefix("./") if column < len(cells) else ""


def _table(path: Path) -> tuple[list[tuple[int, list[str]]], str]:
    """Return the rows with their lines, the header first, and what stands between cells."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        problem, remedy = f"cannot be read ({error.strerror})", "name the filled audit.csv"
        raise DataError([Fault(file=str(path), problem=problem, remedy=remedy)]) from error
    except UnicodeDecodeError as error:
        fault = Fault(file=str(path), problem="not UTF-8 text", remedy="save it as CSV UTF-8")
        raise DataError([fault]) from error
    lines = text.splitlines()
    delimiter = ";" if lines and ";" in lines[0] and "," not in lines[0] else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    rows = [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    header = [cell.strip().casefold() for cell in rows[0][1]] if rows else []
    if not {"image", "right"} <= set(header):
        problem = "no columns `image` and `right`"
        remedy = "fill in the table that `wafer audit` wrote"
        raise DataError([Fault(file=str(path), line=1, problem=problem, remedy=remedy)])
    return rows, delimiter


def _record(
    ledger: Ledger, run: Run, draws: Sequence[_ClassDraw], right: Mapping[str, bool], *, who: str
) -> tuple[str, ...]:
    """Confirm what is right and take back the rest; return images that were changed meanwhile."""
    states = ledger.states()
    changes = []
    skipped = []
    for draw in draws:
        back = _taken_back(run, draw, right)
        for image in sorted({*draw.sample, *back}):
            state = states.get(image)
            there = _is_there(ledger.workspace, image)
            if state is None or state.revision != draw.revisions[image] or not there:
                skipped.append(image)
            elif image in back:
                changes.append(withdrawn(state, note=back[image]))
            else:
                changes.append(confirmed(state, note=f"audit {draw.attempt}"))
    ours = {
        image for image in skipped if (state := states.get(image)) is not None and _of_audit(state)
    }
    left_out = ledger.record_possible(changes, who=who)
    return (*(image for image in skipped if image not in ours), *left_out)


def _of_audit(state: ImageState) -> bool:
    """Return whether an image has what an audit gave it, as after a kill."""
    return all((e.note or "").startswith(("audit ", WRONG, FAILED)) for e in state.entries)


def _taken_back(run: Run, draw: _ClassDraw, right: Mapping[str, bool]) -> dict[str, str]:
    """Return the images that lose their labels, and why."""
    back = {image: WRONG for image in draw.sample if not right[image]}
    if len(back) <= draw.plan.allowed:
        return back
    unseen = draw.population.keys() - set(draw.sample) - _left_for_another(run, draw)
    return {**dict.fromkeys(sorted(unseen), FAILED), **back}


def _left_for_another(run: Run, draw: _ClassDraw) -> frozenset[str]:
    """Return the images that keep their labels where a sample fails, to be sampled once more."""
    likelier = kept_after_failure(list(draw.population.items()))
    kept = frozenset(likelier) - frozenset(draw.sample)
    attempt = draw.attempt + 1
    again = attempt <= ATTEMPTS and _plan(run, len(kept), attempt) is not None
    return kept if again else frozenset()


def _certified(
    run: Run,
    draws: Sequence[_ClassDraw],
    right: Mapping[str, bool],
    states: Mapping[str, ImageState],
) -> Summary:
    """Return the numbers of the report with what the answers say of each class."""
    summary = read_summary(run.folder / REPORT_DATA)
    decisions = [d for d in read_decisions(run.folder / DECISIONS) if d.accepted]
    seen = Counter(
        image_class
        for folder in _folders(run)
        for draw in _read_draws(folder)
        for image_class in [draw.name] * len(draw.sample)
    )
    labelled = Counter(
        d.class_name
        for d in decisions
        if d.image in states and states[d.image].annotations is not None
    )
    rows = []
    for row in summary.classes:
        draw = next((draw for draw in draws if draw.name == row.name), None)
        if draw is not None:
            answer, bound = _answer(run, draw, right)
            number = labelled[row.name]
            row = replace(
                row,
                answer=answer,
                bound=bound,
                audited=seen[row.name],
                accepted=number,
                review=row.pool - number,
            )
        rows.append(row)
    return replace(summary, classes=tuple(rows))


def _answer(run: Run, draw: _ClassDraw, right: Mapping[str, bool]) -> tuple[Answer, float | None]:
    wrong = sum(not right[image] for image in draw.sample)
    if wrong > draw.plan.allowed:
        return ("estimated" if _left_for_another(run, draw) else "review it whole"), None
    chance = (1 - float(run.record["arguments"]["confidence"])) / 2**draw.attempt
    return "certified", precision_bound(
        len(draw.population), len(draw.sample), wrong, chance=chance
    )


def _queue_again(run: Run, ledger: Ledger, draws: Sequence[_ClassDraw]) -> None:
    """Put the images that lost their labels into the queue."""
    states = ledger.states()
    decisions = {d.image: d for d in read_decisions(run.folder / DECISIONS)}
    reasons: dict[str, str] = {}
    for draw in draws:
        for image in draw.population:
            state = states.get(image)
            if state is not None and state.annotations is None and _of_audit(state):
                reasons[image] = state.entries[0].note or FAILED
    queue = read_queue(run.folder / QUEUE)
    new = put_back_items([decisions[image] for image in reasons], reasons, states)
    old = [item for item in queue.items if item.image not in reasons]
    items = sorted((*old, *new), key=lambda i: (i.class_name or "", -i.priority, i.image))
    write_queue(replace(queue, items=tuple(items)), run.folder / QUEUE)
