"""An exported version of a Roboflow project: its files, its names, and the boxes in them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import cv2  # noqa: TID253
import numpy as np
import yaml
from numpy.typing import NDArray

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

# Of 96 synthetic and 90 NEU-DET images, copies re-encoded, resized 0.5 to 2 times or with another
# contrast are within 80 bits of 256 but for one equalised histogram (86); turned and mirrored ones
# 104 or more away. A copy cut or padded by 1 or 2 % is within 80 too, so its place is measured.
DISTANCE = 80
# Those copies lie within 0.8 % of the side (of 64 pixels halved, 4 of 96 more than one pixel away),
# ones cut or padded by 1.6 to 2.4 % beyond 1.3 %. Fits of true copies correlate by 0.68 or more,
# false fits by up to 0.56.
LARGEST_SHIFT = 0.01
ALIKE = 0.6
SIDE = 128
EDGE = 12
LARGEST_YAML = 1 << 20
SHOWN = 5
PLAIN = (
    "generate a version without augmentation, tiling, cropping or padding, resized by 'Stretch to' "
    "or not at all, and export that"
)


def read_export(archive: Path, workspace: Workspace) -> tuple[tuple[Drawing, ...], tuple[str, ...]]:
    """Read what people drew from a ZIP file that Roboflow exported, as YOLO or as COCO.

    Each file is traced to its image by name (`LocalNames`) and compared with it: the boxes of a
    turned, mirrored, cropped or padded copy are not those of the image. A resized copy is good,
    its boxes are scaled. An image without a box is left out and named: Roboflow exports images
    that nobody has annotated in the same way as those where somebody saw nothing.

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
        name = PurePosixPath(sample.image).name
        apart = np.count_nonzero(perceptual_hash(theirs) != perceptual_hash(ours))
        # Where nobody drew a box, none can be shifted, and a black image shows no shift.
        shift = _shift(ours, theirs) if sample.annotations else 0.0
        if apart > DISTANCE or shift == float("inf"):
            raise ValueError(f"{name} does not look like it")
        if shift > max(LARGEST_SHIFT, 1 / min(*ours.shape, *theirs.shape)):
            raise ValueError(f"{name} is cropped or padded: its edges are {shift:.1%} away")
        (height, width), (their_height, their_width) = ours.shape, theirs.shape
        scale = width / their_width, height / their_height
        boxes = [_scaled(a, scale, (width, height)) for a in sample.annotations or ()]
        return Drawing(image, tuple(boxes))


def _shift(ours: NDArray[np.uint8], theirs: NDArray[np.uint8]) -> float:
    """Return how far a corner of an image lies from that of its copy, as a share of the side.

    The affine map that fits best (ECC, Evangelidis and Psarakis 2008) of the two, stretched to
    `SIDE` pixels with their brightness and contrast evened out. Infinite where none fits.
    """
    start = np.eye(2, 3, dtype=np.float32)
    inner = np.zeros((SIDE, SIDE), np.uint8)  # without the bars of a padded copy
    inner[EDGE:-EDGE, EDGE:-EDGE] = 1
    enough = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 50, 1e-4)
    try:
        alike, fitted = cv2.findTransformECC(
            *(_evened(ours), _evened(theirs), start, cv2.MOTION_AFFINE, enough, inner, 3)
        )
    except cv2.error:
        return float("inf")
    corners = np.array([(0, 0, 1), (SIDE, 0, 1), (0, SIDE, 1), (SIDE, SIDE, 1)])
    away = float(np.abs(corners @ fitted.T - corners[:, :2]).max()) / SIDE
    return away if alike >= ALIKE else float("inf")


def _evened(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return an image at `SIDE` pixels, less its local mean, over its local deviation."""
    small = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    small -= cv2.GaussianBlur(small, (0, 0), 4)
    small /= np.sqrt(cv2.GaussianBlur(small * small, (0, 0), 4)) + 1
    clipped: NDArray[np.float32] = np.clip(small, -2, 2)
    return clipped


def _scaled(
    annotation: Annotation, scale: tuple[float, float], size: tuple[int, int]
) -> Annotation:
    box = annotation.box
    corners = (
        *(box.xmin * scale[0], box.ymin * scale[1]),
        *(box.xmax * scale[0], box.ymax * scale[1]),
    )
    return Annotation(fitted_box(corners, size), annotation.class_name)
