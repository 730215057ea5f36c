import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from wafer.datasets.classes import ClassTable, DefectClass
from wafer.datasets.errors import DataError, WorkspaceError
from wafer.datasets.records import Annotation, Box, Sample
from wafer.datasets.workspace import (
    Workspace,
    create_workspace,
    dataset_hash,
    find_workspace,
    open_workspace,
    select,
    trusted,
)

CLASSES = ClassTable(
    (
        DefectClass(0, "clean", "none"),
        DefectClass(7, "residue"),
        DefectClass(8, "scratch", killer=True),
        DefectClass(9, "deviation", "whole_image"),
    )
)
SCRATCH = Annotation(Box(1.25, 2, 30.5, 40), "scratch")
FRAME = Annotation(Box(0, 0, 100, 50), "deviation", "rule")
SAMPLES = (
    Sample("lot1/a.png", "scratch", (SCRATCH,), "lot1", "train"),
    Sample("lot2/a.png", "clean", (), "lot2", "val"),
    Sample("=b.png", None, (), None, "test"),
    Sample("lot1/dev.png", "deviation", (FRAME,), "lot1", "train"),
    Sample("nobody looked, yet.png", "residue", None, None, "unused"),
)


def images_for(folder: Path, names: Sequence[str]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        seed = sum(name.encode())
        pixels = np.random.default_rng(seed).integers(0, 256, (50, 100), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name, "PNG")
    return folder


def made(tmp_path: Path, samples: Sequence[Sample] = SAMPLES, **options: object) -> Workspace:
    images = images_for(tmp_path / "images", [s.image for s in samples])
    return create_workspace(
        tmp_path,
        images=images,
        classes=CLASSES,
        samples=samples,
        **options,  # type: ignore[arg-type]
    )


def rounded(samples: Sequence[Sample]) -> list[Sample]:
    def near(annotation: Annotation) -> Annotation:
        corners = [round(value, 3) for value in annotation.box.corners]
        return replace(annotation, box=Box(*corners))

    return sorted(
        (
            s if s.annotations is None else replace(s, annotations=tuple(map(near, s.annotations)))
            for s in samples
        ),
        key=lambda s: s.image,
    )


def test_a_workspace_is_read_as_it_was_made(tmp_path: Path) -> None:
    made(tmp_path, white_level=4095, colour=True, group_pattern="(lot[0-9])")
    workspace = open_workspace(tmp_path)
    assert workspace.classes == CLASSES
    assert (workspace.white_level, workspace.colour) == (4095, True)
    assert workspace.group_pattern == "(lot[0-9])"
    assert rounded(workspace.samples()) == rounded(SAMPLES)
    assert workspace.image_path("lot1/a.png") == tmp_path / "images" / "lot1" / "a.png"
    assert workspace.label_path("lot1/a.png") == tmp_path / "labels" / "lot1" / "a.txt"


def test_missing_and_empty_label_files_differ(tmp_path: Path) -> None:
    workspace = made(tmp_path)
    assert not workspace.label_path("nobody looked, yet.png").exists()
    assert workspace.label_path("=b.png").read_bytes() == b""


def test_images_may_lie_anywhere(tmp_path: Path) -> None:
    images = images_for(tmp_path / "far" / "away", [s.image for s in SAMPLES])
    made_ = create_workspace(tmp_path / "w", images=images, classes=CLASSES, samples=SAMPLES)
    assert f'images = "{images}"' in (tmp_path / "w" / "wafer.toml").read_text()
    assert rounded(made_.samples()) == rounded(SAMPLES)


def test_images_may_lie_in_the_workspace_itself(tmp_path: Path) -> None:
    images_for(tmp_path, ["a.png"])
    images_for(tmp_path / "runs" / "train" / "yolov5n-001", ["results.png"])
    images_for(tmp_path / ".cache", ["thumbnail.png"])
    workspace = create_workspace(
        tmp_path, images=tmp_path, classes=CLASSES, samples=[Sample("a.png", "clean")]
    )
    assert [s.image for s in workspace.samples()] == ["a.png"]


@pytest.mark.parametrize("folder", ["labels", "labels/lot1", "truth", "runs/x", "models", ".cache"])
def test_images_may_not_lie_in_what_the_workspace_writes(tmp_path: Path, folder: str) -> None:
    images = images_for(tmp_path / folder, ["a.png"])
    needed = folder.split("/", maxsplit=1)[0]
    with pytest.raises(WorkspaceError, match=rf"needs the folder {needed} for itself; name anoth"):
        create_workspace(
            tmp_path, images=images, classes=CLASSES, samples=[Sample("a.png", "clean")], force=True
        )
    assert (images / "a.png").is_file()
    assert not (tmp_path / "classes.yaml").exists()


def test_settings_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = made(tmp_path, white_level=4095).root / "wafer.toml"
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert open_workspace(tmp_path).white_level == 4095


def test_whole_image_classes_have_the_full_frame_and_none_has_nothing(tmp_path: Path) -> None:
    samples = [Sample("d.png", "deviation"), Sample("c.png", "clean"), Sample("x.png", "residue")]
    workspace = made(tmp_path, samples)
    workspace.label_path("d.png").write_text("2 .5 .5 .1 .1\n1 .5 .5 .1 .2\n2 .2 .2 .1 .1\n")
    clean, dev, other = workspace.samples()
    assert clean.annotations == ()
    assert other.annotations is None
    assert dev.annotations is not None
    assert dev.annotations[0] == FRAME
    assert [a.class_name for a in dev.annotations] == ["deviation", "scratch"]


def test_the_pattern_gives_groups_where_the_table_has_none(tmp_path: Path) -> None:
    samples = [Sample("w1_a.png", group="mine"), Sample("w2_a.png"), Sample("other.png")]
    workspace = made(tmp_path, samples, group_pattern="(x)?(?P<group>w[0-9])_")
    groups = {s.image: s.group for s in workspace.samples()}
    assert groups == {"other.png": None, "w1_a.png": "mine", "w2_a.png": "w2"}


def test_images_without_a_split_are_unused_once_any_has_one(tmp_path: Path) -> None:
    assert {
        s.split for s in made(tmp_path / "a", [Sample("a.png"), Sample("b.png")]).samples()
    } == {None}
    split = made(tmp_path / "b", [Sample("a.png", split="train"), Sample("b.png")])
    assert [s.split for s in split.samples()] == ["train", "unused"]


def test_truth_is_read_where_there_is_one(tmp_path: Path) -> None:
    workspace = made(tmp_path, [Sample("a.png", "scratch", None, None, "train")])
    assert workspace.true_samples() == workspace.samples()
    workspace.truth.mkdir()
    (workspace.truth / "a.txt").write_text("1 0.5 0.5 0.2 0.4\n")
    assert workspace.samples()[0].annotations is None
    [annotation] = workspace.true_samples()[0].annotations or ()
    assert annotation.box.corners == pytest.approx((40, 15, 60, 35))


@pytest.mark.parametrize(
    ("truth", "name"),
    [
        ("1 0.5 0.5 0.2 0.4\n", "scratch"),
        ("", "clean"),
        ("2 0.5 0.5 1 1\n", "deviation"),
        ("0 0.5 0.5 0.2 0.4\n1 0.5 0.5 0.2 0.4\n", None),
    ],
)
@pytest.mark.parametrize("wrong", ["clean", "residue", "deviation"])
def test_truth_knows_the_class_better_than_the_table(
    tmp_path: Path, truth: str, name: str | None, wrong: str
) -> None:
    workspace = made(tmp_path, [Sample("a.png", wrong, None, None, "train")])
    workspace.truth.mkdir()
    (workspace.truth / "a.txt").write_text(truth)
    (sample,) = workspace.true_samples()
    assert sample.image_class == name
    assert sample.annotations is not None
    assert sum(a.class_name == name for a in sample.annotations) == (
        name in ("scratch", "deviation")
    )
    assert workspace.samples()[0].image_class == wrong


def test_the_workspace_above_the_current_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(tmp_path)
    monkeypatch.chdir(tmp_path / "images" / "lot1")
    assert find_workspace().root == tmp_path
    assert find_workspace(tmp_path / "images").root == tmp_path


def test_no_workspace_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match=r"no wafer.toml in .* make a workspace with `wafer"):
        find_workspace(tmp_path)
    with pytest.raises(WorkspaceError, match=r"no wafer.toml"):
        open_workspace(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image = 'x'", "unknown key 'image'; delete it or use one of images, white_level"),
        ("white_level = 0", "white_level: Input should be greater than or equal to 1"),
        ("white_level = '255'", "white_level: Input should be a valid integer"),
        ("colour = 'no'", "colour: Input should be a valid boolean"),
        ("group_pattern = 'lot'", "no group in it: put ( ) around"),
        ("group_pattern = '('", "not a regular expression"),
        ("images = \n", "not a TOML file"),
        ("images = 'gone'", "no folder"),
    ],
)
def test_bad_settings(tmp_path: Path, text: str, message: str) -> None:
    made(tmp_path)
    (tmp_path / "wafer.toml").write_text(text)
    with pytest.raises(WorkspaceError) as caught:
        open_workspace(tmp_path)
    assert message in str(caught.value)
    assert "wafer.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_bad_settings_are_named_at_once(tmp_path: Path) -> None:
    made(tmp_path)
    (tmp_path / "wafer.toml").write_text("a = 1\nb = 2\nwhite_level = 99999\n")
    with pytest.raises(WorkspaceError) as caught:
        open_workspace(tmp_path)
    assert len(str(caught.value).splitlines()) == 3


def test_a_workspace_is_never_overwritten_unasked(tmp_path: Path) -> None:
    made(tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(WorkspaceError, match=r"a workspace already; .* `--force`"):
        made(tmp_path)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_force_keeps_what_was_there(tmp_path: Path) -> None:
    made(tmp_path)
    old = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    made(tmp_path, [Sample("z.png", "clean", (), split="train")], force=True)
    for name, content in old.items():
        assert (tmp_path / f"{name}.bak-1").read_bytes() == content
    assert (tmp_path / "labels.bak-1" / "lot1" / "a.txt").is_file()
    assert [p.name for p in (tmp_path / "labels").iterdir()] == ["z.txt"]
    assert (tmp_path / "images" / "lot1" / "a.png").is_file()


def test_labels_that_lie_there_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("mine")
    with pytest.raises(WorkspaceError, match="there are labels already"):
        made(tmp_path)
    assert not (tmp_path / "wafer.toml").exists()
    assert (tmp_path / "labels" / "a.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (Sample("a.png", "dust"), "a.png: unknown class 'dust'; use one of clean"),
        (Sample("a.png", None, (Annotation(Box(0, 0, 1, 1), "dust"),)), "unknown class 'dust'"),
        (Sample("a.png", "clean", (SCRATCH,)), "boxes on an image of class clean"),
    ],
)
def test_samples_that_do_not_fit_write_nothing(
    tmp_path: Path, sample: Sample, message: str
) -> None:
    with pytest.raises(DataError) as caught:
        made(tmp_path, [sample, Sample("b.png", "dirt")])
    assert message in str(caught.value)
    assert "dirt" in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["images"]


def test_an_image_that_is_not_there_writes_nothing(tmp_path: Path) -> None:
    images = images_for(tmp_path / "images", ["a.png"])
    with pytest.raises(DataError, match=r"gone.png: no such image"):
        create_workspace(
            tmp_path / "w", images=images, classes=CLASSES, samples=[Sample("gone.png")]
        )
    assert not (tmp_path / "w").exists()


def boxed(source: str) -> Sample:
    annotations = (SCRATCH, replace(SCRATCH, source=source))  # type: ignore[arg-type]
    return Sample(f"{source}.png", "scratch", annotations, split="val")


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        (boxed("human"), True),
        (boxed("rule"), True),
        (boxed("model+confirmed"), True),
        (boxed("model+edited"), True),
        (boxed("model"), False),
        (boxed("rejected"), False),
        (Sample("a.png", annotations=()), True),
        (Sample("a.png"), False),
    ],
)
def test_a_person_stands_behind_trusted_boxes(sample: Sample, expected: bool) -> None:
    assert trusted(sample) is expected


def test_a_selection_counts_what_it_leaves_out() -> None:
    doubtful = boxed("model")
    samples = [
        doubtful,
        replace(doubtful, image="t.png", split="train"),
        Sample("u.png", split="val"),
        Sample("v.png", annotations=(), split="val"),
        Sample("w.png", annotations=(), split="unused"),
        Sample("x.png", annotations=()),
    ]
    val = select(samples, "val")
    assert [s.image for s in val.samples] == ["v.png"]
    assert (val.excluded_unlabelled, val.excluded_untrusted) == (1, 1)
    assert [s.image for s in select(samples, "train").samples] == ["t.png"]
    assert [s.image for s in select(samples, "all").samples] == ["t.png", "v.png"]
    assert [s.image for s in select(samples, "unused").samples] == ["w.png"]


def test_the_hash_changes_with_all_that_training_sees(tmp_path: Path) -> None:
    workspace = made(tmp_path)
    samples = workspace.samples()
    base = dataset_hash(workspace, samples)
    first = samples[1]
    assert first.annotations is not None
    shifted = replace(first.annotations[0], box=Box(1, 2, 3, 4))
    others = [
        dataset_hash(workspace, samples[1:]),
        dataset_hash(replace(workspace, white_level=1000), samples),
        dataset_hash(replace(workspace, classes=ClassTable(CLASSES.classes[1:])), samples),
        *(
            dataset_hash(workspace, [samples[0], changed, *samples[2:]])
            for changed in (
                replace(first, split="val"),
                replace(first, image_class="residue"),
                replace(first, annotations=()),
                replace(first, annotations=None),
                replace(first, annotations=(shifted,)),
            )
        ),
    ]
    images_for(tmp_path / "images", ["other"])
    (tmp_path / "images" / "other").rename(workspace.image_path("lot1/a.png"))
    others.append(dataset_hash(workspace, samples))
    assert len({base, *others}) == len(others) + 1
    assert len(base) == 64


def test_the_hash_does_not_depend_on_order_or_place(tmp_path: Path) -> None:
    one, two = made(tmp_path / "one"), made(tmp_path / "two")
    assert dataset_hash(one, one.samples()) == dataset_hash(two, reversed(two.samples()))


def test_what_is_remembered_of_images_may_be_wrong_or_gone(tmp_path: Path) -> None:
    workspace = made(tmp_path)
    remembered = workspace.cache / "images.json"
    before = workspace.samples(), dataset_hash(workspace, workspace.samples())
    for text in ("", "[]", "{", json.dumps({"lot1/a.png": 3})):
        remembered.write_text(text)
        assert (workspace.samples(), dataset_hash(workspace, workspace.samples())) == before
    remembered.unlink()
    assert workspace.samples() == before[0]


def test_an_image_that_changed_is_read_again(tmp_path: Path) -> None:
    workspace = made(tmp_path)
    path = workspace.image_path("lot1/a.png")
    Image.new("L", (200, 400)).save(path)
    os.utime(path, ns=(1, 1))
    sample = next(s for s in workspace.samples() if s.image == "lot1/a.png")
    assert sample.annotations is not None
    assert sample.annotations[0].box.corners == pytest.approx((2.5, 16, 61, 320))


def test_the_yolo_view_holds_labelled_images_of_each_split(tmp_path: Path) -> None:
    workspace = made(tmp_path)
    document = yaml.safe_load((tmp_path / "data.yaml").read_text())
    view = workspace.cache / "yolo"
    assert document == {
        "path": str(view),
        "train": "images/train",
        "val": "images/val",
        "test": "images/test",
        "nc": 3,
        "names": {0: "residue", 1: "scratch", 2: "deviation"},
        "channels": 1,
    }
    found = {
        str(p.relative_to(view)): p.read_bytes()
        for p in view.rglob("*")
        if p.is_file() and p.suffix == ".txt"
    }
    assert found == {
        "labels/train/lot1/a.txt": b"1 0.15875 0.42 0.2925 0.76\n",
        "labels/train/lot1/dev.txt": b"2 0.5 0.5 1 1\n",
        "labels/val/lot2/a.txt": b"",
        "labels/test/=b.txt": b"",
    }
    link = view / "images" / "train" / "lot1" / "a.png"
    assert link.read_bytes() == workspace.image_path("lot1/a.png").read_bytes()


def test_labels_of_the_view_are_where_ultralytics_looks(tmp_path: Path) -> None:
    workspace = made(tmp_path, [Sample("images/a.png", "clean", (), split="train")])
    view = workspace.cache / "yolo"
    assert (view / "images" / "train" / "images" / "a.png").exists()
    assert (view / "images" / "train" / "labels" / "a.txt").exists()


@pytest.mark.slow
def test_a_thousand_images_are_opened(tmp_path: Path) -> None:
    samples = [Sample(f"{i}.png", "scratch", (SCRATCH,), split="train") for i in range(1000)]
    images = images_for(tmp_path / "images", ["0.png"])
    for sample in samples[1:]:
        os.link(images / "0.png", images / sample.image)
    workspace = create_workspace(tmp_path, images=images, classes=CLASSES, samples=samples)
    assert len(workspace.samples()) == 1000
