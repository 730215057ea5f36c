"""What the images of a workspace look like: features of the shipped detector, and hashes."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wafer.datasets.duplicates import perceptual_hash
from wafer.datasets.errors import ImageError, WeightsError
from wafer.datasets.files import atomic_file
from wafer.datasets.images import decode_image
from wafer.datasets.workspace import Workspace
from wafer.detector.features import pooled_features
from wafer.detector.loading import Detector, load_detector
from wafer.inference.preprocess import letterbox
from wafer.weights.manifest import shipped

__all__ = ["Looks", "look_at"]

ARCHITECTURE = "yolov5n"
BATCH = 32
# So many images are looked at again at most after a kill: half a minute on two cores.
SAVE_EVERY = 2048

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Looks:
    """What some images look like.

    ``features`` has a row for each of ``images``, float32, shape (N, features); ``hashes`` their
    perceptual hashes, bool, shape (N, 256). ``unreadable`` are the images that cannot be decoded,
    which are not among ``images``.
    """

    images: tuple[str, ...]
    features: NDArray[np.float32]
    hashes: NDArray[np.bool_]
    unreadable: tuple[ImageError, ...]


@dataclass(frozen=True, slots=True)
class _Look:
    """Features in half precision, and a hash packed into bytes."""

    features: NDArray[np.float16]
    hash: NDArray[np.uint8]


def look_at(
    workspace: Workspace,
    images: Sequence[str],
    *,
    device: str = "auto",
    progress: Callable[[int, int | None], None] | None = None,
) -> Looks:
    """Run the shipped detector over images; what was seen is kept in the workspace's cache.

    Args:
        workspace: where the images are.
        images: their names.
        device: ``auto``, ``cpu`` or ``cuda:N``.
        progress: called with the images done and their number.

    Raises:
        WeightsError: the shipped detector is missing or altered.
    """
    path = shipped(ARCHITECTURE)
    if path is None:
        raise WeightsError(f"no {ARCHITECTURE} is part of this installation; install it again")
    detector = load_detector(path, device=device)
    label = f"{detector.checkpoint.label}-{workspace.white_level}"
    memory = _Memory(workspace.cache / "looks" / f"{label}.npz")
    digests, unreadable = _digests(workspace, images)
    waiting = [image for image in digests if digests[image] not in memory.looks]
    done = len(images) - len(waiting)
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(waiting), BATCH):
            batch = waiting[start : start + BATCH]
            pixels = list(pool.map(lambda image: _decoded(workspace, image), batch))
            good = {i: p for i, p in zip(batch, pixels, strict=True) if isinstance(p, np.ndarray)}
            unreadable += [p for p in pixels if isinstance(p, ImageError)]
            memory.add({digests[i]: look for i, look in _looks(detector, good).items()})
            done += len(batch)
            if progress is not None:
                progress(done, len(images))
    memory.save()
    return _gathered(digests, memory.looks, unreadable)


def _digests(
    workspace: Workspace, images: Sequence[str]
) -> tuple[dict[str, str], list[ImageError]]:
    cache = workspace.image_cache()
    digests: dict[str, str] = {}
    unreadable: list[ImageError] = []
    for image in images:
        try:
            digests[image] = cache.sha256(image)
        except OSError as error:
            reason = f"cannot be read ({error.strerror or error})"
            unreadable.append(ImageError(workspace.image_path(image), reason))
    cache.save()
    return digests, unreadable


def _decoded(workspace: Workspace, image: str) -> Pixels | ImageError:
    try:
        return decode_image(workspace.image_path(image), white_level=workspace.white_level)
    except ImageError as error:
        return error


def _looks(detector: Detector, pixels: Mapping[str, Pixels]) -> dict[str, _Look]:
    if not pixels:
        return {}
    size = detector.checkpoint.image_size
    seen = pooled_features(
        detector.model, np.stack([letterbox(each, size).image for each in pixels.values()])
    ).astype(np.float16)
    return {
        image: _Look(features, np.packbits(perceptual_hash(each)))
        for (image, each), features in zip(pixels.items(), seen, strict=True)
    }


def _gathered(
    digests: Mapping[str, str], looks: Mapping[str, _Look], unreadable: Sequence[ImageError]
) -> Looks:
    seen = {image: looks[digest] for image, digest in digests.items() if digest in looks}
    features = [look.features for look in seen.values()]
    hashes = [np.unpackbits(look.hash).astype(np.bool_) for look in seen.values()]
    return Looks(
        images=tuple(seen),
        features=np.array(features, np.float32).reshape(len(seen), -1),
        hashes=np.array(hashes, np.bool_).reshape(len(seen), -1),
        unreadable=tuple(unreadable),
    )


class _Memory:
    """Looks by the digest of the image, kept in a file that may be deleted at any time."""

    def __init__(self, path: Path) -> None:
        self.looks = _read(path)
        self._path = path
        self._unsaved = 0

    def add(self, looks: Mapping[str, _Look]) -> None:
        self.looks.update(looks)
        self._unsaved += len(looks)
        if self._unsaved >= SAVE_EVERY:
            self.save()

    def save(self) -> None:
        """Write what is new; a folder that cannot be written to costs only time."""
        if not self._unsaved:
            return
        digests = [np.frombuffer(bytes.fromhex(digest), np.uint8) for digest in self.looks]
        with suppress(OSError), atomic_file(self._path) as file:
            np.savez(
                file,
                digests=np.array(digests),
                features=np.array([look.features for look in self.looks.values()]),
                hashes=np.array([look.hash for look in self.looks.values()]),
            )
        self._unsaved = 0


def _read(path: Path) -> dict[str, _Look]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            digests, features = arrays["digests"], arrays["features"]
            hashes = arrays["hashes"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return {}
    if not len(digests) == len(features) == len(hashes):
        return {}
    return {
        digest.tobytes().hex(): _Look(row, packed)
        for digest, row, packed in zip(digests, features, hashes, strict=True)
    }
