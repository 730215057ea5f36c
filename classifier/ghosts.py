"""Ghost batch norm: in training a batch norm takes its statistics over parts of the batch.

Source: Hoffer et al., 2017, https://arxiv.org/abs/1705.08741, algorithm 1. At work it is an
ordinary batch norm with the running statistics, so that an image gets the same answer alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch  # noqa: TID253
from torch import nn  # noqa: TID253

__all__ = ["split_norms"]

Forward = Callable[[torch.Tensor], torch.Tensor]


def split_norms(body: nn.Module, ghost_batch: int) -> None:
    """Let the batch norms of a network see parts of a batch in training.

    The tensors of the network and their names stay as they are. A batch is split into as many equal
    parts of at least ``ghost_batch`` images as it has; the running statistics move as far in a step
    as before.
    """
    for layer in body.modules():
        if isinstance(layer, nn.BatchNorm2d):
            split = partial(_in_parts, layer, layer.forward, ghost_batch)
            layer.forward = split  # type: ignore[method-assign]


def _in_parts(
    layer: nn.BatchNorm2d, whole: Forward, ghost_batch: int, images: torch.Tensor
) -> torch.Tensor:
    parts = len(images) // ghost_batch
    momentum = layer.momentum
    if not layer.training or parts < 2 or momentum is None:
        return whole(images)
    layer.momentum = 1 - (1 - momentum) ** (1 / parts)
    try:
        return torch.cat([whole(part) for part in images.tensor_split(parts)])
    finally:
        layer.momentum = momentum
