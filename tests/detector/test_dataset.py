"""What the trainer sees: pixels, boxes, the rules of whole-image classes, draws and seeds."""

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from wafer.detector.dataset import DetectionDataset
from wafer.detector.hyperparameters import HYPERPARAMETERS
from wafer.detector.image_weights import Mode
from wafer.detector.loader import EpochLoader, EpochSampler, StridedSampler
from wafer.detector.plan import TrainingImage, TrainingPlan, read_plan, write_plan
from wafer.detector.ultralytics_adapter import get_cfg
from wafer.inference.pixels import pixel_slots

SIZE = 64
LOCAL, WHOLE, EMPTY = 0, 1, 2


def grey_image(folder: Path, number: int, *, width: int = 96, height: int = 96) -> Path:
    path = folder / f"{number:02d}.png"
    pixels = np.random.default_rng(number).integers(0, 256, (height, width), np.uint8)
    cv2.imwrite(str(path), cv2.GaussianBlur(pixels, (0, 0), 4))
    return path


@pytest.fixture
def images(tmp_path: Path) -> list[TrainingImage]:
    made = []
    for number in range(12):
        kind = number % 3
        made.append(
            TrainingImage(
                path=grey_image(tmp_path, number),
                classes={LOCAL: (0,), WHOLE: (1,), EMPTY: ()}[kind],
                boxes={LOCAL: ((24, 24, 72, 72),), WHOLE: ((0, 0, 96, 96),), EMPTY: ()}[kind],
                whole_image=kind == WHOLE,
            )
        )
    return made


def dataset(
    images: list[TrainingImage],
    *,
    training: bool = True,
    channels: int = 1,
    **hyperparameters: float,
) -> DetectionDataset:
    arguments: SimpleNamespace = get_cfg(overrides={**HYPERPARAMETERS, **hyperparameters})
    return DetectionDataset(
        images,
        data={"names": {0: "spot", 1: "deviation"}, "channels": channels, "nc": 2},
        image_size=SIZE,
        white_level=65535,
        hyperparameters=arguments,
        training=training,
        batch_size=4,
        cache=images[0].path.parent,
    )


def test_validation_shows_the_image_and_its_boxes_as_they_are(images: list[TrainingImage]) -> None:
    item = dataset(images, training=False)[0]
    assert item["img"].shape == (1, SIZE, SIZE)
    original = cv2.imread(str(images[0].path), cv2.IMREAD_GRAYSCALE)
    expected = cv2.resize(original, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(item["img"][0].numpy(), expected)
    torch.testing.assert_close(item["bboxes"], torch.tensor([[0.5, 0.5, 0.5, 0.5]]))


def test_a_wide_image_is_padded_and_its_boxes_move_with_it(tmp_path: Path) -> None:
    wide = TrainingImage(
        path=grey_image(tmp_path, 0, width=128, height=64),
        classes=(0,),
        boxes=((32, 16, 96, 48),),
        whole_image=False,
    )
    item = dataset([wide], training=False)[0]
    assert item["img"].shape == (1, SIZE, SIZE)
    torch.testing.assert_close(item["bboxes"], torch.tensor([[0.5, 0.5, 0.5, 0.25]]))
    assert (item["img"][0, :16] == 114).all()


def test_colour_reaches_the_network_as_red_green_blue(tmp_path: Path) -> None:
    path = tmp_path / "red.png"
    cv2.imwrite(str(path), np.full((96, 96, 3), (10, 60, 200), np.uint8))  # blue, green, red
    red = TrainingImage(path=path, classes=(), boxes=(), whole_image=False)
    shown = dataset([red], training=False, channels=3)[0]["img"]
    assert shown.shape == (3, SIZE, SIZE)
    assert [int(shown[channel].float().mean()) for channel in range(3)] == [200, 60, 10]
    varied = dataset([red], channels=3, hsv_v=0.0, mosaic=0.0, scale=0.0, translate=0.0)
    start(varied)
    assert [int(varied[0, 1]["img"][c, 32, 32]) for c in range(3)] == [200, 60, 10]


def start(data: DetectionDataset, *, mode: Mode | None = None) -> EpochSampler:
    return EpochSampler(data, seed=0, mode=mode)


def test_a_whole_image_defect_is_only_flipped_and_made_brighter(
    images: list[TrainingImage],
) -> None:
    data = dataset(images, mosaic=1.0, degrees=45, scale=0.9, shear=10, mixup=1.0, hsv_v=0.0)
    start(data)
    plain = dataset(images, training=False)[WHOLE]["img"][0].numpy()
    views = [plain, plain[::-1], plain[:, ::-1], plain[::-1, ::-1]]
    for seed in range(25):
        item = data[WHOLE, seed]
        shown = item["img"][0].numpy()
        assert any(np.array_equal(shown, view) for view in views)
        torch.testing.assert_close(item["bboxes"], torch.tensor([[0.5, 0.5, 1.0, 1.0]]))
        assert item["cls"].tolist() == [[1.0]]


def test_a_whole_image_defect_is_never_a_tile(images: list[TrainingImage]) -> None:
    data = dataset(images, mosaic=1.0, mixup=1.0)
    start(data)
    classes = [label for seed in range(60) for label in data[LOCAL, seed]["cls"].flatten().tolist()]
    assert len(classes) > 60  # tiles bring boxes of their own
    assert set(classes) == {0.0}


def test_backgrounds_are_drawn_under_image_weights(images: list[TrainingImage]) -> None:
    sampler = start(dataset(images), mode="yolov5")
    kinds = np.zeros(3, int)
    for epoch in range(300):
        sampler.start_epoch(epoch, maps=np.array([0.9, 0.1]))
        np.add.at(kinds, sampler.drawn % 3, 1)
    shares = kinds / kinds.sum()
    assert shares[EMPTY] == pytest.approx(1 / 3, abs=0.03)
    # (1 - 0.1)^2 / (1 - 0.9)^2 = 81 draws of the badly found class for one of the other; the cap
    # of 10 draws an image is far
    assert shares[WHOLE] / shares[LOCAL] == pytest.approx(81, rel=0.35)


def test_partners_are_drawn_by_the_weights_of_the_epoch(images: list[TrainingImage]) -> None:
    data = dataset(images)
    sampler = start(data, mode="yolov5")
    sampler.start_epoch(1, maps=np.array([1.0, 0.0]))
    steps = np.diff(data.partner_probabilities, prepend=0)
    assert (steps[LOCAL::3] == 0).all()  # AP 1: not drawn again
    assert (steps[WHOLE::3] == 0).all()  # never a tile
    np.testing.assert_allclose(steps[EMPTY::3], 1 / 12)


def test_an_item_depends_on_its_seed_alone(images: list[TrainingImage]) -> None:
    data = dataset(images)
    start(data)
    first = data[LOCAL, 5]
    data[EMPTY, 9]
    again, other = data[LOCAL, 5], data[LOCAL, 6]
    assert torch.equal(first["img"], again["img"])
    assert torch.equal(first["bboxes"], again["bboxes"])
    assert not torch.equal(first["img"], other["img"])


@pytest.mark.parametrize("mode", [None, "yolov5", "rfs", "effective"])
def test_processes_share_one_draw_and_its_seeds(
    images: list[TrainingImage], mode: Mode | None
) -> None:
    data = dataset(images[:11])
    maps = np.array([0.5, 0.2])
    alone = EpochSampler(data, seed=7, mode=mode)
    alone.start_epoch(4, maps=maps)
    whole = list(alone)
    for world in (2, 3, 4):
        shares = []
        for rank in range(world):
            sampler = EpochSampler(data, seed=7, mode=mode, rank=rank, world=world)
            sampler.start_epoch(4, maps=maps)
            assert len(list(sampler)) == len(sampler) == -(-len(whole) // world)
            shares.append(list(sampler))
        together = [item for turn in zip(*shares, strict=True) for item in turn]
        assert together == (whole + whole)[: len(together)]


def test_validation_is_shared_out_without_repeats() -> None:
    shares = [list(StridedSampler(10, rank=rank, world=3)) for rank in range(3)]
    assert shares == [[0, 3, 6, 9], [1, 4, 7], [2, 5, 8]]
    assert [len(StridedSampler(10, rank=rank, world=3)) for rank in range(3)] == [4, 3, 3]


@pytest.mark.parametrize("place", ["memory", "disk", "nowhere"])
def test_images_are_the_same_wherever_they_are_kept(
    images: list[TrainingImage], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    expected = [dataset(images, training=False)[i]["img"] for i in range(len(images))]
    folder = images[0].path.parent
    before = sorted(folder.iterdir())
    if place != "memory":
        monkeypatch.setattr("wafer.inference.pixels.MEMORY_SHARE", 0.0)
    if place == "nowhere":
        monkeypatch.setattr("wafer.inference.pixels.DISK_SHARE", 0.0)
    data = dataset(images, training=False)
    assert sorted(folder.iterdir()) == before  # the file on disk has no name
    for path in {image.path for image in images}:
        if place != "nowhere":  # decoded once: the files are not looked at again
            path.rename(path.with_suffix(".gone"))
    for index, image in enumerate(expected):
        assert torch.equal(data[index]["img"], image)


def test_a_container_may_have_less_memory_than_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit, used = tmp_path / "memory.max", tmp_path / "memory.current"
    monkeypatch.setattr("wafer.inference.pixels.GROUP_LIMIT", limit)
    monkeypatch.setattr("wafer.inference.pixels.GROUP_USED", used)
    used.write_text("300000\n")
    for text, in_memory in (("max\n", True), ("500000\n", True), ("400000\n", False)):
        limit.write_text(text)
        pixels = pixel_slots(10, 9000, folder=tmp_path)
        assert isinstance(pixels, np.memmap) != in_memory


@pytest.mark.slow
def test_an_epoch_is_the_same_for_any_number_of_workers(images: list[TrainingImage]) -> None:
    def epochs(workers: int) -> list[torch.Tensor]:
        data = dataset(images)
        sampler = start(data, mode="yolov5")
        loader = EpochLoader(
            data,
            batch_size=4,
            sampler=sampler,
            num_workers=workers,
            collate_fn=DetectionDataset.collate_fn,
        )
        shown = []
        for epoch in range(2):
            sampler.start_epoch(epoch, maps=np.array([0.5, 0.2]))
            shown += [batch["img"] for batch in loader]
        return shown

    none, one, two = epochs(0), epochs(1), epochs(2)
    assert len(none) == 6
    assert [torch.equal(a, b) for a, b in zip(none, one, strict=True)] == [True] * 6
    assert [torch.equal(a, b) for a, b in zip(none, two, strict=True)] == [True] * 6


def test_brightness_changes_grey_images_by_at_most_its_gain(images: list[TrainingImage]) -> None:
    still = {"flipud": 0.0, "fliplr": 0.0}
    plain = dataset(images, training=False)[WHOLE]["img"].float().mean().item()
    data = dataset(images, hsv_v=0.4, **still)
    start(data)
    ratios = [data[WHOLE, seed]["img"].float().mean().item() / plain for seed in range(80)]
    assert 0.55 < min(ratios) < 0.75
    assert 1.25 < max(ratios) < 1.45


def test_closing_the_mosaic_shows_one_image_at_a_time(images: list[TrainingImage]) -> None:
    data = dataset(images, mosaic=1.0)
    start(data)
    data.close_mosaic(hyp=get_cfg(overrides=dict(HYPERPARAMETERS)))
    assert max(len(data[LOCAL, seed]["cls"]) for seed in range(40)) == 1


def test_a_plan_comes_back_as_it_was_written(tmp_path: Path, images: list[TrainingImage]) -> None:
    plan = TrainingPlan(
        architecture="yolov5s",
        names=("spot", "deviation"),
        channels=1,
        white_level=4095,
        img_weights="effective",
        precision="bfloat16",
        start=tmp_path / "first.safetensors",
        cache=tmp_path / "cache",
        train=tuple(images[:7]),
        val=tuple(images[7:]),
    )
    write_plan(plan, tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json") == plan
