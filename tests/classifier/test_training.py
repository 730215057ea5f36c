"""A classifier from training to rows, and what is said where that cannot be."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from wafer.classifier.choosing import classifier_meant
from wafer.classifier.evaluating import evaluate_classifier, measure_answers
from wafer.classifier.images import LabelledImages
from wafer.classifier.knowing import seen
from wafer.classifier.loading import TEMPERATURE, ClassifierEngine, load_classifier
from wafer.classifier.training import fit_decision, train_classifier
from wafer.cli import app
from wafer.datasets.classes import ClassTable, DefectClass
from wafer.datasets.errors import DataError, TrainingError, WaferError, WeightsError
from wafer.datasets.records import Annotation, Box, Sample
from wafer.datasets.runs import MODEL_FILE, TrainedRun
from wafer.datasets.workspace import Workspace, open_workspace
from wafer.evaluation.calibration import Answer
from wafer.evaluation.rejecting import fit_known, rejection_by
from wafer.inference.deciding import class_decision_of
from wafer.inference.occlusion import heat_map
from wafer.inference.preprocess import PADDING, letterbox
from wafer.weights.checkpoint import Checkpoint, read_checkpoint, save_checkpoint


def rewrite_table(workspace: Workspace, *, change: dict[str, str | None]) -> None:
    """Change the split of whole classes (None: no row); keys are CLASS or CLASS/SPLIT."""
    with workspace.table.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    for row in rows:
        for key in (row["class"], f"{row['class']}/{row['split']}"):
            if key in change:
                row["split"] = change[key]
    with workspace.table.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def altered(source: Path, target: Path, **changes: object) -> Path:
    """Write a model file with other tensors, classes or architecture, soundly sealed."""
    found: Checkpoint = replace(read_checkpoint(source), **changes)
    save_checkpoint(
        target,
        found.tensors,
        architecture=found.architecture,
        classes=found.classes,
        image_size=found.image_size,
        channels=found.channels,
        decision=found.decision,
    )
    return target


@pytest.mark.slow
def test_a_run_leaves_a_model_and_its_record(made: Workspace, trained: TrainedRun) -> None:
    assert trained.folder == made.runs / "mlp_hog-001"
    assert sorted(p.name for p in trained.folder.iterdir()) == [
        ".lock",
        "results.csv",
        "run.json",
        "seen.txt",
        "weights",
    ]
    record = json.loads((trained.folder / "run.json").read_text())
    assert (record["status"], record["model"]) == ("finished", "mlp_hog")
    assert record["arguments"] == {
        "model": "mlp_hog",
        "pretrained": None,
        "epochs": 20,
        "batch": 200,
        "learning_rate": 0.005,
        "patience": 10,
        "image_size": 64,
        "sampler": "proportional",
        "cutmix": 0.0,
        "ghost_batch": 0,
        "seed": 0,
        "device": "cpu",
    }
    assert record["metrics"] == trained.metrics
    assert {"torch", "scikit-learn", "timm"} <= record["versions"].keys()
    checkpoint = read_checkpoint(trained.folder / MODEL_FILE)
    assert (checkpoint.architecture, checkpoint.classes) == ("mlp_hog", made.classes)
    assert (checkpoint.image_size, checkpoint.channels) == (64, 1)
    assert checkpoint.decision.none_review_above is not None


def test_the_same_training_gives_the_same_file(workspace: Workspace, trained: TrainedRun) -> None:
    again = train_classifier(workspace, model="mlp_hog", imgsz=64)
    ours, theirs = (r.folder / MODEL_FILE for r in (again, trained))
    assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.slow
def test_an_unfinished_run_is_gone_on_with(workspace: Workspace) -> None:
    first = train_classifier(workspace, model="mlp_hog", imgsz=64, epochs=1)
    record = first.folder / "run.json"
    record.write_text(record.read_text().replace('"finished"', '"running"'))
    second = train_classifier(workspace, model="mlp_hog", imgsz=64, epochs=1)
    assert (second.folder, second.resumed) == (first.folder, True)
    assert train_classifier(workspace, model="mlp_hog", imgsz=64, epochs=1).folder != first.folder


@pytest.mark.slow
def test_the_command_line_from_training_to_rows(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(workspace.root)
    runner = CliRunner()
    train = runner.invoke(app, ["train", "--model", "mlp_hog", "--imgsz", "64", "--epochs", "3"])
    assert train.exit_code == 0, train.output
    folder = Path(train.stdout.strip())
    done = runner.invoke(app, ["classify", "images", "--weights", str(folder)])
    assert done.exit_code == 0, done.output
    with Path("predictions.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    whole = set(workspace.classes.whole_image_names)
    assert len(rows) == 64
    assert {row["decision"] for row in rows} <= {"auto", "review"}
    for row in rows:
        box = [row[name] for name in ("xmin", "ymin", "xmax", "ymax")]
        frame = ["0.00", "0.00", "64.00", "64.00"]
        assert box == (frame if row["class"] in whole else [""] * 4)
        assert (float(row["confidence"]) < 0.5) == (row["reason"] == "low confidence")
    assert any(row["class"] in whole for row in rows)
    measured = json.loads(runner.invoke(app, ["evaluate", "--json"]).stdout)
    assert (measured["model"], measured["map50"]) == (rows[0]["model"], None)
    assert measured["n"] == sum(s.split == "test" for s in workspace.samples())
    report = workspace.root / "runs" / "evaluate" / f"{measured['model']}-test" / "report.html"
    assert report.is_file()
    least = ["classify", "images", "--weights", str(folder), "--min-confidence", "0"]
    assert "--min-confidence is for detectors" in runner.invoke(app, least).stderr
    open_set = [*least[:4], "--reject", "nn", "--force"]
    assert runner.invoke(app, open_set).exit_code == 0
    with Path("predictions.csv").open(newline="") as handle:
        judged = list(csv.DictReader(handle))
    for before, after in zip(rows, judged, strict=True):
        unknown = after["decision"] == "unknown"
        assert (after["reason"] == "unlike any class") == unknown
        assert unknown or after == before
    refused = runner.invoke(app, ["export", str(folder)])
    assert (refused.exit_code, len(refused.stderr.splitlines())) == (1, 1)
    assert "answers are of the model's" not in caplog.text
    for file in (Path("classes.yaml"), workspace.table):  # a class renamed after the training
        file.write_text(file.read_text().replace("particle", "speck"))
    assert runner.invoke(app, ["classify", "images", "--force"]).exit_code == 0
    assert "answers are of the model's" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "named"),
    [
        (["--img-weights"], "--img-weights"),
        (["--evolve", "3"], "--evolve"),
        (["--evolve", "0"], "--evolve goes with a detector"),
        (["--max-backgrounds", "0"], "--max-backgrounds"),
        (["--optimizer", "SGD"], "--optimizer"),
        (["--weights", "none"], "--weights"),
        (["--epochs", "0"], "--epochs must be at least 1"),
        (["--imgsz", "100"], "--imgsz must be a multiple of 32"),
        (["--lr0", "0"], "--lr0 must be above 0"),
        (["--patience", "-1"], "--patience must not be negative"),
        (["--sampler", "balanced"], "--sampler goes with a network"),
        (["--cutmix", "0.5"], "--cutmix goes with a network"),
        (["--ghost-batch", "0"], "--ghost-batch goes with a network"),
    ],
)
def test_options_that_do_not_fit_are_one_line(
    workspace: Workspace, option: list[str], named: str
) -> None:
    place = ["--workspace", str(workspace.root)]
    result = CliRunner().invoke(app, ["train", "--model", "mlp_hog", *option, *place])
    assert (result.exit_code, result.stdout) == (1, "")
    assert len(result.stderr.splitlines()) == 1
    assert named in result.stderr
    assert not (workspace.root / "runs").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cutmix": 1.5}, "--cutmix must be from 0 to 1"),
        ({"cutmix": float("nan")}, "--cutmix must be from 0 to 1"),
        ({"ghost_batch": 1}, "--ghost-batch must be at least 2 and at most half of --batch"),
        ({"ghost_batch": 17, "batch": 32}, "--ghost-batch must be at least 2"),
    ],
)
def test_options_of_networks_are_checked(
    workspace: Workspace, given: dict[str, float], message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        train_classifier(workspace, model="resnet50", pretrained="none", **given)


def test_odd_images_get_a_row(trained: TrainedRun, tmp_path: Path) -> None:
    images = tmp_path / "odd"
    images.mkdir()
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(images / "black.png")
    Image.fromarray(np.full((40, 40), 77, np.uint8)).save(images / "constant.png")
    Image.fromarray(np.array([[9]], np.uint8)).save(images / "one_pixel.png")
    deep = (np.arange(1600).reshape(40, 40) * 40).astype(np.uint16)
    Image.fromarray(deep).save(images / "sixteen_bit.png")
    (images / "torn.png").write_bytes((images / "black.png").read_bytes()[:40])
    output = tmp_path / "rows.csv"
    result = CliRunner().invoke(
        app,
        ["classify", str(images), "--weights", str(trained.folder), "--output", str(output)],
    )
    assert result.exit_code == 1
    with output.open(newline="") as handle:
        rows = {row["image"]: row for row in csv.DictReader(handle)}
    assert [name for name, row in rows.items() if row["error"]] == ["torn.png"]
    assert all(0 <= float(r["confidence"]) <= 1 for r in rows.values() if not r["error"])
    assert rows["black.png"]["class"] == rows["constant.png"]["class"]


def test_classes_with_one_image_or_none_are_named(workspace: Workspace) -> None:
    change = {"scratch": "train", "particle": "val"}
    rewrite_table(workspace, change=change)
    with workspace.table.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    alone = next(row for row in rows if row["class"] == "BEOL")
    for row in rows:
        if row["class"] == "BEOL":
            row["split"] = "train" if row is alone else "test"
    with workspace.table.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    notes = train_classifier(workspace, model="mlp_hog", imgsz=64, epochs=1).notes
    assert notes == (
        "BEOL has one training image: too few to learn from",
        "BEOL has no validation image: nobody knows how well it is found",
        "particle has no training image: nothing of it is learnt, and an answer of it is chance",
        "scratch has no validation image: nobody knows how well it is found",
    )


def test_nothing_to_tell_apart_and_nothing_to_stop_by(workspace: Workspace) -> None:
    names = workspace.classes.names
    rewrite_table(workspace, change=dict.fromkeys(names, "train"))
    with pytest.raises(TrainingError, match="no image of a known class is in the val split"):
        train_classifier(workspace, model="mlp_hog", imgsz=64)
    rewrite_table(workspace, change=dict.fromkeys(names[1:], "unused"))
    with pytest.raises(TrainingError, match="two classes, and these have no_defect"):
        train_classifier(workspace, model="mlp_hog", imgsz=64)


@pytest.mark.slow
def test_images_of_the_training_are_counted_where_they_are_test_images_now(
    workspace: Workspace, trained: TrainedRun
) -> None:
    before = evaluate_classifier(workspace, trained.folder / MODEL_FILE).evaluation
    assert (before.trained_on, before.optimistic) == (0, False)
    names = workspace.classes.names
    rewrite_table(workspace, change={f"{name}/test": "val" for name in names})
    rewrite_table(workspace, change={f"{name}/train": "test" for name in names})
    after = evaluate_classifier(workspace, trained.folder / MODEL_FILE).evaluation
    assert after.trained_on == after.n > before.n
    assert after.optimistic


def test_a_model_of_other_classes_is_refused(
    workspace: Workspace, trained: TrainedRun, tmp_path: Path
) -> None:
    table = workspace.classes.classes
    renamed = (replace(table[0], name="clean"), *table[1:])
    path = altered(
        trained.folder / MODEL_FILE, tmp_path / "other.safetensors", classes=ClassTable(renamed)
    )
    with pytest.raises(WeightsError, match="knows the classes clean, BEOL"):
        evaluate_classifier(workspace, path)
    fewer = altered(
        trained.folder / MODEL_FILE, tmp_path / "fewer.safetensors", classes=ClassTable(table[:3])
    )
    with pytest.raises(WeightsError, match="answers 8 classes, its table has 3"):
        load_classifier(fewer)


def test_damaged_model_files_are_refused(trained: TrainedRun, tmp_path: Path) -> None:
    source, path = trained.folder / MODEL_FILE, tmp_path / "damaged.safetensors"
    tensors = dict(read_checkpoint(source).tensors)
    path.write_bytes(source.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="copy it again"):
        load_classifier(path)
    assert classifier_meant(None, weights=path) is None
    altered(source, path, tensors={**tensors, "mean": tensors["mean"] * torch.nan})
    with pytest.raises(WeightsError, match="numbers of mean are not finite"):
        load_classifier(path)
    altered(source, path, tensors={k: v for k, v in tensors.items() if k != TEMPERATURE})
    with pytest.raises(WeightsError, match="no usable temperature"):
        load_classifier(path)
    altered(source, path, architecture="mlp")
    with pytest.raises(WeightsError, match="tensors of this model do not fit together"):
        load_classifier(path)
    altered(source, path, architecture="yolov9")
    with pytest.raises(WeightsError, match="no classifier is called 'yolov9'"):
        load_classifier(path)


def test_an_empty_split_and_an_unreadable_image_are_named(
    workspace: Workspace, trained: TrainedRun
) -> None:
    rewrite_table(workspace, change=dict.fromkeys(workspace.classes.names, "train"))
    with pytest.raises(DataError, match="no image of a known class in the split test"):
        evaluate_classifier(workspace, trained.folder / MODEL_FILE)


def test_boxes_of_a_model_are_no_truth_in_any_split(made: Workspace, trained: TrainedRun) -> None:
    guess = (Annotation(Box(0, 0, 9, 9), "scratch", "model", 0.9),)
    known, guessed, empty, several, nothing, *others = made.samples()
    samples = tuple(
        replace(sample, split="train")
        for sample in (
            replace(known, image_class="scratch", annotations=guess),
            replace(guessed, image_class=None, annotations=guess),
            replace(empty, image_class=None, annotations=()),
            replace(
                several,
                image_class=None,
                annotations=(*guess, replace(guess[0], class_name="BEOL")),
            ),
            replace(nothing, image_class=None, annotations=None),
            *others[:3],
        )
    )

    class Given(Workspace):
        def true_samples(self) -> tuple[Sample, ...]:
            return samples

    given = Given(made.root, made.images, made.classes)
    predictor = load_classifier(trained.folder / MODEL_FILE).predictor
    for split in ("train", "all"):
        found = measure_answers(given, predictor, split=split).evaluation
        assert found.n == 5
        assert found.excluded == {
            "excluded_several_classes": 0,
            "excluded_no_truth": 1,
            "excluded_untrusted_boxes": 2,
        }


def test_damaged_images_of_train_and_val_are_named_together(workspace: Workspace) -> None:
    images = workspace.root / "images"
    shared = images.resolve()
    images.unlink()
    images.mkdir()
    for path in shared.iterdir():
        (images / path.name).symlink_to(path)
    workspace = open_workspace(workspace.root)  # the folder, no longer the link
    broken = []
    for split in ("train", "val"):
        name = next(s.image for s in workspace.samples() if s.split == split)
        broken.append(workspace.image_path(name))
        content = broken[-1].read_bytes()[:-200]
        broken[-1].unlink()
        broken[-1].write_bytes(content)
    with pytest.raises(DataError) as caught:
        train_classifier(workspace, model="mlp_hog", imgsz=64)
    assert [fault.file for fault in caught.value.faults] == [str(path) for path in broken]
    assert not workspace.runs.exists()


KILLERS = ClassTable(
    (DefectClass(0, "clean", "none"), DefectClass(1, "open", killer=True), DefectClass(2, "dust"))
)


@pytest.mark.parametrize(("defect", "limit"), [(0.2, 0.199), (0.5004, 0.4994), (0.0005, 0.0)])
def test_the_killer_limit_leaves_room_for_the_tolerance_of_a_bundle(
    defect: float, limit: float
) -> None:
    shown = np.array([[1 - defect, defect / 2, defect / 2], [0.1, 0.8, 0.1], [0.99, 0.0, 0.01]])
    val = LabelledImages(np.zeros((3, 8, 8), np.uint8), np.array([1, 1, 0]), np.zeros(3, bool))
    rule = fit_decision(np.log(shown + 1e-12), 1.0, val, KILLERS)
    assert rule.none_review_above == pytest.approx(limit, abs=1e-9)
    decide = class_decision_of(KILLERS, rule)
    lowest = min(1.0, float(np.float32(1 - defect)) + 0.0009)  # as an engine may give it
    assert decide(lowest, "clean", None).decision == "review"


def test_a_sure_answer_is_not_rejected_for_digits_that_thresholds_lack() -> None:
    class Sure:
        """A network that is sure but for 1e-10."""

        def logits(self, images: np.ndarray, /) -> np.ndarray:
            return self.look(images)[0]

        def look(self, images: np.ndarray, /) -> tuple[np.ndarray, np.ndarray]:
            logits = np.tile([0.0, 23.0], (len(images), 1))
            return logits, logits.astype(np.float32)

    images = np.zeros((40, 8, 8), np.uint8)
    val = seen(*Sure().look(images), temperature=1.0)
    known = fit_known(val, np.ones(40, np.int64), val=val, classes=2, methods=("softmax",))
    assert known.thresholds["softmax"].tolist() == [0.0, 0.0]
    found = ClassifierEngine(Sure(), temperature=1.0).infer(images[:1])
    assert found.scores.dtype == np.float32
    assert found.features is not None
    answer = Answer("spot", None, float(found.scores.max()), "auto", "")
    rejection = rejection_by("softmax", known)
    assert rejection.judge(answer, found.scores[0], found.features[0], label=1) == answer


def test_which_model_is_meant(made: Workspace, trained: TrainedRun, tmp_path: Path) -> None:
    path = trained.folder / MODEL_FILE
    assert classifier_meant(None, weights=None) is None
    assert classifier_meant(None, weights=trained.folder) == path
    assert classifier_meant(None, weights=path) == path
    assert classifier_meant(None, weights=tmp_path) is None
    assert classifier_meant(open_workspace(made.root), weights=None) is not None
    with pytest.raises(WaferError):
        train_classifier(made, model="yolov5n")


def test_occlusion_points_to_what_a_classifier_looks_at() -> None:
    class Corner:
        """A network that sees how bright 8 x 8 px in the upper left corner are."""

        def logits(self, images: np.ndarray, /) -> np.ndarray:
            return self.look(images)[0]

        def look(self, images: np.ndarray, /) -> tuple[np.ndarray, np.ndarray]:
            bright = images[:, :8, :8].mean(axis=(1, 2)) / 255
            logits = np.stack([bright * 4, np.full(len(images), 2.0)], axis=1)
            return logits, logits.astype(np.float32)

    image = np.full((64, 64), 60, np.uint8)
    image[:8, :8] = 250
    engine = ClassifierEngine(Corner(), temperature=1.0)
    pixels = letterbox(image, 64)
    score = float(engine.infer(pixels.image[None]).scores[0, 0])
    heat = heat_map(engine, pixels, label=0, score=score)
    covered = 1 / (1 + np.exp(2.0 - PADDING / 255 * 4))  # by one grey square of 8 x 8 px
    np.testing.assert_allclose(heat[:4, :4], score - covered, atol=1e-5)
    assert heat.max() == heat[0, 0] > 0.4
    assert heat[12:].max() == heat[:, 12:].max() == 0


@pytest.mark.slow
def test_images_that_show_nothing_can_be_learnt_from(made: Workspace, tmp_path: Path) -> None:
    """All features are zero, so none has a spread; the answer is the share of each class."""
    images = tmp_path / "black"
    for sample in made.samples():
        path = images / sample.image
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((32, 32), np.uint8)).save(path)
    for name in ("wafer.toml", "classes.yaml", "image_labels.csv"):
        (tmp_path / name).write_bytes((made.root / name).read_bytes())
    (tmp_path / "images").symlink_to(images)
    workspace = open_workspace(tmp_path)
    for model in ("mlp_hog", "xgboost"):
        done = train_classifier(workspace, model=model, imgsz=32, epochs=2)
        network = load_classifier(done.folder / MODEL_FILE).network
        found = network.logits(np.zeros((2, 32, 32), np.uint8))
        assert np.isfinite(found).all()
        np.testing.assert_array_equal(found[0], found[1])


@pytest.mark.slow
def test_pictures_show_the_answer_and_what_it_rests_on(
    trained: TrainedRun, made: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    images = [str(path) for path in sorted((made.root / "images").iterdir())[:2]]
    folders = ["--save-images", "marked", "--explain", "why"]
    done = CliRunner().invoke(
        app, ["classify", *images, "--weights", str(trained.folder), *folders]
    )
    assert done.exit_code == 0, done.output
    pictures = [sorted(Path(folder).iterdir()) for folder in ("marked", "why")]
    assert [len(each) for each in pictures] == [2, 2]
    for both in zip(*pictures, strict=True):
        marked, why = (np.asarray(Image.open(path)) for path in both)
        assert min(marked.shape[:2]) >= 64
        assert marked.shape[2] == why.shape[2] == 3
        below = (slice(-60, -4), slice(4, 60))  # the image, without band and box
        assert np.ptp(marked[below].astype(int), axis=2).max() < 100
        assert np.ptp(why[below].astype(int), axis=2).max() > 30
