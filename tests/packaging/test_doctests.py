"""The examples in docstrings run.

By module name, because `--doctest-modules` imports files as `datasets` and shadows another package.
"""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ["classifier", "datasets", "detector", "evaluation", "experiments", "inference"]
ROOMS += ["labelling", "service", "weights"]


def modules_with_examples() -> list[str]:
    files = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
    return [
        ".".join(("wafer", *path.relative_to(ROOT).with_suffix("").parts))
        for path in files
        if ">>>" in path.read_text(encoding="utf-8")
    ]


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_run(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name))
    assert results.attempted > 0
    assert results.failed == 0
