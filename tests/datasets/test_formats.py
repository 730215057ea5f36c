import json
import tempfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import supervision as sv
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO

from wafer.datasets.classes import ClassTable, DefectClass
from wafer.datasets.conversion import READERS, WRITERS, detect_format
from wafer.datasets.errors import DataError, WaferError
from wafer.datasets.formats import coco, voc, yolo
from wafer.datasets.formats.dataset import Dataset
from wafer.datasets.initialisation import initialise
from wafer.datasets.records import Annotation, Box, Sample, Split

CLASSES = ClassTable(
    (DefectClass(0, "ok", "none"), DefectClass(5, "scratch"), DefectClass(3, "C residue & <ü>"))
)
FORMATS = ("yolo", "coco", "voc")
NAMES = ("a.png", "lot 1/a.png", "lot 1/=b,c.png", "lot2/晶圆.d.png", "lot2/e.png")


@st.composite
def boxes(draw: st.DrawFn, width: int, height: int) -> Annotation:
    def side(length: int) -> tuple[float, float]:
        start = draw(st.floats(0, length - 0.5))
        return start, draw(st.floats(start + 0.25, length))

    (left, right), (top, bottom) = side(width), side(height)
    return Annotation(Box(left, top, right, bottom), draw(st.sampled_from(CLASSES.detector_names)))


@st.composite
def datasets(draw: st.DrawFn) -> list[tuple[Sample, tuple[int, int]]]:
    any_split = draw(st.booleans())
    rows = []
    for name in draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True)):
        size = draw(st.tuples(st.integers(1, 900), st.integers(1, 900)))
        annotations = draw(st.none() | st.lists(boxes(*size), max_size=4).map(tuple))
        splits = st.sampled_from(("train", "val", "test", "unused")) if any_split else st.none()
        rows.append((Sample(name, None, annotations, split=draw(splits)), size))
    return rows


def saved(root: Path, rows: Sequence[tuple[Sample, tuple[int, int]]]) -> Dataset:
    for sample, size in rows:
        (root / sample.image).parent.mkdir(parents=True, exist_ok=True)
        Image.new("1", size).save(root / sample.image)
    return Dataset(root, CLASSES, tuple(sample for sample, _ in rows))


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
@given(rows=datasets())
@settings(max_examples=60, deadline=None)
def test_a_dataset_is_read_as_it_was_written(
    name: str, rows: list[tuple[Sample, tuple[int, int]]]
) -> None:
    # Without a single file of boxes VOC is taken for a folder that was named amiss.
    assume(name != "voc" or any(sample.annotations is not None for sample, _ in rows))
    with tempfile.TemporaryDirectory() as folder:
        dataset = saved(Path(folder) / "in", rows)
        out = Path(folder) / "out"
        places = WRITERS[name](dataset, out)
        CLASSES.write(out / "classes.yaml")
        read = READERS[name](out)
        found = {sample.image: sample for sample in read.samples}
        assert read.classes == CLASSES
        assert set(found) == set(places.values())
        for sample in dataset.samples:
            same_sample(sample, found[places[sample.image]], name)
            copy = read.root / places[sample.image]
            assert copy.read_bytes() == (dataset.root / sample.image).read_bytes()


def same_sample(written: Sample, read: Sample, name: str) -> None:
    unlisted = name == "coco" and written.annotations is None  # COCO has no place for these
    assert read.split == (None if unlisted else written.split)
    assert (read.annotations is None) == (written.annotations is None)
    pairs = zip(written.annotations or (), read.annotations or (), strict=True)
    for one, two in pairs:
        assert two.class_name == one.class_name
        assert two.box.corners == pytest.approx(one.box.corners, abs=0.01)


FOLDERS_OF_ANY_NAME = st.lists(st.sampled_from(("images", "labels", "train", "lot")), max_size=3)
NAMES_OF_ANY_FOLDER = st.builds(
    lambda folders, stem: "/".join([*folders, f"{stem}.png"]),
    FOLDERS_OF_ANY_NAME,
    st.sampled_from("ab"),
)


def where_ultralytics_looks(image: Path) -> Path:
    return Path("/labels/".join(str(image).rsplit("/images/", 1))).with_suffix(".txt")


@pytest.mark.slow
@given(
    names=st.lists(NAMES_OF_ANY_FOLDER, min_size=1, max_size=5, unique=True),
    unlabelled=st.integers(0, 5),
    split=st.sampled_from((None, "train")),
)
@example(names=["images/images/a.png", "images/labels/a.png"], unlabelled=1, split=None)
@example(names=["images/p/images/a.png", "p/images/a.png"], unlabelled=0, split="train")
@settings(max_examples=100)
def test_yolo_labels_are_found_whatever_the_folders_of_images_are_called(
    names: list[str], unlabelled: int, split: Split | None
) -> None:
    samples = tuple(
        Sample(
            name,
            None,
            None if number < unlabelled else (Annotation(Box(0, 0, 10 * number + 5, 9), "dust"),),
            split=split,
        )
        for number, name in enumerate(reversed(names))
    )
    with tempfile.TemporaryDirectory() as folder:
        root, out = Path(folder) / "in", Path(folder) / "out"
        write_images(root, *names)
        if len({where_ultralytics_looks(Path("/images", name)) for name in names}) < len(names):
            with pytest.raises(DataError, match="would look for its labels and for those of"):
                yolo.write(Dataset(root, TABLE, samples), out)
            return
        places = yolo.write(Dataset(root, TABLE, samples), out)
        found = {s.image: s.annotations for s in yolo.read(out).samples}
        below = {s.image: s.annotations for s in yolo.read(out, images=out / "images").samples}
        for written in samples:
            read = found[places[written.image]]
            assert below[places[written.image]] == read
            assert (read is None) == (written.annotations is None)
            label = where_ultralytics_looks(out / "images" / places[written.image])
            assert label.is_file() == (read is not None)
            for one, two in zip(written.annotations or (), read or (), strict=True):
                assert two.box.corners == pytest.approx(one.box.corners, abs=0.01)


BOXES = (Annotation(Box(10.5, 20, 30, 40.25), "scratch"), Annotation(Box(0, 0, 100, 50), "dust"))
TABLE = ClassTable((DefectClass(0, "scratch"), DefectClass(1, "dust")))


@pytest.fixture
def sample_set(tmp_path: Path) -> Dataset:
    samples = (
        Sample("a.png", None, BOXES, split="train"),
        Sample("b.png", None, (), split="val"),
        Sample("c.png", None, None, split="val"),
    )
    for sample in samples:
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.new("L", (100, 50)).save(tmp_path / "in" / sample.image)
    return Dataset(tmp_path / "in", TABLE, samples)


def test_pycocotools_reads_what_we_write(tmp_path: Path, sample_set: Dataset) -> None:
    coco.write(sample_set, tmp_path / "out")
    with redirect_stdout(StringIO()):
        train = COCO(tmp_path / "out" / "annotations" / "instances_train.json")
        val = COCO(tmp_path / "out" / "annotations" / "instances_val.json")
    assert [c["name"] for c in train.loadCats(train.getCatIds())] == ["scratch", "dust"]
    found = train.loadAnns(train.getAnnIds(imgIds=train.getImgIds()))
    assert [a["bbox"] for a in found] == [[10.5, 20, 19.5, 20.25], [0, 0, 100, 50]]
    assert [i["file_name"] for i in val.loadImgs(val.getImgIds())] == ["b.png"]
    assert val.getAnnIds() == []


def test_supervision_reads_what_we_write(tmp_path: Path, sample_set: Dataset) -> None:
    yolo.write(sample_set, tmp_path / "yolo")
    voc.write(sample_set, tmp_path / "voc")
    readers: list[Callable[[], object]] = [
        lambda: sv.DetectionDataset.from_yolo(
            str(tmp_path / "yolo" / "images" / "train"),
            str(tmp_path / "yolo" / "labels" / "train"),
            str(tmp_path / "yolo" / "data.yaml"),
        ),
        lambda: sv.DetectionDataset.from_pascal_voc(
            str(tmp_path / "voc" / "JPEGImages"), str(tmp_path / "voc" / "Annotations")
        ),
    ]
    # supervision subtracts the 1 of VOC's own corners, which we neither add nor subtract.
    for read, offset in zip(readers, (0, 1), strict=True):
        [found] = [d for path, _, d in read() if Path(path).name == "a.png"]  # type: ignore[attr-defined]
        expected = [[v - offset for v in a.box.corners] for a in BOXES]
        assert found.xyxy.tolist() == [pytest.approx(corners, abs=1) for corners in expected]


def write_images(root: Path, *names: str, size: tuple[int, int] = (100, 50)) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", size).save(root / name)


LINE = "0 .5 .5 .2 .4\n"
CORNERS = pytest.approx((40, 15, 60, 35))


@pytest.mark.parametrize(
    ("image", "label", "data", "split"),
    [
        ("images/a.png", "labels/a.txt", None, None),
        ("images/train/a.png", "labels/train/a.txt", None, "train"),
        ("train/images/a.png", "train/labels/a.txt", None, "train"),
        ("a.png", "a.txt", None, None),
        ("valid/images/a.png", "valid/labels/a.txt", "val: ../valid/images\n", "val"),
        ("images/x/a.png", "labels/x/a.txt", "path: .\ntest: images/x\n", "test"),
        ("images/a.png", "labels/a.txt", "path: /nowhere\ntrain: [images]\n", "train"),
        ("images/a.png", "labels/a.txt", "val: list.txt\n", "val"),
    ],
)
def test_yolo_layouts(
    tmp_path: Path, image: str, label: str, data: str | None, split: str | None
) -> None:
    write_images(tmp_path, image)
    (tmp_path / label).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / label).write_text(LINE)
    (tmp_path / "list.txt").write_text(f"./{image}\n")
    if data is not None:
        (tmp_path / "data.yaml").write_text(data + "nc: 1\nnames: [scratch]\n")
    read = yolo.read(tmp_path)
    [sample] = read.samples
    assert sample.split == split
    assert (read.root / sample.image) == tmp_path / image
    assert sample.annotations is not None
    assert sample.annotations[0].box.corners == CORNERS
    assert sample.annotations[0].class_name == ("class_0" if data is None else "scratch")


PLACES = {
    "flat": ("images", "labels"),
    "folders": ("images/{}", "labels/{}"),
    "exported": ("{}/images", "{}/labels"),
}


def yolo_set(root: Path, places: str, data: str) -> Path:
    """Save six images of train and three of val, each with one box of its own width."""
    images, labels = PLACES[places]
    for number in range(9):
        split = "train" if number < 6 else "val"
        write_images(root, f"{images.format(split)}/{number}.png")
        label = root / labels.format(split) / f"{number}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(f"{number % 2} .5 .5 .{number + 1} .4\n")
    (root / "data.yaml").write_text(f"{data}names: [scratch, particle]\n")
    for name, numbers in (("train", range(6)), ("val", range(6, 9))):
        lines = "".join(f"./images/{number}.png\n" for number in numbers)
        (root / f"{name}.txt").write_text(lines)
    return root


def widths(read: Dataset) -> dict[str, list[float]]:
    """Return the widths of each labelled image's boxes in tenths of the image."""
    return {
        Path(s.image).stem: [round(a.box.width / 10, 3) for a in s.annotations]
        for s in read.samples
        if s.annotations is not None
    }


def split_sizes(read: Dataset) -> dict[str | None, int]:
    splits = [s.split for s in read.samples]
    return {split: splits.count(split) for split in dict.fromkeys(splits)}


LISTS = "train: train.txt\nval: val.txt\n"
FOLDERS = "train: images/train\nval: images/val\n"
EXPORTED = "train: ../train/images\nval: ../val/images\n"
BOTH = {"train": 6, "val": 3}


@pytest.mark.parametrize(
    ("places", "data", "images", "boxes", "splits"),
    [
        ("flat", "", "images", "data.yaml", {None: 9}),
        ("flat", LISTS, "images", "data.yaml", BOTH),
        ("flat", LISTS, "images", ".", BOTH),
        ("flat", LISTS, "images", "labels", BOTH),
        ("flat", "train: train.txt\n", "images", ".", {"train": 6, "unused": 3}),
        ("flat", LISTS, ".", ".", BOTH),
        ("folders", FOLDERS, "images", "data.yaml", BOTH),
        ("folders", FOLDERS, "images/train", ".", {"train": 6}),
        ("folders", FOLDERS, "images/train", "data.yaml", {"train": 6}),
        ("folders", "", "images/train", "labels/train", {None: 6}),
        ("folders", "", "images", "labels/train", BOTH),
        ("exported", EXPORTED, ".", ".", BOTH),
        ("exported", EXPORTED, ".", "data.yaml", BOTH),
        ("exported", "", ".", ".", BOTH),
        ("exported", EXPORTED, "val/images", ".", {"val": 3}),
    ],
)
def test_yolo_labels_of_an_image_folder_that_is_named(
    tmp_path: Path,
    places: str,
    data: str,
    images: str,
    boxes: str,
    splits: dict[str | None, int],
) -> None:
    root = yolo_set(tmp_path, places, data)
    read = yolo.read(root / boxes, images=root / images)
    labelled = {s.image: s.split for s in read.samples}
    if boxes == "labels/train" and images == "images":
        labelled = {name: split for name, split in labelled.items() if split == "train"}
    expected = {Path(name).stem: [int(Path(name).stem) + 1.0] for name in labelled}
    assert widths(read) == expected
    assert split_sizes(read) == splits


def test_init_keeps_boxes_and_splits_of_a_data_yaml(tmp_path: Path) -> None:
    root = yolo_set(tmp_path / "set", "flat", LISTS)
    made = initialise(tmp_path / "w", images=root / "images", boxes=root / "data.yaml")
    assert len(list((tmp_path / "w" / "labels").glob("*.txt"))) == 9
    splits = {s.image: s.split for s in made.workspace.samples()}
    assert splits == {f"{n}.png": "train" if n < 6 else "val" for n in range(9)}
    assert made.notes == ()


def test_splits_of_data_yaml_with_other_images_are_named(tmp_path: Path) -> None:
    root = yolo_set(tmp_path, "folders", f"{FOLDERS}test: gone\n")
    images = root / "images" / "train"
    read = yolo.read(root, images=images)
    assert read.notes == (
        f"{root}/data.yaml: val names no image below {images}",
        f"{root}/data.yaml: test names no image below {images}",
    )
    (root / "train.txt").write_text("./images/train/0.png\n./images/train/x.png\n")
    (root / "data.yaml").write_text("train: train.txt\nnames: [scratch, particle]\n")
    with pytest.raises(DataError, match=r"train.txt:2: no image ./images/train/x.png; correct"):
        yolo.read(root, images=images)


def test_splits_of_hidden_links_to_the_images_are_left_out(tmp_path: Path) -> None:
    root = yolo_set(tmp_path, "flat", "train: .cache/yolo/images\n")
    (root / ".cache" / "yolo" / "images").mkdir(parents=True)
    for image in (root / "images").iterdir():
        (root / ".cache" / "yolo" / "images" / image.name).symlink_to(image)
    read = yolo.read(root, images=root)
    assert split_sizes(read) == {None: 9}
    assert read.notes == (f"{root}/data.yaml: train names no image below {root}",)


def test_yolo_images_that_are_a_link(tmp_path: Path) -> None:
    root = yolo_set(tmp_path / "set", "flat", LISTS)
    (root / "images").rename(tmp_path / "store")
    (root / "images").symlink_to(tmp_path / "store")
    for images in (root / "images", tmp_path / "store"):
        read = yolo.read(root, images=images)
        assert len(widths(read)) == 9
        assert split_sizes(read) == BOTH


def test_yolo_labels_outside_the_folder_that_was_named_are_not_taken(tmp_path: Path) -> None:
    root = yolo_set(tmp_path, "flat", "")
    (root / "new" / "labels").mkdir(parents=True)
    (root / "new" / "labels" / "3.txt").write_text("0 .5 .5 .1 .4\n")
    read = yolo.read(root / "new" / "labels", images=root / "images")
    assert widths(read) == {"3": [1.0]}


def test_two_label_files_of_one_image_are_a_fault(tmp_path: Path) -> None:
    root = yolo_set(tmp_path, "folders", "")
    (root / "labels" / "0.txt").write_text("")
    with pytest.raises(DataError) as caught:
        yolo.read(root, images=root / "images" / "train")
    [fault] = caught.value.faults
    assert fault.file == str(root / "labels" / "0.txt")
    assert fault.problem == f"labels of an image that has {root}/labels/train/0.txt too"


@pytest.mark.parametrize("given", [True, False])
def test_label_files_of_which_none_is_used_are_a_fault(tmp_path: Path, given: bool) -> None:
    root = yolo_set(tmp_path, "flat", "")
    (root / "labels").rename(root / "boxes")
    with pytest.raises(DataError) as caught:
        yolo.read(root, images=root / "images" if given else None)
    assert str(caught.value) == (
        f"{root}: 9 label files such as boxes/0.txt, but none for an image below {root}/images; "
        "name the image folder whose paths the labels follow"
    )


def test_yolo_labels_of_images_that_are_not_asked_for_are_no_fault(tmp_path: Path) -> None:
    root = yolo_set(tmp_path / "set", "folders", "")
    write_images(root, "images/test/9.png")
    (root / "labels" / "test").mkdir()
    (root / "labels" / "test" / "9.txt").write_text(LINE)
    data = tmp_path / "data.yaml"
    data.write_text(f"path: {root}\n{FOLDERS.replace('val', 'test')}names: [scratch, particle]\n")
    assert split_sizes(yolo.read(data)) == {"test": 1, "train": 6}
    assert split_sizes(yolo.read(root / "labels", images=root / "images" / "val")) == {None: 3}


def test_numbers_below_a_folder_of_images_with_labels_beside_them_are_no_fault(
    tmp_path: Path,
) -> None:
    write_images(tmp_path, "lot1/a.png")
    (tmp_path / "lot1" / "a.txt").write_text(LINE)
    (tmp_path / "runs" / "predictions").mkdir(parents=True)
    (tmp_path / "runs" / "predictions" / "a.txt").write_text(LINE)
    assert yolo.read(tmp_path).boxed == {"class_0"}


def test_yolo_names_of_a_text_file(tmp_path: Path) -> None:
    write_images(tmp_path, "images/a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("1 .5 .5 .2 .4\n")
    (tmp_path / "labels" / "classes.txt").write_text("dust\nscratch\n\n \n")
    read = yolo.read(tmp_path)
    assert read.classes.names == ("dust", "scratch")
    assert read.samples[0].annotations is not None
    assert read.samples[0].annotations[0].class_name == "scratch"


def test_yolo_outlines_become_boxes_with_a_note(tmp_path: Path) -> None:
    write_images(tmp_path, "images/a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 .1 .2 .3 .2 .2 .8\n")
    read = yolo.read(tmp_path)
    assert read.notes == ("1 outlines were made boxes",)
    assert read.samples[0].annotations is not None
    assert read.samples[0].annotations[0].box.corners == pytest.approx((10, 10, 30, 40))


def xml(*objects: str, size: str = "<width>100</width><height>50</height>") -> str:
    body = "\n".join(objects)
    return f"<annotation>\n<filename>other.jpg</filename><size>{size}</size>\n{body}\n</annotation>"


def an_object(name: str = "scratch", corners: Sequence[object] = (40, 15, 60, 35)) -> str:
    tags = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    box = "".join(f"<{tag}>{value}</{tag}>" for tag, value in tags)
    return f"<object><name>{name}</name><bndbox>{box}</bndbox></object>"


@pytest.mark.parametrize(
    ("image", "file"),
    [
        ("a.png", "a.xml"),
        ("JPEGImages/a.png", "Annotations/a.xml"),
        ("images/a.png", "annotations/a.xml"),
        ("images/lot1/a.png", "annotations/lot1/a.xml"),
        ("images/lot1/a.png", "annotations/a.xml"),
    ],
)
def test_voc_layouts(tmp_path: Path, image: str, file: str) -> None:
    write_images(tmp_path, image)
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(xml(an_object(), an_object("dust", (0, 0, 100, 50))))
    read = voc.read(tmp_path)
    [sample] = read.samples
    assert (read.root / sample.image) == tmp_path / image
    assert sample.annotations == (
        Annotation(Box(40, 15, 60, 35), "scratch"),
        Annotation(Box(0, 0, 100, 50), "dust"),
    )
    assert read.classes.names == ("dust", "scratch")
    assert voc.read((tmp_path / file).parent, images=read.root).samples == read.samples


def instances(**changes: object) -> dict[str, object]:
    return {
        "images": [{"id": 7, "file_name": "a.png", "width": 100, "height": 50}],
        "categories": [{"id": 90, "name": "scratch"}, {"id": 4, "name": "dust"}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 90, "bbox": [40, 15, 20, 20]}],
        **changes,
    }


@pytest.mark.parametrize(
    ("image", "file", "split"),
    [
        ("a.png", "labels.json", None),
        ("images/a.png", "annotations/instances.json", None),
        ("images/a.png", "annotations/instances_val2017.json", "val"),
        ("train2017/a.png", "annotations/instances_train2017.json", "train"),
        ("train/a.png", "train/_annotations.coco.json", "train"),
        ("images/deep/down/a.png", "annotations/test.json", "test"),
    ],
)
def test_coco_layouts(tmp_path: Path, image: str, file: str, split: str | None) -> None:
    root = tmp_path / "data"
    write_images(root, image)
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(json.dumps(instances()))
    for path in (root, root / file):
        read = coco.read(path, images=None if path == root else root)
        [sample] = read.samples
        assert (read.root / sample.image) == root / image
        assert sample.split == split
        assert sample.annotations == (Annotation(Box(40, 15, 60, 35), "scratch"),)
        assert [(c.code, c.name) for c in read.classes] == [(4, "dust"), (90, "scratch")]


def test_coco_crowds_are_left_out_and_unlisted_images_unlabelled(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png", "b.png")
    crowd = {"id": 1, "image_id": 7, "category_id": 90, "bbox": [0, 0, 9, 9], "iscrowd": 1}
    (tmp_path / "x.json").write_text(json.dumps(instances(annotations=[crowd])))
    read = coco.read(tmp_path)
    assert [s.annotations for s in read.samples] == [(), None]
    assert read.notes == ("1 crowd annotations left out",)


def test_same_names_in_two_split_folders_do_not_mix(tmp_path: Path) -> None:
    write_images(tmp_path, "train/a.png", "valid/a.png")
    for folder, box in (("train", [0, 0, 10, 10]), ("valid", [5, 5, 10, 10])):
        row = {"id": 1, "image_id": 7, "category_id": 90, "bbox": box}
        text = json.dumps(instances(annotations=[row]))
        (tmp_path / folder / "_annotations.coco.json").write_text(text)
    one, two = coco.read(tmp_path).samples
    assert (one.image, one.split) == ("train/a.png", "train")
    assert (two.image, two.split) == ("valid/a.png", "val")
    assert one.annotations is not None
    assert two.annotations is not None
    assert one.annotations[0].box == Box(0, 0, 10, 10)
    assert two.annotations[0].box == Box(5, 5, 15, 15)


@pytest.mark.parametrize(
    ("images", "path"), [(None, "."), ("images", "."), (".", "."), ("images", "annotations")]
)
def test_coco_finds_our_own_images_again(tmp_path: Path, images: str | None, path: str) -> None:
    write_images(tmp_path / "in", "a.png", "train/a.png")
    samples = (
        Sample("a.png", None, BOXES[:1], split="train"),
        Sample("train/a.png", None, None, split="val"),
    )
    coco.write(Dataset(tmp_path / "in", TABLE, samples), tmp_path / "out")
    root = tmp_path / "out"
    read = coco.read(root / path, images=None if images is None else root / images)
    found = {(read.root / s.image).relative_to(root / "images"): s for s in read.samples}
    own, other = found[Path("a.png")], found[Path("train/a.png")]
    assert (own.annotations, own.split) == (BOXES[:1], "train")
    assert (other.annotations, other.split) == (None, None)


def test_coco_in_a_split_folder_of_images_beside_annotations(tmp_path: Path) -> None:
    write_images(tmp_path, "images/train2017/a.png", "images/val2017/a.png")
    (tmp_path / "annotations").mkdir()
    for split in ("train", "val"):
        file = tmp_path / "annotations" / f"instances_{split}2017.json"
        file.write_text(json.dumps(instances()))
    found = {s.image: s.split for s in coco.read(tmp_path).samples}
    assert found == {"train2017/a.png": "train", "val2017/a.png": "val"}


@pytest.mark.parametrize("text", ["images/a.png", "images\\a.png", "./images/a.png"])
@pytest.mark.parametrize("linked", [True, False])
def test_coco_names_below_the_folder_of_the_file(tmp_path: Path, text: str, linked: bool) -> None:
    write_images(tmp_path, "images/a.png", "images/b/a.png")
    if linked:
        (tmp_path / "images").rename(tmp_path / "store")
        (tmp_path / "images").symlink_to(tmp_path / "store")
    row = {"id": 7, "file_name": text, "width": 100, "height": 50}
    (tmp_path / "result.json").write_text(json.dumps(instances(images=[row])))
    for images in (None, tmp_path / "images"):
        one, two = coco.read(tmp_path / "result.json", images=images).samples
        assert one.annotations == (Annotation(Box(40, 15, 60, 35), "scratch"),)
        assert (two.image, two.annotations) == ("b/a.png", None)


def test_a_folder_of_label_files_alone_is_yolo(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "b.txt").write_text("1 .5 .5 .2 4e-1\n")
    assert detect_format(tmp_path) == "yolo"
    (tmp_path / "b.txt").write_text("notes about this lot\n")
    with pytest.raises(WaferError, match="no known format"):
        detect_format(tmp_path)
