"""Which images are drawn first: all classes, rare ones first, no likes, by group, deterministic."""

import csv
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from wafer.datasets.classes import ClassTable, DefectClass
from wafer.datasets.errors import WaferError
from wafer.datasets.records import Annotation, Box, Sample
from wafer.datasets.workspace import Workspace, create_workspace
from wafer.labelling.looks import Looks
from wafer.labelling.orders import Order, kcenter_order, random_order
from wafer.labelling.seeding import SeedChoice, choose_seed, take_turns, write_seed

CLASSES = ClassTable(
    (
        DefectClass(0, "clean", "none"),
        DefectClass(1, "residue"),
        DefectClass(2, "scratch"),
        DefectClass(3, "deviation", "whole_image"),
    )
)
BITS = 256


def looks_of(images: list[str], features: np.ndarray, hashes: np.ndarray | None = None) -> Looks:
    """Hashes that are far from each other where none are given."""
    if hashes is None:
        hashes = np.random.default_rng(0).random((len(images), BITS)) > 0.5
    return Looks(tuple(images), np.asarray(features, np.float32), np.asarray(hashes, bool), ())


def taken(order: Order, number: int, among: list[Sample], drawn: list[Sample]) -> list[Sample]:
    have = Counter(s.image_class for s in drawn)
    return take_turns(number, order, have=have, among=[*among, *drawn])


pools = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c", None]), st.sampled_from(["g1", "g2", "g3", None])),
    min_size=1,
    max_size=40,
)


@pytest.mark.slow
@settings(deadline=None)
@given(pool=pools, drawn=st.integers(0, 5), number=st.integers(1, 45), seed=st.integers(0, 9))
def test_classes_take_turns_and_a_choice_goes_on_where_another_ended(
    pool: list[tuple[str | None, str | None]], drawn: int, number: int, seed: int
) -> None:
    samples = [Sample(f"{i:02}.png", name, None, group) for i, (name, group) in enumerate(pool)]
    old, new = samples[:drawn], samples[drawn:]
    features = np.random.default_rng(seed).normal(size=(len(samples), 4))
    looks = looks_of([s.image for s in samples], features)

    def kcenter(new: list[Sample], old: list[Sample]) -> Order:
        return kcenter_order(new, old, looks=looks)

    def by_chance(new: list[Sample], old: list[Sample]) -> Order:
        return random_order(new, seed=seed)

    for make in (kcenter, by_chance):
        chosen = taken(make(new, old), number, new, old)
        assert len(chosen) == min(number, len(new))
        assert len({s.image for s in chosen}) == len(chosen)
        assert {s.image for s in chosen} <= {s.image for s in new}
        assert taken(make(new, old), number + 3, new, old)[: len(chosen)] == chosen
        first = chosen[: number // 2]  # these are drawn; then the others come, as before
        rest, have = [s for s in new if s not in first], [*old, *first]
        assert [*first, *taken(make(rest, have), number - len(first), rest, have)] == chosen
        counts = Counter(s.image_class for s in (*old, *chosen))
        left = Counter(s.image_class for s in new) - Counter(s.image_class for s in chosen)
        got = Counter(s.image_class for s in chosen)
        for name in left:  # nobody had a turn while a poorer class still had images
            assert all(counts[name] >= counts[other] - 1 for other in got)


def test_of_equally_poor_classes_the_rarest_comes_first() -> None:
    names = ["common"] * 9 + ["rare"] * 2 + ["middle"] * 5
    samples = [Sample(f"{i:02}.png", name) for i, name in enumerate(names)]
    chosen = taken(random_order(samples, seed=0), 7, samples, [])
    assert [s.image_class for s in chosen] == [
        *("rare", "middle", "common", "rare", "middle", "common", "middle")
    ]


def test_within_a_class_the_farthest_image_comes_next() -> None:
    points = np.array([[0, 0], [1, 0], [9, 0], [0, 5], [0.5, 0.5], [4, 4]])
    samples = [Sample(f"{i}.png", "a") for i in range(len(points))]
    looks = looks_of([s.image for s in samples], points)
    chosen = taken(kcenter_order(samples, [], looks=looks), 6, samples, [])
    mine = [int(s.image[0]) for s in chosen]
    # The greedy choice written out: the image nearest to the mean, then always the farthest.
    wanted = [int(np.linalg.norm(points - points.mean(axis=0), axis=1).argmin())]
    while len(wanted) < len(points):
        away = np.linalg.norm(points[:, None] - points[wanted][None], axis=2).min(axis=1)
        away[wanted] = -1
        wanted.append(int(away.argmax()))
    assert mine == wanted


def test_what_is_drawn_already_needs_no_likes() -> None:
    points = np.array([[0.0], [0.1], [10.0]])
    samples = [Sample(f"{i}.png", "a") for i in range(3)]
    looks = looks_of([s.image for s in samples], points)
    (first,) = taken(kcenter_order(samples[1:], samples[:1], looks=looks), 1, samples[1:], [])
    assert first.image == "2.png"


def test_near_duplicates_are_left_out_and_chains_are_not() -> None:
    hashes = np.zeros((4, BITS), bool)
    hashes[1, :24] = True  # 24 bits from the first: a near-duplicate
    hashes[2, :25] = True  # 25 bits: another image, though a near-duplicate of the second
    hashes[3, 100:200] = True
    samples = [Sample(f"{i}.png", "ab"[i == 3]) for i in range(4)]
    looks = looks_of([s.image for s in samples], np.zeros((4, 1)), hashes)
    chosen = taken(kcenter_order(samples, [], looks=looks), 9, samples, [])
    assert {s.image for s in chosen} == {"0.png", "2.png", "3.png"}


def test_groups_take_turns_within_a_class() -> None:
    points = np.array([[0.0], [100.0], [200.0], [1.0], [2.0]])
    groups = ["lot1", "lot1", "lot1", "lot2", None]
    samples = [
        Sample(f"{i}.png", "a", None, group) for i, group in zip(range(5), groups, strict=True)
    ]
    looks = looks_of([s.image for s in samples], points)
    chosen = taken(kcenter_order(samples, [], looks=looks), 5, samples, [])
    assert {s.group for s in chosen[:3]} == {"lot1", "lot2", None}


def noise(seed: int, size: int = 48) -> np.ndarray:
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 6), dtype=np.uint8)
    return np.kron(blocks, np.ones((size // 6, size // 6), np.uint8))


def made(folder: Path, samples: list[Sample]) -> Workspace:
    for number, sample in enumerate(samples):
        path = folder / "images" / sample.image
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(number)).save(path)
    return create_workspace(folder, images=folder / "images", classes=CLASSES, samples=samples)


def some() -> list[Sample]:
    box = (Annotation(Box(1, 1, 9, 9), "scratch"),)
    return [
        *(Sample(f"r{i}.png", "residue", None, f"lot{i % 3}", "train") for i in range(8)),
        *(Sample(f"s{i}.png", "scratch", None, f"lot{i % 2}", "train") for i in range(3)),
        Sample("drawn.png", "scratch", box, "lot0", "train"),
        Sample("looked.png", "residue", (), "lot1", "train"),
        *(Sample(f"c{i}.png", "clean", None, "lot0", "train") for i in range(4)),
        Sample("dev.png", "deviation", None, "lot0", "train"),
        *(Sample(f"v{i}.png", "residue", None, "lot9", "val") for i in range(4)),
        Sample("t.png", "scratch", None, "lot8", "test"),
        Sample("u.png", "scratch", None, "lot8", "unused"),
    ]


@pytest.mark.slow
def test_only_undrawn_training_images_of_box_classes_are_chosen(tmp_path: Path) -> None:
    workspace = made(tmp_path, some())
    choice = choose_seed(workspace, 99)
    names = sorted(s.image for s in choice.samples)
    assert names == sorted([*(f"r{i}.png" for i in range(8)), *(f"s{i}.png" for i in range(3))])
    assert choice_counts(choose_seed(workspace, 4)) == {"residue": 2, "scratch": 2}
    assert "scratch: 3 chosen of 3, 1 drawn before" in choice.notes
    assert "residue: 8 chosen of 8, 1 drawn before" in choice.notes
    assert any(note.startswith("only 11 images") for note in choice.notes)
    assert any("4 of the 4 images of val" in note for note in choice.notes)
    assert any("1 of the 1 images of test" in note for note in choice.notes)


def choice_counts(choice: SeedChoice) -> dict[str | None, int]:
    return dict(Counter(s.image_class for s in choice.samples))


@pytest.mark.slow
def test_the_same_call_gives_the_same_choice_from_memory_too(tmp_path: Path) -> None:
    workspace = made(tmp_path, some())
    first = choose_seed(workspace, 6)
    (kept,) = (workspace.cache / "looks").glob("*.npz")
    stamp = kept.stat().st_mtime_ns
    assert choose_seed(workspace, 6) == first
    assert kept.stat().st_mtime_ns == stamp
    kept.write_bytes(kept.read_bytes()[:100])
    assert choose_seed(workspace, 6) == first
    with np.load(kept) as arrays:
        assert len(arrays["digests"]) == 13


def test_random_depends_on_the_seed_alone(tmp_path: Path) -> None:
    workspace = made(tmp_path, some())
    choices = [choose_seed(workspace, 6, strategy="random", seed=seed) for seed in (1, 1, 2)]
    assert choices[0] == choices[1]
    assert choices[0].samples != choices[2].samples
    assert not (workspace.cache / "looks").exists()


def test_val_and_test_are_drawn_at_random(tmp_path: Path) -> None:
    workspace = made(tmp_path, some())
    choice = choose_seed(workspace, 3, split="val")
    assert {s.image for s in choice.samples} < {f"v{i}.png" for i in range(4)}
    assert choice == choose_seed(workspace, 3, split="val", strategy="random")
    with pytest.raises(WaferError, match="--strategy kcenter looks for unusual images"):
        choose_seed(workspace, 3, split="val", strategy="kcenter")


def test_without_classes_and_splits_all_images_are_candidates(tmp_path: Path) -> None:
    workspace = made(tmp_path, [Sample(f"{i}.png") for i in range(5)])
    choice = choose_seed(workspace, 3)
    assert len(choice.samples) == 3
    assert choice.notes == ("without a class: 3 chosen of 5",)


def test_an_image_that_cannot_be_read_is_left_out_and_named(tmp_path: Path) -> None:
    workspace = made(tmp_path, some())
    path = workspace.image_path("s1.png")
    path.write_bytes(path.read_bytes()[:60])
    choice = choose_seed(workspace, 99)
    assert "s1.png" not in {s.image for s in choice.samples}
    assert choice.notes[0].startswith("1 images cannot be read and are left out: ")
    assert str(path) in choice.notes[0]


@pytest.mark.parametrize("number", [0, -3])
def test_a_number_below_one_is_refused(tmp_path: Path, number: int) -> None:
    with pytest.raises(WaferError, match="give a number from 1 on"):
        choose_seed(made(tmp_path, some()), number)


def test_nothing_left_to_draw_is_said(tmp_path: Path) -> None:
    workspace = made(tmp_path, [Sample("a.png", "clean"), Sample("b.png", "deviation")])
    with pytest.raises(WaferError, match="no image of split train is left to draw"):
        choose_seed(workspace, 1)


def test_likes_of_what_is_drawn_leave_nothing_to_draw_and_the_last_list_stays(
    tmp_path: Path,
) -> None:
    box = (Annotation(Box(1, 1, 9, 9), "scratch"),)
    workspace = made(tmp_path, [Sample("a.png", "scratch", box), Sample("b.png", "scratch")])
    shutil.copy(workspace.image_path("a.png"), workspace.image_path("b.png"))
    with pytest.raises(WaferError, match="those without boxes look like drawn ones"):
        choose_seed(workspace, 1)


@pytest.mark.slow
def test_the_list_is_in_the_order_of_drawing_and_an_older_one_is_kept(tmp_path: Path) -> None:
    workspace = made(tmp_path, some())
    choice = choose_seed(workspace, 5)
    table, sheet = write_seed(workspace, choice)
    with table.open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    assert [row["image"] for row in rows] == [s.image for s in choice.samples]
    assert [row["class"] for row in rows] == [s.image_class for s in choice.samples]
    assert {row["split"] for row in rows} == {"train"}
    with Image.open(sheet) as picture:
        assert picture.size == (5 * 164, 184)
    write_seed(workspace, choice)
    assert not list(workspace.root.glob("seed.csv.bak-*"))
    old = table.read_bytes()
    write_seed(workspace, choose_seed(workspace, 6))
    assert (workspace.root / "seed.csv.bak-1").read_bytes() == old


def test_images_that_lie_in_the_workspace_do_not_get_a_new_neighbour(tmp_path: Path) -> None:
    for number in range(3):
        Image.fromarray(noise(number)).save(tmp_path / f"{number}.png")
    samples = [Sample(f"{i}.png", "scratch") for i in range(3)]
    workspace = create_workspace(tmp_path, images=tmp_path, classes=CLASSES, samples=samples)
    write_seed(workspace, choose_seed(workspace, 2))
    assert len(workspace.samples()) == 3
