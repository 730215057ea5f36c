"""The names of the classifiers; light enough for the command line to ask."""

from __future__ import annotations

__all__ = ["CLASSIFIERS", "NETWORKS"]

NETWORKS = (
    "efficientnet_b3",
    "efficientnet_b7",
    "efficientnet_lite0",
    "inception_v3",
    "resnet50",
)
"""The convolutional ones, which may start from ImageNet weights."""

CLASSIFIERS = (*NETWORKS, "mlp", "mlp_hog", "xgboost")
"""What ``wafer train --model`` calls them, as model files and run folders do."""
