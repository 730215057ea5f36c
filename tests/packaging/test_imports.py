"""Rooms import in one direction, and heavy libraries stay out of the way of `wafer --help`."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Each room may import itself and the rooms that stand before it.
ORDER = [
    ("datasets",),
    ("weights", "evaluation"),
    ("inference",),
    ("detector", "classifier"),
    ("experiments", "labelling", "service"),
    ("cli",),
]
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        rooms |= {name.split(".")[1] for name in names if name.startswith("wafer.")}
    return rooms


def python_files() -> list[Path]:
    return [ROOT / "cli.py", *(p for room in LEVEL for p in sorted((ROOT / room).rglob("*.py")))]


@pytest.mark.parametrize("path", python_files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_only_its_own_room_and_lower_ones(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    upward = {r for r in imported_rooms(path) if r != room and LEVEL[r] >= LEVEL[room]}
    assert upward == set()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "module"),
    [
        ("ultralytics", "detector/ultralytics_adapter.py"),
        ("openvino", "inference/engines/open_vino.py"),
        ("nncf", "inference/engines/quantising.py"),
        ("roboflow", "labelling/exchange/roboflow/sdk.py"),
    ],
)
def test_one_module_imports_a_package_that_has_to_be_fenced_in(package: str, module: str) -> None:
    def imports_it(path: Path) -> bool:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        return any(
            (isinstance(n, ast.Import) and any(a.name.startswith(package) for a in n.names))
            or (isinstance(n, ast.ImportFrom) and (n.module or "").startswith(package))
            for n in ast.walk(tree)
        )

    assert [str(p.relative_to(ROOT)) for p in python_files() if imports_it(p)] == [module]


@pytest.mark.slow
@pytest.mark.parametrize("room", sorted(LEVEL))
def test_importing_a_room_loads_no_heavy_library(room: str) -> None:
    code = (
        f"import sys, wafer.{room}\n"
        "heavy = 'torch torchvision ultralytics cv2 matplotlib sklearn pandas'.split()\n"
        "heavy += ['onnx', 'onnxruntime', 'openvino', 'polars']\n"
        "print(sorted(set(heavy) & set(sys.modules)))"
    )
    out = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[]"
