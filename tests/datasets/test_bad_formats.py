"""Broken data sets: every fault is one line with its file and remedy, all of them at once."""

import json
from pathlib import Path

import pytest
from PIL import Image

from wafer.datasets.classes import ClassTable, DefectClass
from wafer.datasets.conversion import read_dataset
from wafer.datasets.errors import DataError

KNOWN = ClassTable((DefectClass(1, "scratch"), DefectClass(2, "dust")))


def faults_of(path: Path, source_format: str, classes: ClassTable | None = None) -> list[str]:
    with pytest.raises(DataError) as caught:
        read_dataset(path, source_format=source_format, classes=classes)
    lines = [str(fault) for fault in caught.value.faults]
    assert not any("\n" in line for line in lines)
    return lines


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    Image.new("L", (100, 50)).save(tmp_path / "images" / "a.png")
    return tmp_path


YOLO_LINES = [
    ("9 .5 .5 .1 .1", "labels/a.txt:1: class index 9, where the known ones are 0 to 1; correct"),
    ("0 1 .5 .1 .1", "labels/a.txt:1: a box (95, 22.5 to 105, 27.5) outside its image of 100 x 50"),
    ("0 .5 nan .1 .1", "labels/a.txt:1: 'nan' is not a finite number"),
    ("0 .5 .5 -.1 .1", "labels/a.txt:1: width -0.1 and height 0.1 must be greater"),
    ("0 .5 .5 .1", "labels/a.txt:1: 4 fields instead of the 5"),
    ("0 .1 .1 .2 .2 .3 nan", "labels/a.txt:1: 'nan' is not a finite number"),
]


@pytest.mark.parametrize(("line", "message"), YOLO_LINES)
def test_yolo_labels(root: Path, line: str, message: str) -> None:
    (root / "labels").mkdir()
    (root / "labels" / "a.txt").write_text(line + "\n")
    (root / "data.yaml").write_text("names: [scratch, dust]\n")
    [fault] = faults_of(root, "yolo")
    assert message in fault


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        (
            "train: images\nnames: [a]\ndownload: https://example.com/x.zip\n",
            ["data.yaml:3: a `download` key, which is never carried out; delete it"],
        ),
        (
            "train: images\nnames: [a]\ndownload: |\n  import os\n  os.system('touch gone')\n",
            ["data.yaml:3: a `download` key"],
        ),
        ("train: images\nnc: 2\nnames: [a]\n", ["data.yaml:2: nc is 2, but there are 1 names"]),
        ("train: images\n", ["data.yaml: no `names` of the classes; list them"]),
        ("names: [a]\nval: gone\n", ["data.yaml:2: val: no gone; correct the path or delete"]),
        ("names: [a\n", ["data.yaml:2: not valid YAML"]),
        (
            "names: [a]\ndate: 2024-13-01\n",
            ["data.yaml: not valid YAML (month must be in 1..12); correct data.yaml"],
        ),
        (
            "names: [020, no, a, 1e3]\n",
            [
                "data.yaml:1: the name of class 0 is 16, not text; quote it",
                "data.yaml:1: the name of class 1 is False, not text; quote it",
            ],
        ),
        ("names: {0: a, 3: 7}\n", ["the name of class 3 is 7, not text; quote it"]),
        ("names: [a, b, a]\n", ["class name 'a' for the ids 0 and 2; give each class a name of"]),
        ("- a\n", ["data.yaml: no keys such as `train` and `names`"]),
        ("names: [a]\ntrain: !!python/object/apply:os.system [ls]\n", ["not valid YAML"]),
        ("names: [a]\ntrain: list.txt\n", ["list.txt:2: no image ./images/b.png; correct"]),
        (
            "names: [a]\ntrain: images\nval: images\n",
            ["data.yaml: a.png is in train and val; keep each image in one split"],
        ),
    ],
)
def test_yolo_settings(root: Path, text: str, messages: list[str]) -> None:
    (root / "data.yaml").write_text(text)
    (root / "list.txt").write_text("\n./images/b.png\n")
    faults = faults_of(root, "yolo")
    assert len(faults) == len(messages)
    for message, fault in zip(messages, faults, strict=True):
        assert message in fault
    assert sorted(p.name for p in root.iterdir()) == ["data.yaml", "images", "list.txt"]


def test_yolo_labels_without_an_image_and_names_that_disagree(root: Path) -> None:
    (root / "labels").mkdir()
    (root / "labels" / "gone.txt").write_text("0 .5 .5 .1 .1\n")
    (root / "data.yaml").write_text("train: images\nnames: [dust, scratch]\n")
    faults = faults_of(root, "yolo", KNOWN)
    assert "names ['dust', 'scratch'], where the classes are ['scratch', 'dust']" in faults[0]
    assert "labels/gone.txt: labels of an image that is not there" in faults[1]


@pytest.mark.parametrize("lost", ["labels/Lot2", "labels/old/deep", "labels/lot1/lot2"])
def test_yolo_labels_in_a_folder_that_no_image_has(root: Path, lost: str) -> None:
    for lot in ("lot1", "lot2"):
        (root / "images" / lot).mkdir()
        Image.new("L", (100, 50)).save(root / "images" / lot / "b.png")
    (root / "labels" / "lot1").mkdir(parents=True)
    (root / "labels" / "lot1" / "b.txt").write_text("0 .5 .5 .1 .1\n")
    (root / lost).mkdir(parents=True)
    (root / lost / "b.txt").write_text("")
    (root / lost / "c.txt").write_text("0 .5 .5 .1 .1\n")
    (root / lost / "readme.txt").write_text("3 images of lot 2\n")
    expected = [
        f"{root}/{lost}/{name}.txt: labels of an image that is not there; remove it, or add its "
        "image"
        for name in "bc"
    ]
    assert faults_of(root, "yolo", KNOWN) == expected
    for boxes, images in ((root, "images"), (root / "labels", "images"), (root, ".")):
        with pytest.raises(DataError) as caught:
            read_dataset(boxes, source_format="yolo", images=root / images, classes=KNOWN)
        assert [str(fault) for fault in caught.value.faults] == expected


@pytest.mark.parametrize("place", [".", "labels", "labels/lot1"])
def test_a_list_of_names_that_contradicts(root: Path, place: str) -> None:
    (root / "images" / "lot1").mkdir()
    Image.new("L", (100, 50)).save(root / "images" / "lot1" / "b.png")
    (root / "labels" / "lot1").mkdir(parents=True)
    (root / "labels" / "lot1" / "b.txt").write_text("0 .5 .5 .1 .1\n")
    (root / place / "classes.txt").write_text("dust\nscratch\n")
    [fault] = faults_of(root, "yolo", KNOWN)
    assert fault.endswith(
        "classes.txt: names ['dust', 'scratch'], where the classes are ['scratch', 'dust']; "
        "make them agree, or delete the file that is wrong"
    )
    assert str(root / place) in fault
    (root / "data.yaml").write_text("names: [scratch, dust]\n")
    [fault] = faults_of(root, "yolo")
    assert f"names ['dust', 'scratch'], where {root}/data.yaml has ['scratch', 'dust']" in fault
    (root / place / "classes.txt").write_text("scratch\ndust\n")
    read = read_dataset(root, source_format="yolo", classes=KNOWN)
    assert read.boxed == {"scratch"}


def test_an_empty_line_between_names(root: Path) -> None:
    (root / "labels").mkdir()
    (root / "labels" / "classes.txt").write_text("scratch\n \ndust\n\n")
    [fault] = faults_of(root, "yolo", KNOWN)
    assert "classes.txt:2: an empty line between the names; delete it or write the name" in fault


def voc_object(corners: tuple[object, ...], name: str = "scratch") -> str:
    tags = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    box = "".join(f"<{tag}>{value}</{tag}>" for tag, value in tags)
    return f"<annotation>\n<object><name>{name}</name><bndbox>{box}</bndbox></object></annotation>"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            voc_object((1, 1, 200, 9)),
            "a.xml:2: a box (1, 1 to 200, 9) outside its image of 100 x 50",
        ),
        (voc_object((9, 1, 5, 9)), "a.xml:2: a box of -4 x 8 pixels; correct it or delete"),
        (voc_object(("nan", 1, 5, 9)), "a.xml:2: a coordinate that is not a finite number"),
        (voc_object(("", 1, 5, 9)), "a.xml:2: <xmin> is '' and not a number"),
        (voc_object((1, 1, 5, 9), "blob"), "a.xml:2: class 'blob', where boxes have scratch, dust"),
        (voc_object((1, 1, 5, 9), ""), "a.xml:2: an object without <name>"),
        (
            "<annotation><object><name>dust</name></object></annotation>",
            "a.xml:1: a dust without <bndbox>",
        ),
        ("<annotation>\n<object></annotation>", "a.xml:2: not XML (mismatched tag)"),
        ("", "a.xml:1: not XML (no element found)"),
        ("<html></html>", "a.xml:1: <html> instead of <annotation>"),
        (
            "<annotation>\n<size><width>10</width><height>5</height></size></annotation>",
            "a.xml:2: a size of 10 x 5, where the image has 100 x 50 pixels",
        ),
        (
            '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>',
            "a.xml: a document type, which is not read; delete the <!DOCTYPE",
        ),
        (
            '<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]><annotation>&c;</annotation>',
            "a.xml: a document type",
        ),
        (
            '<?xml version="1.0" encoding="GB2312"?><annotation/>',
            "a.xml:1: an encoding that is not read (multi-byte encodings are not supported); save",
        ),
        (
            '<?xml version="1.0" encoding="foo"?><annotation/>',
            "a.xml:1: an encoding that is not read (unknown encoding: foo); save it as UTF-8",
        ),
    ],
)
def test_voc_files(root: Path, text: str, message: str) -> None:
    (root / "annotations").mkdir()
    (root / "annotations" / "a.xml").write_text(text)
    [fault] = faults_of(root, "voc", KNOWN)
    assert message in fault


def test_voc_without_any_file(root: Path) -> None:
    (root / "annotations").mkdir()
    [fault] = faults_of(root, "voc", KNOWN)
    assert fault == (
        f"{root}/annotations: no XML file in this folder; name the folder that holds them"
    )


def test_voc_files_and_lists_of_images_that_are_not_there(root: Path) -> None:
    (root / "annotations").mkdir()
    (root / "annotations" / "gone.xml").write_text("<annotation/>")
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "ImageSets" / "Main" / "train.txt").write_text("a\nb\n")
    (root / "ImageSets" / "Main" / "val.txt").write_text("a\n")
    faults = faults_of(root, "voc", KNOWN)
    assert len(faults) == 3
    assert "gone.xml: no image 'gone'" in faults[0]
    assert "train.txt:2: no image 'b'; correct or delete the line" in faults[1]
    assert "val.txt:1: a.png is in train.txt too" in faults[2]


def document(**changes: object) -> str:
    row = {"id": 5, "image_id": 7, "category_id": 1, "bbox": [1, 1, 5, 5]}
    row.update(changes.pop("row", {}))  # type: ignore[call-overload]
    return json.dumps(
        {
            "images": [{"id": 7, "file_name": "a.png", "width": 100, "height": 50}],
            "categories": [{"id": 1, "name": "scratch"}],
            "annotations": [row],
            **changes,
        }
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            document(row={"category_id": 3}),
            "annotation 5: unknown category 3; correct it or delete",
        ),
        (document(row={"bbox": [95, 1, 10, 5]}), "annotation 5: a box (95, 1 to 105, 6) outside"),
        (document(row={"bbox": [1, 1, -5, 5]}), "annotation 5: a box of -5 x 5 pixels"),
        (document(row={"bbox": [1, 1, float("nan"), 5]}), "a coordinate that is not a finite"),
        (document(row={"bbox": [1, 1, 5]}), "annotation 5: bbox [1, 1, 5] is not a list of 4"),
        (document(row={"bbox": ["1", 1, 5, 5]}), "is not a list of 4 numbers"),
        (document(row={"bbox": None}), "bbox None is not a list of 4 numbers"),
        (document(row={"image_id": 8}), "annotation 5 of an image that is not in the file"),
        (document(categories=[{"id": 1, "name": "blob"}]), "class 'blob', where boxes have"),
        (document(categories=[{"id": "1", "name": "dust"}]), "without a whole id and a name"),
        (
            document(images=[{"id": 7, "file_name": "gone.png"}], annotations=[]),
            "instances.json: no image 'gone.png'; bring the image back or delete its entry",
        ),
        (document(images=[{"id": 7}], annotations=[]), "image 7 without file_name"),
        (
            document(images=[{"id": 7, "file_name": "a.png", "width": 50, "height": 100}]),
            "a.png of 50 x 100, where the image has 100 x 50 pixels",
        ),
        (
            document(images=[{"id": n, "file_name": "a.png"} for n in (7, 8)]),
            "a.png is listed twice; keep one of its entries",
        ),
        (
            document(images=[{"id": [7], "file_name": "a.png"}], annotations=[]),
            "instances.json: image a.png with the id [7]; give it a whole number",
        ),
        (
            document(images=[{"file_name": "a.png"}], annotations=[]),
            "image a.png with the id None; give it a whole number",
        ),
        (document(row={"image_id": [7]}), "annotation 5 of an image that is not in the file"),
        (document(row={"category_id": {}}), "annotation 5: unknown category {}; correct it"),
        (document(categories=[{"id": [1], "name": "dust"}]), "without a whole id and a name"),
        (document(annotations={}), "no list 'annotations'; export it as COCO instances"),
        ("[]", "not a COCO file"),
        ('{"images": [],\n', "instances.json:2: not JSON"),
        ("\xff", "not JSON"),
    ],
)
def test_coco_files(root: Path, text: str, message: str) -> None:
    (root / "annotations").mkdir()
    (root / "annotations" / "instances.json").write_text(text)
    faults = [f for f in faults_of(root, "coco", KNOWN) if "unknown category 1;" not in f]
    assert len(faults) == 1
    assert message in faults[0]


def test_coco_images_of_one_id(root: Path) -> None:
    Image.new("L", (100, 50)).save(root / "images" / "b.png")
    rows = [{"id": 1, "file_name": name} for name in ("a.png", "b.png")]
    text = document(images=rows, row={"image_id": 1})
    (root / "instances.json").write_text(text)
    [fault] = faults_of(root, "coco", KNOWN)
    assert fault == (
        f"{root}/instances.json: image id 1 twice (a.png, b.png); give each image its own id"
    )


def test_coco_categories_of_one_name(root: Path) -> None:
    rows = [{"id": number, "name": "scratch"} for number in (1, 2)]
    (root / "instances.json").write_text(document(categories=rows))
    [fault] = faults_of(root, "coco")
    assert fault.endswith(
        "class name 'scratch' for the ids 1 and 2; give each class a name of its own"
    )


@pytest.mark.parametrize("source_format", ["yolo", "voc", "coco"])
def test_no_image_and_a_bad_image(tmp_path: Path, source_format: str) -> None:
    (tmp_path / "images").mkdir()
    assert any("no image in this folder" in f for f in faults_of(tmp_path, source_format))


def test_a_data_set_without_a_class_says_so(root: Path) -> None:
    (root / "annotations").mkdir()
    (root / "annotations" / "a.xml").write_text("<annotation/>")
    [fault] = faults_of(root, "voc")
    assert "no class and no box in it; write the classes into a file and name it" in fault


def test_all_faults_of_all_files_come_at_once(root: Path) -> None:
    Image.new("L", (100, 50)).save(root / "images" / "b.png")
    (root / "annotations").mkdir()
    (root / "annotations" / "a.xml").write_text(voc_object((1, 1, 200, 9)))
    (root / "annotations" / "b.xml").write_text("<annotation>")
    (root / "annotations" / "c.xml").write_text("<annotation/>")
    assert len(faults_of(root, "voc")) == 3
