"""The perceptron against scikit-learn's own answers, and on features that carry nothing."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

from wafer.classifier.images import LabelledImages
from wafer.classifier.models import Settings, Task
from wafer.classifier.perceptron import Perceptron, fit_perceptron, read_perceptron
from wafer.datasets.errors import TrainingError, WeightsError

SIDE = 4


def pixels_of(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return images.reshape(len(images), -1).astype(np.float32)


def labelled(classes: int, number: int = 60) -> LabelledImages:
    """Images whose brightness tells the class; one pixel is always black."""
    random = np.random.default_rng(1)
    labels = random.integers(classes, size=number)
    pixels = (labels[:, None, None] * 60 + random.integers(80, size=(number, SIDE, SIDE))).astype(
        np.uint8
    )
    pixels[:, 0, 0] = 0
    return LabelledImages(pixels, labels, np.zeros(number, bool))


def task(
    folder: Path, *, classes: int, epochs: int = 5, patience: int = 0, lr: float = 0.01
) -> Task:
    images = labelled(classes)
    return Task(
        train=images,
        val=images,
        classes=classes,
        settings=Settings(
            epochs=epochs, batch=20, learning_rate=lr, patience=patience, image_size=SIDE
        ),
        start=None,
        seed=7,
        device="cpu",
        folder=folder,
        progress=None,
    )


def fitted(given: Task) -> Perceptron:
    return read_perceptron(
        fit_perceptron(given, pixels_of),
        features=pixels_of,
        inputs=SIDE * SIDE,
        classes=given.classes,
    )


@pytest.mark.parametrize("classes", [2, 3])
def test_it_answers_as_scikit_learn_after_as_many_epochs(tmp_path: Path, classes: int) -> None:
    images = labelled(classes)
    theirs = MLPClassifier(
        (256,),
        solver="sgd",
        learning_rate_init=0.01,
        batch_size=20,
        random_state=np.random.RandomState(7),  # another order in every epoch
    )
    features = StandardScaler().fit_transform(pixels_of(images.pixels))
    for _ in range(5):
        theirs.partial_fit(features, images.labels, classes=range(classes))
    ours = softmax(fitted(task(tmp_path, classes=classes)).logits(images.pixels), axis=1)
    np.testing.assert_allclose(ours, theirs.predict_proba(features), atol=1e-5)


def test_an_image_gets_the_same_answer_alone_and_among_others(tmp_path: Path) -> None:
    network, images = fitted(task(tmp_path, classes=3)), labelled(3).pixels
    alone = np.concatenate([network.logits(image[None]) for image in images])
    np.testing.assert_allclose(alone, network.logits(images), atol=1e-9)


def test_it_stops_when_validation_gets_no_better(tmp_path: Path) -> None:
    settled = task(tmp_path, classes=2, epochs=300, patience=2, lr=1.0)
    fit_perceptron(settled, pixels_of)
    rows = (tmp_path / "results.csv").read_text().splitlines()[1:]
    losses = [float(row.split(",")[2]) for row in rows]
    assert len(rows) < 300
    assert int(np.argmin(losses)) == len(losses) - 3


def test_features_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    def broken(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.full((len(images), 2), np.nan, np.float32)

    with pytest.raises(TrainingError, match="no numbers"):
        fit_perceptron(task(tmp_path, classes=2), broken)


def test_a_training_that_diverges_says_so(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="smaller --lr0"), np.errstate(all="ignore"):
        fit_perceptron(task(tmp_path, classes=3, epochs=50, lr=1e30), pixels_of)


@pytest.mark.parametrize(
    ("inputs", "classes", "message"), [(16, 3, "answers 2 classes"), (9, 2, "do not fit together")]
)
def test_tensors_of_another_model_are_refused(
    tmp_path: Path, inputs: int, classes: int, message: str
) -> None:
    tensors = fit_perceptron(task(tmp_path, classes=2, epochs=1), pixels_of)
    with pytest.raises(WeightsError, match=message):
        read_perceptron(tensors, features=pixels_of, inputs=inputs, classes=classes)
    del tensors["layer.1.bias"]
    with pytest.raises(WeightsError, match=r"no tensor 'layer\.1\.bias'"):
        read_perceptron(tensors, features=pixels_of, inputs=16, classes=2)
