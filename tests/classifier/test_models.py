"""What every classifier promises, and what the trees leave behind."""

import csv
import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
import typer
import xgboost
from scipy.special import softmax

from wafer.classifier.hog import hog_features
from wafer.classifier.models import Task, model_named
from wafer.classifier.names import CLASSIFIERS
from wafer.classifier.xgboost_hog import IMPORTANCE, TREES
from wafer.cli import app
from wafer.datasets.errors import WeightsError
from wafer.detector.architecture import ARCHITECTURES

HERE = {"channels": 1, "device": "cpu"}


def test_the_command_line_offers_all_models() -> None:
    train = typer.main.get_command(app).commands["train"]
    (option,) = (p for p in train.params if p.name == "model")
    assert set(option.type.choices) == {*ARCHITECTURES, *CLASSIFIERS}
    assert all(model_named(name).SETTINGS.image_size >= 32 for name in CLASSIFIERS)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "xgboost"])
def test_a_model_learns_and_answers_alone_as_among_others(
    make_task: Callable[..., Task], name: str
) -> None:
    model = model_named(name)
    batch = model.SETTINGS.batch and 8
    task = make_task(classes=3, side=32, epochs=8, batch=batch, learning_rate=0.1)
    tensors = model.fit(task)
    network = model.network(tensors, classes=3, **HERE)
    found = softmax(network.logits(task.val.pixels), axis=1)
    assert (found.argmax(axis=1) == task.val.labels).mean() > 0.9
    alone = [softmax(network.logits(image[None]), axis=1)[0] for image in task.val.pixels[:6]]
    np.testing.assert_allclose(alone, found[:6], atol=1e-5)
    logits, features = network.look(task.val.pixels)
    np.testing.assert_array_equal(logits, network.logits(task.val.pixels))
    if name == "xgboost":
        np.testing.assert_array_equal(features, hog_features(task.val.pixels))
    else:
        again = features @ tensors["layer.1.weight"].numpy() + tensors["layer.1.bias"].numpy()
        np.testing.assert_allclose(again, logits, rtol=1e-4, atol=1e-4)
    with pytest.raises(WeightsError, match="answers 3 classes, its table has 4"):
        model.network(tensors, classes=4, **HERE)


@pytest.mark.parametrize("name", ["mlp", "xgboost"])
def test_a_model_of_other_tensors_is_refused(name: str) -> None:
    with pytest.raises(WeightsError, match="train it again"):
        model_named(name).network({"x": torch.zeros(3)}, classes=3, **HERE)


def test_trees_are_left_for_their_own_tools_with_what_each_feature_brought(
    make_task: Callable[..., Task],
) -> None:
    task = make_task(classes=3, side=32, epochs=5, batch=0, learning_rate=0.3)
    model = model_named("xgboost")
    network = model.network(model.fit(task), classes=3, **HERE)
    theirs = xgboost.Booster(model_file=task.folder / TREES)
    wanted = theirs.predict(xgboost.DMatrix(hog_features(task.val.pixels)))
    found = softmax(network.logits(task.val.pixels), axis=1)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    with (task.folder / IMPORTANCE).open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    gains = [float(row["total_gain"]) for row in rows]
    assert gains == sorted(gains, reverse=True)
    assert rows[0]["orientation"] in ("0", "4")  # the stripes are upright or lie flat


def test_trees_stop_when_validation_gets_no_better(make_task: Callable[..., Task]) -> None:
    task = make_task(classes=2, side=32, epochs=200, batch=0, learning_rate=1.0, patience=3)
    model_named("xgboost").fit(task)
    lines = (task.folder / "results.csv").read_text().splitlines()
    assert len(lines) < 100
    losses = [float(line.split(",")[2]) for line in lines[1:]]
    kept = xgboost.Booster(model_file=task.folder / TREES).num_boosted_rounds()
    assert kept == int(np.argmin(losses)) + 1 == len(losses) - 3


def test_damaged_trees_are_refused(make_task: Callable[..., Task]) -> None:
    model = model_named("xgboost")
    whole = bytes(model.fit(make_task(classes=3, side=32, epochs=1, batch=0))["json"].numpy())
    stray, strange, short = (json.loads(whole) for _ in range(3))
    for content, field, value in (
        (stray, "left_children", 99_999),
        (strange, "split_indices", 99_999),
        (short, "split_conditions", None),
    ):
        (first, *_) = content["learner"]["gradient_booster"]["model"]["trees"]
        first[field] = [value, *first[field][1:]] if value else []
    documents = [json.dumps(content).encode() for content in (stray, strange, short)]
    for damaged in (b"", b"{}", b"[1]", b"\x7b\x4c", whole[:-40], *documents):
        tensor = torch.from_numpy(np.frombuffer(damaged, np.uint8).copy())
        with pytest.raises(WeightsError, match="its trees cannot be read"):
            model.network({"json": tensor}, classes=3, **HERE)
