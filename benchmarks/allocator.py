"""What it gains that a training keeps freed memory, beside glibc as it comes.

    python benchmarks/allocator.py --rounds 3

One process after the other trains a network from random weights on random pixels for a few steps,
by turns with and without `wafer.inference.memory.settle_memory`; all else is the same. A process
counts with its fastest step after the first, a row with the medians over rounds.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

SETTINGS = (
    ("efficientnet_lite0", 224, 32),
    ("efficientnet_b3", 128, 16),
    ("inception_v3", 160, 16),
    ("resnet50", 160, 16),
    ("yolov5n", 192, 16),
    ("yolov5n", 640, 16),
)
CLASSES = 8


def main() -> None:
    """Print a table with a row for each network."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--steps", type=int, default=4, help="after the first, at least one")
    options.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.one:
        name, side, batch, kept = given.one
        _say(json.dumps(_measured(name, int(side), int(batch), kept == "kept", given.steps)))
        return
    _say("| network | pixels | batch | img/s, glibc | memory kept | ratio | GB, glibc | kept |")
    _say("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, side, batch in SETTINGS:
        found: dict[str, list[tuple[float, float]]] = {"plain": [], "kept": []}
        for _ in range(given.rounds):
            for way, measured in found.items():
                measured.append(_in_a_process(name, side, batch, way, given.steps))
        (slow, less), (fast, more) = (_medians(measured) for measured in found.values())
        ratio = statistics.median(
            k[0] / p[0] for p, k in zip(found["plain"], found["kept"], strict=True)
        )
        row = f"| {name} | {side} | {batch} | {slow:.1f} | {fast:.1f} | {ratio:.2f} |"
        _say(f"{row} {less:.1f} | {more:.1f} |")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _medians(measured: list[tuple[float, float]]) -> tuple[float, float]:
    rates, sizes = zip(*measured, strict=True)
    return statistics.median(rates), statistics.median(sizes)


def _in_a_process(name: str, side: int, batch: int, way: str, steps: int) -> tuple[float, float]:
    one = ["--steps", str(steps), "--one", name, str(side), str(batch), way]
    command = [sys.executable, "-P", __file__, *one]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rate, size = json.loads(done.stdout.splitlines()[-1])
    return rate, size


def _measured(name: str, side: int, batch: int, kept: bool, steps: int) -> tuple[float, float]:
    """Return images a second, and the gigabytes that this process took at most."""
    from wafer.inference import memory

    if not kept:
        memory.settle_memory = lambda: None  # before a room that trains is imported
    import torch

    from wafer.inference.precision import use_cores

    model, pixels = _model(name, side, batch)
    use_cores()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    times = []
    for _ in range(1 + steps):
        start = time.perf_counter()
        loss = sum(each.square().mean() for each in _outputs(model.train()(pixels)))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        times.append(time.perf_counter() - start)
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return batch / min(times[1:]), size


def _model(name: str, side: int, batch: int) -> tuple[Any, Any]:
    import torch

    torch.manual_seed(0)
    if name.startswith("yolo"):
        from wafer.detector.architecture import build_model

        names = [str(number) for number in range(CLASSES)]
        model: Any = build_model(name, names=names, channels=1)
        return model, torch.rand(batch, 1, side, side)
    from wafer.classifier.cnn import TorchClassifier
    from wafer.classifier.models import model_named

    module: Any = model_named(name)
    backbone = module.build(classes=CLASSES)
    pixels = torch.randint(256, (batch, side, side), dtype=torch.uint8)
    return TorchClassifier(backbone).to(memory_format=torch.channels_last), pixels


def _outputs(found: Any) -> list[Any]:
    """Return the tensors of an output, however it nests them."""
    if isinstance(found, dict):
        found = list(found.values())
    if isinstance(found, (list, tuple)):
        return [tensor for each in found for tensor in _outputs(each)]
    return [found]


if __name__ == "__main__":
    main()
