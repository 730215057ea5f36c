"""How training images are varied: ultralytics' mosaic and affine, with rules for wafer images."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from wafer.detector.image_weights import draw_partners
from wafer.detector.ultralytics_adapter import augment

if TYPE_CHECKING:
    from wafer.detector.dataset import DetectionDataset

__all__ = ["training_transforms", "validation_transforms"]

Labels = dict[str, Any]


def validation_transforms(*, image_size: int) -> Any:
    """Return letterbox and formatting, nothing random."""
    letterbox = augment.LetterBox(new_shape=(image_size, image_size), scaleup=False)
    return augment.Compose([letterbox, _format()])


def training_transforms(
    dataset: DetectionDataset, *, image_size: int, hyperparameters: SimpleNamespace
) -> Any:
    """Return the training augmentation.

    Mosaic, affine, mixup, brightness and flips by the hyperparameters of YOLOv5's names. Images
    of a ``whole_image`` class get brightness and flips alone: a mosaic, rotation, shear, scale,
    translation or perspective would create or erase what they show.
    """
    h = hyperparameters
    mosaic = WeightedMosaic(dataset, imgsz=image_size, p=h.mosaic)
    affine = augment.RandomPerspective(
        degrees=h.degrees,
        translate=h.translate,
        scale=h.scale,
        shear=h.shear,
        perspective=h.perspective,
        size=(image_size, image_size),
    )
    composed = augment.Compose([mosaic, affine])
    mixup = WeightedMixUp(dataset, pre_transform=composed, p=h.mixup)
    letterbox = augment.LetterBox(new_shape=(image_size, image_size), scaleup=True)
    return augment.Compose(
        [
            SeedFromDataset(dataset),
            ByKind(local=augment.Compose([composed, mixup]), whole_image=letterbox),
            Brightness(h.hsv_v),
            augment.RandomHSV(hgain=h.hsv_h, sgain=h.hsv_s, vgain=0.0),
            augment.RandomFlip(direction="vertical", p=h.flipud),
            augment.RandomFlip(direction="horizontal", p=h.fliplr),
            _format(),
        ]
    )


class SeedFromDataset:
    """Seed the global generators that ultralytics' augmentations use, by the item's own seed."""

    def __init__(self, dataset: DetectionDataset) -> None:
        self.dataset = dataset

    def __call__(self, labels: Labels) -> Labels:
        """Return the labels unchanged."""
        random.seed(int(self.dataset.random.integers(1 << 62)))
        np.random.seed(int(self.dataset.random.integers(1 << 32)))
        return labels


class ByKind:
    """Send images of local defects one way and whole-image ones another."""

    def __init__(self, *, local: Any, whole_image: Any) -> None:
        self.local = local
        self.whole_image = whole_image

    def __call__(self, labels: Labels) -> Labels:
        """Return the labels as the fitting transform leaves them."""
        result: Labels = (self.whole_image if labels["whole_image"] else self.local)(labels)
        return result


class Brightness:
    """Scale all grey levels by 1 - gain to 1 + gain; ultralytics does so for colour alone."""

    def __init__(self, gain: float) -> None:
        self.gain = gain

    def __call__(self, labels: Labels) -> Labels:
        """Return the labels with ``img`` (H, W, C) uint8 made brighter or darker."""
        if self.gain:
            factor = 1 + random.uniform(-self.gain, self.gain)
            table = np.clip(np.arange(256) * factor, 0, 255).astype(np.uint8)
            labels["img"] = table[labels["img"]]
        return labels


class WeightedMosaic(augment.Mosaic):  # type: ignore[misc]
    """A mosaic whose partners are drawn from the whole dataset by the image weights."""

    def get_indexes(self) -> list[int]:
        """Return the indices of the three partners."""
        return _partners(self.dataset, self.n - 1)


class WeightedMixUp(augment.MixUp):  # type: ignore[misc]
    """A mixup whose partner is drawn from the whole dataset by the image weights."""

    def get_indexes(self) -> int:
        """Return the index of the partner."""
        return _partners(self.dataset, 1)[0]


def _partners(dataset: DetectionDataset, number: int) -> list[int]:
    cumulative = dataset.partner_probabilities
    assert cumulative is not None, "the loader sets them before the first image"
    return draw_partners(cumulative, number, random=dataset.random)


def _format() -> Any:
    return augment.Format(bbox_format="xywh", normalize=True, batch_idx=True, bgr=0.0)
