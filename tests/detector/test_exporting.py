"""Bundles of a real network: every engine answers as torch does, and torch is not needed."""

import csv
import json
import logging
import os
import shutil
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from math import ceil, floor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from wafer.cli import app
from wafer.datasets.errors import DataError, WaferError, WeightsError
from wafer.datasets.synthetic.generate import generate_workspace
from wafer.datasets.workspace import Workspace, open_workspace
from wafer.detector import quantising
from wafer.detector.classification import classify_images
from wafer.detector.deployed import DeployedModel
from wafer.detector.exporting import export_model, golden_of
from wafer.detector.features import pooled_features
from wafer.detector.loading import choose_model, load_detector
from wafer.detector.model import all_boxes, top_one
from wafer.detector.prediction import load_letterboxed
from wafer.detector.torch_backend import torch_backend
from wafer.evaluation.records import Prediction
from wafer.inference import classification as at_work
from wafer.inference.bundle import (
    FILES,
    GOLDEN,
    SUMS,
    TOLERANCES,
    WEIGHTS,
    Bundle,
    open_bundle,
    sums_of,
)
from wafer.inference.engines import quantising as engines_quantising
from wafer.inference.engines.backend import Backend
from wafer.inference.engines.choosing import BACKENDS, check_bundle
from wafer.inference.engines.onnx_runtime import ONNX_RUNTIME
from wafer.inference.engines.open_vino import OPEN_VINO
from wafer.inference.golden import Tolerance
from wafer.inference.registry import current_bundle, promote
from wafer.weights.manifest import shipped

SHIPPED = shipped("yolov5n")
assert SHIPPED is not None


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("workspaces") / "w"
    generate_workspace(
        root, images=48, counts="balanced", size=160, difficulty="easy", seed=5, processes=1
    )
    export_model(open_workspace(root), SHIPPED)
    return root


@pytest.fixture(scope="module")
def exported(made: Path) -> Bundle:
    (folder,) = (made / "models").glob("sha256-*")
    return open_bundle(folder)


@pytest.fixture(scope="module")
def pixels(made: Path, exported: Bundle) -> np.ndarray:
    place, size = open_workspace(made), exported.description.image_size
    paths = [place.image_path(sample.image) for sample in place.samples()]
    load = partial(load_letterboxed, image_size=size, colour=False, white_level=65535)
    return np.stack([load(path).image for path in paths])


@pytest.fixture
def workspace(made: Path, exported: Bundle, tmp_path: Path) -> Workspace:
    """A workspace of its own over the same images, with a copy of the bundle."""
    root = tmp_path / "w"
    root.mkdir()
    for name in ("wafer.toml", "classes.yaml", "image_labels.csv"):
        (root / name).write_bytes((made / name).read_bytes())
    for name in ("images", "labels", "truth"):
        (root / name).symlink_to(made / name)
    shutil.copytree(exported.folder, root / "models" / exported.folder.name)
    return open_workspace(root)


@pytest.mark.slow
@pytest.mark.parametrize("backend", [*BACKENDS, torch_backend()], ids=lambda b: b.name)
@pytest.mark.parametrize("batch", [1, 16])
def test_every_engine_answers_as_torch_does(
    exported: Bundle, pixels: np.ndarray, backend: Backend, batch: int
) -> None:
    detector = load_detector(SHIPPED, device="cpu")
    ours = detector.predictor.engine.infer(pixels)
    with closing(backend.open(exported, batch)) as engine:
        theirs = engine.infer(pixels)
    np.testing.assert_array_equal(theirs.classes, ours.classes)
    np.testing.assert_allclose(theirs.scores, ours.scores, atol=1e-5)
    np.testing.assert_allclose(theirs.boxes, ours.boxes, atol=1e-2)
    np.testing.assert_allclose(theirs.features, ours.features, atol=1e-5)
    np.testing.assert_array_equal(ours.features, pooled_features(detector.model, pixels))


@pytest.mark.slow
def test_bf16_is_within_what_its_bundle_says(
    workspace: Workspace, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bundle = export_model(workspace, SHIPPED, precision="bf16")
    assert bundle.description.tolerance == Tolerance(score=0.05, box=4.0)
    try:
        engine = OPEN_VINO.open(bundle, 8)
    except WeightsError as error:
        pytest.skip(str(error))
    golden = bundle.golden()
    with closing(engine):
        assert golden.difference(engine.infer(golden.images), TOLERANCES["bf16"]) is None
        found = engine.infer(pixels).scores
    exact = load_detector(SHIPPED, device="cpu").predictor.engine.infer(pixels).scores
    assert 1e-4 < np.abs(found - exact).max() < 0.05


@pytest.mark.slow
def test_int8_is_exported_promoted_and_classified_with(
    workspace: Workspace,
    exported: Bundle,
    pixels: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    caplog.set_level(logging.INFO)
    bundle = export_model(workspace, SHIPPED, precision="int8")
    about = bundle.description
    assert about.precision == "int8"
    assert about.tolerance == Tolerance(score=0.05, box=4.0)
    assert about.metrics["int8_agreement"] == 1.0
    assert about.metrics["int8_recall_loss"] == 0.0
    val = [sample for sample in workspace.samples() if sample.split == "val"]
    assert about.metrics["int8_images"] == len(val)
    assert about.versions["export"]["nncf"] == version("nncf")
    sizes = [(b.folder / "model.bin").stat().st_size for b in (bundle, exported)]
    assert sizes[0] < 0.6 * sizes[1]
    assert {p.name for p in bundle.folder.iterdir()} == {*FILES, SUMS}
    golden = bundle.golden()
    assert golden.decided.sum() >= len(golden) // 2

    promote(workspace.models, bundle.digest, check=check_bundle)
    summary = classify_images(
        [str(workspace.images)], workspace=workspace.root, output=tmp_path / "int8.csv"
    )
    assert summary.errors == 0
    assert "engine onnxruntime not used: does not compute in int8" in caplog.messages
    assert [row["model"] for row in rows(tmp_path / "int8.csv")] == [bundle.label] * 48
    answers = []
    for each in (bundle, exported):
        with closing(OPEN_VINO.open(each, 16)) as engine:
            answers.append(engine.infer(pixels))
    int8, f32 = answers
    clear = f32.scores.max(axis=1) > 0.5
    assert clear.sum() > 24
    np.testing.assert_array_equal(int8.classes[clear], f32.classes[clear])
    assert 0.005 < np.abs(int8.scores - f32.scores).max() < 0.3
    with pytest.raises(WeightsError, match="does not compute in int8"):
        classify_images(["a"], weights=bundle.folder, output=tmp_path / "n.csv", engine="torch")


@pytest.mark.slow
def test_an_int8_network_that_answers_otherwise_is_refused_and_nothing_stays(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answers(network: Path, truth: dict[str, str], **_: object) -> list[Prediction]:
        right = list(truth.values())
        if not network.parent.name.startswith(".export-"):
            right[right.index("BEOL")] = "scratch"
        return [Prediction("x.png", None, name, 0.9, "auto") for name in right]

    monkeypatch.setattr(quantising, "quantise", lambda *_, **__: None)
    monkeypatch.setattr(quantising, "_answers", answers)
    before = sorted(workspace.models.rglob("*"))
    with pytest.raises(WeightsError) as caught:
        export_model(workspace, SHIPPED, precision="int8")
    said = str(caught.value).splitlines()
    assert said[0].startswith("the int8 network is refused")
    assert [line.split()[0] for line in said[2:-1] if line.endswith("*")] == ["BEOL", "all"]
    assert "--precision bf16 or f32" in said[-1]
    assert [p for p in sorted(workspace.models.rglob("*")) if p.name != ".lock"] == before


@pytest.mark.slow
def test_without_nncf_the_extra_to_install_is_named(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines_quantising, "DISTRIBUTION", "no-such-package")
    arguments = ["export", str(SHIPPED), "--precision", "int8"]
    done = CliRunner().invoke(app, [*arguments, "--workspace", str(workspace.root)])
    assert done.exit_code == 1
    assert done.stderr.splitlines() == [
        "wafer: --precision int8 needs the package nncf; run `pip install 'wafer-defects[int8]'`"
    ]


@pytest.mark.slow
def test_the_same_model_gives_the_same_bundle(
    workspace: Workspace, exported: Bundle, tmp_path: Path
) -> None:
    again = export_model(workspace, SHIPPED)
    assert again.description == exported.description
    ours, theirs = again.golden(), exported.golden()
    for name in ("images", "boxes", "scores", "features"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)
    assert (again.folder / SUMS).read_text() == (exported.folder / SUMS).read_text()
    assert again.digest == exported.digest
    assert again.description.weights_sha256 == load_detector(SHIPPED).checkpoint.digest
    assert again.description.classes == workspace.classes.classes
    assert not any(str(tmp_path).encode() in p.read_bytes() for p in again.folder.iterdir())
    assert load_detector(again.folder / WEIGHTS).checkpoint.classes == workspace.classes


@pytest.mark.slow
def test_a_wrong_golden_answer_is_refused_though_its_digest_is_right(
    workspace: Workspace, exported: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    promote(workspace.models, exported.digest[:8], check=check_bundle)
    golden = exported.golden()
    scores = golden.scores.copy()
    scores[3, 0] += 0.01
    folder = workspace.models / "wrong"
    shutil.copytree(exported.folder, folder)
    (folder / GOLDEN).write_bytes(replace(golden, scores=scores).to_bytes())
    (folder / SUMS).write_bytes(sums_of(folder))
    wrong = folder.rename(workspace.models / f"sha256-{open_bundle(folder).digest}")
    with pytest.raises(WeightsError) as caught:
        promote(workspace.models, wrong.name, check=check_bundle)
    assert "no engine gives the golden answers" in str(caught.value)
    assert "openvino: a score is 0.01 away" in str(caught.value)
    assert "onnxruntime: a score is 0.01 away" in str(caught.value)
    current = current_bundle(workspace.models)
    assert current is not None
    assert current.name == exported.folder.name


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def opened(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


CLASSIFY = """
import sys
from wafer.cli import app
try:
    app(["classify", "images", "--output", "p.csv", *sys.argv[1:]])
except SystemExit as end:
    assert end.code == 0, end.code
heavy = {"torch", "torchvision", "ultralytics", "onnx", "sklearn", "pandas", "matplotlib"}
heavy |= {"openvino_telemetry.backend", "openvino_telemetry.main"}
print("loaded", sorted(heavy & set(sys.modules)))
"""


@pytest.mark.slow
def test_a_promoted_bundle_classifies_without_torch(
    workspace: Workspace, exported: Bundle, tmp_path: Path
) -> None:
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}

    def wafer(*arguments: str) -> list[dict[str, str]]:
        out = subprocess.run(
            [sys.executable, "-P", "-c", CLASSIFY, *arguments, "--force"],
            cwd=workspace.root,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert out.stdout.splitlines() == ["p.csv", "loaded []"]
        return rows(workspace.root / "p.csv")

    named = wafer("--weights", f"models/{exported.folder.name}", "--engine", "onnxruntime")
    promote(workspace.models, exported.folder.name, check=lambda bundle: None)
    auto = wafer()
    classify_images(
        [str(workspace.images)], weights=SHIPPED, output=tmp_path / "run.csv", device="cpu"
    )
    exact = rows(tmp_path / "run.csv")
    assert len(exact) == len(auto) == 48
    for found in (named, auto):
        for one, other in zip(found, exact, strict=True):
            assert one["model"] == exported.label
            for column in ("image", "class", "class_code", "decision", "reason", "error", "sha256"):
                assert one[column] == other[column]
            for column in ("xmin", "ymin", "xmax", "ymax", "confidence"):
                assert (one[column] == "") == (other[column] == "")
                if one[column]:
                    limit = 1e-3 if column == "confidence" else 0.05
                    assert abs(float(one[column]) - float(other[column])) <= limit


@pytest.mark.slow
def test_all_boxes_of_a_bundle_are_those_of_torch_and_begin_with_the_row(
    workspace: Workspace, exported: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(at_work, "choose_backend", lambda _, backends, **__: backends[-1])
    images = sorted(map(str, workspace.images.iterdir()))[:12]
    found = {}
    for name, weights in (("bundle", exported.folder), ("file", SHIPPED)):
        path = tmp_path / f"{name}.jsonl"
        done = classify_images(
            images,
            weights=weights,
            output=tmp_path / f"{name}.csv",
            device="cpu",
            all_boxes=path,
            min_confidence=0.05,
        )
        assert (done.rows, done.errors) == (12, 0)
        found[name] = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    for ours, theirs in zip(found["bundle"], found["file"], strict=True):
        assert (ours["image"], ours["boxes"]) == (theirs["image"], theirs["boxes"])
    assert max(len(line["boxes"]) for line in found["bundle"]) > 1
    answered = 0
    for row, line in zip(rows(tmp_path / "bundle.csv"), found["bundle"], strict=True):
        scores = [box["confidence"] for box in line["boxes"]]
        assert scores == sorted(scores, reverse=True)
        assert all(score > 0.05 for score in scores)
        if row["xmin"] and float(row["confidence"]) > 0.05:
            answered += 1
            assert line["boxes"][0] == {
                **{name: float(row[name]) for name in ("xmin", "ymin", "xmax", "ymax")},
                "class": row["class"],
                "confidence": float(row["confidence"]),
                "class_code": int(row["class_code"]),
            }
    assert answered > 4
    for engine, options, message in (
        ("openvino", {"all_boxes": tmp_path / "b.json"}, "runs on torch; leave out --engine open"),
        ("auto", {"min_confidence": 0.5}, "goes with --all-boxes FILE"),
        ("auto", {"all_boxes": tmp_path / "b.json", "min_confidence": 1.5}, "between 0 and 1, not"),
        ("auto", {"crops": tmp_path / "c", "explain": tmp_path / "c"}, "one folder for two kinds"),
    ):
        with pytest.raises(WaferError, match=message):
            classify_images(
                [str(workspace.images)],
                weights=exported.folder,
                output=tmp_path / "p.csv",
                engine=engine,
                **options,
            )


@pytest.mark.slow
def test_pictures_are_made_of_what_processes_answer(
    workspace: Workspace, exported: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(at_work, "choose_backend", lambda *_, **__: ONNX_RUNTIME)
    paths = sorted(workspace.images.iterdir())[:2]
    classify_images(
        list(map(str, paths)),
        weights=exported.folder,
        output=tmp_path / "p.csv",
        batch=2,
        save_images=tmp_path / "images",
        crops=tmp_path / "crops",
        explain=tmp_path / "why",
    )
    for folder in ("images", "why"):
        assert sorted(p.name[:7] for p in (tmp_path / folder).iterdir()) == [
            f"00000{number}_" for number in range(1, 3)
        ]
    boxes = {f"{n:06d}": row for n, row in enumerate(rows(tmp_path / "p.csv"), 1) if row["xmin"]}
    crops = {path.name[:6]: path for path in (tmp_path / "crops").rglob("*.png")}
    assert crops.keys() == boxes.keys()
    for number, row in boxes.items():
        corners = [float(row[name]) for name in ("xmin", "ymin", "xmax", "ymax")]
        size = [ceil(corners[2]) - floor(corners[0]), ceil(corners[3]) - floor(corners[1])]
        assert list(reversed(opened(crops[number]).shape)) == size
        assert crops[number].parent.name == row["class"]
    for path in (tmp_path / "why").iterdir():  # heat is colour, and the images are grey
        coloured, copy = (opened(tmp_path / name / path.name) for name in ("why", "images"))
        assert (np.ptp(coloured, axis=2) > 20).sum() > (np.ptp(copy, axis=2) > 20).sum() + 200


@pytest.mark.slow
def test_a_damaged_bundle_is_not_classified_with(
    workspace: Workspace, exported: Bundle, tmp_path: Path
) -> None:
    folder = workspace.models / exported.folder.name
    with (folder / "model.bin").open("r+b") as handle:
        handle.seek(1000)
        handle.write(b"\x00\x01")
    (folder / "model.xml").unlink()
    with pytest.raises(DataError) as caught:
        classify_images([str(workspace.images)], weights=folder, output=tmp_path / "p.csv")
    assert [Path(f.file).name for f in caught.value.faults] == ["model.bin", "model.xml"]
    assert not (tmp_path / "p.csv").exists()
    with pytest.raises(DataError, match=r"model\.xml: missing"):
        choose_model(workspace, weights=folder)


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_an_engine_for_bundles_does_not_run_a_model_file(tmp_path: Path, engine: str) -> None:
    with pytest.raises(WeightsError, match=r"make one with `wafer export`"):
        classify_images(["a.png"], weights=SHIPPED, output=tmp_path / "p.csv", engine=engine)


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 1 << 31),
    images=st.integers(1, 4),
    classes=st.integers(1, 8),
    anchors=st.integers(7, 90),  # ultralytics takes 6 for the output of another kind of head
)
def test_the_best_box_is_what_evaluation_ranks_first(
    seed: int, images: int, classes: int, anchors: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    decoded = torch.rand(images, 4 + classes, anchors, generator=generator)
    decoded[:, :4] = decoded[:, :4] * 63 + 1
    decoded[:, 4:] = decoded[:, 4:] * 0.9 + 0.05  # above the score from which evaluation counts
    found = top_one(decoded)
    for row, kept in enumerate(all_boxes(decoded)):
        flat = decoded[row, 4:].numpy()
        label, anchor = np.unravel_index(flat.argmax(), flat.shape)
        x, y, width, height = decoded[row, :4, anchor].tolist()
        corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        np.testing.assert_allclose(found.boxes[row], corners, atol=1e-4)
        np.testing.assert_allclose(found.boxes[row], kept[0, :4], atol=1e-4)
        assert found.classes[row] == label == kept[0, 5]
        assert found.scores[row].max() == flat.max() == kept[0, 4]
        np.testing.assert_array_equal(found.scores[row], flat.max(axis=1))


class Answers(torch.nn.Module):
    """A network that says for any image what it was told to."""

    def __init__(self, decoded: torch.Tensor) -> None:
        super().__init__()
        self.decoded, self.model = decoded, torch.nn.ModuleList([torch.nn.Identity()])
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.model[-1]([images])
        return self.decoded


def test_an_image_with_two_right_answers_is_not_compared_by_class_and_box() -> None:
    box, far, near = [20.0, 20.0, 8.0, 8.0], [40.0, 20.0, 8.0, 8.0], [20.2, 20.0, 8.0, 8.0]
    rows = [
        ([*box, 0.9, 0.1], [*far, 0.5, 0.1]),  # clear
        ([*box, 0.9, 0.8995], [*far, 0.1, 0.1]),  # two classes
        ([*box, 0.9, 0.1], [*far, 0.8995, 0.1]),  # two places
        ([*box, 0.9, 0.1], [*near, 0.8995, 0.1]),  # two boxes of one place
    ]
    decoded = torch.tensor(rows).permute(0, 2, 1)
    images = np.zeros((4, 32, 32), np.uint8)
    network = DeployedModel(Answers(decoded))  # type: ignore[arg-type]
    golden = golden_of(network, images, TOLERANCES["f32"])
    assert golden.decided.tolist() == [True, True, False, False]
    np.testing.assert_allclose(golden.scores[:, 0], 0.9)
    np.testing.assert_allclose(golden.scores[:, 1], [0.1, 0.1, 0.8995, 0.1])
