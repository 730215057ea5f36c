"""What a detector sees in whole images, as vectors that are near for images that look alike."""

from __future__ import annotations

import numpy as np
import torch  # noqa: TID253

from wafer.detector.model import Floats, Images, forward
from wafer.detector.precision import CpuModel

__all__ = ["pooled_features"]


def pooled_features(model: CpuModel, images: Images) -> Floats:
    """Return one vector an image: the inputs of the detection head, pooled over the image.

    Of each of the three maps the mean and the maximum of every channel, since a small defect
    vanishes in a mean; each of the six parts is scaled to length 1, so that all count alike.

    Args:
        model: in evaluation mode.
        images: letterboxed, as for `wafer.detector.model.forward`.

    Returns:
        Shape: (N, features).
    """
    seen: list[torch.Tensor] = []

    def note(_head: torch.nn.Module, inputs: tuple[list[torch.Tensor]]) -> None:
        for level in inputs[0]:
            seen.extend((level.mean(dim=(2, 3)), level.amax(dim=(2, 3))))

    handle = model.model[-1].register_forward_pre_hook(note)
    try:
        forward(model, images)
    finally:
        handle.remove()
    parts = [torch.nn.functional.normalize(part, dim=1) for part in seen]
    features: Floats = torch.cat(parts, dim=1).cpu().numpy().astype(np.float32)
    return features
