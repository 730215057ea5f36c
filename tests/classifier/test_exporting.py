"""Bundles of networks: every engine answers as torch does, alone as in a batch, without torch."""

import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import softmax

from wafer.classifier.choosing import classifier_meant
from wafer.classifier.classification import classify_with_classifier
from wafer.classifier.cnn import TorchClassifier
from wafer.classifier.deployed import DeployedClassifier
from wafer.classifier.exporting import export_classifier
from wafer.classifier.images import choose_images, load_pixels
from wafer.classifier.knowing import seen
from wafer.classifier.loading import TEMPERATURE, load_classifier, look_at
from wafer.classifier.torch_backend import torch_backend
from wafer.datasets.errors import DataError, WeightsError
from wafer.datasets.runs import MODEL_FILE, TrainedRun
from wafer.datasets.workspace import Workspace
from wafer.evaluation.rejecting import Seen, fit_known
from wafer.inference.bundle import ONNX, WEIGHTS, Bundle
from wafer.inference.engines.choosing import BACKENDS, check_bundle
from wafer.inference.registry import promote
from wafer.inference.rejecting import known_arrays
from wafer.service.models import Served
from wafer.service.web.metrics import Metrics
from wafer.service.web.refusals import Refused
from wafer.service.web.work import Work
from wafer.weights.checkpoint import save_checkpoint
from wafer.weights.decision_rule import DecisionRule


def save_random(
    name: str, side: int, workspace: Workspace, folder: Path, **kept: torch.Tensor
) -> Path:
    """Write a model file of random weights, with norms that suit them: without it all is one."""
    torch.manual_seed(1)
    body = import_module(f"wafer.classifier.{name}").build(classes=len(workspace.classes)).body
    for part in body.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = 0.95
    with torch.no_grad():
        body.train()(torch.randn(16, 3, side, side))
    path = folder / f"{name}.safetensors"
    save_checkpoint(
        path,
        {**body.state_dict(), TEMPERATURE: torch.tensor([0.5]), **kept},
        architecture=name,
        classes=workspace.classes,
        image_size=side,
        channels=1,
        decision=DecisionRule(none_review_above=0.0),
    )
    return path


@pytest.fixture(scope="module")
def model(made: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file that keeps what tells images of no class."""
    folder = tmp_path_factory.mktemp("models")
    classifier = load_classifier(save_random("efficientnet_lite0", 32, made, folder), device="cpu")

    def look(images: Sequence[str]) -> Seen:
        pixels = load_pixels(made, images, image_size=32)
        return seen(*look_at(classifier.network, pixels), temperature=classifier.temperature)

    train = choose_images(made, made.samples(), "train")
    others = [sample.image for sample in made.samples() if sample.split != "train"]
    known = fit_known(
        look([sample.image for sample in train.samples]),
        np.array([made.classes.names.index(name) for name in train.names]),
        val=look(others),
        classes=len(made.classes),
        level=0.3,
    )
    # No image lies on a threshold, where engines may differ.
    clear = {method: limits * 1.001 for method, limits in known.thresholds.items()}
    known = replace(known, thresholds=clear)
    kept = {name: torch.from_numpy(array) for name, array in known_arrays(known).items()}
    return save_random("efficientnet_lite0", 32, made, folder, **kept)


@pytest.fixture(scope="module")
def exported(made: Workspace, model: Path) -> Bundle:
    return export_classifier(made, model, reject="nn")


def compare_engines(bundle: Bundle, path: Path, pixels: np.ndarray) -> None:
    """Compare all engines with torch and the model file, one image at a time and several."""
    exact = load_classifier(path, device="cpu").predictor.engine.infer(pixels)
    assert exact.features is not None
    assert np.ptp(exact.scores, axis=0).max() > 0.003
    np.testing.assert_allclose(np.linalg.norm(exact.features, axis=1), 1, atol=1e-5)
    for backend in (*BACKENDS, torch_backend()):
        found = []
        for batch in (1, len(pixels) - 1):
            with closing(backend.open(bundle, batch)) as engine:
                answer = engine.infer(pixels)
            np.testing.assert_allclose(answer.scores, exact.scores, atol=1e-3)
            np.testing.assert_allclose(answer.features, exact.features, atol=1e-3)
            np.testing.assert_array_equal(answer.boxes, exact.boxes)
            found.append(answer)
        alone, among_others = found
        np.testing.assert_allclose(alone.scores, among_others.scores, atol=1e-5)
        np.testing.assert_array_equal(alone.classes, among_others.classes)


@pytest.mark.slow
def test_every_engine_answers_as_torch_does_alone_and_in_a_batch(
    made: Workspace, model: Path, exported: Bundle
) -> None:
    images = [sample.image for sample in made.samples()][::8]
    compare_engines(exported, model, load_pixels(made, images, image_size=32))


@pytest.mark.slow
def test_the_features_of_inception_are_those_of_its_branch(made: Workspace, tmp_path: Path) -> None:
    classifier = load_classifier(save_random("inception_v3", 96, made, tmp_path), device="cpu")
    network = classifier.network
    assert isinstance(network, TorchClassifier)
    pixels = load_pixels(made, [sample.image for sample in made.samples()][:2], image_size=96)
    logits, features = network.look(pixels)
    last = network.body.fc[-1]  # type: ignore[index]
    again = features @ last.weight.detach().numpy().T + last.bias.detach().numpy()
    np.testing.assert_allclose(again, logits, rtol=1e-4, atol=1e-4)
    deployed = DeployedClassifier(network, temperature=classifier.temperature, image_size=96)
    with torch.inference_mode():
        boxes, scores, unit = (each.numpy() for each in deployed(torch.from_numpy(pixels)))
    np.testing.assert_allclose(scores, softmax(logits / 0.5, axis=1), atol=1e-6)
    length = np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(unit, features / length, atol=1e-6)
    assert boxes.tolist() == [[0, 0, 96, 96]] * 2


def test_over_http_it_is_not_asked_for_boxes(exported: Bundle) -> None:
    work = Work(
        Served(bundle=exported, backend=BACKENDS[0]),
        choose=lambda: exported.folder,
        check=lambda folder: pytest.fail("nothing was promoted"),
        processes=1,
        deadline=1.0,
        queue=8,
        metrics=Metrics(),
    )
    with work.request():
        pass
    with (
        pytest.raises(Refused, match="a classifier is at work") as caught,
        work.request(boxes=True),
    ):
        pytest.fail("it was let in")
    assert (caught.value.status, caught.value.again) == (400, None)


def test_features_are_what_the_last_layer_is_given(made: Workspace, model: Path) -> None:
    classifier = load_classifier(model, device="cpu")
    pixels = load_pixels(made, [made.samples()[0].image], image_size=32)
    logits, features = classifier.network.look(pixels)
    last = classifier.network.body.classifier  # type: ignore[attr-defined]
    again = features @ last.weight.detach().numpy().T + last.bias.detach().numpy()
    np.testing.assert_allclose(again, logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(classifier.network.logits(pixels), logits)


CLASSIFY = """
import sys
from wafer.cli import app
try:
    app(["classify", "images", "--output", "p.csv"])
except SystemExit as end:
    assert end.code == 0, end.code
heavy = {"torch", "torchvision", "timm", "ultralytics", "onnx", "sklearn", "xgboost"}
print("loaded", sorted(heavy & set(sys.modules)))
"""


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


@pytest.mark.slow
def test_a_promoted_classifier_answers_without_torch(
    workspace: Workspace,
    model: Path,
    exported: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = workspace.models / exported.folder.name
    shutil.copytree(exported.folder, folder)
    promote(workspace.models, exported.digest[:8], check=check_bundle)
    assert classifier_meant(workspace, weights=None) == folder

    out = subprocess.run(
        [sys.executable, "-P", "-c", CLASSIFY],
        cwd=workspace.root,
        env=os.environ,
        capture_output=True,
        text=True,
        check=True,
    )
    assert out.stdout.splitlines() == ["p.csv", "loaded []"]
    found = rows(workspace.root / "p.csv")
    monkeypatch.chdir(workspace.root)
    output = tmp_path / "exact.csv"
    classify_with_classifier(["images"], weights=model, output=output, device="cpu", reject="nn")
    exact = rows(output)
    assert {row["model"] for row in found} == {exported.label}
    pairs = list(zip(found, exact, strict=True))
    assert [one["decision"] for one, _ in pairs] == [other["decision"] for _, other in pairs]
    assert 0 < sum(row["decision"] == "unknown" for row in found) < 20
    whole = set(workspace.classes.whole_image_names)
    none = workspace.classes.none_class
    assert none is not None
    assert len(found) == len(exact) == 64
    for one, other in pairs:
        assert abs(float(one["confidence"]) - float(other["confidence"])) <= 1e-3
        for column in ("image", "xmin", "ymin", "xmax", "ymax", "class", "sha256"):
            assert one[column] == other[column]
        assert (one["xmax"] != "") == (one["class"] in whole)
        assert one["class"] != none.name or one["decision"] != "auto"


def test_a_bundle_says_that_it_has_no_boxes_and_how_it_rejects(exported: Bundle) -> None:
    predictor = exported.predictor(engine=None)  # type: ignore[arg-type]
    assert exported.description.decision.reject == "nn"
    assert predictor.reject is not None
    assert predictor.reject.method == "nn"
    assert exported.description.boxless
    assert predictor.boxless
    assert predictor.names == exported.classes.names
    assert exported.golden().decided.any()


def test_what_no_graph_can_hold_is_refused(
    made: Workspace, trained: TrainedRun, model: Path
) -> None:
    with pytest.raises(WeightsError, match="bundles are made of detectors and of efficientnet_b3"):
        export_classifier(made, trained.folder)
    with pytest.raises(WeightsError, match="int8 is for detectors"):
        export_classifier(made, model, precision="int8")
    with pytest.raises(WeightsError, match="No such file"):
        export_classifier(made, trained.folder / "gone" / MODEL_FILE)


def test_an_altered_bundle_is_no_model(
    workspace: Workspace, exported: Bundle, model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in exported.folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / ONNX).write_bytes(b"")
    with pytest.raises(DataError, match="altered"):
        load_classifier(folder)
    assert (exported.folder / WEIGHTS).read_bytes() == model.read_bytes()


def test_a_model_that_keeps_nothing_cannot_be_exported_to_reject(
    made: Workspace, tmp_path: Path
) -> None:
    path = save_random("efficientnet_lite0", 32, made, tmp_path)
    with pytest.raises(WeightsError, match="keeps nothing to tell unknown images by"):
        export_classifier(made, path, reject="nn")
