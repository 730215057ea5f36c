"""The images a detector is trained or validated on, decoded once and kept at training size."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wafer.datasets.errors import DataError, Fault, ImageError
from wafer.datasets.images import decode_image
from wafer.detector.augmentation import training_transforms, validation_transforms
from wafer.detector.image_weights import IMAGE_STREAM
from wafer.detector.plan import TrainingImage
from wafer.detector.ultralytics_adapter import WORLD_SIZE, YOLODataset
from wafer.inference.pixels import pixel_slots
from wafer.inference.preprocess import resize_long_side

__all__ = ["DetectionDataset"]


class DetectionDataset(YOLODataset):  # type: ignore[misc]
    """A YOLO dataset over records instead of folders of files.

    Nothing is scanned, or written beside the user's images. An item is asked for by
    ``(index, seed)``; the seed alone decides its augmentation, so that any number of loader
    workers, and a training that was killed and resumed, see the same pixels.
    """

    def __init__(
        self,
        images: Sequence[TrainingImage],
        *,
        data: dict[str, Any],
        image_size: int,
        white_level: int,
        hyperparameters: SimpleNamespace,
        training: bool,
        batch_size: int,
        cache: Path,
    ) -> None:
        self.images = images
        self.white_level = white_level
        self.partner_probabilities: NDArray[np.float64] | None = None
        self._channels = int(data["channels"])
        self._size = image_size
        slot = image_size * image_size * self._channels
        self._pixels = pixel_slots(len(images), slot, folder=cache, processes=WORLD_SIZE)
        self._shapes: list[tuple[int, ...]] = [()] * len(images)
        self._originals: list[tuple[int, int]] = [(0, 0)] * len(images)
        self._load_all()
        super().__init__(
            img_path="",
            imgsz=image_size,
            augment=training,
            hyp=hyperparameters,
            batch_size=batch_size,
            data=data,
        )

    def get_img_files(self, img_path: str) -> list[str]:
        """Return the paths of the images."""
        return [str(image.path) for image in self.images]

    def get_labels(self) -> list[dict[str, Any]]:
        """Return the labels as ultralytics wants them: normalised centre, width, height."""
        return [self._label(index, image) for index, image in enumerate(self.images)]

    def _label(self, index: int, image: TrainingImage) -> dict[str, Any]:
        height, width = self._originals[index]
        corners = np.asarray(image.boxes, np.float64).reshape(-1, 4)
        scale = np.array([width, height], np.float64)
        centres = (corners[:, :2] + corners[:, 2:]) / 2 / scale
        sides = (corners[:, 2:] - corners[:, :2]) / scale
        return {
            "im_file": str(image.path),
            "shape": (height, width),
            "cls": np.asarray(image.classes, np.float32).reshape(-1, 1),
            "bboxes": np.hstack([centres, sides]).astype(np.float32),
            "segments": [],
            "keypoints": None,
            "normalized": True,
            "bbox_format": "xywh",
            "whole_image": image.whole_image,
        }

    def load_image(
        self, i: int, rect_mode: bool = True, resize_short: bool = False
    ) -> tuple[NDArray[np.uint8], tuple[int, int], tuple[int, int]]:
        """Return image ``i`` at training size (H, W, C), its original and its present (H, W)."""
        shape = self._shapes[i]
        if self._pixels is None:
            image = self._decode(i)[0]
        else:
            # a copy, because augmentations may write into what they are given
            image = np.array(self._pixels[i, : np.prod(shape)]).reshape(shape)
        return image, self._originals[i], (shape[0], shape[1])

    def build_transforms(self, hyp: SimpleNamespace) -> Any:
        """Return the augmentation for training, or the letterbox for validation."""
        if self.augment:
            return training_transforms(self, image_size=self._size, hyperparameters=hyp)
        return validation_transforms(image_size=self._size)

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]:
        """Return the image ``index``, augmented by the random numbers of its seed."""
        position, seed = index if isinstance(index, tuple) else (index, 0)
        self.random = np.random.default_rng((seed, IMAGE_STREAM))
        item: dict[str, Any] = self.transforms(self.get_image_and_label(position))
        return item

    def _decode(self, index: int) -> tuple[NDArray[np.uint8], tuple[int, int]]:
        image = decode_image(
            self.images[index].path, colour=self._channels == 3, white_level=self.white_level
        )
        if self._channels == 3:
            image = np.ascontiguousarray(image[..., ::-1])  # Format() turns BGR into RGB
        resized = resize_long_side(image, self._size)
        if resized.ndim == 2:
            resized = resized[..., None]
        return resized, (image.shape[0], image.shape[1])

    def _load_all(self) -> None:
        faults: list[Fault] = []

        def load(index: int) -> None:
            try:
                image, original = self._decode(index)
            except ImageError as error:
                faults.append(error.fault())
                return
            self._shapes[index], self._originals[index] = image.shape, original
            if self._pixels is not None:
                self._pixels[index, : image.size] = image.reshape(-1)

        with ThreadPoolExecutor() as pool:
            list(pool.map(load, range(len(self.images))))
        if faults:
            raise DataError(sorted(faults, key=lambda fault: fault.file))
