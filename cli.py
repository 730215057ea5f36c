"""The command line: each command parses, calls one library function, and prints.

Results go to stdout, notes and progress to stderr. Nothing heavy is imported before a command
needs it, so that ``wafer --help`` answers at once.
"""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import click
import typer
from typer.core import TyperGroup

__all__ = ["app"]


WIDEST = 1000
"""Columns that any table fits into."""


class WaferGroup(TyperGroup):
    """Turns what the user can mend into plain lines and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; errors of ours and of the file system become one message."""
        from wafer.datasets.errors import WaferError

        try:
            return super().invoke(ctx)
        except WaferError as error:
            _note(f"wafer: {error}")
        except OSError as error:
            if error.errno == errno.EPIPE:  # nobody reads on, as in `| head`: click ends quietly
                raise
            where = "" if error.filename is None else f"{error.filename}: "
            _note(f"wafer: {where}{error.strerror or error}")
        except KeyboardInterrupt:
            _note("wafer: stopped; start the same command again to go on")
        raise typer.Exit(1)


app = typer.Typer(
    cls=WaferGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
labels_app = typer.Typer(no_args_is_help=True, help="Take in boxes that people drew elsewhere.")
app.add_typer(labels_app, name="labels")
weights_app = typer.Typer(no_args_is_help=True, help="List, verify, import and fetch model files.")
app.add_typer(weights_app, name="weights")
serve_app = typer.Typer(invoke_without_command=True)
app.add_typer(serve_app, name="serve")
keys_app = typer.Typer(no_args_is_help=True, help="Say who may ask the server.")
serve_app.add_typer(keys_app, name="keys")
audit_app = typer.Typer(no_args_is_help=True, help="Check the record of every answer given.")
app.add_typer(audit_app, name="audit-log")
ledger_app = typer.Typer(no_args_is_help=True, help="Check and use the record of every box.")
app.add_typer(ledger_app, name="ledger")

Where = Annotated[
    Path | None,
    typer.Option("--workspace", metavar="DIR", help="The workspace; else the one at or above."),
]
Seed = Annotated[int, typer.Option(help="Decides every random choice.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda:N.")]
TrainingDevice = Annotated[str, typer.Option(help="auto, cpu, cuda:N, or cuda:0,1 for several.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite what is there.")]
DetectorName = Annotated[
    Literal["yolov5n", "yolov5s", "yolov5m", "yolov5l", "yolov5x"],
    typer.Option(help="Size of the detector."),
]
ModelName = Annotated[
    Literal[
        "yolov5n",
        "yolov5s",
        "yolov5m",
        "yolov5l",
        "yolov5x",
        "inception_v3",
        "resnet50",
        "efficientnet_b3",
        "efficientnet_b7",
        "efficientnet_lite0",
        "mlp",
        "mlp_hog",
        "xgboost",
    ],
    typer.Option(help="A detector (yolov5...), or a classifier, which gives no boxes."),
]
FirstWeights = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|none",
        help="First weights: a wafer model or official YOLOv5 v6/v7 file; none is from scratch; "
        "else the shipped ones.",
    ),
]
KeysFile = Annotated[
    Path | None,
    typer.Option("--keys", metavar="FILE", help="A file of keys; else keys.json of the workspace."),
]
ServingEngine = Annotated[
    Literal["auto", "openvino", "onnxruntime"],
    typer.Option(help="What runs the bundle; auto is the fastest that gives its golden answers."),
]
Format = Literal["yolo", "voc", "coco"]
Evaluated = Literal["test", "val", "train", "all"]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"wafer {version('wafer-defects')}")
        raise typer.Exit


@app.callback()
def main(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Find and classify defects in microscope images of silicon wafers.

    Start with `wafer demo`, or with `wafer init` on images of your own.
    """
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("wafer").setLevel(logging.INFO)


@app.command()
def demo(
    folder: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="Folder of its workspace.")
    ] = Path("demo"),
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Run everything once on synthetic images: data, training, evaluation, predictions, report.

    Takes seven minutes on two cores that compute in bfloat16, about twice as long on others.
    Killed, the same command goes on.
    """
    from wafer.experiments.demo import run_demo

    with _bars() as progress:
        result = run_demo(folder, seed=seed, progress=progress)
    _show_evaluation(result.evaluation, as_json)
    _note(f"report      {result.report}")
    _note(f"predictions {result.predictions}")
    _note(
        "These images are synthetic: the figures show that it works, not how well on your wafers."
    )


@app.command()
def reproduce(
    table: Annotated[int, typer.Argument(min=1, max=3, help="Which table of the paper.")],
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DIR]",
            help="Where it goes; else reproduce-TABLE-SCALE, for table 2 that of table 1.",
        ),
    ] = None,
    scale: Annotated[
        Literal["smoke", "cpu", "paper"],
        typer.Option(
            help="paper: its settings; cpu: smaller; smoke: so small that it says nothing."
        ),
    ] = "cpu",
    workspace: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Images of your own; else synthetic ones are made."),
    ] = None,
    model: DetectorName = "yolov5n",
    weights: FirstWeights = None,
    seed: Seed = 0,
    device: TrainingDevice = "auto",
    as_json: AsJson = False,
) -> None:
    """Run the experiments of a table of the paper, the published figures beside ours.

    Table 1 is what eight classifiers and the detector answer, table 2 how long they take: it uses
    the models of table 1 where they are there. Table 3 is seven trainings of YOLOv5, one of them an
    evolution. Killed, the same command goes on; no finished experiment is repeated.
    """
    from wafer.datasets.workspace import open_workspace
    from wafer.experiments.reproduction import reproduce_comparison, reproduce_table

    reproducing: Callable[..., Any] = reproduce_table
    if table != 3:
        reproducing = partial(reproduce_comparison, table=table)
    with _bars() as progress:
        done = reproducing(
            folder or Path(f"reproduce-{1 if table == 2 else table}-{scale}"),
            scale=scale,
            workspace=None if workspace is None else open_workspace(workspace),
            model=model,
            weights=_first_weights(weights),
            seed=seed,
            device=device,
            progress=progress,
        )
    _show_table(table, done, as_json)
    _notes(done.notes)
    _note(f"report {done.page}")
    if done.synthetic:
        _note("These images are synthetic: the figures compare, they promise nothing.")


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the new workspace.")],
    images: Annotated[Path, typer.Option(help="Folder of the images; they stay where they are.")],
    image_labels: Annotated[
        Path | None, typer.Option(metavar="CSV", help="image,class[,group][,split]")
    ] = None,
    boxes: Annotated[Path | None, typer.Option(help="Boxes that were drawn already.")] = None,
    boxes_format: Annotated[
        Format | None, typer.Option("--format", help="Format of the boxes; else detected.")
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(metavar="YAML", help="Class table; else derived from the data.")
    ] = None,
    none: Annotated[str | None, typer.Option(metavar="NAME", help='The class "no defect".')] = None,
    train_list: Annotated[
        Path | None, typer.Option(help="Text file: training images, one name a line.")
    ] = None,
    val_list: Annotated[Path | None, typer.Option(help="The same for validation.")] = None,
    test_list: Annotated[Path | None, typer.Option(help="The same for testing.")] = None,
    group_pattern: Annotated[
        str | None, typer.Option(metavar="REGEX", help="Finds lot or wafer in the image's path.")
    ] = None,
    white_level: Annotated[int, typer.Option(help="Value of white in 16-bit images.")] = 65535,
    colour: Annotated[bool, typer.Option("--colour", help="The images are colour.")] = False,
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Make a workspace around a folder of images; the images are not touched."""
    from wafer.datasets.initialisation import initialise

    lists: dict[str, Path | None] = {"train": train_list, "val": val_list, "test": test_list}
    made = initialise(
        folder,
        images=images,
        image_labels=image_labels,
        boxes=boxes,
        boxes_format=boxes_format,
        classes=classes,
        none_class=none,
        splits={name: path for name, path in lists.items() if path is not None} or None,
        group_pattern=group_pattern,
        white_level=white_level,
        colour=colour,
        seed=seed,
        force=force,
    )
    _notes(made.notes)
    _say_path(made.workspace.root)


@app.command()
def synth(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the new workspace.")],
    images: Annotated[int, typer.Option(help="How many images.")] = 600,
    counts: Annotated[
        str, typer.Option(metavar="paper|balanced|NAME=N,...", help="Images of each class.")
    ] = "paper",
    size: Annotated[int, typer.Option(help="Side of the images in pixels.")] = 680,
    difficulty: Annotated[
        Literal["easy", "paper", "hard"], typer.Option(help="Size and contrast of the defects.")
    ] = "paper",
    seed_fraction: Annotated[
        float, typer.Option(help="Share of the images whose boxes are in labels/.")
    ] = 1.0,
    label_noise: Annotated[
        float, typer.Option(help="Share of training images with a wrong class.")
    ] = 0.0,
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Make a workspace of synthetic wafer images with true boxes."""
    from wafer.datasets.synthetic.generate import generate_workspace

    with _bar("rendering") as progress:
        workspace = generate_workspace(
            folder,
            images=images,
            counts=counts,
            size=size,
            difficulty=difficulty,
            seed_fraction=seed_fraction,
            label_noise=label_noise,
            seed=seed,
            force=force,
            progress=progress,
        )
    _say_path(workspace.root)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="A data set or a workspace.")],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="A new folder.")],
    to: Annotated[Format, typer.Option(help="Format to write.")],
    source_format: Annotated[
        Format | None, typer.Option("--from", help="Format of SRC; else detected.")
    ] = None,
    none: Annotated[str | None, typer.Option(metavar="NAME", help='The class "no defect".')] = None,
) -> None:
    """Copy a data set into another annotation format."""
    from wafer.datasets.conversion import convert as convert_dataset

    done = convert_dataset(source, destination, to=to, source_format=source_format, none_class=none)
    _notes(done.notes)
    _note(f"{done.images} images, {done.boxes} boxes, {done.unlabelled} images without labels")
    _say_path(destination)


@app.command()
def split(
    train: Annotated[float, typer.Option(help="Share for training.")] = 0.65,
    val: Annotated[float, typer.Option(help="Share for choosing epochs and thresholds.")] = 0.15,
    test: Annotated[float, typer.Option(help="Share for reporting.")] = 0.20,
    seed: Seed = 0,
    workspace: Where = None,
) -> None:
    """Split the images anew, stratified by class, groups kept whole."""
    from wafer.datasets.runs import newest_finished_run
    from wafer.datasets.splitting import resplit

    found = _workspace(workspace)
    trained = newest_finished_run(found.runs) is not None
    done = resplit(found, train=train, val=val, test=test, seed=seed)
    _notes(done.notes)
    if trained:
        _note(
            "note: models that were trained before may have seen images of the new test split; "
            "train again before you measure"
        )
    if done.kept is not None:
        _note(f"the old table is kept as {done.kept.name}")
    for name in ("train", "val", "test", "unused"):
        typer.echo(f"{name} {sum(sample.split == name for sample in done.samples)}")


@app.command()
def seed(
    number: Annotated[int, typer.Argument(metavar="N", help="How many images.")],
    strategy: Annotated[
        Literal["kcenter", "random"] | None,
        typer.Option(
            help="kcenter, the default, takes images unlike each other; random is for comparison."
        ),
    ] = None,
    split: Annotated[
        Literal["train", "val", "test"], typer.Option(help="val and test are drawn at random.")
    ] = "train",
    random_seed: Annotated[int, typer.Option("--seed", help="Decides every random choice.")] = 0,
    to: Annotated[
        Literal["labelstudio", "roboflow"] | None,
        typer.Option(help="Write tasks for Label Studio, or send the images to Roboflow."),
    ] = None,
    embed: Annotated[
        bool, typer.Option("--embed", help="labelstudio: put the images into the tasks.")
    ] = False,
    project: Annotated[
        str | None, typer.Option(metavar="WORKSPACE/PROJECT", help="roboflow: where to.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="roboflow: send without asking.")] = False,
    device: Device = "auto",
    workspace: Where = None,
) -> None:
    """Choose the images that a person should draw first: all classes, rare ones first, no likes.

    Writes the list seed.csv, in the order of drawing, and a picture of it. A larger N begins with
    the same images.
    """
    from wafer.datasets.errors import WaferError
    from wafer.labelling.seeding import choose_seed, write_seed

    if embed and to != "labelstudio":
        raise WaferError("--embed goes with --to labelstudio")
    if to != "roboflow":
        _refuse_given({"--yes": yes}, "goes with --to roboflow")
    if (to == "roboflow") != (project is not None):
        raise WaferError("--to roboflow and --project WORKSPACE/PROJECT go together")
    found = _workspace(workspace)
    remote = None if project is None else _roboflow_project(project)
    with _bar("looking") as progress:
        choice = choose_seed(
            found,
            number,
            strategy=strategy,
            split=split,
            seed=random_seed,
            device=device,
            progress=progress,
        )
    _notes(choice.notes)
    table, sheet = write_seed(found, choice)
    _note(f"{len(choice.samples)} images; a picture of them: {sheet}")
    _say_path(table)
    if to == "labelstudio":
        from wafer.labelling.exchange.labelstudio import write_tasks

        tasks = table.with_suffix(".labelstudio.json")
        handed = write_tasks(found, choice.samples, tasks, embed=embed)
        _notes(handed.notes)
        _note(f"labelling config {handed.config}; then `wafer labels import EXPORT.json`")
        _say_path(handed.tasks)
    if remote is not None:
        from wafer.labelling.exchange.roboflow.uploading import upload

        batch = f"wafer-{table.stem}-{number}"
        with _bar("sending") as progress:
            sent = upload(
                found,
                choice.samples,
                project=remote,
                batch=batch,
                confirm=lambda text: _agreed(text, yes),
                progress=progress,
            )
        _notes(sent.notes)
        _note(f"{sent.sent} images sent and read back, {sent.before} sent before; batch {batch}")
        _note(f"then `wafer labels import roboflow:{remote.name}/VERSION`")


@app.command()
def train(
    model: ModelName = "yolov5n",
    weights: FirstWeights = None,
    pretrained: Annotated[
        str | None,
        typer.Option(
            metavar="cached|none|FILE",
            help="ImageNet weights that a classifier starts from; cached, the default, takes those "
            "that are here.",
        ),
    ] = None,
    img_weights: Annotated[
        bool, typer.Option("--img-weights", help="Draw rare and badly found classes more often.")
    ] = False,
    img_weights_mode: Annotated[
        Literal["yolov5", "rfs", "effective"] | None,
        typer.Option(
            help="How images are weighed: by YOLOv5's formula (the default), by repeat factors, "
            "or by effective numbers."
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(help="How often all images are seen; else 100, or what suits a classifier."),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="Images a step; else 64, or what suits a classifier.")
    ] = None,
    imgsz: Annotated[int, typer.Option(help="Training size in pixels, a multiple of 32.")] = 256,
    freeze: Annotated[
        int, typer.Option(help="First layers that keep their weights; 10 is the backbone.")
    ] = 0,
    max_backgrounds: Annotated[
        int | None, typer.Option(help="At most so many images without a defect; else all.")
    ] = None,
    optimizer: Annotated[
        Literal["auto", "SGD", "Adam", "AdamW", "MuSGD"] | None,
        typer.Option(help="auto, the default, also chooses lr0 and momentum."),
    ] = None,
    lr0: Annotated[
        float | None,
        typer.Option(help="First learning rate; needs --optimizer, but not with a classifier."),
    ] = None,
    grid: Annotated[
        str | None,
        typer.Option(
            metavar="lr=RATE,RATE...",
            help="Train a classifier at each learning rate and keep the one best on validation.",
        ),
    ] = None,
    hyp: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="YAML of hyperparameters, such as hyp_evolve.yaml."),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            help="Stop after so many epochs without a better validation; else 100, or what suits a "
            "classifier."
        ),
    ] = None,
    sampler: Annotated[
        Literal["proportional", "balanced"] | None,
        typer.Option(
            help="How often a network sees each class: as often as there are images of it (the "
            "default), or all classes alike."
        ),
    ] = None,
    cutmix: Annotated[
        float | None,
        typer.Option(
            metavar="P", help="Probability that an image for a network gets a piece of another."
        ),
    ] = None,
    ghost_batch: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Images over which a network's batch norms take their statistics."
        ),
    ] = None,
    evolve: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Evolve the hyperparameters at the cost of N full trainings."
        ),
    ] = None,
    evolve_mode: Annotated[
        Literal["genetic", "halving", "classic"] | None,
        typer.Option(
            help="genetic, the default, trains each candidate in full; halving trains more of them "
            "for less; classic is YOLOv5 v7.0."
        ),
    ] = None,
    seed: Seed = 0,
    device: TrainingDevice = "auto",
    workspace: Where = None,
) -> None:
    """Train a detector or a classifier on the workspace; killed, the same command goes on.

    A classifier takes --pretrained, --epochs, --batch, --imgsz, --lr0 or --grid, --patience, --seed
    and --device; a network also --sampler, --cutmix and --ghost-batch.

    With --evolve the result is the best training of an evolution, which is also left in
    runs/evolve with hyp_evolve.yaml; more processes that start the same command join in.
    """
    from wafer.classifier.names import CLASSIFIERS
    from wafer.datasets.errors import TrainingError

    if model in CLASSIFIERS:
        only_detectors = {
            "--weights": weights,
            "--img-weights": img_weights or img_weights_mode,
            "--freeze": freeze or None,
            "--max-backgrounds": max_backgrounds,
            "--optimizer": optimizer,
            "--hyp": hyp,
            "--evolve": evolve_mode if evolve is None else evolve,
        }
        _refuse_given(only_detectors, f"goes with a detector, not with {model}")
        if grid is not None:
            _refuse_given({"--lr0": lr0}, "and --grid exclude each other")
        _train_classifier(
            _workspace(workspace),
            grid=grid,
            model=model,
            pretrained=_pretrained(pretrained),
            epochs=epochs,
            batch=batch,
            imgsz=imgsz,
            lr0=lr0,
            patience=patience,
            sampler=sampler,
            cutmix=cutmix,
            ghost_batch=ghost_batch,
            seed=seed,
            device=device,
        )
        return
    _refuse_given({"--pretrained": pretrained}, "goes with a classifier; a detector has --weights")
    _refuse_given(
        {"--sampler": sampler, "--cutmix": cutmix, "--ghost-batch": ghost_batch},
        "goes with a classifier, not with a detector",
    )
    _refuse_given({"--grid": grid}, "goes with a classifier; a detector has --evolve")
    from wafer.detector.hyperparameters import given_by_user
    from wafer.detector.training import TrainingArguments, train_detector

    if evolve is None and evolve_mode is not None:
        raise TrainingError("--evolve-mode goes with --evolve N")
    if evolve is not None and optimizer == "auto":
        raise TrainingError(
            "--optimizer auto would override lr0 and momentum, which --evolve evolves; leave it "
            "out, or name SGD or AdamW"
        )
    chosen = given_by_user(hyp, optimizer=optimizer, lr0=lr0)
    training: TrainingArguments = {
        "model": model,
        "weights": _first_weights(weights),
        "img_weights": img_weights or img_weights_mode is not None,
        "img_weights_mode": img_weights_mode or "yolov5",
        "imgsz": imgsz,
        "freeze": freeze,
        "max_backgrounds": max_backgrounds,
        "optimizer": chosen.optimizer or "auto",
        "hyperparameters": chosen.values,
        "seed": seed,
        "device": device,
    }
    if epochs is not None:
        training["epochs"] = epochs
    if batch is not None:
        training["batch"] = batch
    if patience is not None:
        training["patience"] = patience
    found = _workspace(workspace)
    if evolve is not None:
        _evolve(found, trainings=evolve, mode=evolve_mode or "genetic", **training)
        return
    with _epochs() as progress:
        trained = train_detector(found, progress=progress, **training)
    _show_trained(trained)


@app.command()
def evaluate(
    model: Annotated[
        Path | None, typer.Argument(metavar="[MODEL]", help="Run folder, bundle or model file.")
    ] = None,
    split: Annotated[
        Evaluated, typer.Option(help="all includes training images and is optimistic.")
    ] = "test",
    device: Device = "auto",
    as_json: AsJson = False,
    workspace: Where = None,
) -> None:
    """Measure a model on the workspace; writes metrics.json, figures and report.html."""
    from wafer.classifier.choosing import classifier_meant

    found = _workspace(workspace)
    classifier = classifier_meant(found, weights=model)
    with _bar("evaluating") as progress:
        if classifier is None:
            from wafer.detector.evaluating import evaluate_model

            done = evaluate_model(
                found, weights=model, split=split, device=device, progress=progress
            )
        else:
            from wafer.classifier.evaluating import evaluate_classifier

            done = evaluate_classifier(
                found, classifier, split=split, device=device, progress=progress
            )
    _notes(_bundle_notes(found, model))
    _show_evaluation(done.evaluation, as_json)
    _note(f"report {done.report}")


@app.command()
def classify(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGES...",
            help="Folder, pattern, list file or files; - reads a list from standard input.",
        ),
    ],
    weights: Annotated[
        Path | None,
        typer.Option(help="Run folder, model file or bundle; else the workspace's model."),
    ] = None,
    output: Annotated[Path, typer.Option(help="A .csv, .jsonl or .parquet file.")] = Path(
        "predictions.csv"
    ),
    recursive: Annotated[bool, typer.Option("--recursive", help="Walk into sub-folders.")] = False,
    batch: Annotated[int, typer.Option(min=1, help="Images a step.")] = 16,
    device: Device = "auto",
    engine: Annotated[
        Literal["auto", "openvino", "onnxruntime", "torch"],
        typer.Option(help="What runs a bundle; auto is the fastest that gives its golden answers."),
    ] = "auto",
    where: Annotated[
        list[str] | None,
        typer.Option(help="Write only such rows: COLUMN=VALUE, as decision=review."),
    ] = None,
    all_boxes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Also write every box: .json (COCO results) or .jsonl; on torch."
        ),
    ] = None,
    min_confidence: Annotated[
        float | None, typer.Option(help="Score of a box for --all-boxes; 0.25 by default.")
    ] = None,
    save_images: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="New folder for copies with box, class and confidence."),
    ] = None,
    crops: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="New folder for what is in the boxes, by class."),
    ] = None,
    explain: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="New folder for copies that show what made the model decide; 200 times slower.",
        ),
    ] = None,
    reject: Annotated[
        Literal["none", "softmax", "openmax", "nn", "mahalanobis"] | None,
        typer.Option(
            help="How images unlike any class are found, which are decided `unknown`; else as the "
            "bundle was exported, and not at all without one."
        ),
    ] = None,
    force: Force = False,
    workspace: Where = None,
) -> None:
    """Write one row for each image: box, class, confidence, and whether a person should look.

    The exit code is 1 when some image could not be read; its row says why.
    """
    from wafer.classifier.choosing import classifier_meant

    place = _workspace_if_any(workspace)
    classifier = classifier_meant(place, weights=weights)
    with _bar("classifying") as progress:
        if classifier is None:
            from wafer.detector.classification import classify_images

            answering = partial(
                classify_images,
                workspace=None if place is None else place.root,
                all_boxes=all_boxes,
                min_confidence=min_confidence,
            )
        else:
            from wafer.classifier.classification import classify_with_classifier

            _refuse_given(
                {"--all-boxes": all_boxes, "--min-confidence": min_confidence},
                "is for detectors, and this model is a classifier",
            )
            answering = partial(classify_with_classifier, workspace=place)
        done = answering(
            images,
            weights=weights,
            output=output,
            recursive=recursive,
            batch=batch,
            device=device,
            engine=engine,
            where=where or (),
            save_images=save_images,
            crops=crops,
            explain=explain,
            reject=reject,
            force=force,
            progress=progress,
        )
    if done.before:
        _note(f"{done.before} of the images were done before")
    _note(
        f"{done.rows} images, {done.review} for review, {done.errors} unreadable, "
        f"{done.images_per_second:.0f} images/s"
    )
    _say_path(output)
    if done.errors:
        raise typer.Exit(1)


@app.command()
def export(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Run folder or model file.")],
    precision: Annotated[
        Literal["f32", "bf16", "int8"],
        typer.Option(
            help="What engines compute in, on every machine. bf16 is coarser and faster; int8 is "
            "refused where validation images are answered otherwise than in f32."
        ),
    ] = "f32",
    reject: Annotated[
        Literal["softmax", "openmax", "nn", "mahalanobis"] | None,
        typer.Option(help="How images unlike any class are found by commands that name no way."),
    ] = None,
    workspace: Where = None,
) -> None:
    """Make a bundle of a model: all that other machines need to give the same answers.

    It goes into the workspace's models folder, under its digest.
    """
    from wafer.classifier.choosing import classifier_meant

    found = _workspace(workspace)
    if classifier_meant(None, weights=model) is None:
        from wafer.detector.exporting import export_model

        bundle = export_model(found, model, precision=precision, reject=reject)
    else:
        from wafer.classifier.exporting import export_classifier

        bundle = export_classifier(found, model, precision=precision, reject=reject)
    if precision == "int8":
        about = bundle.description.metrics
        agreement, images = about["int8_agreement"], about["int8_images"]
        _note(f"int8 answers {agreement:.1%} of {images:.0f} validation images as f32 does")
    _note(f"next: `wafer promote {bundle.digest[:12]}` to classify with it")
    _say_path(bundle.folder)


@app.command()
def promote(
    bundle: Annotated[
        str | None,
        typer.Argument(metavar="BUNDLE", help="A bundle, or first digits of its digest."),
    ] = None,
    back: Annotated[
        bool, typer.Option("--rollback", help="Go back to the bundle before the current one.")
    ] = False,
    workspace: Where = None,
) -> None:
    """Make a bundle the one that commands use, once it has given its golden answers here."""
    from wafer.inference.engines.choosing import check_bundle
    from wafer.inference.registry import promote, rollback

    if (bundle is None) != back:
        raise typer.BadParameter("name a bundle, or give --rollback")
    models = _workspace(workspace, images_needed=False).models
    if bundle is None:
        done = rollback(models, check=check_bundle)
    else:
        done = promote(models, bundle, check=check_bundle)
    _say_path(done.folder)


@labels_app.command("import")
def labels_import(
    source: Annotated[
        str,
        typer.Argument(
            help="A Label Studio export (JSON, JSON-MIN), a Roboflow export (ZIP), or "
            "roboflow:WORKSPACE/PROJECT/VERSION."
        ),
    ],
    force: Annotated[
        bool, typer.Option("--force", help="Replace other boxes of a person, keeping a .bak-N.")
    ] = False,
    workspace: Where = None,
) -> None:
    """Write the boxes that people drew into labels/; at any fault nothing is written.

    Boxes that a person drew before are never lost: where they differ, the image is named.
    """
    from wafer.labelling.importing import import_labels

    found = _workspace(workspace)
    with _bar("fetching") as progress:
        taken = import_labels(found, source, force=force, progress=progress)
    _notes(taken.notes)
    _note(
        f"{len(taken.written)} images written ({len(taken.replaced)} of them replaced), "
        f"{len(taken.unchanged)} unchanged"
    )
    _say_path(found.labels)


@app.command("label-propagate")
def label_propagate(
    promise: Annotated[
        float, typer.Option(help="Share of labelled images of a class that shall be right.")
    ] = 0.9,
    confidence: Annotated[
        float, typer.Option(help="Confidence of the audit that certifies it.")
    ] = 0.9,
    folds: Annotated[
        int, typer.Option(help="Teachers; each is judged on drawn images it has not seen.")
    ] = 3,
    rounds: Annotated[
        int, typer.Option(help="From the second on teachers learn from accepted images too.")
    ] = 2,
    epochs: Annotated[int, typer.Option(help="Epochs of the teachers of the first round.")] = 60,
    model: Annotated[
        Literal["yolov5n", "yolov5s", "yolov5m", "yolov5l", "yolov5x"],
        typer.Option(help="Size of the teachers."),
    ] = "yolov5n",
    weights: Annotated[
        str | None,
        typer.Option(metavar="FILE|none", help="First weights of the teachers, as for `train`."),
    ] = None,
    batch: Annotated[int, typer.Option(help="Images a step.")] = 16,
    imgsz: Annotated[
        int | None,
        typer.Option(help="Size in pixels, a multiple of 32; else 256, or less for small images."),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            metavar="roboflow:WORKSPACE/PROJECT/VERSION",
            help="A hosted model that is the teacher of the first round; images are sent there.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="--teacher: send without asking.")] = False,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: AsJson = False,
    workspace: Where = None,
) -> None:
    """Draw boxes in the images that have none; killed, the same command goes on.

    Detectors trained on the drawn images label the others where they are sure, and leave the rest
    in a queue for a person. Nothing a person drew is changed.
    """
    from wafer.labelling.propagation.propagating import propagate

    if teacher is None:
        _refuse_given({"--yes": yes}, "goes with --teacher")
    found = _workspace(workspace)
    hosted = None if teacher is None else _hosted_teacher(found, teacher, yes)
    with _bar("labelling") as progress:
        done = propagate(
            found,
            model=model,
            weights=_first_weights(weights),
            folds=folds,
            rounds=rounds,
            epochs=epochs,
            batch=batch,
            imgsz=imgsz,
            promise=promise,
            confidence=confidence,
            seed=seed,
            device=device,
            hosted=hosted,
            progress=progress,
        )
    _notes(done.summary.notes)
    if done.left_out:
        _note(f"note: {len(done.left_out)} images were changed by somebody meanwhile, left alone")
    if as_json:
        typer.echo((done.folder / "report.json").read_text(encoding="utf-8").rstrip())
    else:
        _show_labelled(done.classes)
    _note(f"report {done.report}")
    _note(f"{len(done.queue)} images to look at; next: `wafer audit`, then `wafer train`")


@app.command()
def audit(
    answers: Annotated[
        Path | None,
        typer.Argument(metavar="[CSV]", help="The filled audit.csv; without it a sample is drawn."),
    ] = None,
    who: Annotated[str | None, typer.Option(help="Who looked; else the user's name.")] = None,
    as_json: AsJson = False,
    workspace: Where = None,
) -> None:
    """Certify the labels of the last `label-propagate` by a sample that a person looks at.

    Without an argument pictures and a table to fill in are written; with the filled table the
    classes are certified, or taken back.
    """
    from wafer.labelling.audit import draw_audit, finish_audit

    found = _workspace(workspace)
    if answers is None:
        _refuse_given({"--json": as_json, "--who": who}, "goes with a filled audit.csv")
        drawn = draw_audit(found)
        _notes(drawn.notes)
        _note(f"look at the {drawn.images} pictures and fill in the column `right`: yes or no")
        _say_path(drawn.table)
        return
    done = finish_audit(found, answers, who=who)
    _notes(done.notes)
    if as_json:
        typer.echo(json.dumps(done.to_dict(), indent=2))
    else:
        _show_labelled(done.classes)
    _note(f"report {done.report}")


@app.command()
def review(
    port: Annotated[int, typer.Option(help="Where the page is; 0 takes any free port.")] = 8765,
    who: Annotated[
        str | None, typer.Option(help="Who looks; else the user's name. The page can change it.")
    ] = None,
    workspace: Where = None,
) -> None:
    """Look at the queue, draw seeds, and answer an audit in the browser, on this machine alone.

    Prints the address of the page. Every decision is in the ledger before the page says so;
    stopped or killed, the same command goes on.
    """
    from wafer.labelling.review.server import serve

    serve(_workspace(workspace), port=port, who=who, ready=typer.echo)


@serve_app.callback()
def serve(
    context: typer.Context,
    weights: Annotated[
        Path | None, typer.Option(help="A bundle; else the promoted one, whichever that becomes.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Where to listen; others than this machine's own need a key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any that is free.")] = 8080,
    keys: KeysFile = None,
    engine: ServingEngine = "auto",
    deadline: Annotated[
        float, typer.Option(min=0.01, help="Seconds that an image may wait for a process.")
    ] = 2.0,
    queue: Annotated[
        int, typer.Option(min=1, help="Images that may wait; others are refused at once.")
    ] = 64,
    tls_cert: Annotated[
        Path | None, typer.Option(metavar="PEM", help="A certificate: serve over TLS.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="PEM", help="Its key.")] = None,
    audit: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The audit log; else audit.jsonl of the workspace."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Look whether all is in order, and end.")
    ] = False,
    workspace: Where = None,
) -> None:
    """Answer images over HTTP: box, class, confidence, and whether a person should look.

    Prints its address; logs are JSON lines on stderr. A bundle that is promoted meanwhile takes
    over without a request lost. SIGTERM: who is inside is answered, then it ends.
    """
    if context.invoked_subcommand is not None:
        _refuse_before(context)
        return
    from wafer.service.web.server import plan_server
    from wafer.service.web.server import serve as run

    plan = plan_server(
        workspace=_workspace_if_any(workspace),
        weights=weights,
        host=host,
        port=port,
        keys=keys,
        engine=engine,
        deadline=deadline,
        queue=queue,
        audit=audit,
        tls_cert=tls_cert,
        tls_key=tls_key,
    )
    if check:
        _note(f"{plan.served.bundle.label} on {plan.served.backend.name}: in order")
    else:
        run(plan, ready=typer.echo)


@app.command()
def watch(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Each folder in it is a lot.")],
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where results go; else FOLDER-results beside it."),
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="End when all that is there is answered.")
    ] = False,
    settle: Annotated[
        float, typer.Option(min=0, help="Seconds without a change: a file is complete.")
    ] = 2.0,
    folders: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES", help="What the folders in FOLDER are, such as tool/step/lot."
        ),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="A bundle; else the promoted one, whichever that becomes.")
    ] = None,
    engine: ServingEngine = "auto",
    workspace: Where = None,
) -> None:
    """Answer the images that appear in a folder: a CSV for each lot, a JSON file for each image.

    Each content is answered once, however often the command is killed and started again. Broken
    files are copied to the dead-letter folder, with the reason. Nothing in FOLDER is changed.
    """
    from wafer.service.folder.watching import levels_given, watch_folder

    done = watch_folder(
        folder,
        workspace=_workspace_if_any(workspace),
        weights=weights,
        output=output,
        once=once,
        settle=settle,
        levels=levels_given(folders) if folders is not None else (),
        engine=engine,
    )
    for path, reason in done.unread.items():
        _note(f"{path}: {reason}; it is taken when it can be read")
    _note(f"{done.answered} images answered, {done.broken} broken, {done.copies} copies")
    if once and (done.broken or done.unread):
        raise typer.Exit(1)


@keys_app.command("add")
def keys_add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key; it stands in logs.")],
    rate: Annotated[
        float | None, typer.Option(min=0.01, help="Requests a second at most; else any number.")
    ] = None,
    keys: KeysFile = None,
    workspace: Where = None,
) -> None:
    """Make a key and show it once; only its digest is kept. From now on the server wants keys."""
    from wafer.service.keys import add_key

    typer.echo(add_key(_keys_file(keys, workspace), name, rate=rate))
    _note("keep it now, it cannot be shown again; clients send `Authorization: Bearer KEY`")


@keys_app.command("revoke")
def keys_revoke(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key.")],
    keys: KeysFile = None,
    workspace: Where = None,
) -> None:
    """Let a key open nothing any more, from the next request on."""
    from wafer.service.keys import revoke_key

    revoke_key(_keys_file(keys, workspace), name)


@keys_app.command("list")
def keys_list(keys: KeysFile = None, workspace: Where = None) -> None:
    """List the keys: name, requests a second, when it was made and revoked."""
    from wafer.datasets.errors import WaferError
    from wafer.service.keys import read_keys

    path = _keys_file(keys, workspace)
    if keys is not None and not path.is_file():
        raise WaferError(f"{path}: no such file of keys")
    known = read_keys(path)
    if not known:
        _note("no keys: the server answers this machine alone, and asks for none")
    for key in known:
        rate = "any" if key.rate is None else f"{key.rate:g}/s"
        state = "in use" if key.revoked is None else f"revoked {key.revoked}"
        typer.echo(f"{key.name}  {rate}  {key.created}  {state}")


@audit_app.command("verify")
def audit_verify(
    log: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="The log; else audit.jsonl of the workspace."),
    ] = None,
    workspace: Where = None,
) -> None:
    """Look whether a line was changed, moved, added or taken away since it was written."""
    from wafer.service.audit import AUDIT, verify_audit

    if log is None:
        log = _workspace(workspace, images_needed=False).root / AUDIT
    done = verify_audit(log)
    typer.echo(f"{done.lines} lines, whole; the last has the hash {done.digest}")


@app.command()
def drift(
    log: Annotated[
        Path | None,
        typer.Argument(
            metavar="[LOG]",
            help="An audit log, or the output of `wafer watch`; else audit.jsonl of the workspace.",
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="FIRST..LAST",
            help="Days of the log to compare with, as 2026-01-31; else the bundle's validation "
            "images.",
        ),
    ] = None,
    days: Annotated[int, typer.Option(min=1, help="So many days, the newest ones.")] = 30,
    weights: Annotated[
        Path | None, typer.Option(help="A bundle that lies outside the workspace's models folder.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where the report goes; else audit-drift beside the log."),
    ] = None,
    as_json: AsJson = False,
    workspace: Where = None,
) -> None:
    """Look whether images and answers have moved: for each day, tool and step, beside the usual.

    Writes a CSV, pictures and a page. The exit code is 1 where the newest day of a tool and step
    has an alarm.
    """
    from rich.console import Console

    from wafer.service.audit import AUDIT
    from wafer.service.drift.days import days_given, drift_of
    from wafer.service.drift.report import (
        WIDE,
        drift_dict,
        drift_table,
        report_folder,
        write_drift,
    )

    if log is None:
        place = _workspace(workspace, images_needed=False)
    else:
        place = _workspace_if_any(workspace)
    path = place.root / AUDIT if log is None else log
    found = drift_of(
        path,
        models=None if place is None else place.models,
        weights=weights,
        reference=None if reference is None else days_given(reference),
        newest=days,
    )
    folder = report_folder(path) if output is None else output
    report = write_drift(found, folder, title=f"Drift of {path.resolve().parent.name}")
    _notes(found.notes)
    if as_json:
        typer.echo(json.dumps(drift_dict(found), indent=2))
        _note(f"report {report}")
    else:
        console = Console()
        console.print(drift_table(found, wide=console.width >= WIDE))
        _say_path(report)
    if found.moved:
        raise typer.Exit(1)


@ledger_app.command("verify")
def ledger_verify(as_json: AsJson = False, workspace: Where = None) -> None:
    """Check that no line of the ledger was changed, lost or moved, and no label file behind it.

    The exit code is 1 when something was.
    """
    from wafer.labelling.verifying import verify_ledger

    found = verify_ledger(_workspace(workspace))
    _notes(found.notes)
    faults = [*found.faults, *(edit.fault() for edit in found.edits)]
    if as_json:
        count = {"entries": found.entries, "images": found.images}
        typer.echo(json.dumps({**count, "faults": list(map(str, faults))}, indent=2))
    else:
        for fault in faults:
            _note(f"wafer: {fault}")
        typer.echo(f"{found.entries} entries about {found.images} images, {len(faults)} faults")
    if faults:
        raise typer.Exit(1)


@ledger_app.command("rebuild")
def ledger_rebuild(workspace: Where = None) -> None:
    """Write the label files that are missing or differ from the ledger; old ones are kept."""
    from wafer.labelling.ledger import Ledger

    done = Ledger(_workspace(workspace)).rebuild()
    for path in done.kept:
        _note(f"note: the file that differed is kept as {path}")
    typer.echo(f"{done.written} label files written")


@ledger_app.command("adopt")
def ledger_adopt(
    who: Annotated[str | None, typer.Option(help="Who drew them; else the user's name.")] = None,
    workspace: Where = None,
) -> None:
    """Record label files that were added or edited by other means, as a person's work."""
    from wafer.labelling.ledger import Ledger, this_user

    number = Ledger(_workspace(workspace)).adopt(who=who or this_user())
    typer.echo(f"{number} label files recorded")


@weights_app.command("list")
def weights_list() -> None:
    """Show the model files that are known, and where they are."""
    from wafer.weights.library import list_weights

    for row in list_weights():
        place = row.path or "not here"
        typer.echo(f"{row.name}  {row.architecture}  {row.licence}  {row.sha256}  {place}")


@weights_app.command("verify")
def weights_verify(
    name: Annotated[str, typer.Argument(metavar="FILE|NAME", help="A file or a known name.")],
) -> None:
    """Check that a model file is what it should be."""
    from wafer.weights.library import verify_weights

    found = verify_weights(name)
    typer.echo(f"{found.path}: {found.content}, sha256 {found.sha256}")


@weights_app.command("import")
def weights_import(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="An official YOLOv5 v6/v7 file.")],
) -> None:
    """Turn an official YOLOv5 file into first weights for `wafer train --weights`."""
    from wafer.detector.architecture import shapes_of
    from wafer.weights.library import import_weights

    done = import_weights(path, shapes_of=shapes_of)
    _note(f"{done.report.matched} tensors of {done.architecture} fit")
    _say_path(done.path)


@weights_app.command("fetch")
def weights_fetch(
    name: Annotated[
        Literal["inception_v3", "resnet50", "efficientnet_b3", "efficientnet_b7"],
        typer.Argument(help="The network whose ImageNet weights are wanted."),
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Fetch without asking.")] = False,
) -> None:
    """Fetch ImageNet weights that a training starts from; host and size are said first.

    No other command fetches a model. Cut off, the same command goes on.
    """
    from wafer.weights.fetching import fetch_weights, source_named

    with _bar("fetching") as progress:
        done = fetch_weights(
            source_named(name),
            confirm=lambda text: _agreed(text, yes, question="Fetch it?"),
            progress=progress,
        )
    if done.before:
        _note("it was here before; nothing was fetched")
    _say_path(done.path)


def _workspace(folder: Path | None, *, images_needed: bool = True) -> Any:
    from wafer.datasets.workspace import find_workspace, open_workspace

    if folder is None:
        return find_workspace(images_needed=images_needed)
    return open_workspace(folder, images_needed=images_needed)


def _workspace_if_any(folder: Path | None) -> Any:
    from wafer.datasets.workspace import workspace_if_any

    return workspace_if_any(folder)


def _keys_file(keys: Path | None, workspace: Path | None) -> Path:
    from wafer.service.keys import keys_file

    place = None if keys is not None else _workspace(workspace, images_needed=False)
    path = keys_file(place, keys=keys)
    assert path is not None
    return path


def _refuse_before(context: typer.Context) -> None:
    """Refuse options of a command that are given before the name of another one in it."""
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if source is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(
                f"{parameter.opts[0]} has no effect before `{context.invoked_subcommand}`; put "
                "options behind the last command"
            )


def _refuse_given(options: Mapping[str, object], why: str) -> None:
    """Refuse options that were given; one that was not is None or False."""
    from wafer.datasets.errors import WaferError

    given = [name for name, value in options.items() if value is not None and value is not False]
    if given:
        raise WaferError(f"{given[0]} {why}; leave it out")


def _evolve(workspace: Any, **arguments: Any) -> None:
    from wafer.detector.evolve.evolving import evolve_detector

    with _trials() as watch:
        done = evolve_detector(workspace, say=_note, watch=watch, **arguments)
    _notes(done.notes)
    _note(f"{'adopted' if done.verdict.adopted else 'rejected'}: {done.verdict.reason}")
    _note(f"hyperparameters, trials and picture: {done.folder}")
    _say_path(done.run)


def _train_classifier(workspace: Any, *, grid: str | None, **arguments: Any) -> None:
    from wafer.classifier.training import train_classifier

    if grid is not None:
        _search_grid(workspace, grid, **arguments)
        return
    with _epochs() as progress:
        trained = train_classifier(workspace, progress=progress, **arguments)
    _show_trained(trained)


def _search_grid(workspace: Any, grid: str, *, lr0: None, **arguments: Any) -> None:
    from rich.console import Console

    from wafer.classifier.grid import learning_rates, search_grid
    from wafer.classifier.grid_outputs import grid_table

    with _bars() as watch:
        done = search_grid(workspace, learning_rates(grid), watch=watch, **arguments)
    Console(stderr=True).print(grid_table(done.points))
    _notes(done.notes)
    _note(f"table and picture: {done.folder}")
    _say_path(done.run)


def _show_trained(trained: Any) -> None:
    _notes(trained.notes)
    for name, value in trained.metrics.items():
        _note(f"{name:<12} {'-' if value is None else format(value, '.3f')} (val)")
    _note("next: `wafer evaluate` on the test split, `wafer classify IMAGES` for new images")
    _say_path(trained.folder)


def _roboflow_project(name: str) -> Any:
    from wafer.labelling.exchange.roboflow.project import open_project

    remote = open_project(name)
    _note(f"note: {remote.described}")
    return remote


def _hosted_teacher(workspace: Any, source: str, yes: bool) -> Any:
    from wafer.labelling.exchange.roboflow.teacher import hosted_teacher
    from wafer.labelling.propagation.teachers import HostedTeacher

    model = source.removeprefix("roboflow:")
    ask = hosted_teacher(workspace, model, confirm=lambda text: _agreed(text, yes))
    return HostedTeacher(f"roboflow:{model}", ask)


def _agreed(text: str, yes: bool, *, question: str = "Send it?") -> bool:
    """Say what is about to be sent or fetched, and ask; no answer at all is a no."""
    _note(text)
    if yes:
        return True
    try:
        return typer.confirm(question, err=True)
    except click.Abort:
        return False


def _first_weights(text: str | None) -> Path | Literal["none"] | None:
    if text == "none":
        return "none"
    return None if text is None else Path(text)


def _pretrained(text: str | None) -> Path | Literal["cached", "none"] | None:
    if text == "cached":
        return "cached"
    return _first_weights(text)


def _bundle_notes(workspace: Any, model: Path | None) -> tuple[str, ...]:
    from wafer.inference.bundle import open_bundle
    from wafer.inference.registry import named_bundle

    folder = named_bundle(workspace, weights=model)
    if folder is None:
        return ()
    about = open_bundle(folder).description
    if about.precision == "f32" and about.decision.reject is None:
        return ()
    return (
        "this measures the network of the bundle in float32 on torch, and rejects no image as "
        f"unknown; the bundle itself answers in {about.precision}"
        + ("" if about.decision.reject is None else f" and rejects by {about.decision.reject}"),
    )


def _show_evaluation(evaluation: Any, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(evaluation.to_dict(), indent=2))
        return
    from rich.console import Console

    from wafer.evaluation.tables import class_table, summary_table

    console = Console()
    console.print(summary_table(evaluation))
    table = class_table(evaluation, width=console.width)
    # Rather lines that a terminal wraps than figures that rich cuts.
    needed = Console(width=WIDEST).measure(table).minimum
    Console(width=max(console.width, needed)).print(table)


def _show_labelled(rows: Any) -> None:
    from rich.console import Console

    from wafer.labelling.tables import labelled_table

    Console().print(labelled_table(rows))


def _show_table(number: int, table: Any, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(table.to_dict() if number == 3 else table.rows(), indent=2))
        return
    from rich.console import Console

    if number == 3:
        from wafer.experiments.table3.outputs import terminal_table

        Console().print(terminal_table(table))
        if table.verdict is not None:
            typer.echo(f"evolution: {table.verdict}")
        return
    from wafer.experiments.comparison.outputs import terminal_table as compared

    Console().print(compared(table))
    for claim in table.claims():
        typer.echo(f"{claim.claim}: {claim.verdict} ({claim.here})")


def _say_path(path: Path) -> None:
    """Print a path on stdout byte by byte, as a name need not be UTF-8."""
    typer.echo(os.fsencode(path))


def _note(text: str) -> None:
    typer.echo(text, err=True)


def _notes(texts: tuple[str, ...]) -> None:
    for text in texts:
        _note(f"note: {text}")


@contextmanager
def _bars() -> Iterator[Callable[[str, float, float | None], None]]:
    """Show progress and time left on stderr, one bar for each step that reports."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
    from rich.progress import TimeElapsedColumn as Elapsed
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (TextColumn("{task.description:<11}"), BarColumn(), MofNCompleteColumn())
    speed = TextColumn("{task.fields[speed]}")
    bars = Progress(*columns, speed, Elapsed(), Remaining(), console=Console(stderr=True))
    tasks: dict[str, TaskID] = {}

    def show(step: str, done: float, total: float | None) -> None:
        bars.start()  # here, so that a command that fails at once prints its error alone
        if step not in tasks:
            tasks[step] = bars.add_task(step, total=total, speed="")
        a_second = bars.tasks[tasks[step]].speed
        speed = "" if a_second is None else f"{a_second:.{0 if a_second >= 10 else 1}f}/s"
        bars.update(tasks[step], completed=done, total=total, speed=speed)

    try:
        yield show
    finally:
        if tasks:
            bars.stop()


@contextmanager
def _bar(step: str) -> Iterator[Callable[[int, int | None], None]]:
    with _bars() as show:
        yield lambda done, total: show(step, done, total)


@contextmanager
def _epochs() -> Iterator[Callable[[int, int, int, int], None]]:
    """Show a training: the callback takes epoch, epochs, batch, batches, all from 1."""
    with _bar("training") as show:
        yield lambda epoch, epochs, batch, batches: show(
            (epoch - 1) * batches + batch, epochs * batches
        )


@contextmanager
def _trials() -> Iterator[Callable[[Any], None]]:
    """Show an evolution on stderr: a live table in a terminal, else a line for each trial."""
    from rich.console import Console
    from rich.live import Live

    from wafer.detector.evolve.table import evolve_table, trial_line

    console = Console(stderr=True)
    latest: list[Any] = []
    live = Live(
        console=console,
        get_renderable=lambda: evolve_table(latest[-1]) if latest else "",
        refresh_per_second=2,
    )
    told: set[int] = set()

    def watch(view: Any) -> None:
        latest[:] = [view]
        if console.is_terminal:
            live.start()  # here, so that a command that fails at once prints its error alone
            return
        for state in view.trials:
            if state.status != "open" and state.trial.number not in told:
                told.add(state.trial.number)
                _note(trial_line(view, state))

    try:
        yield watch
    finally:
        live.stop()
