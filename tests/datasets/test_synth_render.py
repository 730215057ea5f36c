"""Single images: the box rule, sizes and contrasts, twins, determinism."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from wafer.datasets import Box
from wafer.datasets.synthetic import PAPER_COUNTS, SampleSpec, plan_samples
from wafer.datasets.synthetic.defects import DRAWN_CLASSES
from wafer.datasets.synthetic.optics import build_camera, encode_jpeg
from wafer.datasets.synthetic.recipes import DIFFICULTIES, FAMILIES, MODES
from wafer.datasets.synthetic.render import Rendering, change_box, render_sample
from wafer.datasets.synthetic.scene import Scene, build_scene

MODEL_SIDE = 256


def _specs(per_class: int, **settings: object) -> list[SampleSpec]:
    return list(plan_samples(dict.fromkeys(PAPER_COUNTS, per_class), **settings))  # type: ignore[arg-type]


def _brute_force_boxes(rendering: Rendering, image_class: str) -> Box:
    """The box rule by loops over the difference of the two noise-free images."""
    change = np.abs(np.clip(rendering.defective, 0, 255) - np.clip(rendering.clean, 0, 255))
    floor, share = (2.0, 0.25) if image_class == "C_residue" else (3.0, 0.35)
    limit = max(floor, share * float(change.max()))
    where = [(y, x) for y in range(len(change)) for x in range(len(change)) if change[y, x] > limit]
    rows, columns = zip(*where, strict=True)
    return Box(min(columns), min(rows), max(columns) + 1, max(rows) + 1)


@pytest.mark.slow
@pytest.mark.parametrize("image_class", DRAWN_CLASSES)
def test_box_is_the_brute_force_difference(image_class: str) -> None:
    checked = 0
    for spec in plan_samples({image_class: 12}, size=200, seed=5):
        rendering = render_sample(spec)
        if len(rendering.boxes) == 1:
            expected = _brute_force_boxes(rendering, image_class)
            # The images hold float32 sums, the box their exact difference: one pixel may tip.
            assert np.abs(np.subtract(rendering.boxes[0].corners, expected.corners)).max() <= 1
            checked += 1
    assert checked >= 6


@pytest.mark.parametrize(
    ("change", "box"),
    [
        ({(4, 6): 10.0, (5, 9): -3.6}, Box(6, 4, 10, 6)),  # 3.6 > 0.35 * 10
        ({(4, 6): 10.0, (5, 9): 3.4}, Box(6, 4, 7, 5)),
        ({(4, 6): 4.0, (5, 9): 2.9}, Box(6, 4, 7, 5)),  # 3 is the floor
        ({(4, 6): 3.0}, None),
    ],
)
def test_box_rule(change: dict[tuple[int, int], float], box: Box | None) -> None:
    field = np.zeros((12, 15), np.float32)
    for place, value in change.items():
        field[place] = value
    assert change_box(field) == box


@pytest.mark.slow
@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_boxes_lie_in_the_frame_and_can_be_seen(difficulty: str) -> None:
    for spec in _specs(6, size=240, difficulty=difficulty, seed=2):
        rendering = render_sample(spec)
        for finding in rendering.findings:
            assert min(finding.box.corners[:2]) >= 0
            assert max(finding.box.corners[2:]) <= 240
            assert finding.cnr >= 2


@pytest.mark.slow
@pytest.mark.parametrize(("size", "difficulty"), [(64, "hard"), (64, "paper"), (97, "easy")])
def test_small_images_take_every_class(size: int, difficulty: str) -> None:
    for spec in _specs(8, size=size, difficulty=difficulty, seed=1):
        rendering = render_sample(spec)
        assert rendering.pixels.shape == (size, size)
        assert len(rendering.boxes) >= (spec.image_class != "no_defect")


@pytest.mark.slow
def test_images_of_each_mode_and_family_have_every_defect() -> None:
    spec = _specs(1, size=200)[0]
    for number, image_class in enumerate(DRAWN_CLASSES):
        for mode in MODES:
            for family in FAMILIES:
                made = replace(spec, image_class=image_class, mode=mode, family=family, seed=number)
                assert render_sample(made).boxes


@pytest.mark.slow
def test_boxes_of_two_defects_do_not_overlap() -> None:
    renderings = [render_sample(s) for s in plan_samples({"particle": 120}, size=160, seed=4)]
    pairs = [r.boxes for r in renderings if len(r.boxes) == 2]
    assert 0.06 <= len(pairs) / 120 <= 0.20
    assert all(one.iou(other) == 0 for one, other in pairs)


@pytest.mark.slow
def test_some_defects_are_cut_by_the_frame() -> None:
    specs = plan_samples({"particle": 150}, size=160, difficulty="hard", seed=9)
    boxes = [box for spec in specs for box in render_sample(spec).boxes]
    cut = [b for b in boxes if min(b.corners) == 0 or max(b.corners) == 160]
    assert 0.05 <= len(cut) / len(boxes) <= 0.17


def test_centre_spread_puts_defects_in_the_middle() -> None:
    specs = plan_samples({"particle": 60}, size=200, center_sigma=0.05, seed=1)
    first = [render_sample(spec).boxes[0] for spec in specs]
    offsets = np.array([[b.xmin + b.xmax - 200, b.ymin + b.ymax - 200] for b in first]) / 400
    assert abs(offsets.mean()) < 0.02
    assert 0.035 < offsets.std() < 0.065


@pytest.mark.slow
@pytest.mark.parametrize("image_class", ["BEOL", "small_missing_cu"])
def test_where_the_middle_holds_no_place_an_edit_goes_further_out(image_class: str) -> None:
    # Exactly in the middle of many of these images there is no copper, or nothing to bridge.
    specs = plan_samples({image_class: 40}, size=200, center_sigma=0.0, families=["pads", "fill"])
    boxes = [render_sample(spec).boxes[0] for spec in specs]
    offsets = np.array([[b.xmin + b.xmax - 200, b.ymin + b.ymax - 200] for b in boxes]) / 400
    assert np.median(np.abs(offsets)) < 0.1


@pytest.mark.slow
def test_a_spread_of_one_is_as_good_as_even() -> None:
    specs = plan_samples({"particle": 200}, size=128, center_sigma=1.0, seed=2)
    boxes = [render_sample(spec).boxes[0] for spec in specs]
    middles = np.array([[b.xmin + b.xmax, b.ymin + b.ymax] for b in boxes]).ravel() / 256
    thirds = np.histogram(middles, bins=3, range=(0, 1))[0] / len(middles)
    np.testing.assert_allclose(thirds, 1 / 3, atol=0.07)


@pytest.mark.slow
def test_a_second_defect_lies_anywhere() -> None:
    specs = plan_samples({"particle": 300}, size=128, seed=4)
    pairs = [b for b in (render_sample(spec).boxes for spec in specs) if len(b) == 2]
    away = [abs(second.xmin + second.xmax - 128) / 256 for _, second in pairs]
    assert len(away) > 15
    assert max(away) > 0.25


@pytest.mark.slow
def test_tools_differ_in_sharpness_and_noise() -> None:
    cameras = {
        tool: [
            build_camera(spec)
            for spec in plan_samples({"no_defect": 200}, tools=[tool], seed=3)
            if spec.mode == "sem"
        ]
        for tool in ("sharp", "standard", "soft")
    }
    lens = {tool: np.mean([camera.lens for camera in found]) for tool, found in cameras.items()}
    noise = {tool: np.mean([camera.noise for camera in found]) for tool, found in cameras.items()}
    assert lens["sharp"] / lens["standard"] == pytest.approx(0.85, rel=0.02)
    assert lens["soft"] / lens["standard"] == pytest.approx(1.4, rel=0.02)
    assert noise["soft"] < noise["standard"] < noise["sharp"]


def test_deviation_is_the_whole_frame_and_no_defect_is_empty() -> None:
    for spec in plan_samples({"deviation": 4, "no_defect": 4}, size=128):
        rendering = render_sample(spec)
        frame = (Box(0, 0, 128, 128),) if spec.image_class == "deviation" else ()
        assert rendering.boxes == frame
        assert np.array_equal(rendering.clean, rendering.defective)


@pytest.mark.parametrize("image_class", [*DRAWN_CLASSES, "no_defect"])
def test_a_twin_differs_only_where_the_defect_is(image_class: str) -> None:
    for spec in plan_samples({image_class: 4}, size=200, seed=6):
        rendering, twin = render_sample(spec), render_sample(spec, twin=True)
        assert twin.boxes == ()
        assert np.array_equal(rendering.clean, twin.clean)
        same = rendering.defective == rendering.clean
        assert np.array_equal(rendering.pixels[same], twin.pixels[same])
        assert bool(same.all()) is (image_class == "no_defect")


def test_a_deviating_twin_is_an_upright_pattern() -> None:
    (spec,) = (s for s in _specs(1, size=340, seed=3) if s.image_class == "deviation")
    clean = replace(spec, image_class="no_defect")
    twin = render_sample(spec, twin=True)
    assert np.array_equal(twin.pixels, render_sample(clean).pixels)
    assert not np.array_equal(twin.pixels, render_sample(spec).pixels)


def test_a_deviation_bends_or_turns_the_edges_of_lines() -> None:
    spec = plan_samples({"deviation": 3}, size=200, families=["lines"])[0]
    for seed in range(60):
        made = replace(spec, seed=seed)
        scenes = [build_scene(made), build_scene(made, twin=True)]
        # Lines run along one axis: how far an edge wanders across it, from one end to the other.
        axis = 0 if scenes[1].process.upright else 1
        wander = [np.ptp(_across(scene, axis), axis=axis).mean() for scene in scenes]
        assert wander[0] > 2 * wander[1]


def _across(scene: Scene, axis: int) -> np.ndarray:
    """Return where the image looks, across the lines, for the middle rows or columns."""
    field = cv2.GaussianBlur(scene.warp.x if axis == 0 else scene.warp.y, (0, 0), 20)
    return np.take(field, range(40, 160), axis=1 - axis)


def test_the_class_changes_nothing_but_the_defect() -> None:
    spec = _specs(1, size=200)[0]
    twins = [
        render_sample(replace(spec, image_class=name), twin=True).pixels for name in PAPER_COUNTS
    ]
    assert all(np.array_equal(twins[0], other) for other in twins[1:])


def test_images_are_uint8_and_noise_free_pairs_float32() -> None:
    rendering = render_sample(plan_samples({"BEOL": 3}, size=128)[0])
    assert rendering.pixels.dtype == np.uint8
    assert rendering.clean.dtype == rendering.defective.dtype == np.float32


def test_jpeg_has_no_metadata() -> None:
    spec = plan_samples({"BEOL": 3}, size=128)[0]
    data = encode_jpeg(spec, render_sample(spec).pixels)
    assert data[:2] == b"\xff\xd8"
    assert data[2:4] == b"\xff\xe0"  # JFIF, straight after the start
    assert not any(bytes([0xFF, marker]) in data[:1000] for marker in range(0xE1, 0xF0))
    assert b"\xff\xfe" not in data[:1000]  # no comment


def _measured(difficulty: str, image_class: str, number: int) -> np.ndarray:
    """Rows of (side, shorter side, CNR): sides in pixels after resizing to 256."""
    rows = []
    for spec in plan_samples({image_class: number}, size=340, difficulty=difficulty, seed=11):
        for finding in render_sample(spec).findings:
            box, scale = finding.box, MODEL_SIDE / spec.size
            shorter = min(box.width, box.height) * scale
            rows.append((box.area**0.5 * scale, shorter, finding.cnr))
    return np.array(rows)


@pytest.mark.slow
def test_sizes_and_contrasts_follow_the_difficulty() -> None:
    sides: dict[str, dict[str, float]] = {}
    contrast: dict[str, np.ndarray] = {}
    for difficulty in DIFFICULTIES:
        rows = {name: _measured(difficulty, name, 40) for name in DRAWN_CLASSES}
        sides[difficulty] = {name: float(np.median(row[:, 0])) for name, row in rows.items()}
        contrast[difficulty] = np.percentile(
            np.concatenate([row[:, 2] for row in rows.values()]), [10, 50, 90]
        )
        if difficulty == "paper":
            assert np.median(rows["scratch"][:, 1]) >= 16
    assert min(sides["paper"].values()) >= 16
    for name in DRAWN_CLASSES:
        assert sides["hard"][name] < sides["paper"][name] < sides["easy"][name]
    assert contrast["paper"][0] >= 3.5
    assert contrast["paper"][2] <= 21
    assert contrast["hard"][1] < contrast["paper"][1] < contrast["easy"][1]


@pytest.mark.slow
def test_sizes_overlap_between_classes() -> None:
    sides = {name: np.log(_measured("paper", name, 40)[:, 0]) for name in DRAWN_CLASSES}
    for one in sides.values():
        for other in sides.values():
            low, high = np.percentile(other, [5, 95])
            assert np.mean((one > low) & (one < high)) > 0.3


@pytest.mark.slow
@pytest.mark.parametrize("size", [340, 680])
def test_where_noise_would_hide_every_edit_the_exposure_is_longer(size: int) -> None:
    spec = SampleSpec(
        name="df0538e7eac9.jpg",
        image_class="BEOL",
        group="L06W01",
        seed=5232113473542374787,
        wafer_seed=412338807262534610,
        family="fill",
        mode="dark_field",
        tool="sharp",
        size=size,
        difficulty="paper",
        center_sigma=0.04,
    )
    rendering, twin = render_sample(spec), render_sample(spec, twin=True)
    assert rendering.findings[0].cnr >= 2
    same = rendering.defective == rendering.clean
    assert np.array_equal(rendering.pixels[same], twin.pixels[same])
