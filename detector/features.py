"""What a detector sees in whole images, as vectors that are near for images that look alike."""

from __future__ import annotations

from wafer.detector.model import Floats, Images, TorchEngine
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
    features = TorchEngine(model).infer(images).features
    assert features is not None
    return features
