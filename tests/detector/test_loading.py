"""Which model a command uses: the one that is named, the newest run's, the shipped one."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from wafer.datasets.classes import ClassTable, DefectClass, paper_classes
from wafer.datasets.errors import WeightsError
from wafer.datasets.runs import MODEL_FILE, open_run
from wafer.datasets.workspace import Workspace
from wafer.detector.architecture import build_model
from wafer.detector.loading import choose_model, load_detector
from wafer.detector.shipped_bundle import shipped_bundle
from wafer.inference.deciding import decision_of
from wafer.weights.checkpoint import read_checkpoint, save_checkpoint
from wafer.weights.decision_rule import DecisionRule
from wafer.weights.manifest import shipped

OTHER = ClassTable((DefectClass(1, "spot"), DefectClass(0, "clean", "none")))


def workspace(root: Path, classes: ClassTable) -> Workspace:
    return Workspace(root=root, images=root, classes=classes)


def save(path: Path, classes: ClassTable = OTHER) -> Path:
    model = build_model("yolov5n", names=classes.detector_names, channels=1)
    save_checkpoint(
        path,
        model.state_dict(),
        architecture="yolov5n",
        classes=classes,
        image_size=64,
        channels=1,
        decision=DecisionRule(platt=(1.0, 0.0), none_review_above=0.4),
    )
    return path


def finished_run(runs: Path, number: int) -> Path:
    run, _ = open_run(runs, model="yolov5n", arguments={"n": number}, dataset_hash="0" * 64)
    save(run.folder / MODEL_FILE)
    run.update(status="finished")
    return run.folder


def test_a_named_file_or_run_folder_comes_first(tmp_path: Path) -> None:
    place = workspace(tmp_path, OTHER)
    run = finished_run(place.runs, 1)
    named = save(tmp_path / "named.safetensors")
    assert choose_model(place, weights=named) == named
    assert choose_model(None, weights=run) == run / MODEL_FILE


def test_else_the_newest_finished_run(tmp_path: Path) -> None:
    place = workspace(tmp_path, OTHER)
    finished_run(place.runs, 1)
    newest = finished_run(place.runs, 2)
    open_run(place.runs, model="yolov5n", arguments={"n": 3}, dataset_hash="0" * 64)
    assert choose_model(place, weights=None) == newest / MODEL_FILE


def test_else_the_shipped_model_where_its_classes_are_those_of_the_workspace(
    tmp_path: Path,
) -> None:
    path = shipped("yolov5n")
    assert path is not None
    assert choose_model(None, weights=None) == path
    assert choose_model(workspace(tmp_path, paper_classes()), weights=None) == path
    with pytest.raises(WeightsError, match="run `wafer train`"):
        choose_model(workspace(tmp_path, OTHER), weights=None)


def test_the_shipped_model_is_not_for_a_workspace_of_other_kinds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = paper_classes()["deviation"]
    assert whole.kind == "whole_image"
    changed = ClassTable(
        tuple(replace(c, kind="box") if c == whole else c for c in paper_classes())
    )
    with pytest.raises(WeightsError, match="run `wafer train`"):
        choose_model(workspace(tmp_path, changed), weights=None)
    bundle = SimpleNamespace(folder=tmp_path, classes=paper_classes())
    monkeypatch.setattr("wafer.detector.shipped_bundle._sound", lambda place: bundle)
    assert shipped_bundle(paper_classes()) == tmp_path
    assert shipped_bundle(changed) is None


def test_a_damaged_bundle_of_the_shipped_model_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    new = SimpleNamespace(folder=tmp_path / "new", classes=paper_classes())
    places: list[Path] = []

    def made(place: Path, record: object) -> SimpleNamespace:
        places.append(place)
        return new

    monkeypatch.setattr("wafer.detector.shipped_bundle._made", made)
    assert shipped_bundle(None) == new.folder
    (place,) = places
    damaged = place / f"sha256-{'0' * 64}"
    damaged.mkdir(parents=True)
    (damaged / "SHA256SUMS").write_text("cut o")

    assert shipped_bundle(None) == new.folder
    assert len(places) == 2
    assert not place.exists()
    assert "SHA256SUMS" in caplog.text


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"best\.safetensors: no such model"):
        choose_model(None, weights=tmp_path)


def test_the_shipped_model_is_small_and_answers_for_the_paper_s_classes() -> None:
    path = shipped("yolov5n")
    assert path is not None
    assert path.stat().st_size < 6_000_000
    checkpoint = read_checkpoint(path)
    assert checkpoint.classes == paper_classes()
    assert checkpoint.channels == 1
    assert shipped("yolov5x") is None


def test_a_loaded_detector_decides_by_its_own_rule(tmp_path: Path) -> None:
    detector = load_detector(save(tmp_path / "m.safetensors"), device="cpu")
    predictor = detector.predictor
    assert predictor.model == detector.checkpoint.label
    assert (predictor.image_size, predictor.colour) == (64, False)
    box = None
    assert predictor.decide(0.9, "spot", box)[:1] == ("spot",)
    assert predictor.decide(0.2, "spot", box)[0] == "clean"
    assert predictor.decide(0.45, "spot", box)[3] == "review"


def test_without_a_fitted_map_the_best_box_is_always_the_answer() -> None:
    decide = decision_of(OTHER, DecisionRule())
    assert decide(0.01, "spot", None)[0] == "spot"
    assert decide(0.01, "spot", None)[3] == "review"
    assert decide(0.3, "spot", None)[3] == "auto"
