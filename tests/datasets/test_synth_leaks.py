"""Nothing but the defect may tell the class: probes on clean twins, and a check of the probes.

A clean twin is the same image with the same label and its defect removed. Whatever a classifier
finds in twins above chance is a leak of the generator.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.feature import hog
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from wafer.datasets.synthetic import PAPER_COUNTS, SampleSpec, plan_samples
from wafer.datasets.synthetic.optics import encode_jpeg
from wafer.datasets.synthetic.render import render_sample

pytestmark = pytest.mark.slow

PER_CLASS = 42
SIDE = 340
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Look:
    """What the probes see of one image."""

    hog: Numbers
    thumbnail: Numbers
    statistics: Numbers
    file_size: Numbers


@dataclass(frozen=True)
class Row:
    """One image and its clean twin."""

    image_class: str
    group: str
    twin: Look
    place: tuple[float, float] | None


def _look(spec: SampleSpec, pixels: NDArray[np.uint8]) -> Look:
    grey = pixels.astype(np.float32)
    size = np.array([len(encode_jpeg(spec, pixels))], np.float64)
    slope = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    statistics = [
        grey.mean(),
        grey.std(),
        cv2.Laplacian(grey, cv2.CV_32F).var(),
        slope.mean(),
        slope.std(),
        *np.percentile(grey, [1, 5, 25, 50, 75, 95, 99]),
    ]
    small = cv2.resize(pixels, (128, 128), interpolation=cv2.INTER_AREA)
    thumbnail = cv2.resize(pixels, (16, 16), interpolation=cv2.INTER_AREA)
    gradients = hog(small, 9, (16, 16), (2, 2), "L2-Hys")
    return Look(gradients, thumbnail.ravel().astype(float), np.array([*statistics, *size]), size)


def _row(spec: SampleSpec) -> Row:
    twin = render_sample(spec, twin=True)
    place = None
    if spec.image_class not in ("no_defect", "deviation"):
        box = render_sample(spec).boxes[0]
        place = ((box.xmin + box.xmax) / 2 / spec.size, (box.ymin + box.ymax) / 2 / spec.size)
    return Row(spec.image_class, spec.group, _look(spec, twin.pixels), place)


@pytest.fixture(scope="module")
def rows() -> Iterator[list[Row]]:
    specs = plan_samples(dict.fromkeys(PAPER_COUNTS, PER_CLASS), size=SIDE, seed=0)
    with ThreadPoolExecutor(2) as pool, threadpool_limits(1):
        yield list(pool.map(_row, specs))


def _accuracy(features: Numbers, classes: list[str], groups: list[str], model: object) -> float:
    """Return the balanced accuracy over folds that share no wafer."""
    scaled = StandardScaler().fit_transform(features)
    # With more features than images an orthogonal turn into the images' span loses nothing.
    left, values, _ = np.linalg.svd(scaled, full_matrices=False)
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    guesses = cross_val_predict(
        make_pipeline(model), left * values, classes, groups=groups, cv=folds
    )
    return float(balanced_accuracy_score(classes, guesses))


def _limit(classes: int, number: int) -> float:
    """Return chance plus two standard errors."""
    chance = 1 / classes
    return float(chance + 2 * np.sqrt(chance * (1 - chance) / number))


def _linear() -> LogisticRegression:
    return LogisticRegression(C=0.05, max_iter=5000)


@pytest.mark.parametrize("view", ["hog", "thumbnail", "statistics", "file_size"])
def test_twins_do_not_tell_the_class(rows: list[Row], view: str) -> None:
    features = np.array([getattr(row.twin, view) for row in rows])
    classes, groups = [row.image_class for row in rows], [row.group for row in rows]
    assert _accuracy(features, classes, groups, _linear()) <= _limit(8, len(rows))


@pytest.mark.parametrize("model", [_linear(), KNeighborsClassifier(15)])
def test_the_place_does_not_tell_the_class(rows: list[Row], model: object) -> None:
    boxed = [row for row in rows if row.place is not None]
    places = np.array([row.place for row in boxed])
    classes, groups = [row.image_class for row in boxed], [row.group for row in boxed]
    assert _accuracy(places, classes, groups, model) <= _limit(6, len(boxed))


@pytest.mark.parametrize("view", ["hog", "statistics", "file_size"])
def test_the_probes_find_a_leak(rows: list[Row], view: str) -> None:
    """A gate that nothing can fail is none: move class after class by a third of the spread."""
    features = np.array([getattr(row.twin, view) for row in rows])
    classes, groups = [row.image_class for row in rows], [row.group for row in rows]
    order = sorted(PAPER_COUNTS)
    steps = np.array([order.index(name) - 3.5 for name in classes])[:, None]
    leaking = features + 0.4 * steps * features.std(axis=0)
    assert _accuracy(leaking, classes, groups, _linear()) > _limit(8, len(rows)) + 0.05
