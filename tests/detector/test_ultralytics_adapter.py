"""What ultralytics would fetch from the network, and does not once our adapter is imported."""

import inspect
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import requests
import torch

from wafer.detector.ultralytics_adapter import FAULTY_GPUS, DetectionTrainer


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the addresses that were asked for; none of them answers."""
    addresses: list[str] = []

    def request(session: requests.Session, method: str, url: str, **options: Any) -> None:
        addresses.append(url)
        raise requests.ConnectionError("no network")

    monkeypatch.setattr(requests.Session, "request", request)
    return addresses


@pytest.mark.parametrize(
    ("device", "gpu", "trusted"),
    [
        ("cuda:0", "NVIDIA L4", True),
        ("cuda:1", "Tesla V100-SXM2-16GB", True),
        ("cuda:0", "NVIDIA GeForce GTX 1660 Ti", False),
        ("cuda:0", "Quadro T2000", False),
        ("cuda:0", "Tesla K40m", False),
        ("cpu", "none", False),
    ],
)
def test_mixed_precision_is_decided_by_the_name_of_the_gpu_and_never_by_the_network(
    monkeypatch: pytest.MonkeyPatch, asked: list[str], device: str, gpu: str, trusted: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: gpu)
    parameter = SimpleNamespace(device=torch.device(device))
    model = SimpleNamespace(parameters=lambda: iter([parameter]), stride=torch.tensor([32.0]))
    assert "check_amp" in DetectionTrainer._setup_train.__code__.co_names
    check_amp = DetectionTrainer._setup_train.__globals__["check_amp"]
    assert check_amp(model) is trusted
    assert asked == []


def test_the_gpus_not_to_be_trusted_are_those_of_ultralytics() -> None:
    from ultralytics.utils import checks

    assert FAULTY_GPUS.pattern in inspect.getsource(checks.check_amp)


@pytest.mark.parametrize("name", ["scratch", "Kratzer für", "傷"])
def test_a_picture_with_any_class_name_asks_for_no_font(asked: list[str], name: str) -> None:
    from ultralytics.utils.plotting import Annotator

    picture = Annotator(np.zeros((64, 64, 3), np.uint8), pil=True, example=name)
    assert picture.font.getname() == ("DejaVu Sans", "Book")
    assert asked == []
