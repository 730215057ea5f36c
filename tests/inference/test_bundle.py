"""Bundles: nothing in one can be changed, lost or slipped in without its name being said."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wafer.datasets.errors import DataError, WeightsError
from wafer.inference.bundle import (
    DESCRIPTION,
    FILES,
    SUMS,
    TOLERANCES,
    Bundle,
    is_bundle,
    open_bundle,
    sums_of,
)
from wafer.inference.golden import Golden, read_golden
from wafer.inference.records import TopOne

Make = Callable[..., Bundle]
F32 = TOLERANCES["f32"]


def test_a_bundle_lies_under_the_digest_of_all_its_files(make: Make) -> None:
    bundle = make()
    sums = (bundle.folder / SUMS).read_bytes()
    assert bundle.folder.name == f"sha256-{hashlib.sha256(sums).hexdigest()}"
    assert sorted(p.name for p in bundle.folder.iterdir()) == sorted((*FILES, SUMS))
    assert [line.split("  ")[1] for line in sums.decode().splitlines()] == list(FILES)
    assert make().folder == bundle.folder
    assert make(b"other").folder != bundle.folder


def test_it_says_what_the_pipeline_needs(make: Make) -> None:
    bundle = make()
    predictor = bundle.predictor(engine=None)  # type: ignore[arg-type]
    assert predictor.model == f"yolov5n-{bundle.digest[:12]}"
    assert (predictor.image_size, predictor.colour, predictor.white_level) == (32, False, 255)
    assert predictor.classes.detector_names == ("spot", "line")
    assert predictor.decide(0.45, "spot", None)[3] == "review"  # type: ignore[arg-type]
    assert predictor.decide(0.2, "spot", None)[0] == "clean"  # type: ignore[arg-type]


@pytest.fixture
def folder(make: Make) -> Path:
    return make().folder


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None
)
@given(name=st.sampled_from((*FILES, SUMS)), data=st.data())
def test_a_changed_byte_is_refused_with_the_name_of_its_file(
    folder: Path, name: str, data: st.DataObject
) -> None:
    path = folder / name
    whole = path.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    flip = data.draw(st.integers(1, 255))
    path.write_bytes(whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :])
    try:
        with pytest.raises(DataError) as caught:
            open_bundle(path.parent)
        assert str(path) in str(caught.value)
        remedy = "copy the bundle again, or export the model again where you have it"
        assert {fault.remedy for fault in caught.value.faults} == {remedy}
    finally:
        path.write_bytes(whole)


def test_everything_that_is_missing_or_altered_is_named_at_once(make: Make) -> None:
    folder = make().folder
    (folder / "model.bin").unlink()
    (folder / "model.onnx").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        open_bundle(folder)
    assert [Path(fault.file).name for fault in caught.value.faults] == ["model.bin", "model.onnx"]
    assert caught.value.faults[0].problem == "missing"
    assert caught.value.faults[1].problem.startswith("altered: its sha256 is e3b0c44298fc1c14")


@pytest.mark.parametrize("change", ["short", "twice", "extra", "missing"])
def test_sums_that_do_not_list_each_file_once_vouch_for_nothing(
    make: Make, tmp_path: Path, change: str
) -> None:
    folder = tmp_path / "copy"  # a name that says nothing about the digest
    shutil.copytree(make().folder, folder)
    assert open_bundle(folder).folder == folder
    lines = (folder / SUMS).read_text().splitlines(keepends=True)
    changed = {
        "short": lines[:-1],
        "twice": [*lines, lines[0]],
        "extra": [*lines, f"{'0' * 64}  ../../etc/passwd\n"],
    }
    if change == "missing":
        (folder / SUMS).unlink()
    else:
        (folder / SUMS).write_text("".join(changed[change]))
    assert is_bundle(folder)
    with pytest.raises(DataError, match=SUMS):
        open_bundle(folder)


def test_another_bundle_under_its_name_is_refused(make: Make) -> None:
    one, other = make().folder, make(b"other").folder
    shutil.rmtree(one)
    shutil.copytree(other, one)
    with pytest.raises(DataError, match="not the name of the folder"):
        open_bundle(one)


@pytest.mark.parametrize(
    ("field", "value"), [("format", 2), ("precision", "int4"), ("channels", 2), ("classes", [])]
)
def test_a_description_of_a_newer_wafer_is_said_to_be_one(
    make: Make, tmp_path: Path, field: str, value: object
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(make().folder, folder)
    about = json.loads((folder / DESCRIPTION).read_text())
    (folder / DESCRIPTION).write_text(json.dumps({**about, field: value}))
    (folder / SUMS).write_bytes(sums_of(folder))
    with pytest.raises(WeightsError, match=r"model\.json: .*export the model again"):
        open_bundle(folder)


def answer(golden: Golden) -> TopOne:
    return TopOne.of(golden.boxes.copy(), golden.scores.copy(), golden.features.copy())


def test_golden_answers_come_back_as_they_were(make: Make, tmp_path: Path) -> None:
    golden = make().golden()
    (tmp_path / "g").write_bytes(golden.to_bytes())
    again = read_golden(tmp_path / "g")
    for name in ("images", "boxes", "scores", "features", "decided"):
        np.testing.assert_array_equal(getattr(again, name), getattr(golden, name))
    assert golden.difference(answer(golden), F32) is None


@pytest.mark.parametrize("content", [b"", b"x" * 100])
def test_damaged_golden_images_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "golden.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match=r"golden\.safetensors: no readable golden images"):
        read_golden(tmp_path / "golden.safetensors")


@pytest.mark.parametrize(
    ("field", "by", "said"),
    [
        ("scores", 9e-4, None),
        ("scores", 2e-3, "a score is 0.002 away from the golden one, over 0.001"),
        ("boxes", 0.9, None),
        ("boxes", 1.5, "a box corner is 1.5 away from the golden one, over 1"),
        ("features", 2e-3, "a feature is 0.002 away from the golden one, over 0.001"),
        ("scores", float("nan"), "a score is nan away from the golden one, over 0.001"),
    ],
)
def test_answers_are_compared_within_the_tolerance(
    make: Make, field: str, by: float, said: str | None
) -> None:
    golden = make().golden()
    found = answer(golden)
    getattr(found, field)[3, 0] += by
    assert golden.difference(found, F32) == said


def test_another_class_is_a_difference_only_where_the_model_decides(make: Make) -> None:
    golden = make().golden()
    scores = golden.scores.copy()
    scores[1] = [0.5, 0.5004]
    golden = replace(golden, scores=scores)
    swapped = scores.copy()
    swapped[1] = [0.5004, 0.5]
    found = TopOne.of(golden.boxes, swapped, golden.features)
    assert golden.difference(found, F32) == "another class for 1 of 5 golden images"
    decided = np.array([True, False, True, True, True])
    assert replace(golden, decided=decided).difference(found, F32) is None
