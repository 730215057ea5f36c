"""The models, what the paper says of them, and the scales."""

import pytest

from wafer.classifier import names
from wafer.classifier.models import model_named
from wafer.classifier.training import SMALLEST_SIDE, SMALLEST_SIDE_OF
from wafer.experiments.comparison.plan import (
    CLASSIFIERS,
    PAPER_SETTINGS,
    SCALES,
    Scale,
    conditions,
    published,
)

# Tables 1 and 2 as the paper prints them.
PAPER = """
inception_v3     0.98320  0.9945   69.24 ms
resnet50         0.97121  0.98122  70.04 ms
efficientnet_b3  0.9656   0.99095  765.613 s, GPU
efficientnet_b7  0.9663   0.9923   1421.05 s, GPU
"""


def test_the_published_figures_are_those_of_the_paper() -> None:
    for line in PAPER.strip().splitlines():
        name, accuracy, confidence, speed = line.split(maxsplit=3)
        found = published(name)
        assert (found.weighted_accuracy, found.mean_confidence) == (
            float(accuracy),
            float(confidence),
        )
        assert found.speed == speed
    assert published("mlp").weighted_accuracy is None
    detector = published("yolov5s")
    assert (detector.weighted_accuracy, detector.mean_confidence) == (0.976, 0.9121)


def test_every_classifier_is_a_row() -> None:
    assert sorted(CLASSIFIERS) == sorted(names.CLASSIFIERS)


@pytest.mark.parametrize("name", PAPER_SETTINGS)
def test_scale_paper_trains_with_the_settings_of_the_paper(name: str) -> None:
    settings = model_named(name).SETTINGS
    assert (settings.batch, settings.epochs) == PAPER_SETTINGS[name]
    assert settings.image_size == SCALES["paper"].speed.image_size == 256
    assert name not in SCALES["paper"].trainings


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
def test_every_network_takes_images_of_the_sizes_it_is_given(scale: Scale) -> None:
    for name in CLASSIFIERS:
        told = scale.trainings.get(name)
        trained = None if told is None else told.image_size
        for side in (trained or 256, scale.speed.image_size):
            assert side % 32 == 0
            assert side >= SMALLEST_SIDE_OF.get(name, SMALLEST_SIDE)


def test_whose_images_they_are_is_said() -> None:
    assert "2,000 synthetic ones of 256 px" in conditions(SCALES["cpu"], None)[0]
    assert conditions(SCALES["cpu"], "fab")[0] == "Images are those of fab, split as they are there"
