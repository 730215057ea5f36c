"""Which library decodes grey images fastest, and whether all give the same pixels.

    python benchmarks/decoders.py --images 60 --rounds 5

Synthetic images of 680 px as grey 8-bit JPEG (quality 90) and PNG, from memory, on one thread. All
decoders take every image in turn; a time is the median over images and rounds of processor time.
`wafer` is `decode_bytes`, that is a decoder with all that makes it strict. `difference` is the
largest of a pixel to Pillow's; `half a file` says what a decoder does with the first half of one,
`a hole` with one in whose middle 4,096 bytes are zero.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import cv2  # noqa: TID253
import numpy as np
import simplejpeg
import torch  # noqa: TID253
from numpy.typing import NDArray
from PIL import Image
from torchvision.io import ImageReadMode, decode_image  # noqa: TID253

from wafer.datasets.errors import ImageError
from wafer.datasets.images import decode_bytes
from wafer.datasets.synthetic.generate import generate_workspace

Pixels = NDArray[np.uint8]
Decode = Callable[[bytes], Pixels]

SIDE = 680
JPEG_QUALITY = 90
REFERENCE = "Pillow"


def main() -> None:
    """Print a table for each format."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--images", type=int, default=60)
    options.add_argument("--rounds", type=int, default=5)
    given = options.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    for name, files in _files(given.images).items():
        size = statistics.mean(len(data) for data in files) / 1000
        sys.stdout.write(f"\n{name}, {len(files)} images of {size:.0f} kB\n\n")
        _race(_decoders(name), files, given.rounds)


def _files(images: int) -> dict[str, list[bytes]]:
    """Return the content of the image files of each format."""
    found: dict[str, list[bytes]] = {"JPEG": [], "PNG": []}
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder, "synth")
        generate_workspace(workspace, images=images, size=SIDE, processes=os.cpu_count() or 1)
        for path in sorted((workspace / "images").iterdir()):
            with Image.open(path) as image:
                grey = image.convert("L")
            for name, files in found.items():
                encoded = io.BytesIO()
                grey.save(encoded, format=name, quality=JPEG_QUALITY)  # PNG has none
                files.append(encoded.getvalue())
    return found


def _decoders(name: str) -> dict[str, Decode]:
    """Return the decoders of a format by name; the first is the reference."""
    decoders: dict[str, Decode] = {
        REFERENCE: lambda data: np.asarray(Image.open(io.BytesIO(data))),
        "cv2": lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE),
        "torchvision": lambda data: decode_image(
            torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.GRAY
        )[0].numpy(),
        "wafer": lambda data: decode_bytes(data, "image", colour=False, white_level=255),
    }
    if name == "JPEG":
        decoders["simplejpeg"] = lambda data: simplejpeg.decode_jpeg(data, "GRAY")[:, :, 0]
    return decoders


def _race(decoders: dict[str, Decode], files: Sequence[bytes], rounds: int) -> None:
    times: dict[str, list[float]] = {name: [] for name in decoders}
    apart = dict.fromkeys(decoders, 0)
    for _ in range(rounds):
        for data in files:
            found = {name: _timed(decode, data, times[name]) for name, decode in decoders.items()}
            for name, pixels in found.items():
                difference = np.abs(pixels.astype(int) - found[REFERENCE])
                apart[name] = max(apart[name], int(difference.max()))
    sys.stdout.write("| decoder | version | ms an image | difference | half a file | a hole |\n")
    sys.stdout.write("| --- | --- | --- | --- | --- | --- |\n")
    whole, middle = files[0], len(files[0]) // 2
    damaged = whole[:middle], whole[:middle] + bytes(4096) + whole[middle + 4096 :]
    for name in sorted(times, key=lambda name: statistics.median(times[name])):
        milliseconds = 1000 * statistics.median(times[name])
        fate = ["refused" if _refuses(decoders[name], data) else "decoded" for data in damaged]
        cells = [name, _version(name), f"{milliseconds:.2f}", str(apart[name]), *fate]
        sys.stdout.write(f"| {' | '.join(cells)} |\n")


def _refuses(decode: Decode, data: bytes) -> bool:
    try:
        return decode(data) is None  # as cv2 says it
    except (OSError, RuntimeError, ValueError, ImageError):
        return True


def _timed(decode: Decode, data: bytes, times: list[float]) -> Pixels:
    start = time.thread_time()
    pixels = decode(data)
    times.append(time.thread_time() - start)
    return pixels


def _version(name: str) -> str:
    try:
        return version({"cv2": "opencv-python-headless", "wafer": "wafer-defects"}.get(name, name))
    except PackageNotFoundError:
        return "?"


if __name__ == "__main__":
    main()
