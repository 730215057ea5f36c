"""What a model keeps of known images, beside its weights in the model file; read without torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from wafer.datasets.errors import WeightsError
from wafer.evaluation.rejecting import METHODS, Known, Method, Rejection, rejection_by

__all__ = ["known_arrays", "network_tensors", "reject_method", "rejection_of"]

KNOWN = "known."
"""First part of the names of these tensors; no network has a layer of this name."""
NEVER = "none"

Tensor = TypeVar("Tensor")


def known_arrays(known: Known) -> Mapping[str, NDArray[np.generic]]:
    """Return what is kept as arrays by name, to be read by `rejection_of`."""
    arrays: dict[str, NDArray[np.generic]] = {
        "features": known.features.astype(np.float16),
        "scores": known.scores.astype(np.float32),
        "labels": known.labels.astype(np.int64),
        **{f"thresholds.{method}": limits for method, limits in known.thresholds.items()},
    }
    return {KNOWN + name: array for name, array in arrays.items()}


def network_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a model file without what it keeps of known images."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(KNOWN)}


def reject_method(given: str | None, stored: Method | None) -> Method | None:
    """Return the method that a command uses, None for none.

    Args:
        given: by the user, ``none`` included; None leaves it to the model.
        stored: that of the model.

    Raises:
        WeightsError: there is no such method.
    """
    if given is None:
        return stored
    if given not in (NEVER, *METHODS):
        raise WeightsError(f"--reject must be one of {NEVER}, {', '.join(METHODS)}, not {given!r}")
    return next((method for method in METHODS if method == given), None)


def rejection_of(path: Path, method: Method | None, *, classes: int) -> Rejection | None:
    """Return a method at work, from what a model file keeps; None for no method.

    Args:
        path: the model file, which has been checked.
        method: which one.
        classes: number of classes of its table.

    Raises:
        WeightsError: the file keeps nothing of known images, nothing for this method, or something
            else.
    """
    if method is None:
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            names = list(file.keys())
            kept = {name: file.get_tensor(name) for name in names if name.startswith(KNOWN)}
        known = Known(
            labels=kept[f"{KNOWN}labels"],
            features=kept[f"{KNOWN}features"].astype(np.float32),
            scores=kept[f"{KNOWN}scores"],
            thresholds={method: kept[f"{KNOWN}thresholds.{method}"]},
        )
    except KeyError as error:
        raise WeightsError(
            f"{path}: this model keeps nothing to tell unknown images by with {method}; train it "
            f"again, or leave out --reject {method} (a detector offers all but openmax)"
        ) from error
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path} cannot be read ({error}); copy it again") from error
    number = len(known.labels)
    shapes = [known.scores.shape[:1], known.features.shape[:1]]
    if (
        shapes != [(number,)] * 2
        or known.features.ndim != 2
        or known.thresholds[method].shape != (classes,)
    ):
        raise WeightsError(f"{path}: what it keeps of known images is damaged; train it again")
    return rejection_by(method, known)
