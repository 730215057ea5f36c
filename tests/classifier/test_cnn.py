"""Networks: they learn, go on after a kill as if nothing had been, and answer alone as always."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.special import softmax
from torch import nn

from wafer.classifier import (
    cnn,
    efficientnet_b3,
    efficientnet_b7,
    inception_v3,
    resnet50,
)
from wafer.classifier.cnn import (
    Backbone,
    TorchClassifier,
    fit_cnn,
    one_cycle,
    read_cnn,
    start_from,
    steps_of_ten,
)
from wafer.classifier.course import read_epochs
from wafer.classifier.images import choose_images, load_images
from wafer.classifier.loading import load_classifier
from wafer.classifier.models import STATE, Task, model_named
from wafer.classifier.pretrained import first_weights
from wafer.classifier.training import LAST_FILE, train_classifier
from wafer.datasets.errors import TrainingError, WeightsError
from wafer.datasets.runs import MODEL_FILE
from wafer.datasets.workspace import Workspace
from wafer.evaluation.temperature import log_loss

HALF = (0.5, 0.5, 0.5)
HERE = {"channels": 1, "device": "cpu"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cnn, "faster_precision", lambda *_: "float32")


def build(*, classes: int) -> Backbone:
    body = nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(8, classes),
    )
    return Backbone(body, mean=HALF, std=HALF, head=("6.",))


def fitted(task: Task, schedule: cnn.Schedule = one_cycle) -> dict[str, torch.Tensor]:
    return fit_cnn(task, build, schedule, name="small")


def test_it_learns_and_answers_alone_as_among_others(make_task: Callable[..., Task]) -> None:
    task = make_task(classes=3, side=32, epochs=12, learning_rate=0.05)
    network = read_cnn(fitted(task), build, classes=3, device="cpu")
    found = softmax(network.logits(task.val.pixels), axis=1)
    assert (found.argmax(axis=1) == task.val.labels).mean() > 0.9
    alone = [softmax(network.logits(image[None]), axis=1)[0] for image in task.val.pixels]
    np.testing.assert_allclose(alone, found, atol=1e-5)
    colour = np.repeat(task.val.pixels[..., None], 3, axis=-1)
    np.testing.assert_allclose(network.logits(colour), network.logits(task.val.pixels), atol=1e-6)


@pytest.mark.parametrize(("epochs", "probes"), [(10, 0), (11, 1)])
def test_only_a_training_that_is_longer_than_the_probe_is_probed(
    make_task: Callable[..., Task], monkeypatch: pytest.MonkeyPatch, epochs: int, probes: int
) -> None:
    probed: list[str] = []

    def faster_precision(step: str, seconds: object) -> str:
        probed.append(step)
        return "float32"

    monkeypatch.setattr(cnn, "faster_precision", faster_precision)
    fitted(make_task(classes=3, side=32, number=48, epochs=epochs))
    assert len(probed) == probes


@pytest.mark.parametrize("steps", range(1, 13))
def test_however_few_steps_there_are_each_has_a_rate(
    make_task: Callable[..., Task], steps: int
) -> None:
    settings = make_task(classes=3, side=32, epochs=1, learning_rate=0.01).settings
    adam, cycle = one_cycle([torch.nn.Parameter(torch.zeros(1))], settings, steps)
    rates = []
    for _ in range(steps):
        rates.append(adam.param_groups[0]["lr"])
        adam.step()
        cycle.step()
    assert all(0 < rate <= 0.01 for rate in rates)


@pytest.mark.parametrize("schedule", [one_cycle, steps_of_ten])
def test_a_killed_training_goes_on_as_if_nothing_had_happened(
    make_task: Callable[..., Task], tmp_path: Path, schedule: cnn.Schedule
) -> None:
    class KilledError(Exception):
        pass

    def kill(epoch: int, epochs: int, batch: int, batches: int) -> None:
        if epoch == 3:
            raise KilledError

    whole = make_task(classes=3, side=32, epochs=4)
    wanted = fitted(whole, schedule)
    other = replace(whole, folder=tmp_path / "killed")
    with pytest.raises(KilledError):
        fitted(replace(other, progress=kill), schedule)
    seen: list[int] = []
    again = replace(other, progress=lambda epoch, *_: seen.append(epoch))
    found = fitted(again, schedule)
    assert set(seen) == {3, 4}
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    both = [(t.folder / "results.csv").read_text() for t in (whole, other)]
    assert both[0] == both[1]


@pytest.mark.parametrize("taught", [False, True])
def test_nothing_is_turned_where_a_class_is_a_matter_of_the_whole_frame(
    make_task: Callable[..., Task], monkeypatch: pytest.MonkeyPatch, taught: bool
) -> None:
    """A turned image of another class would show the defect of this one."""
    task = make_task(classes=2, side=32, epochs=1)
    whole = (task.train.labels == 1) & taught
    shown: list[bool] = []

    def augmented(images: np.ndarray, *, still: bool, random: object) -> np.ndarray:
        shown.append(still)
        return images

    monkeypatch.setattr(cnn, "augmented", augmented)
    fitted(replace(task, train=replace(task.train, whole_image=whole)))
    assert set(shown) == {taught}


def test_the_best_epoch_is_kept_and_patience_ends_it(make_task: Callable[..., Task]) -> None:
    task = make_task(classes=3, side=32, epochs=40, learning_rate=0.5, patience=2)
    fitted(task, steps_of_ten)
    state = torch.load(task.folder / STATE, weights_only=True)
    losses = [epoch["val_loss"] for epoch in state["epochs"]]
    assert len(losses) < 40
    assert int(np.argmin(losses)) == len(losses) - 3


def test_balanced_mixed_and_ghostly_it_learns_and_goes_on_as_well(
    make_task: Callable[..., Task], tmp_path: Path
) -> None:
    class KilledError(Exception):
        pass

    def kill(epoch: int, *_: int) -> None:
        if epoch == 12:
            raise KilledError

    options = {"sampler": "balanced", "cutmix": 0.3, "ghost_batch": 4}
    task = make_task(classes=3, side=32, epochs=12, learning_rate=0.05, **options)
    boxes = [None] * len(task.train)
    task = replace(task, train=replace(task.train, boxes=boxes))
    other = replace(task, folder=tmp_path / "killed")
    with pytest.raises(KilledError):
        fitted(replace(other, progress=kill))
    tensors = fitted(task)
    again = fitted(other)
    assert all(torch.equal(again[name], tensors[name]) for name in tensors)
    network = read_cnn(tensors, build, classes=3, device="cpu")
    found = network.logits(task.val.pixels)
    assert (found.argmax(axis=1) == task.val.labels).mean() > 0.9


def test_a_loss_that_is_no_number_ends_the_training(make_task: Callable[..., Task]) -> None:
    with pytest.raises(TrainingError, match="smaller --lr0"):
        fitted(make_task(classes=3, side=32, epochs=9, learning_rate=1e30), steps_of_ten)


def test_a_state_that_was_cut_off_is_named(make_task: Callable[..., Task]) -> None:
    task = make_task(classes=3, side=32, epochs=1)
    fitted(task)
    path = task.folder / STATE
    whole = path.read_bytes()
    for cut in (b"", whole[:100], whole[: len(whole) // 2]):
        path.write_bytes(cut)
        with pytest.raises(TrainingError, match=r"state\.pt is damaged; remove it"):
            fitted(task)


def test_first_weights_fill_all_but_the_head(tmp_path: Path) -> None:
    source, target = build(classes=7), build(classes=3)
    save_file(source.body.state_dict(), tmp_path / "first.safetensors")
    head = target.body.state_dict()["6.weight"].clone()
    start_from(target, tmp_path / "first.safetensors")
    filled = target.body.state_dict()
    assert torch.equal(filled["0.weight"], source.body.state_dict()["0.weight"])
    assert torch.equal(filled["6.weight"], head)


def test_first_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save_file({"0.weight": torch.zeros(8, 1, 3, 3)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=r"0 of 9 tensors fit, 0\.weight does not"):
        start_from(build(classes=3), tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="no such file"):
        first_weights("resnet50", tmp_path / "gone.pt")
    with pytest.raises(WeightsError, match=r"resnet50\.safetensors, or start from nothing with"):
        first_weights("resnet50", "cached")


def test_tensors_of_another_network_are_refused(make_task: Callable[..., Task]) -> None:
    tensors = fitted(make_task(classes=3, side=32, epochs=1))
    with pytest.raises(WeightsError, match="do not fit"):
        read_cnn(tensors, build, classes=4, device="cpu")
    del tensors["0.bias"]
    with pytest.raises(WeightsError, match=r'Missing key\(s\).*"0.bias"'):
        read_cnn(tensors, build, classes=3, device="cpu")


@pytest.mark.slow
def test_lite0_starts_from_the_weights_of_its_package(make_task: Callable[..., Task]) -> None:
    path = first_weights("efficientnet_lite0", "cached")
    assert path is not None
    model = model_named("efficientnet_lite0")
    task = replace(make_task(classes=3, side=32, number=8, epochs=1, batch=4), start=path)
    task = replace(task, settings=replace(task.settings, learning_rate=1e-9))
    tensors = model.fit(task)
    state = torch.load(task.folder / STATE, weights_only=True)
    assert state["epochs"][0]["train_loss"] < 2  # a fresh head knows nothing: log 3 is 1.1
    stem = torch.load(path, weights_only=True)["_conv_stem.weight"]
    torch.testing.assert_close(tensors["conv_stem.weight"], stem, atol=1e-6, rtol=1e-5)
    network = model.network(tensors, classes=3, **HERE)
    found = softmax(network.logits(task.val.pixels), axis=1)
    alone = softmax(network.logits(task.val.pixels[:1]), axis=1)
    np.testing.assert_allclose(alone[0], found[0], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "side"), [(resnet50, 32), (inception_v3, 96), (efficientnet_b3, 32)]
)
def test_all_layers_of_the_paper_s_networks_are_trained(module: ModuleType, side: int) -> None:
    torch.manual_seed(0)
    images = np.random.default_rng(0).integers(256, size=(2, side, side)).astype(np.uint8)
    model = TorchClassifier(module.build(classes=3)).train()
    outputs = model(torch.from_numpy(images))
    assert [tuple(o.shape) for o in outputs] == [(2, 3)] * (1 + (module is inception_v3))
    sum(output.sum() for output in outputs).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    again = module.network(model.body.state_dict(), classes=3, **HERE)
    found = softmax(again.logits(images), axis=1)
    np.testing.assert_allclose(softmax(again.logits(images[:1]), axis=1), found[:1], atol=1e-5)


@pytest.mark.slow
def test_the_largest_network_has_an_output_for_each_class() -> None:
    with torch.device("meta"):
        body = efficientnet_b7.build(classes=3).body
    assert tuple(body.state_dict()["classifier.weight"].shape) == (3, 2560)


@pytest.mark.slow
def test_a_network_s_last_epoch_is_kept_beside_its_best(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resnet50, "build", build)
    done = train_classifier(
        workspace, model="resnet50", pretrained="none", imgsz=32, epochs=6, batch=8, lr0=0.3
    )
    losses = [epoch.val_loss for epoch in read_epochs(done.folder)]
    assert losses.index(min(losses)) < len(losses) - 1
    val = load_images(
        workspace, choose_images(workspace, workspace.samples(), "val"), image_size=32
    )
    for file, wanted in ((MODEL_FILE, min(losses)), (LAST_FILE, losses[-1])):
        network = load_classifier(done.folder / file).network
        assert log_loss(network.logits(val.pixels), val.labels) == pytest.approx(wanted, rel=1e-4)
    assert not (done.folder / STATE).exists()
