import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wafer.datasets.errors import WeightsError
from wafer.datasets.files import sha256_file
from wafer.weights.loading import load_tensors

TENSORS = {"b": torch.arange(6, dtype=torch.float16).reshape(2, 3), "a": torch.tensor(7)}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(
        torch.equal(left[name], right[name]) and left[name].dtype == right[name].dtype
        for name in left
    )


def test_safetensors_with_metadata(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file(TENSORS, path, {"licence": "AGPL-3.0"})
    tensors, metadata = load_tensors(path)
    assert same(tensors, TENSORS)
    assert metadata == {"licence": "AGPL-3.0"}


def test_a_header_as_long_as_a_pickle_begins_is_no_pickle(tmp_path: Path) -> None:
    starts = set()
    for length in range(300):
        data = safetensors.torch.save(TENSORS, {"note": "x" * length})
        starts.add(data[0])
        (tmp_path / "x.safetensors").write_bytes(data)
        assert same(load_tensors(tmp_path / "x.safetensors")[0], TENSORS)
    assert 0x80 in starts  # the first byte of a pickle, and of one header in 32


@pytest.mark.parametrize(
    "content",
    [TENSORS, {"model": TENSORS}, {"state_dict": TENSORS, "epoch": 3}],
    ids=["plain", "model", "state_dict"],
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_state_dicts_in_pt_files(tmp_path: Path, content: Any, zipped: bool) -> None:
    path = tmp_path / "x.pt"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    tensors, metadata = load_tensors(path)
    assert same(tensors, TENSORS)
    assert metadata == {}


def test_parameters_become_plain_tensors(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save(torch.nn.Linear(2, 1).state_dict(keep_vars=True), path)
    tensors, _ = load_tensors(path)
    assert {name: tensor.requires_grad for name, tensor in tensors.items()} == {
        "weight": False,
        "bias": False,
    }


class Malicious:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", ["x.pt", "x.safetensors"])
def test_nothing_in_a_pickle_runs(tmp_path: Path, name: str, zipped: bool) -> None:
    proof = tmp_path / "ran"
    payload = {**TENSORS, "payload": Malicious(f"touch {proof}")}
    torch.save(payload, tmp_path / name, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match="is refused: it holds Python objects"):
        load_tensors(tmp_path / name)
    assert not proof.exists()
    torch.load(io.BytesIO((tmp_path / name).read_bytes()), weights_only=False)
    assert proof.exists(), "the payload works where pickles are trusted"


def test_nothing_in_a_bare_pickle_runs(tmp_path: Path) -> None:
    proof = tmp_path / "ran"
    (tmp_path / "x.pt").write_bytes(pickle.dumps(Malicious(f"touch {proof}"), protocol=2))
    with pytest.raises(WeightsError):
        load_tensors(tmp_path / "x.pt")
    assert not proof.exists()


def test_a_pickled_model_is_refused_with_the_way_out(tmp_path: Path) -> None:
    torch.save({"model": torch.nn.Linear(2, 1), "epoch": 3}, tmp_path / "yolov5n.pt")
    with pytest.raises(WeightsError, match=r"save its tensors alone: python -c .*save_file"):
        load_tensors(tmp_path / "yolov5n.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "not a state dict"),
        ([TENSORS["b"]], "not a state dict"),
        (TENSORS["b"], "not a state dict"),
        ({"epoch": 3}, "not a state dict"),
        ({1: TENSORS["b"]}, "not a state dict"),
        ({"a": TENSORS["b"].float().to_sparse()}, "tensor a is sparse"),
        ({"a": torch.ones(1).expand(10**6, 10**6)}, "tensor a has fewer values than its shape"),
        ({"a": torch.empty(3, device="meta")}, "tensor a has fewer values than its shape"),
    ],
)
def test_pt_files_that_are_no_state_dict(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=message):
        load_tensors(tmp_path / "x.pt")


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"gone\.pt: cannot be read .*check the path"):
        load_tensors(tmp_path / "gone.pt")
    with pytest.raises(WeightsError, match="cannot be read"):
        load_tensors(tmp_path)


def test_another_digest_names_both(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file(TENSORS, path)
    good = sha256_file(path)
    assert same(load_tensors(path, expected=good.upper())[0], TENSORS)
    path.write_bytes(path.read_bytes()[:-3])
    bad = sha256_file(path)
    with pytest.raises(WeightsError, match=f"its sha256 is {bad}, expected {good}"):
        load_tensors(path, expected=good)


def test_a_name_of_the_manifest_must_have_its_content(tmp_path: Path) -> None:
    path = tmp_path / "yolov5n_v70_coco_fp16.safetensors"
    safetensors.torch.save_file(TENSORS, path)
    with pytest.raises(WeightsError, match="expected 694634a01063e41bf6c7"):
        load_tensors(path)


def written(kind: str) -> bytes:
    if kind == "safetensors":
        return safetensors.torch.save(TENSORS, {"a": "b"})
    data = io.BytesIO()
    torch.save(TENSORS, data, _use_new_zipfile_serialization=kind == "zip")
    return data.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"PK\x03\x04",
        b"\x80",
        b"\x80\x02",
        b"\0" * 100,
        b"{}",
        b"\x02" + b"\0" * 7 + b"{}",
    ],
)
def test_files_that_are_no_model(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(data)
    if data == b"\x02" + b"\0" * 7 + b"{}":  # a safetensors file without tensors
        assert load_tensors(path) == ({}, {})
        return
    with pytest.raises(WeightsError, match="copy it again"):
        load_tensors(path)


def test_a_file_that_would_unpack_to_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(100_000)}, tmp_path / "x.pt")
    assert load_tensors(tmp_path / "x.pt")[0]["a"].shape == (100_000,)
    small = tmp_path / "small.pt"
    with (
        zipfile.ZipFile(tmp_path / "x.pt") as stored,
        zipfile.ZipFile(small, "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in stored.namelist():
            packed.writestr(name, stored.read(name))
    assert small.stat().st_size < 4_000
    with pytest.raises(WeightsError, match=r"small\.pt is refused: it would unpack to more"):
        load_tensors(small)


def test_a_zip_that_is_no_model(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises(WeightsError, match="damaged"):
        load_tensors(tmp_path / "x.pt")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_damaged_files_give_tensors_or_a_weights_error(
    tmp_path: Path, kind: str, data: st.DataObject
) -> None:
    content = bytearray(written(kind))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "x.pt"
    path.write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
    try:
        tensors, _ = load_tensors(path)
    except WeightsError:
        return
    assert all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())
