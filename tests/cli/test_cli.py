"""The command line: exit codes, one-line errors, defaults that agree with the library, the page."""

import importlib.util
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer
from typer.testing import CliRunner

from wafer.cli import _show_evaluation, app
from wafer.datasets.classes import ClassTable, DefectClass
from wafer.datasets.records import Sample
from wafer.datasets.runs import open_run
from wafer.datasets.synthetic.generate import generate_workspace
from wafer.evaluation.records import Prediction
from wafer.evaluation.results import evaluate

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = typer.main.get_command(app)


@pytest.fixture
def runner() -> CliRunner:
    return CliRunner()


def test_the_page_of_the_commands_is_what_they_say_themselves() -> None:
    spec = importlib.util.spec_from_file_location("generate_cli", ROOT / "docs/generate_cli.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert written == module.page(), "run `make docs`"


def test_the_version_is_that_of_the_distribution(runner: CliRunner) -> None:
    result = runner.invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.stdout == "wafer 0.1.0\n"


@pytest.mark.slow
def test_every_command_has_help(runner: CliRunner) -> None:
    for name in COMMANDS.commands:
        result = runner.invoke(app, [name, "--help"])
        assert result.exit_code == 0, name
        assert "Usage" in result.stdout


@pytest.mark.parametrize(
    ("command", "library"),
    [
        ("train", "wafer.detector.training:prepare_training"),
        ("synth", "wafer.datasets.synthetic.generate:generate_workspace"),
        ("split", "wafer.datasets.splitting:resplit"),
        ("seed", "wafer.labelling.seeding:choose_seed"),
        ("init", "wafer.datasets.initialisation:initialise"),
        ("evaluate", "wafer.detector.evaluating:evaluate_model"),
        ("demo", "wafer.experiments.demo:run_demo"),
        ("label-propagate", "wafer.labelling.propagation.propagating:propagate"),
        ("reproduce", "wafer.experiments.reproduction:reproduce_table"),
    ],
)
def test_defaults_are_those_of_the_library(command: str, library: str) -> None:
    module, _, function = library.partition(":")
    wanted = inspect.signature(getattr(importlib.import_module(module), function)).parameters
    ours = {p.name: p.default for p in COMMANDS.commands[command].params}
    shared = [
        name
        for name in wanted
        if ours.get(name) is not None and wanted[name].default is not inspect.Parameter.empty
    ]
    assert shared
    assert {name: ours[name] for name in shared} == {name: wanted[name].default for name in shared}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace that no test writes to."""
    root = tmp_path_factory.mktemp("small") / "w"
    generate_workspace(root, images=56, counts="balanced", size=64, processes=1)
    (root / "rect.yaml").write_text("mosaic: 1.0\nrect: true\n")
    return root


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--evolve", "3", "--optimizer", "auto"], "--optimizer auto would override lr0"),
        (["--evolve-mode", "halving"], "--evolve-mode goes with --evolve N"),
        (["--evolve", "0"], "--evolve must be at least 1"),
        (["--lr0", "0.01"], "the optimizer auto chooses lr0 itself; name another with --optimizer"),
        (["--lr0", "2", "--optimizer", "SGD"], "lr0 must be a number from 0 to 1, not 2"),
        (["--hyp", "gone.yaml"], "gone.yaml: no such file of hyperparameters"),
        (["--hyp", "rect.yaml"], "rect.yaml:2: no hyperparameter is called rect"),
        (["--freeze", "30"], "--freeze must be from 0 to 24"),
        (["--device", "0,0"], "--device 0,0 names a device twice"),
    ],
)
def test_options_of_a_training_that_do_not_go_together_are_refused(
    runner: CliRunner,
    small: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(small)
    result = runner.invoke(app, ["train", *arguments])
    assert (result.exit_code, result.stdout) == (1, "")
    assert len(result.stderr.strip().splitlines()) == 1
    assert message in result.stderr
    assert not (small / "runs").exists()


def test_every_argument_has_help() -> None:
    def arguments(command: click.Command) -> Iterator[click.Parameter]:
        yield from (p for p in command.params if isinstance(p, click.Argument))
        for child in getattr(command, "commands", {}).values():
            yield from arguments(child)

    found = list(arguments(COMMANDS))
    assert len(found) > 15
    assert [p.name for p in found if not getattr(p, "help", None)] == []


@pytest.mark.parametrize("before", [["--keys", "k.json"], ["--workspace", "w"], ["--port", "0"]])
def test_options_of_serve_before_another_command_are_refused(
    runner: CliRunner, before: list[str]
) -> None:
    done = runner.invoke(app, ["serve", *before, "keys", "list"])
    assert done.exit_code == 2
    assert f"{before[0]} has no effect before `keys`" in " ".join(done.stderr.split())


def test_keys_that_are_not_there_are_said(runner: CliRunner, tmp_path: Path) -> None:
    done = runner.invoke(app, ["serve", "keys", "list", "--keys", str(tmp_path / "k.json")])
    assert (done.exit_code, done.stdout) == (1, "")
    assert "k.json: no such file of keys" in done.stderr


@pytest.mark.slow
def test_who_reads_no_further_hears_no_complaint() -> None:
    wafer = Path(sys.executable).with_name("wafer")
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([wafer, "weights", "list"], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_usage_error_is_exit_code_2(runner: CliRunner) -> None:
    assert runner.invoke(app, ["train", "--epochs", "many"]).exit_code == 2
    assert runner.invoke(app, ["train", "--no-such-option"]).exit_code == 2
    assert runner.invoke(app, ["reproduce", "4"]).exit_code == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "wafer init"),
        (["evaluate"], "wafer init"),
        (["classify", "."], "no image in this folder"),
        (["split"], "wafer init"),
        (["seed", "20"], "wafer init"),
        (["seed", "20", "--embed"], "--embed goes with --to labelstudio"),
        (["seed", "20", "--to", "roboflow"], "--to roboflow and --project"),
        (["seed", "20", "--to", "labelstudio", "--project", "a/b"], "--to roboflow and --project"),
        (["labels", "import", "export.json"], "wafer init"),
        (["synth", "w", "--size", "10"], "size"),
        (["synth", "w", "--counts", "nothing=3"], "nothing"),
        (["init", "w", "--images", "nowhere"], "nowhere"),
        (["convert", "nowhere", "there", "--to", "voc"], "nowhere"),
        (["weights", "verify", "nowhere.safetensors"], "nowhere.safetensors"),
        (["reproduce", "1", "--workspace", "nowhere"], "no wafer.toml"),
        (["reproduce", "3", "--workspace", "nowhere"], "no wafer.toml"),
    ],
)
def test_what_the_user_can_mend_is_exit_code_1_and_plain_lines(
    runner: CliRunner,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = runner.invoke(app, arguments)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("wafer: ")
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_file_system_s_own_errors_are_one_line(
    runner: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    result = runner.invoke(app, ["synth", "file/inside", "--images", "48"])
    assert result.exit_code == 1
    assert len(result.stderr.strip().splitlines()) == 1


def test_weights_list_shows_the_official_file(runner: CliRunner) -> None:
    result = runner.invoke(app, ["weights", "list"])
    assert result.exit_code == 0
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("yolov5n-coco-v7.0 ")]
    assert re.search(r"  [0-9a-f]{64}  ", line)


def test_no_figure_of_an_evaluation_is_cut(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    classes = ClassTable((DefectClass(0, "clean", "none"), DefectClass(1, "c" * 45)))
    samples = [Sample(f"{i}.png", classes.names[i % 2], (), None, "test") for i in range(4)]
    answers = [Prediction(s.image, None, s.image_class, 1.0, "auto") for s in samples]
    done = evaluate(
        samples,
        answers,
        classes=classes,
        detections=None,
        sizes={},
        model="m",
        dataset_hash="",
        split="test",
        excluded={},
    )
    for columns in ("120", "60", "20"):
        monkeypatch.setenv("COLUMNS", columns)
        _show_evaluation(done, as_json=False)
        table = capsys.readouterr().out.partition("precision")[2]
        assert table.count("100.0") >= 6  # recall, precision and F1 of both classes
        assert "\u2026" not in table


@pytest.mark.slow
def test_after_a_new_split_older_models_are_named(runner: CliRunner, tmp_path: Path) -> None:
    root = tmp_path / "w"
    workspace = generate_workspace(root, images=48, counts="balanced", size=64, processes=1)
    split = ["split", "--seed", "5", "--workspace", str(root)]
    assert "models that were trained" not in runner.invoke(app, split).stderr
    run, _ = open_run(workspace.runs, model="mlp", arguments={}, dataset_hash="")
    run.update(status="finished")
    assert "models that were trained before may have seen" in runner.invoke(app, split).stderr
