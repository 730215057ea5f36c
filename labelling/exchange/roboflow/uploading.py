"""Images and boxes of a model to Roboflow: as predictions, never as truth, each read back."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wafer.datasets.boxes import box_lines
from wafer.datasets.errors import DataError, ExchangeError, Fault, ImageError
from wafer.datasets.records import Annotation, Sample
from wafer.datasets.workspace import Workspace
from wafer.labelling.exchange.plain_images import plain_image
from wafer.labelling.exchange.roboflow.asking import Pause, ask
from wafer.labelling.exchange.roboflow.names import remote_name
from wafer.labelling.exchange.roboflow.project import RemoteProject

__all__ = ["Uploaded", "upload"]

SUFFIXES = {"image/jpeg": ".jpg", "image/png": ".png", "image/bmp": ".bmp"}
SPLITS = {"val": "valid", "test": "test"}
# Roboflow may need a moment until it shows what it took.
LOOKS = 4
ANNOTATED = "already annotated"
AGAIN = "start the same command again; what is there is not sent twice"


@dataclass(frozen=True, slots=True)
class Uploaded:
    """How many images were sent now and how many were sent before, and notes for the user."""

    sent: int
    before: int
    notes: tuple[str, ...]


def upload(
    workspace: Workspace,
    samples: Sequence[Sample],
    *,
    project: RemoteProject,
    batch: str,
    confirm: Callable[[str], bool],
    pause: Pause = time.sleep,
    progress: Callable[[int, int | None], None] | None = None,
) -> Uploaded:
    """Send images into a batch of a project, and boxes of a model as predictions for review.

    Boxes go with ``is_prediction`` and without adding the image to the dataset; boxes made by rule
    stay here. Where a person has annotated the image there, it stays as it is. Each image is read
    back: one that Roboflow says it took but does not show is a fault. What was sent is noted in the
    workspace's cache, and a second call goes on there.

    Args:
        workspace: of the images.
        samples: the images.
        project: where to.
        batch: the name of the batch, letters, digits and hyphens.
        confirm: called once with what will be sent where; nothing is sent unless it returns true.
        pause: see `ask`.
        progress: called with the images done and their number.

    Raises:
        ExchangeError: not confirmed, refused, or no answer; what was sent before counts.
        DataError: all images that cannot be read, before anything is sent; or all that Roboflow
            does not show afterwards.
    """
    parcels = _parcels(workspace, samples)
    journal = _Journal(workspace, project)
    waiting = [parcel for parcel in parcels if parcel.mark not in journal.marks]
    if waiting and not confirm(_announcement(waiting, project, batch)):
        raise ExchangeError("nothing was sent; answer yes, or add --yes")
    faults: list[Fault] = []
    results: Counter[str] = Counter()
    post = _Post(workspace, project, batch, pause)
    for number, parcel in enumerate(waiting, 1):
        try:
            results[post.send(parcel)] += 1
        except _Lost as error:
            image = parcel.sample.image
            faults.append(Fault(file=image, problem=str(error), remedy=AGAIN))
        else:
            journal.note(parcel.mark, parcel.sample.image)
        if progress is not None:
            progress(number, len(waiting))
    if faults:
        raise DataError(faults)
    notes = [f"{number} images {what}" for what, number in results.items() if what]
    return Uploaded(len(waiting), len(parcels) - len(waiting), tuple(notes))


class _Lost(Exception):
    """Roboflow said that it took something, and does not show it."""


@dataclass(frozen=True, slots=True)
class _Parcel:
    """One image with the boxes to send, and what tells it from any other."""

    sample: Sample
    sha256: str
    boxes: tuple[Annotation, ...]
    lines: str
    bytes: int

    @property
    def mark(self) -> str:
        return f"{self.sha256} {hashlib.sha256(self.lines.encode()).hexdigest()[:16]}"


def _parcels(workspace: Workspace, samples: Sequence[Sample]) -> list[_Parcel]:
    cache = workspace.image_cache()
    parcels, faults = [], []
    for sample in samples:
        boxes = tuple(a for a in sample.annotations or () if a.source not in ("rule", "rejected"))
        try:
            _, data = plain_image(workspace, sample.image)
            size = cache.size(sample.image)
        except ImageError as error:
            remedy = "copy the image again or remove it"
            faults.append(Fault(file=error.path, problem=error.reason, remedy=remedy))
            continue
        lines = box_lines(boxes, classes=workspace.classes, size=size)
        parcels.append(_Parcel(sample, cache.sha256(sample.image), boxes, lines, len(data)))
    cache.save()
    if faults:
        raise DataError(faults)
    return parcels


def _announcement(parcels: Sequence[_Parcel], project: RemoteProject, batch: str) -> str:
    megabytes = sum(parcel.bytes for parcel in parcels) / 1e6
    boxes = sum(len(parcel.boxes) for parcel in parcels)
    return (
        f"{len(parcels)} images with their names ({megabytes:.1f} MB) and {boxes} boxes of a model "
        f"as predictions will be sent to {project.described}, batch {batch}"
    )


class _Post:
    """Sends one parcel after another."""

    def __init__(
        self, workspace: Workspace, project: RemoteProject, batch: str, pause: Pause
    ) -> None:
        self._workspace = workspace
        self._project = project
        self._batch = batch
        self._pause = pause
        self._labelmap = dict(enumerate(workspace.classes.detector_names))

    def send(self, parcel: _Parcel) -> str:
        """Send one image and its boxes; return what was special about it, or nothing."""
        image = parcel.sample.image
        name, answer = self._upload(parcel)
        remote = answer.get("id")
        if not isinstance(remote, str) or not remote:
            raise _Lost(f"Roboflow took it without saying where ({str(answer)[:100]})")
        special = "were there already" if answer.get("duplicate") else ""
        if parcel.boxes:
            saved = self._annotate(parcel, remote, name)
            if saved.get("warn") == ANNOTATED:
                return "have boxes there already and stay as they are"
        self._read_back(image, remote, len(parcel.boxes))
        return special

    def _upload(self, parcel: _Parcel) -> tuple[str, dict[str, Any]]:
        image = parcel.sample.image
        media_type, data = plain_image(self._workspace, image)
        name = remote_name(image, sha256=parcel.sha256, suffix=SUFFIXES[media_type])
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(data)
            answer, _, _ = ask(
                f"sending {image}",
                lambda: self._project.sdk.upload_image(
                    str(path),
                    split=SPLITS.get(parcel.sample.split or "train", "train"),
                    batch_name=self._batch,
                ),
                key=self._project.key,
                pause=self._pause,
            )
        return name, dict(answer)

    def _annotate(self, parcel: _Parcel, remote: str, name: str) -> dict[str, Any]:
        answer, _, _ = ask(
            f"sending boxes of {parcel.sample.image}",
            lambda: self._project.sdk.save_annotation(
                annotation_path={"name": f"{Path(name).stem}.txt", "rawText": parcel.lines},
                annotation_labelmap=self._labelmap,
                image_id=remote,
                job_name=self._batch,
                is_prediction=True,
                annotation_overwrite=False,
                add_to_dataset=False,
            ),
            key=self._project.key,
            pause=self._pause,
        )
        return dict(answer)

    def _read_back(self, image: str, remote: str, boxes: int) -> None:
        problem = "Roboflow said ok"
        for look in range(LOOKS):
            if look:
                self._pause(2.0 ** (look - 1))
            try:
                found = ask(
                    f"looking up {image}",
                    lambda: self._project.sdk.image(remote),
                    key=self._project.key,
                    pause=self._pause,
                )
            except ExchangeError as error:
                problem = f"Roboflow said ok, but does not show the image ({error})"
                continue
            shown = _boxes_of(found)
            if found.get("id") == remote and shown >= boxes:
                return
            problem = f"Roboflow said ok, but shows {shown} of {boxes} boxes"
        raise _Lost(problem)


def _boxes_of(found: dict[str, Any]) -> int:
    annotation = found.get("annotation")
    boxes = annotation.get("boxes") if isinstance(annotation, dict) else None
    return len(boxes) if isinstance(boxes, list) else 0


class _Journal:
    """What was sent to one project, a line each; deleted, everything is offered again."""

    def __init__(self, workspace: Workspace, project: RemoteProject) -> None:
        name = project.name.replace("/", "--")
        self._path = workspace.cache / "roboflow" / f"{name}.jsonl"
        self.marks = {mark for line in self._lines() if (mark := _mark(line)) is not None}

    def _lines(self) -> list[str]:
        if not self._path.is_file():
            return []
        return self._path.read_text(encoding="utf-8", errors="replace").splitlines()

    def note(self, mark: str, image: str) -> None:
        """Add a line; one that a crash left torn is closed first."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"mark": mark, "image": image}, ensure_ascii=False) + "\n"
        with self._path.open("a+b") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    line = f"\n{line}"
            file.write(line.encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())
        self.marks.add(mark)


def _mark(line: str) -> str | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    mark = row.get("mark") if isinstance(row, dict) else None
    return mark if isinstance(mark, str) else None
