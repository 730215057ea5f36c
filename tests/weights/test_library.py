import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from wafer.datasets.classes import paper_classes
from wafer.datasets.errors import WeightsError
from wafer.datasets.files import sha256_file
from wafer.weights.checkpoint import read_checkpoint, save_checkpoint
from wafer.weights.library import import_weights, list_weights, verify_weights
from wafer.weights.loading import load_tensors
from wafer.weights.manifest import WeightsRecord, find_record, read_manifest, verify

OFFICIAL = Path(__file__).resolve().parents[3] / (
    "shared/weights/yolov5n_v70_coco_fp16.safetensors"
)
TENSORS = {
    "model.0.conv.weight": torch.ones(16, 3, 6, 6).half(),
    "model.0.bn.weight": torch.ones(16).half(),
    "model.24.anchors": torch.ones(3, 3, 2).half(),
}
SHAPES: Mapping[str, tuple[int, ...]] = {
    "model.0.conv.weight": (16, 3, 6, 6),
    "model.0.bn.weight": (16,),
    "model.24.cv2.0.0.conv.weight": (64, 64, 3, 3),
}
RECORD: dict[str, Any] = {
    "name": "x",
    "file": "x.safetensors",
    "sha256": "0" * 64,
    "licence": "MIT",
    "architecture": "yolov5n",
    "classes": ("a",),
    "input_size": 640,
    "channels": 3,
    "provenance": "here",
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "wafer" / "weights"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "official.safetensors"
    safetensors.torch.save_file(TENSORS, path)
    return path


def shapes_of(architecture: str) -> Mapping[str, tuple[int, ...]]:
    assert architecture == "yolov5n"
    return SHAPES


def test_the_shipped_manifest() -> None:
    ours, record = read_manifest()
    assert (ours.name, ours.shipped, ours.channels) == ("yolov5n-synthetic", True, 1)
    assert ours.classes == paper_classes().detector_names
    assert record.name == "yolov5n-coco-v7.0"
    assert record.licence == "AGPL-3.0"
    assert (len(record.classes), len(set(record.classes))) == (80, 80)
    assert (record.classes[0], record.classes[79]) == ("person", "toothbrush")
    assert not record.shipped
    assert find_record(sha256=record.sha256) is record
    assert find_record(sha256=record.sha256, name="other") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": "abc"}, "sha256 must be 64"),
        ({"file": "../x"}, "file must be a bare name"),
        ({"channels": 4}, "channels must be 1 or 3"),
        ({"input_size": 0}, "input_size must be at least 32"),
        ({"classes": ()}, "classes must not be empty"),
        ({"licence": ""}, "licence must not be empty"),
    ],
)
def test_records_that_are_refused(change: dict[str, Any], message: str) -> None:
    WeightsRecord(**RECORD)
    with pytest.raises(ValueError, match=message):
        WeightsRecord(**{**RECORD, **change})


def test_verify_a_record(tmp_path: Path, source: Path) -> None:
    good = WeightsRecord(**{**RECORD, "file": source.name, "sha256": sha256_file(source)})
    assert verify(good, [tmp_path / "elsewhere", tmp_path]) == source
    with pytest.raises(WeightsError, match=rf"{source.name} is not in .*elsewhere"):
        verify(good, [tmp_path / "elsewhere"])
    bad = WeightsRecord(**{**RECORD, "file": source.name})
    with pytest.raises(WeightsError, match=f"sha256 is {good.sha256}, expected {'0' * 64}"):
        verify(bad, [tmp_path])


def test_import_list_verify(source: Path, cache: Path) -> None:
    before = source.read_bytes()
    imported = import_weights(source, shapes_of=shapes_of)
    digest = sha256_file(source)
    assert imported.path == cache / f"official-{digest[:12]}.safetensors"
    assert (imported.architecture, imported.record) == ("yolov5n", None)
    assert (imported.report.matched, list(imported.report.skipped)) == (2, ["model.24.anchors"])
    assert source.read_bytes() == before

    tensors, _ = load_tensors(imported.path)
    assert {name: tensor.dtype for name, tensor in tensors.items()} == {
        "model.0.conv.weight": torch.float32,
        "model.0.bn.weight": torch.float32,
    }
    with pytest.raises(WeightsError, match="not a trained wafer model"):
        read_checkpoint(imported.path)

    ours, known, listed = list_weights()
    assert ours.path is not None
    assert verify_weights(ours.name).path == ours.path
    assert (known.name, known.path) == ("yolov5n-coco-v7.0", None)
    assert (listed.name, listed.architecture, listed.licence, listed.path) == (
        imported.path.stem,
        "yolov5n",
        "unknown",
        imported.path,
    )
    for name in (imported.path, listed.name):
        verified = verify_weights(name)
        assert verified.path == imported.path
        assert verified.content == "first weights: official.safetensors"


def test_importing_again_gives_the_same_file(source: Path) -> None:
    first = import_weights(source, shapes_of=shapes_of).path
    content = first.read_bytes()
    assert import_weights(source, shapes_of=shapes_of).path == first
    assert first.read_bytes() == content


def test_a_damaged_import_is_seen(source: Path) -> None:
    path = import_weights(source, shapes_of=shapes_of).path
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert list_weights()[2].architecture == "damaged"
    with pytest.raises(WeightsError, match="cut off or altered"):
        verify_weights(path)
    with pytest.raises(WeightsError, match="cut off or altered"):
        load_tensors(path)


def test_a_trained_model_is_verified_by_its_own_digest(tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    digest = save_checkpoint(
        path,
        TENSORS,
        architecture="yolov5n",
        classes=paper_classes(),
        image_size=256,
        channels=3,
    )
    verified = verify_weights(path)
    assert (verified.sha256, verified.content) == (digest, "a trained yolov5n")


def test_a_file_that_nothing_vouches_for(source: Path) -> None:
    with pytest.raises(WeightsError, match=f"nothing vouches for .*{sha256_file(source)}"):
        verify_weights(source)


def test_a_known_name_without_its_file(cache: Path) -> None:
    with pytest.raises(WeightsError, match=rf"not in .*{re.escape(str(cache))}; copy it there"):
        verify_weights("yolov5n-coco-v7.0")


@pytest.mark.shared
@pytest.mark.skipif(not OFFICIAL.is_file(), reason=f"{OFFICIAL.name} is not here")
def test_the_official_file_is_recognised(tmp_path: Path, cache: Path) -> None:
    from wafer.detector.architecture import build_model, tensor_shapes

    def shapes(architecture: str) -> Mapping[str, tuple[int, ...]]:
        return tensor_shapes(build_model(architecture, names=("a",), channels=3))

    assert "release v7.0" in verify_weights(OFFICIAL).content
    renamed = tmp_path / "renamed.safetensors"
    renamed.write_bytes(OFFICIAL.read_bytes())
    assert "release v7.0" in verify_weights(renamed).content
    imported = import_weights(renamed, shapes_of=shapes)
    assert imported.record == read_manifest()[1]
    assert imported.path == cache / "yolov5n-coco-v7.0-694634a01063.safetensors"
    assert imported.report.matched == 342
    altered = tmp_path / OFFICIAL.name
    altered.write_bytes(OFFICIAL.read_bytes()[:-1])
    with pytest.raises(WeightsError, match="expected 694634a01063"):
        verify_weights(altered)
