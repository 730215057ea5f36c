"""The flat layout: what pyproject lists is what is there, and nothing shadows other packages."""

import importlib.util
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ROOMS = [
    "classifier",
    "datasets",
    "detector",
    "evaluation",
    "experiments",
    "inference",
    "labelling",
    "service",
    "weights",
]


def test_the_listed_packages_are_the_folders_with_an_init() -> None:
    found = {
        ".".join(("wafer", *init.parent.relative_to(ROOT).parts))
        for room in ROOMS
        for init in (ROOT / room).rglob("__init__.py")
    }
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == found | {"wafer"}


def test_every_folder_with_python_files_is_a_package() -> None:
    folders = {path.parent for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_the_only_module_at_the_root_is_the_command_line() -> None:
    assert [path.name for path in ROOT.glob("*.py")] == ["cli.py"]


def test_rooms_are_typed_and_linked_for_static_tools() -> None:
    for room in ROOMS:
        assert (ROOT / room / "py.typed").is_file(), room
        assert (ROOT / ".typing" / "wafer" / room).resolve() == ROOT / room


@pytest.mark.parametrize("name", ["datasets", "detector", "weights", "evaluation", "cli"])
def test_no_room_is_importable_under_its_bare_name(name: str) -> None:
    spec = importlib.util.find_spec(name)
    assert spec is None or ROOT not in Path(str(spec.origin)).parents


def test_both_distributions_of_opencv_are_of_one_version() -> None:
    assert version("opencv-python") == version("opencv-python-headless")


@pytest.mark.parametrize(
    "package",
    [
        "ultralytics",
        "torch",
        "opencv-python",
        "roboflow",
        "numpy",
        "pandas",
        "pycocotools",
        "scikit-image",
        "timm",
        "typer",
    ],
)
def test_the_packages_of_the_product_are_plain_dependencies(package: str) -> None:
    requirements = PROJECT["project"]["dependencies"]
    assert [line for line in requirements if line.split(">=")[0] == package]


def test_ultralytics_has_an_upper_bound() -> None:
    (line,) = (r for r in PROJECT["project"]["dependencies"] if r.startswith("ultralytics"))
    assert "<" in line


def test_the_changelog_starts_with_the_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings[0] == "## [Unreleased]"
    assert PROJECT["project"]["version"] == version("wafer-defects")
