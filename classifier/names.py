"""The names of the classifiers; light enough for the command line to ask."""

from __future__ import annotations

__all__ = ["CLASSIFIERS"]

CLASSIFIERS = ("mlp", "mlp_hog", "xgboost")
"""What ``wafer train --model`` calls them, as model files and run folders do."""
