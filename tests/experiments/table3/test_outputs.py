"""The table, with made-up measurements."""

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from wafer.experiments.table3.outputs import Table3, terminal_table
from wafer.experiments.table3.plan import EXPERIMENTS, SCALES, settings
from wafer.experiments.table3.running import Outcome

EVIL = "a|b<script>"


def metrics(value: float | None, *, classes: int = 2) -> dict[str, Any]:
    names = [EVIL, *(f"class{i}" for i in range(1, classes))]
    figures = {"box_precision": value, "box_recall": value, "ap50": value, "ap50_95": value}
    return {
        "n": 9,
        "box_precision": value,
        "box_recall": value,
        "map50_95": value,
        "per_class": {name: {"support": 4, **figures} for name in names},
        "detection_confusion": {
            "classes": [*names, "background"],
            "counts": [[3, 1, 1], [0, 2, 0], [5, 0, 0]],
        },
    }


def outcome(folder: Path, number: int, *, val: float | None, test: float | None) -> Outcome:
    experiment = EXPERIMENTS[number - 1]
    run = folder / "runs" / experiment.name / "yolov5n-001"
    (run / "test").mkdir(parents=True)
    for picture in ("test/confusion_detection.png", "train_batch0.jpg"):
        Image.new("L", (number, number)).save(run / picture)
    return Outcome(
        experiment=experiment,
        run=run,
        arguments={"optimizer": "AdamW", "seed": experiment.seed},
        metrics={"val": metrics(val), "test": metrics(test)},
        verdict="adopted: candidate 1" if experiment.evolves else None,
    )


def table(folder: Path, *outcomes: Outcome) -> Table3:
    scale = SCALES["cpu"]
    return Table3(
        folder=folder,
        scale=scale,
        settings=settings(scale, model="yolov5n", start="coco.safetensors", workspace=None),
        notes=("no image of class dust in val",),
        synthetic=True,
        outcomes=outcomes,
    )


@pytest.fixture
def whole(tmp_path: Path) -> Table3:
    """All seven; exp5 is best on val, exp3 on test."""
    val = [0.1, 0.2, 0.3, 0.1, 0.6, 0.5, None]
    test = [0.1, 0.2, 0.9, 0.1, 0.4, 0.5, None]
    return table(tmp_path, *(outcome(tmp_path, i + 1, val=val[i], test=test[i]) for i in range(7)))


def test_the_best_is_chosen_on_val(whole: Table3) -> None:
    assert whole.best is not None
    assert whole.best.experiment.name == "exp5"


def test_the_csv_has_the_paper_s_figures_beside_ours_and_the_scaling(whole: Table3) -> None:
    whole.write()
    with (whole.folder / "table3.csv").open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["experiment"] for row in rows] == [f"exp{i}" for i in range(1, 8)]
    third = {key: rows[2][key] for key in ("paper_batch", "batch", "paper_epochs", "epochs")}
    assert third == {"paper_batch": "512", "batch": "64", "paper_epochs": "100", "epochs": "20"}
    assert (rows[2]["paper_map50_95"], rows[2]["val_map50_95"]) == ("0.7215", "0.3")
    assert (rows[2]["test_precision"], rows[2]["test_recall"]) == ("0.9", "0.9")
    assert (rows[6]["val_map50_95"], rows[6]["hyperparameters"]) == ("", "of exp6")
    assert [row["hyperparameters"] for row in rows[4:6]] == ["defaults", "evolved"]
    assert rows[5]["trainings"] == "7"
    assert [row["seed"] for row in rows] == ["0", "0", "0", "1", "0", "0", "0"]
    assert rows[0]["run"] == "runs/exp1/yolov5n-001"


def test_what_is_not_finished_is_empty(tmp_path: Path) -> None:
    begun = table(tmp_path, outcome(tmp_path, 1, val=0.25, test=0.125))
    begun.write()
    text = (tmp_path / "table3.md").read_text(encoding="utf-8")
    assert "1 of 7 experiments are finished." in text
    lines = {line.split(" | ")[0]: line for line in text.splitlines() if line.startswith("| exp")}
    assert lines["| exp1"] == (
        "| exp1 | 8 (64) | 20 (100) | no | 0.9628 | 0.2500 | 0.1250 | 0.8994 | 0.2500 | 0.1250 "
        "| 0.6912 | 0.2500 | 0.1250 |"
    )
    assert lines["| exp7"].endswith("| 0.9566 | - | - | 0.9013 | - | - | 0.7080 | - | - |")
    assert "10 (15) x 7" in lines["| exp6"]
    with (tmp_path / "table3.csv").open(encoding="utf-8", newline="") as handle:
        assert list(csv.DictReader(handle))[1]["run"] == ""


def test_the_markdown_has_verdict_settings_and_every_class(whole: Table3) -> None:
    whole.write()
    text = (whole.folder / "table3.md").read_text(encoding="utf-8")
    assert "Evolution (exp6): adopted: candidate 1." in text
    assert "Note: no image of class dust in val." in text
    assert "| first weights | YOLOv5's, trained on COCO | coco.safetensors |" in text
    assert "## Every class, exp5 on test" in text
    assert "| a\\|b&lt;script> | 4 | 5 | 0.400 | 0.400 | 0.400 | 0.400 |" in text
    widths = {
        len(re.split(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("| exp")
    }
    assert widths == {15}


def test_the_page_holds_the_pictures_of_the_best_and_needs_nothing_else(
    whole: Table3, page_of: Callable[[str], Any]
) -> None:
    whole.write_page()
    page = page_of(whole.page.read_text(encoding="utf-8"))
    kinds = [source.partition(";")[0] for source in page.sources]
    assert kinds == ["data:image/png", "data:image/jpeg"]  # a comparison there is not
    assert "script" not in page.tags
    assert EVIL in page.words
    assert "0 a|b<script>, 1 class1." in page.words
    assert "exp5 on test" in page.words
    assert "The images are synthetic" in page.words
    assert "0.7398" in page.words
    whole.write_page()
    assert page_of(whole.page.read_text(encoding="utf-8")).words == page.words


def test_a_page_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="without a finished experiment"):
        table(tmp_path).write_page()
    assert list(tmp_path.iterdir()) == []


def test_the_json_object_is_plain(whole: Table3) -> None:
    content = json.loads(json.dumps(whole.to_dict(), allow_nan=False))
    assert (content["table"], content["scale"], content["best"]) == (3, "cpu", "exp5")
    assert content["rows"][4]["test_map50_95"] == 0.4
    assert content["best_per_class"][EVIL]["ap50"] == 0.4
    assert content["settings"][0].keys() == {"name", "paper", "here"}


def test_the_table_fits_into_a_terminal_of_80_columns(whole: Table3) -> None:
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(terminal_table(whole))
    lines = [line.rstrip() for line in console.export_text().splitlines()]
    assert "exp5     8     20   yes 0.956 0.600 0.400 0.925 0.600 0.400 0.740 0.600 0.400" in lines
    assert any(line.endswith("0.708     -     -") or line.endswith("0.708 - -") for line in lines)
    assert "…" not in "".join(lines)
