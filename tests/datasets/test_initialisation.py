from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wafer.datasets.conversion import convert
from wafer.datasets.errors import DataError, WaferError, WorkspaceError
from wafer.datasets.initialisation import initialise
from wafer.datasets.labels_csv import read_label_rows
from wafer.datasets.splitting import resplit
from wafer.datasets.workspace import Workspace, find_workspace

NEU = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "neu-det"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    rows = ["image,class"]
    for i in range(30):
        name = f"w{i % 10}_{i:02}.png"
        pixels = rng.integers(0, 256, (16, 16), dtype=np.uint8)
        Image.fromarray(pixels).resize((100, 50)).save(tmp_path / "images" / name)
        rows.append(f"{name},{'none' if i < 12 else 'scratch'}")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    return tmp_path


def splits_of(workspace: Workspace) -> dict[str, str | None]:
    return {s.image: s.split for s in workspace.samples()}


def test_images_and_a_table_are_enough(data: Path) -> None:
    made = initialise(data / "w", images=data / "images", image_labels=data / "table.csv")
    assert [(c.code, c.name, c.kind) for c in made.workspace.classes] == [
        (0, "none", "none"),
        (1, "scratch", "box"),
    ]
    samples = find_workspace(data / "w").samples()
    assert Counter(s.image_class for s in samples) == {"none": 12, "scratch": 18}
    assert Counter(s.annotations for s in samples) == {(): 12, None: 18}
    assert set(Counter(s.split for s in samples)) == {"train", "val", "test"}
    assert made.notes == ("no image has a group (lot, wafer); no near-duplicates among them",)
    assert (data / "w" / "data.yaml").is_file()


def test_near_duplicates_stay_together_and_a_note_says_so(data: Path) -> None:
    pixels = np.asarray(Image.open(data / "images" / "w5_15.png"))
    for i in range(5):
        Image.fromarray((pixels // 2 + 10 * i).astype(np.uint8)).save(data / "images" / f"c{i}.png")
    made = initialise(data / "w", images=data / "images", image_labels=data / "table.csv")
    assert made.notes == (
        "no image has a group (lot, wafer); 6 near-duplicates in 1 sets, the largest of 6, "
        "stay together",
    )
    copies = {s.split for s in made.samples if s.image[0] == "c" or s.image == "w5_15.png"}
    assert len(copies) == 1
    assert all(s.group is None for s in made.workspace.samples())


def test_a_pattern_makes_groups_that_stay_together(data: Path) -> None:
    made = initialise(
        data / "w",
        images=data / "images",
        image_labels=data / "table.csv",
        group_pattern="^(w[0-9])_",
    )
    assert made.notes == ()
    splits: dict[str | None, set[str | None]] = {}
    for sample in made.workspace.samples():
        splits.setdefault(sample.group, set()).add(sample.split)
    assert len(splits) == 10
    assert all(len(found) == 1 for found in splits.values())
    assert "group" not in made.workspace.table.read_text().splitlines()[0]


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["lot([0-9]*)", "()w"])
def test_a_pattern_without_a_find_makes_no_group_and_a_note_says_so(
    data: Path, pattern: str
) -> None:
    (data / "images" / "w5_15.png").rename(data / "images" / "lot7.png")
    table = (data / "table.csv").read_text().replace("w5_15.png", "lot7.png")
    (data / "table.csv").write_text(table)
    for i in range(5):
        pixels = np.asarray(Image.open(data / "images" / "w0_00.png"))
        Image.fromarray((pixels // 2 + 10 * i).astype(np.uint8)).save(data / "images" / f"c{i}.png")
    made = initialise(
        data / "w",
        images=data / "images",
        image_labels=data / "table.csv",
        group_pattern=pattern,
    )
    groups = {s.image: s.group for s in made.workspace.samples()}
    expected = "7" if pattern.startswith("lot") else None
    assert groups == {**dict.fromkeys(groups), "lot7.png": expected}
    alone = 35 - (expected is not None)
    notes = (
        f"the group pattern {pattern!r} finds no group in {alone} of 35 images",
        f"{'no image has a group (lot, wafer)' if alone == 35 else '34 images have no group'}; "
        "6 near-duplicates in 1 sets, the largest of 6, stay together",
    )
    assert made.notes == notes
    assert len({s.split for s in made.samples if s.image[0] == "c"}) == 1
    assert resplit(made.workspace, seed=1).notes == (notes[1], notes[0])


@pytest.mark.parametrize("to", ["yolo", "coco"])
def test_the_table_beside_the_boxes_is_read(data: Path, to: str) -> None:
    rows = (data / "table.csv").read_text().splitlines()
    grouped = [f"{row},lot{i % 5}" for i, row in enumerate(rows[1:])]
    (data / "table.csv").write_text("\n".join(["image,class,group", *grouped]))
    first = initialise(data / "w", images=data / "images", image_labels=data / "table.csv")
    convert(first.workspace.root, data / "z", to=to)
    made = initialise(data / "w2", images=data / "z" / "images", boxes=data / "z")
    assert made.workspace.classes == first.workspace.classes
    bare = {Path(s.image).name: (s.image_class, s.group, s.split) for s in made.workspace.samples()}
    assert bare == {s.image: (s.image_class, s.group, s.split) for s in first.samples}
    assert made.notes == (
        f"classes, groups and splits are those of {data / 'z' / 'image_labels.csv'}, "
        "beside the boxes",
    )


def test_a_table_without_classes_beside_it_has_to_be_named(data: Path) -> None:
    (data / "table.csv").rename(data / "image_labels.csv")
    (data / "labels").mkdir()
    (data / "labels" / "w5_15.txt").write_text("0 .5 .5 .2 .4\n")
    made = initialise(data / "w", images=data / "images", boxes=data / "labels")
    assert {s.image_class for s in made.samples} == {None}
    assert made.workspace.classes.names == ("class_0",)


def test_list_files_are_the_split(data: Path) -> None:
    (data / "train.txt").write_text("w0_00\nw1_01.png\n\n./w2_02.png\n")
    (data / "val.txt").write_text("w3_03\n")
    made = initialise(
        data / "w",
        images=data / "images",
        image_labels=data / "table.csv",
        splits={"train": data / "train.txt", "val": data / "val.txt"},
    )
    splits = splits_of(made.workspace)
    assert Counter(splits.values()) == {"unused": 26, "train": 3, "val": 1}
    assert splits["w3_03.png"] == "val"


def test_all_faults_of_all_files_come_at_once_and_nothing_is_written(data: Path) -> None:
    (data / "train.txt").write_text("w0_00\nnowhere\n")
    (data / "val.txt").write_text("w0_00\n")
    (data / "table.csv").write_text("image,class\ngone.png,none\n")
    (data / "labels").mkdir()
    (data / "labels" / "w0_00.txt").write_text("0 .5 .5 9 .1\n")
    with pytest.raises(DataError) as caught:
        initialise(
            data / "w",
            images=data / "images",
            image_labels=data / "table.csv",
            boxes=data / "labels",
            boxes_format="yolo",
            splits={"train": data / "train.txt", "val": data / "val.txt"},
        )
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    for place, line in zip(
        ("labels/w0_00.txt:1: ", "table.csv:2: ", "train.txt:2: ", "val.txt:1: "),
        lines,
        strict=True,
    ):
        assert place in line
    assert not (data / "w").exists()


def test_a_broken_image_is_named_before_anything_is_written(data: Path) -> None:
    path = data / "images" / "w0_00.png"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"w0_00.png: .*cut off.*; copy the image again"):
        initialise(data / "w", images=data / "images", image_labels=data / "table.csv")
    assert not (data / "w").exists()


def test_yolo_boxes_beside_with_their_names_and_splits(data: Path) -> None:
    (data / "labels").mkdir()
    (data / "labels" / "w0_00.txt").write_text("1 .5 .5 .2 .4\n")
    (data / "labels" / "w1_01.txt").write_text("")
    (data / "data.yaml").write_text("names: [dust, scratch, ok]\n")
    made = initialise(data / "w", images=data / "images", boxes=data)
    assert [(c.name, c.kind) for c in made.workspace.classes] == [
        ("dust", "box"),
        ("scratch", "box"),
        ("ok", "none"),
    ]
    read = {s.image: s.annotations for s in made.workspace.samples()}
    assert Counter(None if a is None else len(a) for a in read.values()) == {None: 28, 0: 1, 1: 1}
    assert read["w0_00.png"] is not None
    assert read["w0_00.png"][0].box.corners == pytest.approx((40, 15, 60, 35))


def test_the_folder_of_the_data_can_be_the_workspace(data: Path) -> None:
    (data / "table.csv").rename(data / "image_labels.csv")
    before = (data / "image_labels.csv").read_text()
    made = initialise(data, images=data / "images", image_labels=data / "image_labels.csv")
    assert made.workspace.root == data
    assert (data / "image_labels.csv.bak-1").read_text() == before
    assert 'images = "images"' in (data / "wafer.toml").read_text()


@pytest.mark.slow
def test_figures_of_earlier_runs_are_no_images(data: Path) -> None:
    folder = data / "images"
    figure = folder / "runs" / "train" / "yolov5n-001" / "results.png"
    figure.parent.mkdir(parents=True)
    Image.new("L", (8, 8)).save(figure)
    for _ in range(2):
        made = initialise(folder, images=folder, image_labels=data / "table.csv", force=True)
        assert len(made.samples) == len(made.workspace.samples()) == 30


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": "gone"}, "no such folder; name the folder of the images"),
        ({"classes": "gone.yaml"}, "gone.yaml: no such file"),
        ({"white_level": 0}, "white_level: Input should be greater than or equal to 1"),
        ({"group_pattern": "("}, "not a regular expression"),
        ({"group_pattern": "lot"}, "no group in it"),
        ({"none_class": "clean"}, "no image of class 'clean'"),
        ({"boxes": "gone"}, "gone: no such file or folder"),
        ({"image_labels": None}, "no class and no box in it"),
    ],
)
def test_what_cannot_be_is_said(data: Path, options: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"images": "images", "image_labels": "table.csv", **options}
    for name in ("images", "classes", "boxes", "image_labels"):
        if isinstance(arguments.get(name), str):
            arguments[name] = data / str(arguments[name])
    with pytest.raises(WaferError) as caught:
        initialise(data / "w", **arguments)  # type: ignore[arg-type]
    assert message in str(caught.value)
    assert not (data / "w").exists()


def test_one_image_cannot_be_split(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "images" / "a.png")
    (tmp_path / "t.csv").write_text("image,class\na.png,x\n")
    with pytest.raises(WaferError, match=r"1 images in 1 groups cannot fill 3 splits: add"):
        initialise(tmp_path / "w", images=tmp_path / "images", image_labels=tmp_path / "t.csv")
    assert not (tmp_path / "w").exists()


@pytest.mark.slow
def test_a_second_time_needs_force(data: Path) -> None:
    arguments = {"images": data / "images", "image_labels": data / "table.csv"}
    initialise(data / "w", **arguments)  # type: ignore[arg-type]
    with pytest.raises(WorkspaceError, match="--force"):
        initialise(data / "w", **arguments)  # type: ignore[arg-type]
    initialise(data / "w", **arguments, force=True)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("force", [False, True])
def test_images_in_a_folder_that_the_workspace_needs_stay_where_they_are(
    data: Path, force: bool
) -> None:
    folder = data / "w" / "labels"
    folder.parent.mkdir()
    (data / "images").rename(folder)
    (folder / "w5_15.txt").write_text("0 .5 .5 .1 .1\n")
    before = sorted((data / "w").rglob("*"))
    with pytest.raises(WorkspaceError, match="needs the folder labels for itself") as caught:
        initialise(data / "w", images=folder, boxes=folder, boxes_format="yolo", force=force)
    assert "name another DIR" in str(caught.value)
    assert "--force" not in str(caught.value)
    assert sorted((data / "w").rglob("*")) == before


@pytest.mark.slow
def test_a_new_split_keeps_the_table_and_what_is_unused(data: Path) -> None:
    made = initialise(data / "w", images=data / "images", image_labels=data / "table.csv")
    table = made.workspace.table
    rows = table.read_text().splitlines()
    rows[1] = "w0_00.png,none,unused"
    table.write_text("\n".join(rows) + "\n")
    Image.new("L", (9, 9), 77).save(data / "images" / "new.png")
    done = resplit(made.workspace, train=0.5, val=0.25, test=0.25, seed=3)
    assert done.kept == table.with_name("image_labels.csv.bak-1")
    assert done.kept.read_text() == "\n".join(rows) + "\n"
    assert done.notes[-1] == "1 images stay unused"
    splits = splits_of(made.workspace)
    assert splits["w0_00.png"] == "unused"
    assert Counter(splits.values())["train"] == pytest.approx(15, abs=1)
    assert splits == {s.image: s.split for s in done.samples}
    assert len(read_label_rows(table)) == 31
    view = made.workspace.cache / "yolo" / "images"
    shown = {p.name: p.parent.name for p in view.rglob("*.png")}
    assert shown == {n: s for n, s in splits.items() if n in shown}


@pytest.mark.shared
@pytest.mark.skipif(not NEU.is_dir(), reason=f"no real data in {NEU}")
def test_real_steel_images(tmp_path: Path) -> None:
    lists = {"train": "longtail_train.txt", "val": "val.txt", "test": "test.txt"}
    made = initialise(
        tmp_path,
        images=NEU / "images",
        image_labels=NEU / "image_labels.csv",
        boxes=NEU,
        splits={split: NEU / name for split, name in lists.items()},
    )
    samples = made.workspace.samples()
    splits = Counter(s.split for s in samples)
    assert (splits["train"], splits["val"], splits["test"], splits["unused"]) == (
        393,
        180,
        764,
        103,
    )
    assert Counter(a.class_name for s in samples for a in s.annotations or ()) == {
        "crazing": 561,
        "inclusion": 763,
        "patches": 734,
        "pitted_surface": 347,
        "rolled-in_scale": 515,
        "scratches": 426,
    }
