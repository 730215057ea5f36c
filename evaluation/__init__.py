"""Predictions and how good they are: metrics, calibration, figures, report.

``evaluate`` (in ``results``) makes an ``Evaluation``; ``write_report`` (in ``report``) and the
tables (in ``tables``) show it. Only the records and the rule that turns a score into an answer
are imported here: the rest needs scipy, pycocotools or matplotlib.
"""

import os

from wafer.datasets.files import cache_folder
from wafer.evaluation.calibration import (
    Answer,
    PlattMap,
    decide,
    fit_platt,
    killer_escape_limit,
)
from wafer.evaluation.records import DECISIONS, Decision, Detection, Prediction

__all__ = [
    "DECISIONS",
    "Answer",
    "Decision",
    "Detection",
    "PlattMap",
    "Prediction",
    "decide",
    "fit_platt",
    "killer_escape_limit",
]

# matplotlib would make a folder in the user's configuration; it reads this when it is imported.
os.environ.setdefault("MPLCONFIGDIR", str(cache_folder() / "matplotlib"))
