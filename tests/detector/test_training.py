"""Training end to end on a few tiny synthetic images: real runs, a real SIGKILL, no network."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from wafer.datasets.classes import ClassTable, DefectClass
from wafer.datasets.errors import DataError, TrainingError, WeightsError
from wafer.datasets.records import Box, Sample
from wafer.datasets.runs import MODEL_FILE, Run
from wafer.datasets.synthetic.generate import generate_workspace
from wafer.datasets.workspace import Workspace, open_workspace
from wafer.detector.architecture import build_model, start_from
from wafer.detector.draws import read_draws
from wafer.detector.finishing import fit_decision
from wafer.detector.knowing import METHODS
from wafer.detector.prediction import Scored
from wafer.detector.trainer import WaferTrainer
from wafer.detector.training import prepare_training, train_detector
from wafer.evaluation.calibration import PlattMap
from wafer.inference.bundle import WEIGHTS, open_bundle
from wafer.inference.deciding import decision_of
from wafer.inference.records import Decide
from wafer.inference.rejecting import network_tensors, rejection_of
from wafer.weights.checkpoint import read_checkpoint
from wafer.weights.decision_rule import DecisionRule
from wafer.weights.manifest import shipped

SMALL = {"epochs": 2, "batch": 64, "imgsz": 64}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("workspaces") / "w"
    generate_workspace(
        root, images=64, counts="balanced", size=96, difficulty="easy", seed=3, processes=1
    )
    return root


@pytest.fixture
def workspace(made: Path, tmp_path: Path) -> Workspace:
    """A workspace of its own, over the same images."""
    for name in ("wafer.toml", "classes.yaml", "image_labels.csv"):
        (tmp_path / name).write_bytes((made / name).read_bytes())
    for name in ("images", "labels", "truth"):
        (tmp_path / name).symlink_to(made / name)
    return open_workspace(tmp_path)


def tensors_of(run: Path) -> dict[str, torch.Tensor]:
    return network_tensors(read_checkpoint(run / "weights" / "best.safetensors").tensors)


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.slow
def test_a_run_leaves_a_model_its_record_and_nothing_half_done(workspace: Workspace) -> None:
    trained = train_detector(workspace, **SMALL)
    assert trained.folder == workspace.runs / "yolov5n-001"
    assert (workspace.runs / "latest").resolve() == trained.folder
    record = json.loads((trained.folder / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["arguments"]["seed"] == 0
    assert record["arguments"]["epochs"] == 2
    assert record["metrics"].keys() == {"map50", "map50_95"}
    assert len(record["dataset_hash"]) == 64
    checkpoint = read_checkpoint(trained.folder / "weights" / "best.safetensors")
    assert checkpoint.architecture == "yolov5n"
    assert checkpoint.classes == workspace.classes
    assert (checkpoint.image_size, checkpoint.channels) == (64, 1)
    assert checkpoint.decision.platt is not None
    with (trained.folder / "results.csv").open() as handle:
        assert [row["epoch"] for row in csv.DictReader(handle)] == ["1", "2"]
    assert sorted(p.name for p in (trained.folder / "weights").iterdir()) == [
        "best.pt",
        "best.safetensors",
        "last.pt",
    ]


WITHOUT_TORCH = """
import sys
from wafer.cli import app
try:
    app(["classify", "images", "--output", "p.csv", "--device", "cpu", *sys.argv[1:]])
except SystemExit as end:
    assert end.code == 0, end.code
print({"torch", "torchvision", "ultralytics", "pandas", "matplotlib"} & set(sys.modules))
"""


@pytest.mark.slow
def test_a_training_ends_with_a_bundle_that_classifies_without_torch(workspace: Workspace) -> None:
    trained = train_detector(workspace, **{**SMALL, "epochs": 1})
    folder = Run(trained.folder).bundle
    assert folder is not None
    bundle = open_bundle(folder)
    assert folder.resolve().parent == workspace.models
    assert bundle.description.metrics == trained.metrics
    assert bundle.description.precision == "f32"
    for named in ([], ["--weights", str(trained.folder), "--force", "--reject", "nn"]):
        out = subprocess.run(
            [sys.executable, "-P", "-c", WITHOUT_TORCH, *named],
            cwd=workspace.root,
            env={**os.environ, "XDG_CACHE_HOME": str(workspace.root / "cache")},
            capture_output=True,
            text=True,
            check=True,
        )
        assert out.stdout.splitlines() == ["p.csv", "set()"]
        with (workspace.root / "p.csv").open() as handle:
            assert {row["model"] for row in csv.DictReader(handle)} == {bundle.label}
    classes = len(workspace.classes)
    for method in METHODS:
        rejection = rejection_of(bundle.folder / WEIGHTS, method, classes=classes)
        assert rejection is not None
        assert rejection.thresholds.shape == (classes,)
    with pytest.raises(WeightsError, match="a detector offers all but openmax"):
        bundle.rejection("openmax")
    start = build_model("yolov5n", names=workspace.classes.detector_names, channels=1)
    assert start_from(start, trained.folder / MODEL_FILE).skipped == {}
    shutil.rmtree(folder)  # then the model of the run is what there is
    assert Run(trained.folder).bundle is None


@pytest.mark.slow
def test_a_training_elsewhere_makes_no_bundle_but_a_whole_model(
    workspace: Workspace, tmp_path: Path
) -> None:
    trained = train_detector(workspace, runs=tmp_path / "trials", **{**SMALL, "epochs": 1})
    assert Run(trained.folder).finished
    assert Run(trained.folder).bundle is None
    assert not workspace.models.exists()
    rejection = rejection_of(trained.folder / MODEL_FILE, "nn", classes=len(workspace.classes))
    assert rejection is not None
    assert rejection.thresholds.shape == (len(workspace.classes),)


@pytest.mark.slow
def test_the_same_command_trains_the_same_network(workspace: Workspace) -> None:
    first = train_detector(workspace, img_weights=True, **SMALL)
    second = train_detector(workspace, img_weights=True, **SMALL)
    assert first.folder != second.folder
    assert not second.resumed
    assert_same(tensors_of(first.folder), tensors_of(second.folder))


@pytest.mark.slow
def test_ultralytics_opens_the_model_and_it_carries_no_path(workspace: Workspace) -> None:
    trained = train_detector(workspace, **{**SMALL, "epochs": 1})
    path = trained.folder / "weights" / "best.pt"
    assert str(workspace.root).encode() not in path.read_bytes()
    code = (
        f"import sys; from ultralytics import YOLO; print(list(YOLO({str(path)!r}).names.values()))"
    )
    environment = {**os.environ, "YOLO_CONFIG_DIR": str(workspace.root / "c"), "YOLO_OFFLINE": "1"}
    out = subprocess.run(
        [sys.executable, "-P", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert str(list(workspace.classes.detector_names)) in out.stdout


def train_command(workspace: Workspace, *, epochs: int) -> list[str]:
    return [
        str(Path(sys.executable).with_name("wafer")),
        *("train", "--workspace", str(workspace.root), "--epochs", str(epochs)),
        *("--batch", "16", "--imgsz", "64", "--img-weights"),
    ]


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    for _ in range(1200):
        if path.exists():
            return
        assert process.poll() is None, "the training ended before it could be killed"
        time.sleep(0.05)
    pytest.fail(f"{path} did not appear")


@pytest.mark.slow
def test_a_killed_training_goes_on_and_ends_as_if_nothing_had_happened(
    workspace: Workspace,
) -> None:
    command = train_command(workspace, epochs=4)
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    run = workspace.runs / "yolov5n-001"
    wait_for(run / "weights" / "state.pt", process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert json.loads((run / "run.json").read_text())["status"] == "running"
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(run)
    with (run / "results.csv").open() as handle:
        assert [row["epoch"] for row in csv.DictReader(handle)] == ["1", "2", "3", "4"]
    untouched = train_detector(workspace, img_weights=True, **{**SMALL, "epochs": 4, "batch": 16})
    assert untouched.folder.name == "yolov5n-002"
    assert_same(tensors_of(run), tensors_of(untouched.folder))
    draws = (run / "image_weights.csv").read_text()
    assert draws == (untouched.folder / "image_weights.csv").read_text()
    assert max(row.smoothed or 0 for row in read_draws(run / "image_weights.csv")) > 0


@pytest.mark.slow
def test_what_a_kill_left_of_the_results_is_made_whole_at_the_end(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("wafer.detector.training.finish_run", interrupt)
        train_detector(workspace, **SMALL)
    results = workspace.runs / "yolov5n-001" / "results.csv"
    whole = results.read_text()
    assert [row["epoch"] for row in csv.DictReader(whole.splitlines())] == ["1", "2"]
    results.write_text(whole[:-40])
    trained = train_detector(workspace, **SMALL)
    assert (trained.folder, trained.resumed) == (results.parent, True)
    assert results.read_text() == whole


def interrupt(*arguments: object, **rest: object) -> None:
    raise KeyboardInterrupt


def test_a_run_goes_on_on_another_device_where_it_may(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wafer.detector.training._train", interrupt)
    devices = iter(["cpu", "cuda:1", "cuda:1"])
    monkeypatch.setattr("wafer.detector.training.training_devices", lambda device: next(devices))
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train_detector(workspace, any_device=True, **SMALL)
    (run,) = workspace.runs.glob("yolov5n-*")
    record = Run(run).record
    assert (record["arguments"]["device"], record["device"]) == (None, "cuda:1")
    with pytest.raises(KeyboardInterrupt):
        train_detector(workspace, **SMALL)
    assert Run(workspace.runs / "yolov5n-002").record["arguments"]["device"] == "cuda:1"


def own_labels(workspace: Workspace) -> None:
    """Replace the link to the shared labels by a copy that a test may change."""
    shared = workspace.labels.resolve()
    workspace.labels.unlink()
    shutil.copytree(shared, workspace.labels)


@pytest.mark.slow
def test_other_data_or_arguments_open_a_new_run(workspace: Workspace) -> None:
    command = train_command(workspace, epochs=4)
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    wait_for(workspace.runs / "yolov5n-001" / "weights" / "state.pt", process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    other = train_detector(workspace, img_weights=True, **{**SMALL, "epochs": 1})
    assert other.folder.name == "yolov5n-002"
    sample = next(
        s
        for s in workspace.samples()
        if s.split == "train" and s.annotations and s.image_class != "deviation"
    )
    own_labels(workspace)
    path = workspace.label_path(sample.image)
    fields = path.read_text().split()
    path.write_text(" ".join([*fields[:3], f"{float(fields[3]) * 0.9:.8f}", fields[4]]) + "\n")
    changed = train_detector(workspace, img_weights=True, **{**SMALL, "epochs": 4, "batch": 16})
    assert changed.folder.name == "yolov5n-003"
    assert not changed.resumed


@pytest.mark.slow
def test_frozen_layers_keep_their_weights(workspace: Workspace) -> None:
    trained = train_detector(workspace, freeze=10, **{**SMALL, "epochs": 1})
    start = shipped("yolov5n")
    assert start is not None
    before, after = read_checkpoint(start).tensors, tensors_of(trained.folder)
    names = workspace.classes.detector_names
    assert names == read_checkpoint(start).classes.detector_names
    frozen = {n for n in after if int(n.split(".")[1]) < 10 and not n.endswith("tracked")}
    assert len(frozen) > 100
    assert [n for n in frozen if not torch.equal(before[n].float(), after[n].float())] == []
    weights = [n for n in after if n.startswith("model.13.") and n.endswith("conv.weight")]
    assert not any(torch.equal(before[n].float(), after[n].float()) for n in weights)


FULL_DISK = """
import resource, sys
from pathlib import Path
from wafer.datasets.errors import TrainingError
from wafer.datasets.workspace import open_workspace
from wafer.detector.training import train_detector
def fill(epoch, epochs, batch, batches):
    if epoch == 2:  # no file may grow beyond a megabyte from here on
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
try:
    train_detector(open_workspace(Path(sys.argv[1])), epochs=3, batch=64, imgsz=64, progress=fill)
except TrainingError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_disk_that_fills_leaves_the_checkpoint_before(workspace: Workspace) -> None:
    out = subprocess.run(
        [sys.executable, "-P", "-c", FULL_DISK, str(workspace.root)],
        capture_output=True,
        text=True,
        check=True,
    )
    run = workspace.runs / "yolov5n-001"
    assert out.stdout.strip() == (
        f"{run / 'weights'}: the checkpoint of epoch 2 could not be written (File too large); "
        "that of epoch 1 is kept. Make room and start the same command again"
    )
    state = torch.load(run / "weights" / "state.pt", weights_only=True)
    assert state["epoch"] == 0
    assert not [p for p in (run / "weights").iterdir() if "tmp" in p.name]
    again = train_detector(workspace, **{**SMALL, "epochs": 3})
    assert (again.folder, again.resumed) == (run, True)
    whole = train_detector(workspace, **{**SMALL, "epochs": 3})
    assert_same(tensors_of(run), tensors_of(whole.folder))


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_and_names_epoch_and_checkpoint(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = WaferTrainer.preprocess_batch

    def poisoned(self: WaferTrainer, batch: dict[str, Any]) -> dict[str, Any]:
        batch = sound(self, batch)
        if self.epoch == 1:
            batch["img"] = batch["img"] * float("nan")
        return batch

    monkeypatch.setattr(WaferTrainer, "preprocess_batch", poisoned)
    monkeypatch.setattr(WaferTrainer, "plot_training_samples", lambda self, batch, ni: None)
    run = workspace.runs / "yolov5n-001"
    with pytest.raises(TrainingError) as caught:
        train_detector(workspace, **{**SMALL, "epochs": 3})
    assert "NaN or infinite in epoch 2" in str(caught.value)
    assert f"the state after epoch 1 is in {run / 'weights' / 'state.pt'}" in str(caught.value)
    state = torch.load(run / "weights" / "state.pt", weights_only=True)
    assert all(bool(torch.isfinite(t).all()) for t in state["ema"].values())


@pytest.mark.slow
@pytest.mark.parametrize("epoch", [0, 1])
def test_a_gpu_out_of_memory_is_refused_and_the_batch_is_never_halved(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, epoch: int
) -> None:
    sound = WaferTrainer.preprocess_batch
    images: list[int] = []

    def crowded(self: WaferTrainer, batch: dict[str, Any]) -> dict[str, Any]:
        images.append(len(batch["img"]))
        if len(images) == epoch + 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB")
        return sound(self, batch)

    monkeypatch.setattr(WaferTrainer, "preprocess_batch", crowded)
    monkeypatch.setattr(WaferTrainer, "plot_training_samples", lambda self, batch, ni: None)
    with pytest.raises(TrainingError) as caught:
        train_detector(workspace, **{**SMALL, "batch": 65})
    assert str(caught.value) == (
        "out of memory with --batch 65; give a smaller --batch, or free the GPU and start the "
        "same command again"
    )
    assert len(images) == epoch + 1
    run = workspace.runs / "yolov5n-001"
    assert json.loads((run / "run.json").read_text())["arguments"]["batch"] == 65
    assert (run / "weights" / "state.pt").is_file() == (epoch == 1)


OFFLINE = """
import sys
def forbid(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request"):
        raise SystemExit(f"network used: {event} {arguments[1:]}")
sys.addaudithook(forbid)
from pathlib import Path
from wafer.datasets.workspace import open_workspace
from wafer.detector.training import train_detector
from wafer.detector.evaluating import evaluate_model
w = open_workspace(Path(sys.argv[1]))
train_detector(w, epochs=1, batch=64, imgsz=64)
evaluate_model(w)
print("quiet")
"""


@pytest.mark.slow
def test_training_uses_no_network_and_writes_only_into_the_workspace_and_the_cache(
    workspace: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("home")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    out = subprocess.run(
        [sys.executable, "-P", "-c", OFFLINE, str(workspace.root)],
        capture_output=True,
        text=True,
        cwd=elsewhere,
        env={**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")},
    )
    assert out.stdout.strip().endswith("quiet"), out.stderr
    assert list(elsewhere.iterdir()) == []
    assert {p.name for p in home.iterdir()} <= {".cache"}
    assert [p.name for p in (home / ".cache").iterdir()] == ["wafer"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 0}, "--epochs must be at least 1"),
        ({"batch": 0}, "--batch must be at least 1"),
        ({"imgsz": 100}, "--imgsz must be a multiple of 32"),
        ({"seed": -1}, "--seed must be from 0 to"),
        ({"patience": -1}, "--patience must not be negative"),
        ({"freeze": 25}, "--freeze must be from 0 to 24"),
        ({"max_backgrounds": -1}, "--max-backgrounds must not be negative"),
        ({"img_weights_mode": "inverse"}, "--img-weights-mode must be one of"),
        ({"optimizer": "sgd"}, "--optimizer must be one of"),
        ({"hyperparameters": {"obj": 1.0}}, "no hyperparameter is called obj"),
        ({"hyperparameters": {"lr0": 0.1}}, "the optimizer auto chooses lr0 itself"),
        ({"device": "cuda:99"}, "--device cuda:99 is not to be had here"),
        ({"device": "0,99"}, "is not to be had here"),
        ({"device": "0,0"}, "--device 0,0 names a device twice"),
        ({"model": "yolov6"}, "no detector is called 'yolov6'"),
    ],
)
def test_arguments_out_of_range_are_refused_before_anything_is_made(
    workspace: Workspace, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises((TrainingError, WeightsError), match=message):
        train_detector(workspace, **arguments)
    assert not workspace.runs.exists()


def test_a_batch_is_shared_out_evenly_among_devices(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(TrainingError, match="--batch 33 cannot be shared out evenly among 2"):
        train_detector(workspace, device="0,1", batch=33)


def test_images_that_are_all_backgrounds_teach_nothing(workspace: Workspace) -> None:
    own_labels(workspace)
    for path in workspace.labels.iterdir():
        path.write_text("")
    rewrite_labels(workspace, **{"class": ""})
    with pytest.raises(TrainingError, match="no class has a training box"):
        train_detector(workspace, **SMALL)


def test_all_faulty_arguments_are_named_together(workspace: Workspace) -> None:
    with pytest.raises(TrainingError) as caught:
        train_detector(workspace, epochs=0, batch=0)
    assert "--epochs" in str(caught.value)
    assert "--batch" in str(caught.value)


def rewrite_labels(workspace: Workspace, **changes: str) -> None:
    """Give every row of image_labels.csv the same value in some columns."""
    path = workspace.root / "image_labels.csv"
    with path.open() as handle:
        rows = list(csv.DictReader(handle))
    with path.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, **changes} for row in rows)


def test_without_a_validation_image_nothing_starts(workspace: Workspace) -> None:
    rewrite_labels(workspace, split="train")
    with pytest.raises(TrainingError, match="no labelled image is in the val split"):
        train_detector(workspace, **SMALL)


def test_without_any_training_box_nothing_starts(workspace: Workspace) -> None:
    (workspace.root / "labels").unlink()
    (workspace.root / "labels").mkdir()
    with pytest.raises(TrainingError, match="no class has a training box"):
        train_detector(workspace, **SMALL)


def test_every_damaged_image_is_named(workspace: Workspace) -> None:
    (workspace.root / "images").unlink()
    (workspace.root / "images").mkdir()
    paths = sorted((workspace.truth.resolve().parent / "images").iterdir())
    for path in paths:
        (workspace.root / "images" / path.name).write_bytes(path.read_bytes())
    workspace = open_workspace(workspace.root)  # the folder, no longer the link
    samples = workspace.samples()
    train, val = ([s.image for s in samples if s.split == split] for split in ("train", "val"))
    broken = [*sorted(train[:2]), val[0]]
    for name in broken:
        path = workspace.image_path(name)
        path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError) as caught:
        train_detector(workspace, **SMALL)
    assert [Path(fault.file).name for fault in caught.value.faults] == broken


KILLERS = ClassTable((DefectClass(1, "open", killer=True), DefectClass(0, "clean", "none")))


def decided_by(lowest: float) -> tuple[DecisionRule, Decide]:
    """Return the rule that is fitted where the killer image with the lowest score has this one."""
    scores = {"clean": (0.01, 0.02, 0.03, 0.2), "open": (lowest, 0.9, 0.95)}
    shown = [(name, score) for name, own in scores.items() for score in own]
    samples = [Sample(f"{score}.png", image_class=name) for name, score in shown]
    scored = [
        Scored(
            image=f"{score}.png",
            size=(9, 9),
            box=Box(0, 0, 9, 9),
            class_name="open",
            score=score,
            detections=(),
        )
        for _, score in shown
    ]
    rule = fit_decision(samples, scored, classes=KILLERS)
    return rule, decision_of(KILLERS, rule)


def test_the_killer_limit_leaves_room_for_the_tolerance_of_a_bundle() -> None:
    rule, decide = decided_by(0.05)
    assert rule.platt is not None
    assert rule.none_review_above == PlattMap(*rule.platt).probability(0.049) < 0.5
    assert decide(0.0491, "open", None)[3:] == ("review", "killer escape limit")
    assert decide(0.0489, "open", None)[3:] == ("auto", "")
    _, decide = decided_by(0.0005)  # an engine may give 0 for it
    assert decide(0.0, "open", None)[3:] == ("review", "killer escape limit")


def test_trainings_of_different_seeds_leave_out_the_same_backgrounds_where_they_are_to(
    workspace: Workspace,
) -> None:
    few = {**SMALL, "device": "cpu", "max_backgrounds": 2}
    first = prepare_training(workspace, seed=0, **few)
    assert first.arguments["draw_seed"] == 0
    assert prepare_training(workspace, seed=1, **few).dataset_hash != first.dataset_hash
    again = prepare_training(workspace, seed=1, draw_seed=0, **few)
    assert again.dataset_hash == first.dataset_hash
    assert again.plan.train == first.plan.train


@pytest.mark.slow
def test_at_most_so_many_backgrounds_are_used(workspace: Workspace) -> None:
    trained = train_detector(workspace, max_backgrounds=2, **{**SMALL, "epochs": 1})
    plan = json.loads((trained.folder / "plan.json").read_text())
    assert sum(not image["boxes"] for image in plan["train"]) == 2
    assert any("images without a defect are used" in note for note in trained.notes)
