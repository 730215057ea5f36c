"""Pascal VOC: one XML file an image, lists of the splits in ``ImageSets/Main``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree
from xml.parsers import expat

from wafer.datasets.boxes import fitted_box
from wafer.datasets.classes import ClassTable
from wafer.datasets.formats.dataset import (
    Dataset,
    Faults,
    classes_beside,
    derive_classes,
    find_images,
    listed_images,
    place_image,
)
from wafer.datasets.image_names import ImageNames
from wafer.datasets.images import image_size
from wafer.datasets.records import SPLITS, Annotation, Sample, Split
from wafer.datasets.scanning import find_files

__all__ = ["read", "write"]

CORNERS = ("xmin", "ymin", "xmax", "ymax")
CORRECT = "correct it or delete the object"


def read(path: Path, *, images: Path | None = None, classes: ClassTable | None = None) -> Dataset:
    """Read a Pascal VOC dataset: XML beside the images or in a folder ``Annotations``.

    A file belongs to the image of the same stem, whatever its ``<filename>`` says. Corners are
    taken as they are given. An image without a file is one nobody looked at.

    Args:
        path: the dataset, or its folder of XML files.
        images: the image folder; by default ``JPEGImages`` or ``images`` beside the XML folder,
            or the folder itself.
        classes: the class table; by default ``classes.yaml`` in the dataset, or the names found,
            in order of the alphabet.

    Raises:
        DataError: all faults of all files together.
    """
    base, xml_root, image_root = _folders(path, images)
    faults = Faults()
    names = find_images(image_root, faults)
    finder = ImageNames(names)
    xml_names, bad = find_files(xml_root, suffixes={".xml"})
    faults.found += bad
    if not xml_names:
        faults.add(xml_root, "no XML file in this folder", "name the folder that holds them")
    table = classes or classes_beside(base)
    labels: dict[str, tuple[Annotation, ...]] = {}
    for name in xml_names:
        file = xml_root / name
        try:
            image = finder.find(PurePosixPath(name).with_suffix("").as_posix(), stems=True)
        except LookupError as error:
            faults.add(file, str(error.args[0]), "bring the image back or remove the file")
            continue
        if image in labels:
            faults.add(file, f"a second file for {image}", "keep one of them")
        labels[image] = _read_file(file, image_root / image, table, faults)
    splits = _read_splits(base / "ImageSets" / "Main", finder, faults)
    faults.raise_any()
    found = sorted({a.class_name for boxes in labels.values() for a in boxes})
    samples = [Sample(n, None, labels.get(n), split=splits.get(n)) for n in names]
    derived = table or derive_classes(found, source=str(path))
    return Dataset(image_root, derived, tuple(samples), derived=table is None)


def _folders(path: Path, images: Path | None) -> tuple[Path, Path, Path]:
    """Return the folders of the dataset, of its XML files and of its images."""
    base = path.parent if path.name.lower() == "annotations" else path
    inside = [base / name for name in ("Annotations", "annotations")]
    xml_root = next((folder for folder in inside if folder.is_dir()), base)
    beside = [base / name for name in ("JPEGImages", "images")]
    return base, xml_root, images or next((f for f in beside if f.is_dir()), base)


@dataclass(slots=True)
class _Element:
    """An XML element with the line it begins in."""

    tag: str
    line: int
    children: list[_Element] = field(default_factory=list)
    text: str = ""

    def all(self, tag: str) -> Iterator[_Element]:
        return (child for child in self.children if child.tag == tag)

    def one(self, tag: str) -> _Element | None:
        return next(self.all(tag), None)


class _DoctypeError(ValueError):
    """A document type, which could name other files or grow without bound."""


def _parse(data: bytes) -> _Element:
    root = _Element("", 0)
    stack = [root]
    parser = expat.ParserCreate()
    parser.buffer_text = True

    def start(tag: str, _attributes: Mapping[str, str]) -> None:
        stack.append(_Element(tag, parser.CurrentLineNumber))
        stack[-2].children.append(stack[-1])

    def end(_tag: str) -> None:
        stack.pop()

    def text(data: str) -> None:
        stack[-1].text += data

    def doctype(*_: object) -> None:
        raise _DoctypeError("a document type, which is not read")

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text
    parser.StartDoctypeDeclHandler = doctype
    parser.Parse(data, True)
    return root.children[0]


def _read_file(
    file: Path, image: Path, table: ClassTable | None, faults: Faults
) -> tuple[Annotation, ...]:
    try:
        root = _parse(file.read_bytes())
    except expat.ExpatError as error:
        problem = f"not XML ({expat.errors.messages[error.code]})"
        faults.add(file, problem, "write the file again", line=error.lineno)
        return ()
    except _DoctypeError as error:
        faults.add(file, str(error), "delete the <!DOCTYPE ...>")
        return ()
    except (ValueError, LookupError) as error:  # of several bytes a character, or unknown
        faults.add(file, f"an encoding that is not read ({error})", "save it as UTF-8", line=1)
        return ()
    if root.tag != "annotation":
        faults.add(file, f"<{root.tag}> instead of <annotation>", "remove the file", line=root.line)
        return ()
    size = faults.size(image)
    if size is None:
        return ()
    _check_size(file, root, size, faults)
    annotations = []
    for element in root.all("object"):
        try:
            annotations.append(_annotation(element, size, table))
        except ValueError as error:
            faults.add(file, str(error), CORRECT, line=element.line)
    return tuple(annotations)


def _check_size(file: Path, root: _Element, size: tuple[int, int], faults: Faults) -> None:
    element = root.one("size")
    if element is None:
        return
    stated = tuple(_text(element, side) for side in ("width", "height"))
    if stated not in (tuple(map(str, size)), ("0", "0"), ("", "")):
        problem = (
            f"a size of {' x '.join(stated)}, where the image has {size[0]} x {size[1]} pixels"
        )
        remedy = "draw the boxes on this very image, or correct <size>"
        faults.add(file, problem, remedy, line=element.line)


def _annotation(element: _Element, size: tuple[int, int], table: ClassTable | None) -> Annotation:
    name = _text(element, "name")
    if not name:
        raise ValueError("an object without <name>")
    if table is not None and name not in table.detector_names:
        raise ValueError(f"class {name!r}, where boxes have {', '.join(table.detector_names)}")
    box = element.one("bndbox")
    if box is None:
        raise ValueError(f"a {name} without <bndbox>")
    return Annotation(fitted_box([_corner(box, corner) for corner in CORNERS], size), name)


def _corner(box: _Element, corner: str) -> float:
    text = _text(box, corner)
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"<{corner}> is {text!r} and not a number") from None


def _text(element: _Element, tag: str) -> str:
    child = element.one(tag)
    return "" if child is None else child.text.strip()


def _read_splits(folder: Path, finder: ImageNames, faults: Faults) -> dict[str, Split]:
    splits: dict[str, Split] = {}
    for split in SPLITS:
        file = folder / f"{split}.txt"
        if not file.is_file():
            continue
        for number, image in listed_images(file, finder, faults):
            if splits.setdefault(image, split) != split:
                problem = f"{image} is in {splits[image]}.txt too"
                faults.add(file, problem, "keep it in one of them", line=number)
    return splits


def write(dataset: Dataset, folder: Path) -> Mapping[str, str]:
    """Write ``JPEGImages``, ``Annotations``, and ``ImageSets/Main`` where there are splits.

    Corners are written to a ten-thousandth of a pixel; an image nobody looked at has no XML file.

    Returns:
        The path of each image below the new image folder.
    """
    for sample in dataset.samples:
        source = dataset.root / sample.image
        place_image(source, folder / "JPEGImages" / sample.image)
        if sample.annotations is None:
            continue
        file = (folder / "Annotations" / sample.image).with_suffix(".xml")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(_xml(sample, image_size(source)))
    _write_splits(dataset.samples, folder / "ImageSets" / "Main")
    return {sample.image: sample.image for sample in dataset.samples}


def _xml(sample: Sample, size: tuple[int, int]) -> bytes:
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = PurePosixPath(sample.image).name
    sides = ElementTree.SubElement(root, "size")
    ElementTree.SubElement(sides, "width").text = str(size[0])
    ElementTree.SubElement(sides, "height").text = str(size[1])
    for annotation in sample.annotations or ():
        element = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(element, "name").text = annotation.class_name
        box = ElementTree.SubElement(element, "bndbox")
        for corner, value in zip(CORNERS, annotation.box.corners, strict=True):
            ElementTree.SubElement(box, corner).text = f"{value:.4f}".rstrip("0").rstrip(".")
    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root, encoding="utf-8")) + b"\n"


def _write_splits(samples: Sequence[Sample], folder: Path) -> None:
    for split in SPLITS:
        images = [sample.image for sample in samples if sample.split == split]
        if images:
            folder.mkdir(parents=True, exist_ok=True)
            lines = [PurePosixPath(image).with_suffix("").as_posix() for image in images]
            (folder / f"{split}.txt").write_text("\n".join([*lines, ""]), encoding="utf-8")
