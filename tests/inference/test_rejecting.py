"""What a model file keeps of known images, and what the pipeline makes of it."""

import io
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from numpy.typing import NDArray
from PIL import Image
from scipy.special import softmax

from wafer.datasets.classes import ClassTable, DefectClass
from wafer.datasets.errors import WeightsError
from wafer.evaluation.calibration import decide_class
from wafer.evaluation.rejecting import METHODS, Known, Method, Seen, fit_known, scores_by
from wafer.inference.output import json_row
from wafer.inference.pipeline import answer
from wafer.inference.records import Predictor, TopOne
from wafer.inference.rejecting import known_arrays, reject_method, rejection_of
from wafer.inference.sources import ImageInput

CLASSES = ClassTable((DefectClass(0, "clean", "none"), DefectClass(1, "spot", killer=True)))


def given_for(bright: NDArray[np.floating]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return probabilities and features of images that are dark (clean) or bright (spot)."""
    angle = bright * np.pi / 2
    features = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return softmax(9 * features, axis=1).astype(np.float32), features.astype(np.float32)


def seen(bright: NDArray[np.floating]) -> Seen:
    probabilities, features = given_for(bright)
    return Seen.of(probabilities, features)


@pytest.fixture(scope="module")
def known() -> Known:
    """Known are brightnesses near 0.1 and 0.9."""
    random = np.random.default_rng(0)
    labels = np.arange(80) % 2
    train, val = (0.1 + 0.8 * labels + random.uniform(-0.05, 0.05, 80) for _ in range(2))
    return fit_known(seen(train), labels, val=seen(val), classes=2)


def write(path: Path, arrays: Mapping[str, NDArray[np.generic]]) -> Path:
    path.write_bytes(safetensors.numpy.save(dict(arrays)))
    return path


class Bright:
    """Answers by the brightness of the first pixel; 255 has features that are no numbers."""

    def infer(self, images: NDArray[np.uint8], /) -> TopOne:
        levels = images[:, 0, 0]
        probabilities, features = given_for(levels / 255)
        features[levels == 255] = np.nan
        return TopOne.of(np.tile([0.0, 0.0, 32.0, 32.0], (len(images), 1)), probabilities, features)

    def close(self) -> None:
        pass


def rows(path: Path | None, method: Method | None, *levels: int) -> list[dict[str, object]]:
    rejection = None if path is None else rejection_of(path, method, classes=2)
    predictor = Predictor(
        model="m",
        engine=Bright(),
        classes=CLASSES,
        decide=partial(decide_class, none_class="clean", none_review_above=0.02),
        image_size=32,
        colour=False,
        white_level=255,
        boxless=True,
        reject=rejection,
    )
    inputs = []
    for level in levels:
        data = io.BytesIO()
        Image.fromarray(np.full((8, 8), level, np.uint8)).save(data, "PNG")
        inputs.append(ImageInput(Path("x"), f"{level}.png", content=data.getvalue()))
    return [json_row(row) for row in answer(inputs, predictor)]


@pytest.mark.parametrize("method", METHODS)
def test_scores_are_the_same_after_storing(known: Known, tmp_path: Path, method: Method) -> None:
    path = write(tmp_path / "m.safetensors", known_arrays(known))
    rejection = rejection_of(path, method, classes=2)
    assert rejection is not None
    shown = seen(np.linspace(0, 1, 7))
    again = [
        rejection.score(*row)
        for row in zip(shown.confidence, shown.scores, shown.features, strict=True)
    ]
    assert again == scores_by(method, known, shown).tolist()
    assert rejection.thresholds.tolist() == known.thresholds[method].tolist()


def test_an_image_between_the_classes_is_unknown_and_keeps_its_class(
    known: Known, tmp_path: Path
) -> None:
    path = write(tmp_path / "m.safetensors", known_arrays(known))
    plain, judged = rows(path, None, 25, 90, 229), rows(path, "nn", 25, 90, 229)
    assert [row["decision"] for row in judged] == ["auto", "unknown", "auto"]
    assert judged[1] == {**plain[1], "decision": "unknown", "reason": "unlike any class"}
    assert [judged[0], judged[2]] == [plain[0], plain[2]]


def test_an_automatic_none_obeys_the_limit_for_killers_with_every_method(
    known: Known, tmp_path: Path
) -> None:
    path = write(tmp_path / "m.safetensors", known_arrays(known))
    levels = tuple(range(0, 250, 5))
    plain = rows(path, None, *levels)
    held = [row["image"] for row in plain if row["reason"] == "killer escape limit"]
    assert held
    for method in METHODS:
        judged = rows(path, method, *levels)
        automatic = {row["image"] for row in judged if row["decision"] == "auto"}
        assert automatic <= {row["image"] for row in plain if row["decision"] == "auto"}
        assert automatic.isdisjoint(held)


def test_features_that_are_no_numbers_stop_the_run(known: Known, tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", known_arrays(known))
    with pytest.raises(WeightsError, match=r"no usable features for '255\.png'"):
        rows(path, "nn", 25, 255)
    assert rows(None, None, 255)[0]["class"] == "spot"


def test_what_is_missing_or_damaged_is_refused(known: Known, tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", {"weight": np.zeros(3)})
    assert rejection_of(path, None, classes=2) is None
    with pytest.raises(WeightsError, match=r"keeps nothing to tell .*--reject nn"):
        rejection_of(path, "nn", classes=2)
    with pytest.raises(WeightsError, match="cannot be read"):
        rejection_of(tmp_path / "gone", "nn", classes=2)
    arrays = dict(known_arrays(known))
    for damaged in (
        {"known.labels": np.zeros(3, np.int64)},
        {"known.thresholds.nn": np.zeros(5)},
        {"known.scores": np.zeros((79, 3), np.float32)},
    ):
        write(path, {**arrays, **damaged})
        with pytest.raises(WeightsError, match="damaged; train it again"):
            rejection_of(path, "nn", classes=2)


def test_what_a_command_names_comes_before_what_the_model_says() -> None:
    assert reject_method(None, None) is None
    assert reject_method(None, "nn") == "nn"
    assert reject_method("none", "nn") is None
    assert reject_method("softmax", "nn") == "softmax"
    with pytest.raises(WeightsError, match="--reject must be one of none, softmax"):
        reject_method("knn", None)
