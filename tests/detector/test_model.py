"""The top-1 box, all boxes, and first weights."""

from pathlib import Path

import numpy as np
import pytest
import torch

from wafer.datasets.errors import WeightsError
from wafer.datasets.records import Box
from wafer.detector.architecture import build_model, fill_model, start_from, tensor_shapes
from wafer.detector.model import TorchEngine, all_boxes, forward, top_one

COCO = Path(__file__).resolve().parents[3] / "shared/weights/yolov5n_v70_coco_fp16.safetensors"


def output(rows: list[list[float]]) -> torch.Tensor:
    """One image; each row is centre x, centre y, width, height and the scores of two classes."""
    return torch.tensor(rows).T[None]


def test_the_best_box_is_that_of_the_highest_score_of_any_class() -> None:
    found = top_one(output([[50, 50, 20, 10, 0.3, 0.1], [20, 30, 8, 4, 0.2, 0.9]]))
    np.testing.assert_allclose(found.boxes, [[16, 28, 24, 32]])
    assert found.classes.tolist() == [1]
    np.testing.assert_allclose(found.scores, [[0.3, 0.9]])


def test_images_of_a_batch_are_answered_each_for_itself() -> None:
    one = output([[50, 50, 20, 10, 0.3, 0.1]])
    other = output([[10, 10, 4, 4, 0.1, 0.6]])
    found = top_one(torch.cat([one, other]))
    assert found.classes.tolist() == [0, 1]
    np.testing.assert_allclose(found.boxes[1], [8, 8, 12, 12])


def test_nms_never_removes_the_best_box() -> None:
    generator = torch.Generator().manual_seed(0)
    decoded = torch.rand(3, 6, 200, generator=generator)
    decoded[:, :4] *= 64
    best, kept = top_one(decoded), all_boxes(decoded)
    for row in range(3):
        assert kept[row][0, 4] == best.scores[row].max()
        np.testing.assert_allclose(kept[row][0, :4], best.boxes[row], rtol=1e-5)
        assert kept[row][0, 5] == best.classes[row]


def test_overlapping_boxes_of_one_class_are_suppressed_and_those_of_two_are_not() -> None:
    rows = [[50, 50, 20, 20, 0.9, 0.0], [51, 50, 20, 20, 0.8, 0.0], [50, 50, 20, 20, 0.0, 0.7]]
    kept = all_boxes(output(rows))[0]
    assert [round(float(score), 1) for score in kept[:, 4]] == [0.9, 0.7]
    assert kept[:, 5].tolist() == [0, 1]


@pytest.mark.parametrize(("channels", "shape"), [(1, (2, 64, 64)), (3, (2, 64, 64, 3))])
def test_the_engine_takes_grey_and_colour(channels: int, shape: tuple[int, ...]) -> None:
    model = build_model("yolov5n", names=["a", "b", "c"], channels=channels)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    found = TorchEngine(model).infer(images)
    assert found.boxes.shape == (2, 4)
    assert found.scores.shape == (2, 3)
    alone = TorchEngine(model).infer(images[1:])
    np.testing.assert_allclose(found.boxes[1:], alone.boxes, atol=1e-3)


def suppressed(decoded: np.ndarray, above: float) -> list[tuple[float, ...]]:
    """YOLOv5's detect.py in plain words: best class, above a score, best first, IoU to 0.45."""
    kept: list[tuple[float, ...]] = []
    x, y, width, height, *scores = decoded
    order = np.argsort(-np.max(scores, axis=0), kind="stable")
    for at in order[np.max(scores, axis=0)[order] > above]:
        label = int(np.argmax([score[at] for score in scores]))
        half = width[at] / 2, height[at] / 2
        box = Box(x[at] - half[0], y[at] - half[1], x[at] + half[0], y[at] + half[1])
        if not any(k[5] == label and box.iou(Box(*k[:4])) > 0.45 for k in kept):
            kept.append((*box.corners, float(scores[label][at]), label))
    return kept


@pytest.mark.parametrize("above", [0.0, 0.25, 0.9, 1.0])
def test_all_boxes_above_a_score_are_those_that_yolov5_shows(above: float) -> None:
    generator = torch.Generator().manual_seed(3)
    decoded = torch.rand(3, 4 + 2, 150, generator=generator)
    decoded[:, :2] *= 64
    decoded[:, 2:4] = decoded[:, 2:4] * 20 + 1
    decoded[1, 4:] *= 0.2  # an image without a good box
    network = torch.nn.Module()
    network.model = torch.nn.ModuleList([torch.nn.Identity()])
    network.weight = torch.nn.Parameter(torch.zeros(1))

    def forward_to_head(images: torch.Tensor) -> torch.Tensor:
        network.model[0]([images])
        return decoded

    network.forward = forward_to_head
    answers = TorchEngine(network, above=above).infer(np.zeros((3, 64, 64), np.uint8))
    assert answers.found is not None
    for row in range(3):
        expected = suppressed(decoded[row].double().numpy(), above)
        np.testing.assert_allclose(answers.found[row], np.reshape(expected, (-1, 6)), atol=1e-4)
    assert len(answers.found[1]) == 0 or above == 0
    assert TorchEngine(network).infer(np.zeros((3, 64, 64), np.uint8)).found is None


def test_grey_as_three_equal_channels_is_the_same_network_with_its_filters_summed() -> None:
    colour = build_model("yolov5n", names=["a"], channels=3).eval()
    grey = build_model("yolov5n", names=["a"], channels=1).eval()
    tensors = dict(colour.state_dict())
    stem = "model.0.conv.weight"
    tensors[stem] = tensors[stem].sum(dim=1, keepdim=True)
    fill_model(grey, tensors)
    images = np.random.default_rng(1).integers(0, 256, (1, 64, 64), np.uint8)
    in_colour = forward(colour, np.repeat(images[..., None], 3, axis=3))
    torch.testing.assert_close(forward(grey, images), in_colour, atol=1e-3, rtol=1e-4)


@pytest.mark.slow
def test_tensors_of_another_architecture_are_refused() -> None:
    model = build_model("yolov5n", names=["a"], channels=1)
    other = build_model("yolov5s", names=["a"], channels=1).state_dict()
    with pytest.raises(WeightsError, match="do not fit the architecture"):
        fill_model(model, other)


def test_an_unknown_architecture_names_the_known_ones() -> None:
    with pytest.raises(WeightsError, match="yolov5n, yolov5s, yolov5m, yolov5l, yolov5x"):
        build_model("yolov8n", names=["a"], channels=1)


@pytest.mark.shared
@pytest.mark.skipif(not COCO.is_file(), reason="the official weights are not here")
@pytest.mark.parametrize("classes", [1, 7])
def test_official_weights_fill_all_but_the_head(classes: int) -> None:
    model = build_model("yolov5n", names=[str(n) for n in range(classes)], channels=1)
    head = {n: t.clone() for n, t in model.state_dict().items() if n.startswith("model.24.")}
    report = start_from(model, COCO)
    assert report.matched == 342
    assert len(report.skipped) == 7
    filled = model.state_dict()
    assert all(torch.equal(filled[name], tensor) for name, tensor in head.items())
    assert set(report.untouched) == set(head)
    assert tensor_shapes(model)["model.24.cv3.0.2.weight"][0] == classes
