"""What each scale makes of the paper's seven experiments."""

import pytest

from wafer.datasets.synthetic.plan import PAPER_COUNTS, class_counts
from wafer.detector.hyperparameters import HYPERPARAMETERS, faults_of, resolve
from wafer.experiments.table3.plan import (
    EXPERIMENTS,
    SCALES,
    Experiment,
    Scale,
    cost,
    settings,
    training_arguments,
)

# Table 3 as the paper prints it.
PAPER = """
exp1  64   100  false  0.9628  0.8994  0.6912
exp2  256  100  false  0.9484  0.9076  0.7081
exp3  512  100  false  0.9486  0.9229  0.7215
exp4  64   100  false  0.9575  0.9123  0.7057
exp5  64   100  true   0.9564  0.9253  0.7398
exp6  64   15   true   0.9299  0.8997  0.7033
exp7  64   200  true   0.9566  0.9013  0.708
"""

# Of YOLOv5's hyp.scratch-low.yaml, what has the same name and meaning here. Hue and saturation do
# nothing to grey images.
YOLOV5 = {
    "lr0": 0.01,
    "lrf": 0.01,
    "momentum": 0.937,
    "weight_decay": 0.0005,
    "warmup_epochs": 3.0,
    "warmup_momentum": 0.8,
    "warmup_bias_lr": 0.1,
    "cls": 0.5,
    "hsv_v": 0.4,
    "degrees": 0.0,
    "translate": 0.1,
    "scale": 0.5,
    "shear": 0.0,
    "perspective": 0.0,
    "flipud": 0.0,
    "fliplr": 0.5,
    "mosaic": 1.0,
    "mixup": 0.0,
    "close_mosaic": 0,  # YOLOv5 has no such thing
}


def arguments(experiment: Experiment, scale: Scale) -> dict[str, object]:
    told = training_arguments(
        experiment, scale, seed=5, model="yolov5n", weights=None, device="cpu"
    )
    return dict(told)


def test_the_experiments_are_those_of_the_paper() -> None:
    rows = [line.split() for line in PAPER.strip().splitlines()]
    for experiment, (name, batch, epochs, weights, *figures) in zip(EXPERIMENTS, rows, strict=True):
        assert (experiment.name, experiment.batch) == (name, int(batch))
        assert (experiment.epochs, experiment.img_weights) == (int(epochs), weights == "true")
        published = experiment.published
        assert [published.precision, published.recall, published.map50_95] == [
            float(figure) for figure in figures
        ]
    assert [each.name for each in EXPERIMENTS if each.evolves] == ["exp6"]
    assert [each.name for each in EXPERIMENTS if each.evolved] == ["exp7"]


def test_scale_paper_has_exactly_the_paper_s_settings() -> None:
    scale = SCALES["paper"]
    assert class_counts("paper", images=scale.images) == dict(PAPER_COUNTS)
    assert (scale.size, scale.image_size, scale.generations, scale.backgrounds) == (
        680,
        256,
        7,
        100,
    )
    for experiment in EXPERIMENTS:
        told = arguments(experiment, scale)
        assert (told["batch"], told["epochs"]) == (experiment.batch, experiment.epochs)
        assert (told["imgsz"], told["max_backgrounds"]) == (256, 100)
        assert told["img_weights"] == experiment.img_weights
        # YOLOv5: hyp['weight_decay'] *= batch_size * accumulate / 64
        decay = {"weight_decay": 0.0005 * experiment.batch / 64}
        optimizer, hyp = resolve(
            str(told["optimizer"]), told["hyperparameters"], steps=20_000, classes=7
        )
        assert optimizer == "SGD"
        assert {name: hyp[name] for name in YOLOV5} == {**YOLOV5, **decay}
        assert hyp.keys() - YOLOV5.keys() == {"box", "dfl", "hsv_h", "hsv_s"}
        assert (hyp["hsv_h"], hyp["hsv_s"]) == (0.0, 0.0)


def test_exp1_and_exp4_differ_by_their_seed_alone() -> None:
    first, fourth = EXPERIMENTS[0], EXPERIMENTS[3]
    for scale in SCALES.values():
        one, four = arguments(first, scale), arguments(fourth, scale)
        assert (one.pop("seed"), four.pop("seed")) == (5, 6)
        assert one == four


@pytest.mark.parametrize("name", ["smoke", "cpu", "paper"])
def test_every_scale_keeps_the_order_of_the_paper_s_settings(name: str) -> None:
    scale = SCALES[name]
    for of in (scale.batches, scale.epochs):
        assert sorted(of, key=lambda paper: of[paper]) == sorted(of)
        assert len(set(of.values())) == len(of)
    assert scale.name == name
    assert faults_of(scale.optimizer, scale.hyperparameters) == []
    assert scale.hyperparameters.keys() <= HYPERPARAMETERS.keys()


def test_scale_cpu_has_as_many_steps_an_epoch_as_the_paper() -> None:
    cpu, paper = SCALES["cpu"], SCALES["paper"]
    for batch in paper.batches:
        assert cpu.images / cpu.batches[batch] == pytest.approx(paper.images / batch, rel=0.01)
    assert min(cpu.epochs.values()) >= 10
    assert sum(cost(each, cpu) for each in EXPERIMENTS) == 5 * 20 + 7 * 10 + 40 == 210


def test_the_cost_is_that_of_all_trainings() -> None:
    costs = [cost(each, SCALES["paper"]) for each in EXPERIMENTS]
    assert costs == [100, 100, 100, 100, 100, 7 * 15, 200]


@pytest.mark.parametrize("name", ["smoke", "cpu", "paper"])
def test_the_settings_say_what_was_scaled(name: str) -> None:
    scale = SCALES[name]
    rows = settings(scale, model="yolov5s", start="some.safetensors", workspace=None)
    here = {row.name: row.here for row in rows}
    paper = {row.name: row.paper for row in rows}
    assert len(here) == len(rows)
    assert here["images"].startswith(f"{scale.images:,} synthetic ones of {scale.size} px")
    assert here["batch"] == ", ".join(map(str, scale.batches.values()))
    assert here["epochs"] == ", ".join(map(str, scale.epochs.values()))
    assert (paper["batch"], paper["epochs"]) == ("64, 256, 512", "100, 15, 200")
    assert (here["image size"], paper["image size"]) == (f"{scale.image_size} px", "256 px")
    assert here["first weights"] == "some.safetensors"
    assert here["detector"].startswith("yolov5s ")
    own = settings(scale, model="yolov5s", start="", workspace="my-fab")
    assert next(row.here for row in own if row.name == "images") == "those of my-fab"
