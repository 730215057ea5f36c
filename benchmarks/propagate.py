"""Pseudo-labels against hidden truth: how good, how far they can be trusted, what they are worth.

    python benchmarks/propagate.py FOLDER --task neu --data neu-det --weights COCO.safetensors
    python benchmarks/propagate.py FOLDER --task synth

Few images are drawn, the boxes of the others are hidden from the command. Then one detector is
trained for each way of labelling the rest and measured on the test split, whose boxes all are true.
Every training and every `label-propagate` that is finished is kept in FOLDER and not repeated;
`--only labels` stops before the trainings, `--seeds 1` is the shortest run.

Ways: `seed only`; `confidence 0.25` and `STAC 0.9`, the boxes of the seed-only detector above that
score, images without any left out; `ours`, what `label-propagate` accepts; `ours + review`, with
the true boxes for its queue; `all drawn`. Each sees the same number of images in training. Where
`--scratch` is given, `label-propagate` is run with teachers from scratch beside it, labels alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from wafer.datasets.files import write_text
from wafer.datasets.initialisation import initialise
from wafer.datasets.records import Annotation, Box, Sample
from wafer.datasets.runs import MODEL_FILE, newest_finished_run
from wafer.datasets.synthetic.generate import generate_workspace
from wafer.datasets.workspace import Workspace, create_workspace, open_workspace
from wafer.detector.evaluating import evaluate_model
from wafer.detector.loading import load_detector
from wafer.detector.prediction import score_samples
from wafer.detector.training import train_detector
from wafer.evaluation.metrics import clopper_pearson
from wafer.labelling.certificate import replay_audits
from wafer.labelling.propagation.calibration import calibration_error
from wafer.labelling.propagation.decisions import ImageDecision, exactly_right
from wafer.labelling.propagation.outcome import DECISIONS, annotations_of, read_decisions
from wafer.labelling.propagation.places import matched
from wafer.labelling.propagation.propagating import propagate
from wafer.labelling.queue import QUEUE, Queue, QueueItem, propagation_runs, read_queue

WAYS = ("seed only", "confidence 0.25", "STAC 0.9", "ours", "ours + review", "all drawn")
SCORES = {"confidence 0.25": 0.25, "STAC 0.9": 0.9}
HELD_OUT = ("pads", "fill")
"""Layout families that the shipped checkpoint has not seen."""
SEEDS_A_CLASS = 15
VAL_SHARE = 5
"""One in so many drawn images chooses the epoch."""
LOOK = 2.0
"""Seconds to look at one image and say that it is right, or to take a box that the page offers."""
DRAWING = {"extreme clicks": 7.0, "drag a box": 35.0}
"""Seconds to draw one box: Papadopoulos et al., ICCV 2017."""
REPLAYS = 200


def main() -> None:
    """Run what is missing and print the tables."""
    given = arguments()
    root = given.folder.resolve()
    rows = []
    for seed in range(given.seeds):
        folder = root / f"{given.task}-{seed}"
        full, hidden = tasks(folder, given, seed)
        row = labels(full, hidden, given, seed, weights=given.weights)
        if given.scratch:
            row["scratch"] = labels(full, hidden, given, seed, weights="none")
        if given.only != "labels":
            row["test"] = trainings(full, hidden, folder, given, seed)
        write_text(folder / "result.json", json.dumps(row, indent=1) + "\n")
        rows.append(row)
        sys.stderr.write(f"{given.task} seed {seed} done\n")
    sys.stdout.write("\n\n".join(tables(rows)) + "\n")


def arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--task", choices=("neu", "synth"), default="synth")
    parser.add_argument("--data", type=Path, help="folder of NEU-DET")
    parser.add_argument("--weights", type=Path, default=None, help="first weights; else shipped")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=2000, help="of the synthetic workspace")
    parser.add_argument("--size", type=int, default=340, help="of the synthetic images")
    parser.add_argument("--epochs", type=int, default=60, help="of label-propagate")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--imgsz", type=int, default=None, help="else as label-propagate")
    parser.add_argument("--promise", type=float, default=0.9)
    parser.add_argument("--seen", type=int, default=30_000, help="images seen by each training")
    parser.add_argument("--scratch", action="store_true", help="teachers from scratch beside")
    parser.add_argument("--only", choices=("labels",), default=None)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="else all")
    given = parser.parse_args()
    if not {WAYS[0], WAYS[-1]} <= set(given.ways):
        parser.error(f"the gap is between {WAYS[0]!r} and {WAYS[-1]!r}; name both")
    return given


def tasks(folder: Path, given: argparse.Namespace, seed: int) -> tuple[Workspace, Workspace]:
    """Return the workspace with all boxes, and the one whose pool has none; made where missing."""
    if not (folder / "hidden" / "wafer.toml").is_file():
        full = (
            neu(folder / "full", given.data) if given.task == "neu" else synth(folder, given, seed)
        )
        chosen = drawn_images(full, given, seed)
        samples = [hide(sample, chosen, full) for sample in full.samples()]
        create_workspace(
            folder / "hidden",
            images=full.images,
            classes=full.classes,
            samples=samples,
            force=True,
        )
    return open_workspace(folder / "full"), open_workspace(folder / "hidden")


def synth(folder: Path, given: argparse.Namespace, seed: int) -> Workspace:
    """Return a synthetic workspace: a quarter without a defect, one class of 44."""
    none, rare = given.images // 4, 44
    others = ("BEOL", "small_residue", "C_residue", "small_missing_cu", "particle", "deviation")
    each = (given.images - none - rare) // len(others)
    counts = {"no_defect": none, "scratch": rare, **dict.fromkeys(others, each)}
    return generate_workspace(
        folder / "full",
        counts=counts,
        size=given.size,
        families=HELD_OUT,
        seed=4000 + seed,
    )


def neu(root: Path, data: Path) -> Workspace:
    """Return NEU-DET with seed and pool as training images.

    The test images are what is in neither, with those of ``val.txt``, which nothing else uses here.
    """
    if not (root / "wafer.toml").is_file():
        stems = {
            part: (data / f"{part}.txt").read_text().split()
            for part in ("seed", "pool", "val", "test")
        }
        train, test = root.parent / "train.txt", root.parent / "test.txt"
        seen = stems["seed"] + stems["pool"]
        write_text(train, "\n".join(seen) + "\n")
        held_out = dict.fromkeys(stems["val"] + stems["test"])
        write_text(test, "\n".join(stem for stem in held_out if stem not in set(seen)) + "\n")
        initialise(
            root,
            images=data / "images",
            image_labels=data / "image_labels.csv",
            boxes=data / "annotations",
            boxes_format="voc",
            splits={"train": train, "test": test},
        )
    return open_workspace(root)


def drawn_images(full: Workspace, given: argparse.Namespace, seed: int) -> dict[str, str]:
    """Return the images whose boxes the command may see, with their splits."""
    random = np.random.default_rng(seed)
    samples = [s for s in full.samples() if s.split in ("train", "val")]
    stems = None
    if given.task == "neu":
        stems = set((given.data / "seed.txt").read_text().split())
    chosen: dict[str, str] = {}
    for name in full.classes.box_names:
        ours = sorted(s.image for s in samples if s.image_class == name and s.split == "train")
        if stems is not None:
            ours = [image for image in ours if Path(image).stem in stems]
        picked = random.permutation(ours)[: None if stems is not None else SEEDS_A_CLASS]
        for number, image in enumerate(picked.tolist()):
            chosen[image] = "val" if number % VAL_SHARE == VAL_SHARE - 1 else "train"
    return chosen


def hide(sample: Sample, chosen: Mapping[str, str], full: Workspace) -> Sample:
    """Return what the command may know of an image."""
    if sample.image in chosen:
        split: Literal["train", "val"] = "val" if chosen[sample.image] == "val" else "train"
        return replace(sample, split=split)
    if sample.split == "test" or sample.image_class not in full.classes.box_names:
        return sample
    # Validation is by drawn images alone.
    unused = sample.split != "train"
    return replace(sample, annotations=None, split="unused" if unused else "train")


def labels(
    full: Workspace,
    hidden: Workspace,
    given: argparse.Namespace,
    seed: int,
    *,
    weights: Path | Literal["none"] | None,
) -> dict[str, Any]:
    """Run label-propagate where it has not been, and return how good its labels are."""
    workspace = hidden if weights != "none" else copy_for_scratch(hidden)
    run = newest_finished_run(propagation_runs(workspace))
    if run is None:
        propagate(
            workspace,
            weights=weights,
            epochs=given.epochs,
            rounds=given.rounds,
            imgsz=given.imgsz,
            promise=given.promise,
            seed=seed,
        )
        run = newest_finished_run(propagation_runs(workspace))
    assert run is not None
    truth = {s.image: s.annotations or () for s in full.samples()}
    decisions = read_decisions(run.folder / DECISIONS)
    report = json.loads((run.folder / "report.json").read_text())
    queue = read_queue(run.folder / QUEUE)
    accepted = {name: of_class(decisions, name) for name in full.classes.box_names}
    right = {d.image: exactly_right(d.boxes, truth[d.image]) for d in decisions if d.accepted}
    return {
        "seconds": seconds_of(run.record, run.folder),
        "classes": {
            name: class_quality(name, decisions, truth, promise=given.promise)
            for name in full.classes.box_names
        },
        "replays": replay_audits(
            {n: [(d.image, d.probability) for d in ds] for n, ds in accepted.items() if ds},
            right,
            promise=given.promise,
            draws=REPLAYS,
            seed=seed,
        ),
        "false_boxes": report["false_boxes"],
        "calibration_drawn": report["calibration_error"],
        "calibration_pool": pool_calibration(decisions, truth),
        "effort": effort(hidden, decisions, truth, queue),
        "lost_backgrounds": lost_backgrounds(full, workspace),
    }


def copy_for_scratch(hidden: Workspace) -> Workspace:
    """Return a second workspace over the same images, for teachers from scratch."""
    root = hidden.root.with_name("hidden-scratch")
    if not (root / "wafer.toml").is_file():
        model = {
            s.image
            for s in hidden.samples()
            if any(a.source == "model" for a in s.annotations or ())
        }
        samples = [
            replace(s, annotations=None) if s.image in model else s for s in hidden.samples()
        ]
        create_workspace(
            root, images=hidden.images, classes=hidden.classes, samples=samples, force=True
        )
    return open_workspace(root)


def seconds_of(record: Mapping[str, Any], folder: Path) -> float:
    """Return the time from the start of a run to its last file, whatever paused it."""
    from datetime import datetime

    started = datetime.fromisoformat(record["started"]).timestamp()
    return (folder / "report.html").stat().st_mtime - started


def of_class(decisions: Sequence[ImageDecision], name: str) -> list[ImageDecision]:
    """Return the accepted images that count under a class."""
    return [d for d in decisions if d.accepted and d.class_name == name]


def class_quality(
    name: str,
    decisions: Sequence[ImageDecision],
    truth: Mapping[str, Sequence[Annotation]],
    *,
    promise: float,
) -> dict[str, Any]:
    """Return precision, recall and IoU of boxes, and images exactly right, where accepted."""
    ours = [d for d in decisions if d.class_name == name]
    accepted = [d for d in ours if d.accepted]
    boxes = hits = true = exact = 0
    overlaps: list[float] = []
    for decision in accepted:
        here = [p.box for p in decision.boxes if p.class_name == name]
        there = [a.box for a in truth[decision.image] if a.class_name == name]
        found = matched(here, there)
        overlaps += [b.iou(there[i]) for b, i in zip(here, found, strict=True) if i is not None]
        boxes, true = boxes + len(here), true + len(there)
        hits += sum(index is not None for index in found)
        exact += exactly_right(decision.boxes, truth[decision.image])
    return {
        "pool": len(ours),
        "accepted": len(accepted),
        "precision": ratio(hits, boxes),
        "precision_interval": clopper_pearson(hits, boxes),
        "recall": ratio(hits, true),
        "recall_interval": clopper_pearson(hits, true),
        "mean_iou": statistics.mean(overlaps) if overlaps else None,
        "exact": ratio(exact, len(accepted)),
        "exact_interval": clopper_pearson(exact, len(accepted)),
        "promise_kept": None if not accepted else exact >= promise * len(accepted),
    }


def ratio(part: float, whole: float) -> float | None:
    """Return part / whole, None where there is nothing."""
    return part / whole if whole else None


def pool_calibration(
    decisions: Sequence[ImageDecision], truth: Mapping[str, Sequence[Annotation]]
) -> float | None:
    """Return the calibration error of the boxes' probabilities on the whole pool."""
    probabilities: list[float] = []
    right: list[bool] = []
    for decision in decisions:
        for name in {p.class_name for p in decision.places}:
            places = [p for p in decision.places if p.class_name == name]
            there = [a.box for a in truth[decision.image] if a.class_name == name]
            probabilities += [min(1.0, p.probability) for p in places]
            right += [index is not None for index in matched([p.box for p in places], there)]
    return calibration_error(probabilities, right)


def effort(
    hidden: Workspace,
    decisions: Sequence[ImageDecision],
    truth: Mapping[str, Sequence[Annotation]],
    queue: Queue,
) -> dict[str, float]:
    """Return the share of a person's time that is saved against drawing every box.

    Drawing: a look at each image and each box. Here: the drawn images in full, a look at each
    queued image, another for each true box that the page only offers, a drawing for each that it
    does not know, and a look at 40 audited images of each class.
    """
    pool = {d.image for d in decisions}
    audited = 40 * len({d.class_name for d in decisions if d.accepted})
    audited = min(audited, sum(d.accepted for d in decisions))
    seeds = [
        s.image
        for s in hidden.samples()
        if s.split in ("train", "val")
        and s.image_class in hidden.classes.box_names
        and s.image not in pool
    ]
    seed_boxes = sum(len(truth[image]) for image in seeds)
    queued = [item for item in queue.items if item.image in pool]
    missing = [missing_boxes(item, truth[item.image]) for item in queued]
    offered, to_draw = (sum(counts[place] for counts in missing) for place in (0, 1))
    looks = len(seeds) + len(queued) + offered + audited
    saved = {}
    for name, drawing in DRAWING.items():
        everything = LOOK * (len(seeds) + len(pool)) + drawing * (
            seed_boxes + sum(len(truth[image]) for image in pool)
        )
        ours = LOOK * looks + drawing * (seed_boxes + to_draw)
        saved[name] = 1 - ours / everything
    return saved


def missing_boxes(item: QueueItem, true: Sequence[Annotation]) -> tuple[int, int]:
    """Return how many true boxes the page offers without proposing them, and how many neither."""
    offered = lacking = 0
    for name in {a.class_name for a in true}:
        left = [a.box for a in true if a.class_name == name]
        for proposed in (True, False):
            boxes = [
                Box(*candidate.box)
                for candidate in item.candidates
                if candidate.class_name == name and candidate.proposed is proposed
            ]
            found = {index for index in matched(boxes, left) if index is not None}
            left = [box for index, box in enumerate(left) if index not in found]
            offered += 0 if proposed else len(found)
        lacking += len(left)
    return offered, lacking


def lost_backgrounds(full: Workspace, labelled: Workspace) -> dict[str, int]:
    """Return how many empty images are no longer empty, and how many others became empty."""
    truth = {s.image: s.annotations for s in full.samples()}
    now = {s.image: s.annotations for s in labelled.samples()}
    empty = [image for image, boxes in truth.items() if boxes == ()]
    return {
        "lost": sum(now[image] != () for image in empty),
        "made": sum(boxes == () and truth[image] != () for image, boxes in now.items()),
    }


def trainings(
    full: Workspace, hidden: Workspace, folder: Path, given: argparse.Namespace, seed: int
) -> dict[str, dict[str, Any]]:
    """Train a detector for each way of labelling, and return its AP on the test split."""
    result: dict[str, dict[str, Any]] = {}
    for way in [way for way in WAYS if way in given.ways]:
        samples = labelled_by(way, full, hidden, folder)
        train = [s for s in samples if s.split == "train"]
        runs = folder / "final" / way.replace(" ", "-")
        run = newest_finished_run(runs)
        if run is None:
            train_detector(
                hidden,
                runs=runs,
                samples=samples,
                weights=given.weights,
                epochs=max(1, round(given.seen / len(train))),
                batch=16,
                imgsz=size_of(hidden),
                seed=seed,
            )
            run = newest_finished_run(runs)
        assert run is not None
        found = evaluate_model(full, weights=run.folder, split="test").evaluation.to_dict()
        result[way] = {
            "images": len(train),
            "map50": found["map50"],
            "map50_95": found["map50_95"],
            "map50_local": found["map50_local"],
            "map50_95_local": found["map50_95_local"],
            "per_class": {n: row["ap50"] for n, row in found["per_class"].items()},
        }
    for key in ("map50_local", "map50_95_local"):
        low, high = result["seed only"][key], result["all drawn"][key]
        for way in result:
            result[way][f"gap_closed_{key}"] = ratio(result[way][key] - low, high - low)
    return result


def labelled_by(way: str, full: Workspace, hidden: Workspace, folder: Path) -> list[Sample]:
    """Return the training and validation images of one way of labelling."""
    known = [s for s in hidden.samples() if s.split in ("train", "val")]
    pool = [s for s in known if not_drawn(s)]
    base = [s for s in known if not not_drawn(s)]
    truth = {s.image: s.annotations or () for s in full.samples()}
    if way == "seed only":
        return base
    if way == "all drawn":
        return [*base, *(replace(s, annotations=truth[s.image]) for s in pool)]
    if way in SCORES:
        found = confident(hidden, folder, pool, SCORES[way])
    else:
        run = newest_finished_run(propagation_runs(hidden))
        assert run is not None
        decisions = read_decisions(run.folder / DECISIONS)
        found = {d.image: annotations_of(d) for d in decisions if d.accepted}
        if way == "ours + review":
            queued = {item.image for item in read_queue(run.folder / QUEUE).items}
            found.update({image: tuple(truth[image]) for image in queued})
    labelled = [replace(s, annotations=found[s.image]) for s in pool if s.image in found]
    return [*base, *labelled]


def not_drawn(sample: Sample) -> bool:
    """Return whether an image was to be labelled: it has no box, or a model's."""
    boxes = sample.annotations
    return boxes is None or any(a.source == "model" for a in boxes)


def size_of(hidden: Workspace) -> int:
    """Return the input size of the teachers, which is that of all detectors here."""
    run = newest_finished_run(propagation_runs(hidden))
    assert run is not None
    return int(run.record["arguments"]["imgsz"])


def confident(
    hidden: Workspace, folder: Path, pool: Sequence[Sample], score: float
) -> dict[str, tuple[Annotation, ...]]:
    """Return the boxes of the seed-only detector above a score, without images that have none."""
    run = newest_finished_run(folder / "final" / "seed-only")
    assert run is not None
    detector = load_detector(run.folder / MODEL_FILE)
    found = {}
    for row in score_samples(
        detector.model,
        pool,
        workspace=hidden,
        classes=hidden.classes,
        image_size=detector.checkpoint.image_size,
        colour=detector.checkpoint.colour,
        white_level=detector.checkpoint.white_level,
    ):
        boxes = tuple(
            Annotation(d.box, d.class_name, "model", d.score)
            for d in row.detections
            if d.score >= score and d.class_name in hidden.classes.box_names
        )
        if boxes:
            found[row.image] = boxes
    return found


def tables(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the results as Markdown: labels by class, the whole, and the detectors."""
    names = list(rows[0]["classes"])
    by_class = [
        ["class", "accepted", "precision", "recall", "mean IoU", "images right", "promise kept",
         "audits that certify", "audits that keep it"],
        ["---"] * 9,
    ]  # fmt: skip
    for name in names:
        found = [row["classes"][name] for row in rows]
        replays = [row["replays"].get(name) for row in rows]
        by_class.append(
            [
                name,
                " ".join(f"{c['accepted']}/{c['pool']}" for c in found),
                *(values([c[key] for c in found]) for key in QUALITY),
                " ".join(
                    "-" if c["promise_kept"] is None else yes(c["promise_kept"]) for c in found
                ),
                *(values([r and r[key] for r in replays]) for key in ("certified", "kept")),
            ]
        )
    whole = [["measure", *(f"seed {n}" for n in range(len(rows)))]]
    whole.append(["---"] * len(whole[0]))
    for key in ("seconds", "false_boxes", "calibration_drawn", "calibration_pool"):
        whole.append([key.replace("_", " "), *(number(row[key]) for row in rows)])
    for name in DRAWING:
        whole.append([f"time saved, {name}", *(number(row["effort"][name]) for row in rows)])
    for key in ("lost", "made"):
        shown = [str(row["lost_backgrounds"][key]) for row in rows]
        whole.append([f"backgrounds {key}", *shown])
    return [markdown(by_class), markdown(whole), *detectors(rows, names)]


QUALITY = ("precision", "recall", "mean_iou", "exact")


def detectors(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """Return the table of the trained detectors, nothing where none was trained."""
    if "test" not in rows[0]:
        return []
    keys = ("map50_local", "map50_95_local", "gap_closed_map50_local", "gap_closed_map50_95_local")
    table = [["labels", "images", *(key.replace("_local", "") for key in keys), *names]]
    table.append(["---"] * len(table[0]))
    for way in rows[0]["test"]:
        found = [row["test"][way] for row in rows]
        images = " ".join(str(each["images"]) for each in found)
        classes = [values([each["per_class"][name] for each in found]) for name in names]
        table.append([way, images, *(values([each[k] for each in found]) for k in keys), *classes])
    return [markdown(table)]


def values(found: Sequence[float | None]) -> str:
    """Return mean and, of several, standard deviation."""
    known = [value for value in found if value is not None]
    if not known:
        return "-"
    spread = f" ± {statistics.stdev(known):.3f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):.3f}{spread}"


def number(value: float | None) -> str:
    """Return a number with three places."""
    return "-" if value is None else f"{value:.3f}"


def yes(value: bool) -> str:
    """Return yes or no."""
    return "yes" if value else "no"


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
