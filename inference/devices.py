"""The devices that users name, checked against what this machine has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wafer.datasets.errors import TrainingError

if TYPE_CHECKING:
    import torch

__all__ = ["torch_device", "training_devices"]


def torch_device(device: str) -> torch.device:
    """Return the device a user means: ``auto``, ``cpu`` or ``cuda:N``.

    Raises:
        TrainingError: it is not to be had on this machine.
    """
    import torch

    if device == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    number = device.removeprefix("cuda:")
    if device == "cpu":
        return torch.device("cpu")
    if not number.isdecimal() or int(number) >= torch.cuda.device_count():
        raise TrainingError(f"--device {device} is not to be had here; use cpu or auto")
    return torch.device(device)


def training_devices(device: str) -> str:
    """Return the devices of a training in one spelling: ``cpu``, ``cuda:0``, ``cuda:0,1``.

    Args:
        device: ``auto``, ``cpu``, or numbers of GPUs with or without ``cuda:``.

    Raises:
        TrainingError: one of them is not to be had on this machine, or named twice.
    """
    numbers = device.removeprefix("cuda:").split(",")
    if len(numbers) == 1:
        named = f"cuda:{device}" if device.isdecimal() else device
        return str(torch_device(named))
    if len(set(numbers)) < len(numbers):
        raise TrainingError(f"--device {device} names a device twice")
    for number in numbers:
        torch_device(f"cuda:{number}")
    return f"cuda:{','.join(numbers)}"
