"""Who is learnt from and who is labelled: folds by group, nothing of the test split, bad input."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wafer.datasets.classes import ClassTable, DefectClass
from wafer.datasets.errors import WaferError
from wafer.datasets.records import Annotation, Box, Sample
from wafer.datasets.workspace import Workspace, create_workspace
from wafer.labelling.propagation.roles import assign_roles
from wafer.labelling.propagation.teachers import plan_teaching

CLASSES = ClassTable(
    (
        DefectClass(0, "none", "none"),
        DefectClass(1, "scratch"),
        DefectClass(2, "particle"),
        DefectClass(3, "deviation", "whole_image"),
    )
)
BOX = Box(1, 1, 9, 9)


def made(root: Path, samples: list[Sample]) -> Workspace:
    images = root / "pictures"
    images.mkdir(exist_ok=True)
    noise = np.random.default_rng(0)
    for sample in samples:
        pixels = noise.integers(0, 255, (32, 32)).astype(np.uint8)
        Image.fromarray(pixels).save(images / sample.image)
    return create_workspace(root / "w", images=images, classes=CLASSES, samples=samples)


def drawn(name: str, class_name: str, **kwargs: str) -> Sample:
    return Sample(name, class_name, (Annotation(BOX, class_name),), split="train", **kwargs)  # type: ignore[arg-type]


def usual() -> list[Sample]:
    names = ("scratch", "particle")
    return [
        *(drawn(f"d{k:02d}.png", names[k % 2], group=f"g{k // 2}") for k in range(12)),
        *(Sample(f"p{k:02d}.png", names[k % 2], group=f"g{k}", split="train") for k in range(12)),
        *(Sample(f"n{k:02d}.png", "none", split="train") for k in range(9)),
        Sample("w.png", "deviation", split="train"),
        Sample("t.png", "scratch", (Annotation(BOX, "scratch"),), split="test"),
        Sample("u.png", "scratch", split="test"),
        Sample("v.png", "scratch", (Annotation(BOX, "scratch"),), split="val"),
        Sample("x.png", "scratch", split="unused"),
        Sample("y.png", None, split="train"),
    ]


def test_each_image_has_its_role(tmp_path: Path) -> None:
    workspace = made(tmp_path, usual())
    roles = assign_roles(workspace, workspace.samples(), folds=3, seed=0)
    assert [s.image for s in roles.drawn] == [f"d{k:02d}.png" for k in range(12)]
    assert {s.image[0] for s in roles.empty} == {"n"}
    assert [s.image for s in roles.val] == ["v.png"]
    # nobody's test images are learnt from, but those without boxes may get some
    assert {s.image[0] for s in roles.pool} == {"p", "u", "y"}
    assert roles.notes == ("1 images have no class: boxes of all classes are looked for there",)
    assert roles.exclusive


def test_no_group_is_in_two_folds_and_every_fold_has_every_class(tmp_path: Path) -> None:
    workspace = made(tmp_path, usual())
    roles = assign_roles(workspace, workspace.samples(), folds=3, seed=0)
    by_group: dict[str, set[int]] = {}
    for sample in [*roles.drawn, *roles.pool]:
        if sample.group:
            by_group.setdefault(sample.group, set()).add(roles.fold[sample.image])
    assert {len(folds) for folds in by_group.values()} == {1}
    for fold in range(3):
        held_out = [s for s in roles.drawn if roles.fold[s.image] == fold]
        assert {s.image_class for s in held_out} == {"scratch", "particle"}
        teaching = plan_teaching(roles, fold=fold, labelled=None, hardest={}, epochs=10, seed=0)
        learnt = {s.image for s in teaching.train}
        assert not learnt & {s.image for s in held_out}
        assert len(teaching.train) == 8 + 3  # at most 30 % are empty
        assert [s.image for s in teaching.val] == ["v.png"]


def test_later_teachers_learn_from_accepted_images_of_other_folds_in_train_alone(
    tmp_path: Path,
) -> None:
    workspace = made(tmp_path, usual())
    roles = assign_roles(workspace, workspace.samples(), folds=3, seed=0)
    labelled = {s.image: (Annotation(BOX, "scratch", "model"),) for s in roles.pool}
    hardest = {"n04.png": 0.9}
    for fold in range(3):
        teaching = plan_teaching(
            roles, fold=fold, labelled=labelled, hardest=hardest, epochs=40, seed=0
        )
        pseudo = [s for s in teaching.train if s.image[0] in "puy"]
        assert all(roles.fold[s.image] != fold and s.split == "train" for s in pseudo)
        assert "u.png" not in {s.image for s in pseudo}
        names = [s.image for s in teaching.train if s.image[0] == "d"]
        assert all(names.count(name) == 2 for name in names)
        if roles.fold["n04.png"] != fold:
            assert "n04.png" in {s.image for s in teaching.train}
        assert 8 <= teaching.epochs <= 40
        assert {a.source for s in teaching.val for a in s.annotations or ()} == {"human"}


def test_a_later_teacher_sees_half_as_many_images_again_however_many_are_empty(
    tmp_path: Path,
) -> None:
    names = ("scratch", "particle")
    samples = [
        *(drawn(f"d{k:02d}.png", names[k % 2]) for k in range(12)),
        *(Sample(f"p{k:03d}.png", names[k % 2], split="train") for k in range(60)),
        *(Sample(f"n{k:02d}.png", "none", split="train") for k in range(60)),
    ]
    workspace = made(tmp_path, samples)
    roles = assign_roles(workspace, workspace.samples(), folds=3, seed=0)
    labelled = {s.image: (Annotation(BOX, "scratch", "model"),) for s in roles.pool}

    def seen(boxes: dict[str, tuple[Annotation, ...]] | None, fold: int) -> tuple[int, int]:
        teaching = plan_teaching(roles, fold=fold, labelled=boxes, hardest={}, epochs=60, seed=0)
        return len(teaching.train), len(teaching.train) * teaching.epochs

    for fold in range(3):
        images, shown = seen(labelled, fold)
        assert images > 60
        assert shown == pytest.approx(1.5 * seen(None, fold)[1], abs=images)


@pytest.mark.parametrize("number", [0, 1])
def test_one_drawn_image_is_too_few(tmp_path: Path, number: int) -> None:
    samples = [
        *(drawn(f"d{k}.png", "scratch") for k in range(number)),
        Sample("p.png", "scratch", split="train"),
    ]
    workspace = made(tmp_path, samples)
    with pytest.raises(WaferError, match=f"{number} drawn images in the split train are too few"):
        assign_roles(workspace, workspace.samples(), folds=3, seed=0)


def test_two_images_make_two_folds_and_a_missing_class_is_told(tmp_path: Path) -> None:
    samples = [
        *(drawn(f"d{k}.png", "scratch") for k in range(2)),
        Sample("p.png", "particle", split="train"),
    ]
    workspace = made(tmp_path, samples)
    roles = assign_roles(workspace, workspace.samples(), folds=3, seed=0)
    assert roles.folds == 2
    assert roles.notes == ("no drawn box of particle: a person has to look at all of their images",)
    assert roles.classes_drawn == {"scratch"}
    assert roles.rare == {"scratch", "particle"}


@pytest.mark.parametrize(("each", "folds", "empty"), [(2, 3, 0), (1, 3, 0), (3, 5, 0), (1, 2, 10)])
def test_few_drawn_images_are_dealt_out_so_that_every_fold_has_some(
    tmp_path: Path, each: int, folds: int, empty: int
) -> None:
    samples = [
        *(drawn(f"d{k}.png", ("scratch", "particle")[k % 2]) for k in range(2 * each)),
        *(Sample(f"n{k}.png", "none", split="train") for k in range(empty)),
        Sample("p.png", "scratch", split="train"),
    ]
    workspace = made(tmp_path, samples)
    roles = assign_roles(workspace, workspace.samples(), folds=folds, seed=0)
    held_out = [[s for s in roles.drawn if roles.fold[s.image] == k] for k in range(roles.folds)]
    assert roles.folds == min(folds, 2 * each)
    assert min(map(len, held_out)) >= 1
    counts = [sum(roles.fold[s.image] == k for s in roles.empty) for k in range(roles.folds)]
    assert max(counts) - min(counts) <= 1


def test_nothing_to_label_and_no_split_are_told(tmp_path: Path) -> None:
    workspace = made(tmp_path, [drawn("a.png", "scratch"), drawn("b.png", "scratch")])
    with pytest.raises(WaferError, match="nothing is left to label"):
        assign_roles(workspace, workspace.samples(), folds=3, seed=0)
    samples = [Sample("a.png", "scratch", (Annotation(BOX, "scratch"),))]
    with pytest.raises(WaferError, match="wafer split"):
        assign_roles(workspace, samples, folds=3, seed=0)


def test_images_with_boxes_of_two_classes_break_the_rule_that_a_class_says_all(
    tmp_path: Path,
) -> None:
    both = (Annotation(BOX, "scratch"), Annotation(Box(20, 20, 30, 30), "particle"))
    samples = [
        *(drawn(f"d{k}.png", "scratch") for k in range(4)),
        Sample("m.png", "scratch", both, split="train"),
        Sample("p.png", "scratch", split="train"),
    ]
    workspace = made(tmp_path, samples)
    roles = assign_roles(workspace, workspace.samples(), folds=2, seed=0)
    assert not roles.exclusive
    assert roles.notes == (
        "1 of 5 drawn images have boxes of another class than their own (m.png for one); "
        "boxes of all classes are looked for",
    )


def test_an_image_that_cannot_be_read_is_told_and_gets_no_fold(tmp_path: Path) -> None:
    workspace = made(tmp_path, usual())
    path = workspace.images / "p03.png"
    path.write_bytes(path.read_bytes()[:60])
    roles = assign_roles(workspace, workspace.samples(), folds=3, seed=0)
    assert list(roles.unreadable) == ["p03.png"]
    assert "p03.png" not in roles.fold
    assert any(note.startswith("p03.png: ") and "queue" in note for note in roles.notes)
