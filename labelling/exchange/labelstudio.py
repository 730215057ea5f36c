"""Label Studio: tasks and labelling config out, what people drew back in.

Its boxes are in percent of the image's width and height, x and y the top-left corner, turned by
``rotation`` degrees clockwise about that corner.
"""

from __future__ import annotations

import base64
import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import quoteattr

from wafer.datasets.boxes import fitted_box
from wafer.datasets.classes import ClassTable
from wafer.datasets.errors import DataError, Fault, ImageError
from wafer.datasets.files import write_text
from wafer.datasets.image_names import ImageNames
from wafer.datasets.images import is_plain
from wafer.datasets.keeping import keep_copy
from wafer.datasets.records import Annotation, Box, Sample, Source
from wafer.datasets.workspace import Workspace
from wafer.labelling.exchange.drawings import Drawing, agree
from wafer.labelling.exchange.plain_images import plain_image

__all__ = ["Handed", "labelling_config", "read_export", "write_tasks"]

FROM_NAME, TO_NAME = "label", "image"
IMAGE_KEY = "wafer_image"
"""Where a task keeps the image's path in the workspace, whatever becomes of its URL."""
COLOURS = (
    *("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4"),
    *("#008080", "#9a6324", "#808000", "#d62ab0", "#000075"),
)
# What a region says of its making; other programs than Label Studio leave it out.
SOURCES: Mapping[str, Source] = {
    "prediction": "model+confirmed",
    "prediction-changed": "model+edited",
}
OUTLINES = ("polygonlabels", "polygon")
# Parts of a result that are no drawing: answers beside the image.
ANSWERS = (
    "choices",
    "textarea",
    "rating",
    "number",
    "datetime",
    "taxonomy",
    "relation",
    "pairwise",
)
UPLOADS = "upload"
UPLOADED = re.compile(r"^[0-9a-f]{8}-")
EXPORT_AGAIN = "export the project again, as JSON or JSON-MIN"
CORRECT = "correct it in Label Studio and export again"

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Handed:
    """The files for Label Studio: tasks, labelling config, and notes for the user."""

    tasks: Path
    config: Path
    notes: tuple[str, ...]


def write_tasks(
    workspace: Workspace,
    samples: Sequence[Sample],
    tasks: Path,
    *,
    embed: bool = False,
    model_version: str | None = None,
) -> Handed:
    """Write images as tasks, and beside them ``labelstudio.xml``, the labelling config.

    A config of other content is kept as ``.bak-N``.

    An image is a URL of Label Studio's local file serving, whose document root is the folder
    above the image folder. Images that a browser shows otherwise than they are read here (TIFF, 16
    bit, turned by a tag) are embedded as PNG. Boxes of a model become predictions, never
    annotations, and so do boxes of people among them; boxes made by rule are left out.

    Args:
        workspace: of the images.
        samples: the images in the order of the tasks.
        tasks: the JSON file to write; one that is there is replaced.
        embed: put every image into the file, for a Label Studio that cannot see the folder.
        model_version: says in Label Studio which model made the predictions.

    Raises:
        DataError: all images that cannot be read together; nothing is written then.
    """
    faults: list[Fault] = []
    rows: list[dict[str, Any]] = []
    converted = 0
    cache = workspace.image_cache()
    for sample in samples:
        try:
            inside = embed or not is_plain(workspace.image_path(sample.image))
            url = _embedded(workspace, sample.image) if inside else _local(workspace, sample.image)
            rows.append(_task(sample, url, cache.size(sample.image), model_version))
            converted += inside
        except ImageError as error:
            remedy = "copy the image again or remove it"
            faults.append(Fault(file=error.path, problem=error.reason, remedy=remedy))
    if faults:
        raise DataError(faults)
    config, text = tasks.with_name("labelstudio.xml"), labelling_config(workspace.classes)
    if config.is_file() and config.read_bytes() != text.encode("utf-8"):
        keep_copy(config)
    write_text(config, text)
    write_text(tasks, json.dumps(rows, ensure_ascii=False, indent=1))
    return Handed(tasks, config, _serving_notes(workspace, len(rows), converted))


def _serving_notes(workspace: Workspace, tasks: int, embedded: int) -> tuple[str, ...]:
    if embedded == tasks:
        return ()
    notes = [
        "start Label Studio with LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true and "
        f"LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={workspace.images.parent}, and add "
        f"{workspace.images} to the project as a source storage of local files"
    ]
    if embedded:
        notes.append(f"{embedded} images are embedded, since a browser shows them otherwise")
    return tuple(notes)


def _local(workspace: Workspace, image: str) -> str:
    return f"/data/local-files/?d={quote(f'{workspace.images.name}/{image}')}"


def _embedded(workspace: Workspace, image: str) -> str:
    media_type, data = plain_image(workspace, image)
    return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"


def _task(sample: Sample, url: str, size: Size, model_version: str | None) -> dict[str, Any]:
    task: dict[str, Any] = {
        "data": {
            "image": url,
            IMAGE_KEY: sample.image,
            "image_class": sample.image_class or "",
        }
    }
    found = [a for a in sample.annotations or () if a.source not in ("rule", "rejected")]
    if found:
        scores = [a.score for a in found if a.score is not None]
        task["predictions"] = [
            {
                "model_version": model_version or "wafer",
                **({"score": min(scores)} if scores else {}),
                "result": [_region(a, f"box{i}", size) for i, a in enumerate(found, 1)],
            }
        ]
    return task


def _region(annotation: Annotation, name: str, size: Size) -> dict[str, Any]:
    (width, height), box = size, annotation.box
    return {
        "id": name,
        "type": "rectanglelabels",
        "from_name": FROM_NAME,
        "to_name": TO_NAME,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {
            "x": box.xmin * 100 / width,
            "y": box.ymin * 100 / height,
            "width": box.width * 100 / width,
            "height": box.height * 100 / height,
            "rotation": 0,
            "rectanglelabels": [annotation.class_name],
        },
        **({} if annotation.score is None else {"score": annotation.score}),
    }


def labelling_config(classes: ClassTable) -> str:
    """Return the XML of a labelling interface: the image, its class, and boxes of each class.

    The keys 1 to 9 choose a class. Classes whose boxes are made by rule are left out.
    """
    labels = []
    for number, name in enumerate(classes.box_names):
        hotkey = f' hotkey="{number + 1}"' if number < 9 else ""
        colour = COLOURS[number % len(COLOURS)]
        labels.append(f'    <Label value={quoteattr(name)} background="{colour}"{hotkey}/>')
    return "\n".join(
        [
            "<View>",
            '  <Header value="$image_class"/>',
            f'  <Image name="{TO_NAME}" value="$image" zoom="true" zoomControl="true"'
            ' brightnessControl="true" contrastControl="true" rotateControl="false"/>',
            f'  <RectangleLabels name="{FROM_NAME}" toName="{TO_NAME}" canRotate="false">',
            *labels,
            "  </RectangleLabels>",
            "</View>",
            "",
        ]
    )


def read_export(
    path: Path,
    *,
    images: ImageNames,
    size: Callable[[str], Size],
    classes: ClassTable,
) -> tuple[tuple[Drawing, ...], tuple[str, ...]]:
    """Read what people drew, from an export as JSON or JSON-MIN.

    Skipped tasks, cancelled annotations, drafts and predictions are not what a person said and are
    left out. An annotation without a box says that nothing is to be seen. Where several people drew
    an image, the one marked as ground truth counts; without one the latest, if all agree (`agree`).
    A turned box becomes the upright one around it, cut at the frame, and so does an outline.

    Args:
        path: the JSON file.
        images: the images of the workspace.
        size: returns (width, height) of one in pixels.
        classes: the class table.

    Returns:
        One drawing for each image, in the order of the images, and notes for the user.

    Raises:
        DataError: all faults together: images that are not in the workspace, unknown classes,
            boxes outside their image or drawn on one of another size, people who disagree.
    """
    reader = _Reader(str(path), images, size, classes)
    for number, task in enumerate(_tasks(path), 1):
        reader.read(number, task)
    drawings = [reader.settled(image) for image in sorted(reader.found)]
    if reader.faults:
        raise DataError(dict.fromkeys(reader.faults))
    return tuple(d for d in drawings if d is not None), reader.notes()


def _tasks(path: Path) -> list[Any]:
    def fail(problem: str, line: int | None = None) -> DataError:
        return DataError([Fault(file=str(path), line=line, problem=problem, remedy=EXPORT_AGAIN)])

    try:
        document = json.loads(path.read_bytes())
    except json.JSONDecodeError as error:
        raise fail(f"not JSON ({error.msg})", error.lineno) from error
    except (ValueError, RecursionError) as error:
        raise fail("not JSON that can be read") from error
    tasks = document if isinstance(document, list) else [document]
    if not tasks:
        raise fail("no task in it")
    return tasks


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One annotation of an image, as Label Studio calls what one person did."""

    drawing: Drawing
    name: str
    truth: bool


@dataclass(slots=True)
class _Reader:
    """What the tasks have said so far."""

    file: str
    images: ImageNames
    size: Callable[[str], Size]
    classes: ClassTable
    found: dict[str, list[_Attempt]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def fault(self, problem: str, remedy: str = CORRECT) -> None:
        self.faults.append(Fault(file=self.file, problem=problem, remedy=remedy))

    def count(self, what: str, number: int = 1) -> None:
        self.counts[what] = self.counts.get(what, 0) + number

    def notes(self) -> tuple[str, ...]:
        return tuple(f"{number} {what}" for what, number in self.counts.items())

    def read(self, number: int, task: Any) -> None:
        name = f"task {task.get('id', number)}" if isinstance(task, Mapping) else f"task {number}"
        annotations = _annotations(task)
        if annotations is None:
            self.fault(f"{name} is not of an export with annotations", EXPORT_AGAIN)
            return
        self.count_left_out(task, annotations)
        annotations = [a for a in annotations if not _cancelled(a)]
        if not annotations:
            return
        try:
            image = self.image_of(task)
            size = self.size(image)
        except LookupError as error:
            remedy = "bring the image back, or take the task out of the project"
            self.fault(f"{name}: {error.args[0]}", remedy)
            return
        except ImageError as error:
            self.faults.append(
                Fault(file=error.path, problem=error.reason, remedy="copy the image again")
            )
            return
        for annotation in annotations:
            self.add(image, size, annotation, f"{name}, annotation {annotation.get('id')}")

    def count_left_out(self, task: Mapping[str, Any], annotations: Sequence[Any]) -> None:
        cancelled = sum(map(_cancelled, annotations))
        if cancelled and cancelled == len(annotations):
            self.count("skipped tasks: nobody has looked")
        elif cancelled:
            self.count("cancelled annotations left out", cancelled)
        elif not annotations:
            self.count("tasks that nobody has annotated")
        if task.get("drafts"):
            self.count("tasks with drafts that were not submitted, left out")

    def image_of(self, task: Mapping[str, Any]) -> str:
        data = task.get("data", task)
        values = data if isinstance(data, Mapping) else {}
        own = values.get(IMAGE_KEY)
        if isinstance(own, str):
            return self.images.find(own)
        url = values.get("image")
        if not isinstance(url, str) or url.startswith("data:"):
            raise LookupError(f"no {IMAGE_KEY} and no URL of an image in its data")
        return _named(url, self.images)

    def add(self, image: str, size: Size, annotation: Mapping[str, Any], name: str) -> None:
        boxes: list[Annotation] = []
        if "annotation_id" not in annotation and not isinstance(annotation.get("result"), list):
            self.fault(f"{name} of {image} has no list `result`", EXPORT_AGAIN)
            return
        for region in _regions(annotation):
            try:
                box = self.box(region, size)
            except ValueError as error:
                self.fault(f"{name} of {image}: {error}")
            else:
                boxes += [] if box is None else [box]
        drawing = Drawing(image, tuple(boxes), _author(annotation), _when(annotation))
        attempt = _Attempt(drawing, name, annotation.get("ground_truth") is True)
        self.found.setdefault(image, []).append(attempt)

    def box(self, region: Any, size: Size) -> Annotation | None:
        """Return the box of one region, None for an answer that is no drawing."""
        if not isinstance(region, Mapping):
            raise ValueError("a region that is not an object")
        kind, value = str(region.get("type")), region.get("value")
        if kind.lower() in ANSWERS:
            self.count("answers that are no boxes left out")
            return None
        if not isinstance(value, Mapping):
            raise ValueError(f"a {kind} without a value")
        _check_size(region, size)
        if kind in OUTLINES:
            box = _around(_points(value, size), size)
            self.count("outlines became the boxes around them")
        elif kind in ("rectanglelabels", "rectangle"):
            box = self.rectangle(value, size)
        else:
            raise ValueError(f"a region of kind {kind}; draw a rectangle instead")
        source = SOURCES.get(str(region.get("origin")), "human")
        return Annotation(box, self.class_name(value), source)

    def rectangle(self, value: Mapping[str, Any], size: Size) -> Box:
        width, height = size
        x, w = (_number(value, key) * width / 100 for key in ("x", "width"))
        y, h = (_number(value, key) * height / 100 for key in ("y", "height"))
        angle = _number(value, "rotation") % 360 if value.get("rotation") is not None else 0.0
        if not angle:
            return fitted_box((x, y, x + w, y + h), size)
        if w <= 0 or h <= 0:
            raise ValueError(f"a box of {w:g} x {h:g} pixels")
        self.count("turned boxes became the upright ones around them")
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        corners = [(dx * cos - dy * sin, dx * sin + dy * cos) for dx in (0, w) for dy in (0, h)]
        return _around([(x + dx, y + dy) for dx, dy in corners], size)

    def class_name(self, value: Mapping[str, Any]) -> str:
        lists = [value[key] for key in value if key.endswith("labels")]
        names = lists[0] if len(lists) == 1 and isinstance(lists[0], list) else []
        if len(names) != 1 or not isinstance(names[0], str):
            raise ValueError(f"a box with {len(names)} classes instead of one")
        none = self.classes.none_class
        if none is not None and names[0] == none.name:
            raise ValueError(f"a box of class {none.name}, which has none; delete the box")
        if names[0] not in self.classes:
            known = ", ".join(self.classes.detector_names)
            raise ValueError(f"unknown class {names[0]!r}; the known ones are {known}")
        return names[0]

    def settled(self, image: str) -> Drawing | None:
        """Return the one drawing of an image; where people disagree, note that."""
        attempts = self.found[image]
        marked = [attempt for attempt in attempts if attempt.truth]
        counting = marked or attempts
        latest = max(counting, key=lambda attempt: attempt.drawing.when or "")
        others = [a for a in counting if a is not latest]
        apart = [a for a in others if not _alike(a, latest)]
        if apart:
            self.fault(
                f"{image}: {latest.name} and {apart[0].name} disagree",
                "mark the right one as ground truth in Label Studio, or delete the other, and "
                "export again",
            )
            return None
        if others:
            self.count("images were drawn by several people who agree; the latest counts")
        return latest.drawing


def _alike(one: _Attempt, other: _Attempt) -> bool:
    return agree(one.drawing.annotations, other.drawing.annotations)


def _annotations(task: Any) -> list[Mapping[str, Any]] | None:
    """Return the annotations of a task, JSON-MIN's one included; None where it is no export."""
    if not isinstance(task, Mapping):
        return None
    if "annotation_id" in task:
        if task["annotation_id"] is None:
            return []
        return [{**task, "id": task["annotation_id"], "completed_by": task.get("annotator")}]
    found = task.get("annotations", task.get("completions"))
    if not isinstance(found, list) or not all(isinstance(each, Mapping) for each in found):
        return None
    return found


def _cancelled(annotation: Mapping[str, Any]) -> bool:
    return bool(annotation.get("was_cancelled") or annotation.get("skipped"))


def _regions(annotation: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the regions of an annotation; JSON-MIN has their values under the names of tags."""
    if "annotation_id" not in annotation:
        yield from annotation["result"]
        return
    for values in annotation.values():
        for value in values if isinstance(values, list) else ():
            if isinstance(value, Mapping) and ("x" in value or "points" in value or "rle" in value):
                kind = next((key for key in value if key.endswith("labels")), "rectangle")
                sizes = {key: value.get(key) for key in ("original_width", "original_height")}
                yield {"type": kind, "value": value, **sizes}


def _check_size(region: Mapping[str, Any], size: Size) -> None:
    stated = region.get("original_width"), region.get("original_height")
    if None not in stated and stated != size:
        raise ValueError(
            f"drawn on an image of {stated[0]} x {stated[1]} pixels, where it has "
            f"{size[0]} x {size[1]}"
        )


def _number(value: Mapping[str, Any], key: str) -> float:
    number = value.get(key)
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise ValueError(f"{key} is {number!r} instead of a number")
    if abs(number) > sys.float_info.max or math.isnan(number):
        raise ValueError(f"{key} is not a finite number")
    return float(number)


def _points(value: Mapping[str, Any], size: Size) -> list[tuple[float, float]]:
    points = value.get("points")
    if not isinstance(points, list) or len(points) < 3:
        raise ValueError("an outline of fewer than three points")
    pairs = [p for p in points if isinstance(p, list | tuple) and len(p) == 2]
    named = [{"x": p[0], "y": p[1]} for p in pairs]
    if len(named) != len(points):
        raise ValueError("an outline with a point that is not x and y")
    return [(_number(p, "x") * size[0] / 100, _number(p, "y") * size[1] / 100) for p in named]


def _around(points: Sequence[tuple[float, float]], size: Size) -> Box:
    """Return the upright box around points, cut at the frame."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    width, height = size
    cut = max(min(xs), 0.0), max(min(ys), 0.0), min(max(xs), width), min(max(ys), height)
    return fitted_box(cut, size)


def _author(annotation: Mapping[str, Any]) -> str | None:
    who = annotation.get("completed_by")
    if isinstance(who, Mapping):
        who = who.get("email") or who.get("id")
    return None if who is None else str(who)


def _when(annotation: Mapping[str, Any]) -> str | None:
    when = annotation.get("updated_at") or annotation.get("created_at")
    return when if isinstance(when, str) else None


def _named(url: str, images: ImageNames) -> str:
    """Return the image that a URL means: the one whose path is the longest end of the URL's.

    A bare name says enough only where the URL has no folders, or those of an upload: else another
    folder's image of that name may be meant. Label Studio puts eight digits in front of the name of
    an uploaded file.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise LookupError(f"no URL: {url!r} ({error})") from error
    given = parse_qs(parts.query).get("d", [unquote(parts.path)])[0]
    steps = [step for step in given.replace("\\", "/").split("/") if step]
    if not steps:
        raise LookupError(f"no image in the URL {url!r}")
    bare = [steps[-1], UPLOADED.sub("", steps[-1])] if len(steps) == 1 or UPLOADS in steps else []
    tails = ["/".join(steps[start:]) for start in range(len(steps))]
    for tail in (*tails, *bare):
        try:
            found = images.find(tail)
        except LookupError as error:
            missing = error.args[0]
            continue
        if found == tail or tail in bare:
            return found
        missing = f"no image {given!r}, only {found}"
    raise LookupError(missing)
