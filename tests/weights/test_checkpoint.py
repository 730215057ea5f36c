import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from wafer.datasets.classes import ClassTable, DefectClass, paper_classes
from wafer.datasets.errors import WeightsError
from wafer.datasets.files import sha256_file
from wafer.weights.checkpoint import read_checkpoint, save_checkpoint
from wafer.weights.decision_rule import DecisionRule
from wafer.weights.description import METADATA_KEY, described_architecture
from wafer.weights.sealing import seal

TENSORS = {
    "model.0.conv.weight": torch.linspace(-1, 1, 24).reshape(2, 1, 3, 4),
    "model.0.bn.num_batches_tracked": torch.tensor(12),
    "model.1.weight": torch.ones(3, dtype=torch.float16),
}
FIELDS: dict[str, Any] = {
    "architecture": "yolov5n",
    "classes": paper_classes(),
    "image_size": 256,
    "channels": 1,
    "white_level": 4095,
    "decision": DecisionRule(platt=(1.25, -0.3), none_review_above=0.1),
    "dataset_hash": "ab" * 32,
    "training": {"epochs": 3, "weights": None, "hyperparameters": {"lr0": 0.01}},
    "versions": {"torch": "2.15.0"},
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "best.safetensors"


def test_what_is_saved_is_read(path: Path) -> None:
    digest = save_checkpoint(path, TENSORS, **FIELDS)
    checkpoint = read_checkpoint(path, expected=digest)
    for name, value in FIELDS.items():
        assert getattr(checkpoint, name) == value
    assert checkpoint.digest == digest == sha256_file(path)
    assert checkpoint.label == f"yolov5n-{digest[:12]}"
    assert checkpoint.colour is False
    assert checkpoint.licence == "AGPL-3.0-or-later"
    assert checkpoint.tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert torch.equal(checkpoint.tensors[name], tensor)
        assert checkpoint.tensors[name].dtype == tensor.dtype


def test_defaults(path: Path) -> None:
    classes = ClassTable((DefectClass(3, "Kratzer ü"),))
    save_checkpoint(
        path, TENSORS, architecture="yolov5s", classes=classes, image_size=640, channels=3
    )
    checkpoint = read_checkpoint(path)
    assert checkpoint.decision == DecisionRule(platt=None, none_review_above=None)
    assert (checkpoint.white_level, checkpoint.dataset_hash) == (65535, None)
    assert checkpoint.colour is True
    assert checkpoint.classes == classes


def of_kinds(**kinds: Any) -> ClassTable:
    """The classes of the paper, some as of another kind."""
    return ClassTable(tuple(replace(c, kind=kinds.get(c.name, c.kind)) for c in paper_classes()))


def test_other_classes_are_refused_and_another_kind_of_one_is_named(path: Path) -> None:
    save_checkpoint(path, TENSORS, **FIELDS)
    checkpoint = read_checkpoint(path)
    checkpoint.check_classes(paper_classes())
    checkpoint.check_classes(ClassTable(tuple(replace(c, killer=True) for c in paper_classes())))
    with pytest.raises(WeightsError, match=r"the workspace spot; train one here"):
        checkpoint.check_classes(ClassTable((DefectClass(1, "spot"),)))
    with pytest.raises(
        WeightsError,
        match=r"the class deviation as whole_image, the workspace as box; set the kind back",
    ):
        checkpoint.check_classes(of_kinds(deviation="box"))
    none = paper_classes().none_class
    assert none is not None
    with pytest.raises(WeightsError, match=rf"{none.name} as none, the workspace as box"):
        checkpoint.check_classes(of_kinds(**{none.name: "box"}))


def test_views_and_shared_tensors_can_be_saved(path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    tensors = {"a": whole, "b": whole.T, "c": whole[1:]}
    save_checkpoint(path, tensors, **FIELDS)
    assert torch.equal(read_checkpoint(path).tensors["b"], whole.T)


SAVE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_checkpoint import FIELDS, TENSORS
from wafer.weights.checkpoint import save_checkpoint
from wafer.weights.decision_rule import DecisionRule
save_checkpoint(Path(sys.argv[1]), dict(reversed(TENSORS.items())), **FIELDS)
"""


@pytest.mark.slow
def test_equal_input_gives_equal_bytes_in_every_process(path: Path) -> None:
    save_checkpoint(path, TENSORS, **FIELDS)
    other = path.with_name("other.safetensors")
    here = str(Path(__file__).parent)
    subprocess.run([sys.executable, "-c", SAVE, str(other), here], check=True)
    assert other.read_bytes() == path.read_bytes()


def test_other_readers_see_plain_safetensors(path: Path) -> None:
    save_checkpoint(path, TENSORS, **FIELDS)
    assert safetensors.torch.load_file(path).keys() == TENSORS.keys()
    with safetensors.safe_open(path, "pt") as file:
        description = json.loads(file.metadata()[METADATA_KEY])
    assert description["classes"][0] == {
        "code": 0,
        "name": "no_defect",
        "kind": "none",
        "killer": False,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": 2}, "channels must be 1 or 3"),
        ({"image_size": 0}, "image_size"),
        ({"image_size": 100}, "multiple of 32"),
        ({"image_size": 320_000}, "image_size"),
        ({"white_level": 70_000}, "white_level"),
        ({"architecture": ""}, "architecture"),
        ({"training": {"weights": "/home/anna/first.pt"}}, "absolute path: '/home/anna/first.pt'"),
        ({"training": {"data": [{"root": "C:\\fab"}]}}, "absolute path"),
        ({"provenance": "/root"}, "absolute path"),
        ({"training": {"lr0": float("nan")}}, "JSON"),
    ],
)
def test_fields_that_are_refused(path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        save_checkpoint(path, TENSORS, **{**FIELDS, **change})
    assert not path.exists()


def cut(data: bytearray) -> bytearray:
    return data[:-5]


def flip_tensor(data: bytearray) -> bytearray:
    data[-1] ^= 1
    return data


def change_description(data: bytearray) -> bytearray:
    return data.replace(b"particle", b"particls")


def change_threshold(data: bytearray) -> bytearray:
    return data.replace(b"0.1", b"0.9")


@pytest.mark.parametrize("damage", [cut, flip_tensor, change_description, change_threshold])
@pytest.mark.parametrize("known", [True, False], ids=["digest known", "digest unknown"])
def test_a_cut_or_altered_file_is_refused(
    path: Path, damage: Callable[[bytearray], bytearray], known: bool
) -> None:
    digest = save_checkpoint(path, TENSORS, **FIELDS)
    content = damage(bytearray(path.read_bytes()))
    assert content != path.read_bytes()
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="copy it again") as caught:
        read_checkpoint(path, expected=digest if known else None)
    if known:
        assert digest in str(caught.value) and sha256_file(path) in str(caught.value)
    elif damage is not cut:
        assert "is cut off or altered: its sha256 is" in str(caught.value)


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"kind": "first weights"}, "not a trained wafer model"),
        ({}, "damaged or of a newer wafer"),
        ({"format": 2}, r"of a newer wafer \(format: Input should be 1\)"),
    ],
)
def test_descriptions_that_are_no_model(
    path: Path, description: dict[str, Any], message: str
) -> None:
    if "format" in description:
        save_checkpoint(path, TENSORS, **FIELDS)
        with safetensors.safe_open(path, "pt") as file:
            description = {**json.loads(file.metadata()[METADATA_KEY]), **description}
        del description["content_sha256"]
    path.write_bytes(seal(description, TENSORS))
    with pytest.raises(WeightsError, match=message):
        read_checkpoint(path)


def test_a_class_table_with_a_name_twice_is_refused(path: Path) -> None:
    save_checkpoint(path, TENSORS, **FIELDS)
    with safetensors.safe_open(path, "pt") as file:
        description = json.loads(file.metadata()[METADATA_KEY])
    del description["content_sha256"]
    description["classes"] *= 2
    path.write_bytes(seal(description, TENSORS))
    with pytest.raises(WeightsError, match="appears twice"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "description",
    ["[]", "null", "no json", '{"a": NaN}', '{"a": "\\ud800"}', "[" * 99_999, "[[1]]"],
)
def test_a_damaged_description_is_refused(path: Path, description: str) -> None:
    safetensors.torch.save_file(TENSORS, path, {METADATA_KEY: description})
    with pytest.raises(WeightsError, match="copy it again"):
        read_checkpoint(path)


def test_tensors_without_classes_are_no_model(path: Path) -> None:
    safetensors.torch.save_file(TENSORS, path)
    with pytest.raises(WeightsError, match="no classes; give it to `wafer train --weights`"):
        read_checkpoint(path)


@pytest.mark.parametrize("text", ['[["kind", "model"]]', "3", "[" * 20_000, '{"kind": '])
def test_a_description_that_is_no_object_is_damaged(path: Path, text: str) -> None:
    safetensors.torch.save_file(TENSORS, path, {METADATA_KEY: text})
    with pytest.raises(WeightsError, match="its description is damaged; copy it again"):
        read_checkpoint(path)
    assert described_architecture(path) is None
