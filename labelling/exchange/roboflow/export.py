"""An exported version of a Roboflow project: its files, its names, and the boxes in them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
import yaml

from wafer.datasets.boxes import fitted_box
from wafer.datasets.duplicates import perceptual_hash
from wafer.datasets.errors import DataError, Fault, ImageError
from wafer.datasets.files import write_text
from wafer.datasets.formats import coco, yolo
from wafer.datasets.formats.dataset import Dataset
from wafer.datasets.images import decode_image
from wafer.datasets.records import Annotation, Sample
from wafer.datasets.scanning import ImageCache
from wafer.datasets.workspace import Workspace
from wafer.datasets.yaml_document import NotYamlError, yaml_document
from wafer.labelling.exchange.drawings import Drawing
from wafer.labelling.exchange.roboflow.archive import unpack
from wafer.labelling.exchange.roboflow.names import LocalNames

__all__ = ["read_export"]

# Of 500 images, re-encoded and resized copies are within 24 bits of 256; cropped, padded, turned
# and mirrored ones 42 or more away.
DISTANCE = 32
LARGEST_YAML = 1 << 20
SHOWN = 5
PLAIN = "generate a version without augmentation, tiling or cropping, and export that"


def read_export(archive: Path, workspace: Workspace) -> tuple[tuple[Drawing, ...], tuple[str, ...]]:
    """Read what people drew from a ZIP file that Roboflow exported, as YOLO or as COCO.

    Each file is traced to its image by name (`LocalNames`) and compared with it: the boxes of a
    turned, mirrored or cropped copy are not those of the image. A resized copy is good, its boxes
    are scaled. An image without a box is left out and named: Roboflow exports images that nobody
    has annotated in the same way as those where somebody saw nothing.

    Args:
        archive: the ZIP file.
        workspace: of the images.

    Returns:
        One drawing for each image, in the order of the images, and notes for the user.

    Raises:
        DataError: all faults together: entries that are refused (`unpack`), images that are not in
            the workspace or differ from it, unknown classes, boxes that cannot be.
    """
    cache = workspace.image_cache()
    folder = Path(tempfile.mkdtemp(prefix="unpacked-", dir=_made(workspace.cache / "roboflow")))
    try:
        unpack(archive, folder)
        dataset = _read(folder, archive)
        reader = _Reader(str(archive), dataset, workspace, cache)
        samples = {s.image: s for s in workspace.samples()}
        names = LocalNames(samples, cache=cache)
        for sample in dataset.samples:
            if sample.annotations is not None:
                reader.read(sample, names)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        cache.save()
    if reader.faults:
        raise DataError(dict.fromkeys(reader.faults))
    drawings = [reader.found[image] for image in sorted(reader.found)]
    doubtful = [
        d.image for d in drawings if not d.annotations and samples[d.image].annotations != ()
    ]
    notes = (*dataset.notes, *([_empty_note(doubtful)] if doubtful else []))
    return tuple(d for d in drawings if d.annotations), notes


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _empty_note(images: Sequence[str]) -> str:
    more = f" and {len(images) - SHOWN} more" if len(images) > SHOWN else ""
    return (
        f"{len(images)} images without a box are left as they are, since Roboflow exports those "
        f"that nobody annotated in the same way ({', '.join(images[:SHOWN])}{more}); where nothing "
        "is to be seen, put an empty text file into labels/"
    )


def _read(folder: Path, archive: Path) -> Dataset:
    """Read the unpacked files; faults name the archive and the entry."""
    try:
        if coco.instance_files(folder):
            return coco.read(folder)
        _own_data_yaml(folder, archive)
        return yolo.read(folder / "data.yaml")
    except DataError as error:
        raise DataError(
            Fault(
                file=fault.file.replace(str(folder), str(archive)),
                line=fault.line,
                problem=fault.problem,
                remedy=fault.remedy,
            )
            for fault in error.faults
        ) from error


def _own_data_yaml(folder: Path, archive: Path) -> None:
    """Put a data.yaml in place of the archive's that keeps only the names of the classes.

    Roboflow lists folders that are not there, and no path of a stranger is followed.
    """

    def fail(problem: str) -> DataError:
        remedy = "export the version again, as YOLOv5 or COCO"
        return DataError([Fault(file=f"{archive}/data.yaml", problem=problem, remedy=remedy)])

    path = folder / "data.yaml"
    if not path.is_file():
        raise fail("neither a data.yaml nor an _annotations.coco.json")
    if path.stat().st_size > LARGEST_YAML:
        raise fail("larger than a megabyte")
    try:
        document = yaml_document(path.read_bytes())
    except NotYamlError as error:
        raise fail(str(error)) from error
    names = document.get("names") if isinstance(document, dict) else None
    listed = list(names.values()) if isinstance(names, dict) else names
    if not isinstance(listed, list) or not all(isinstance(n, str | int) for n in listed):
        raise fail("no `names` of the classes")
    parts = {
        key: f"{part}/images"
        for key, part in (("train", "train"), ("val", "valid"), ("test", "test"))
        if (folder / part / "images").is_dir()
    }
    if not parts:
        raise fail("no folder train/images, valid/images or test/images")
    write_text(path, yaml.safe_dump({**parts, "names": names}, allow_unicode=True))


@dataclass(slots=True)
class _Reader:
    """What the files of the export have said so far."""

    file: str
    dataset: Dataset
    workspace: Workspace
    cache: ImageCache
    found: dict[str, Drawing] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def fault(self, problem: str, remedy: str) -> None:
        self.faults.append(Fault(file=self.file, problem=problem, remedy=remedy))

    def read(self, sample: Sample, names: LocalNames) -> None:
        exported = PurePosixPath(sample.image).name
        try:
            image = names.find(exported)
        except LookupError as error:
            self.fault(str(error.args[0]), "bring the image back, or take it out of the version")
            return
        if image in self.found:
            self.fault(f"{image} is exported twice, last as {exported}", PLAIN)
            return
        known = self.workspace.classes.detector_names
        for name in sorted({a.class_name for a in sample.annotations or ()} - set(known)):
            remedy = f"rename it on Roboflow to one of {', '.join(known)}"
            self.fault(f"{image}: unknown class {name!r}", remedy)
        try:
            self.found[image] = self.drawing(sample, image)
        except ImageError as error:
            self.fault(f"{Path(error.path).name}: {error.reason}", "export the version again")
        except ValueError as error:
            self.fault(f"{image}: {error}", PLAIN)

    def drawing(self, sample: Sample, image: str) -> Drawing:
        theirs = decode_image(self.dataset.root / sample.image)
        ours = decode_image(
            self.workspace.image_path(image), white_level=self.workspace.white_level
        )
        apart = np.count_nonzero(perceptual_hash(theirs) != perceptual_hash(ours))
        if apart > DISTANCE:
            raise ValueError(f"{PurePosixPath(sample.image).name} does not look like it")
        (height, width), (their_height, their_width) = ours.shape, theirs.shape
        scale = width / their_width, height / their_height
        boxes = [_scaled(a, scale, (width, height)) for a in sample.annotations or ()]
        return Drawing(image, tuple(boxes))


def _scaled(
    annotation: Annotation, scale: tuple[float, float], size: tuple[int, int]
) -> Annotation:
    box = annotation.box
    corners = (
        *(box.xmin * scale[0], box.ymin * scale[1]),
        *(box.xmax * scale[0], box.ymax * scale[1]),
    )
    return Annotation(fitted_box(corners, size), annotation.class_name)
