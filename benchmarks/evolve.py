"""Fitness against epochs spent: genetic, halving, classic and random search, over seeds.

    python benchmarks/evolve.py FOLDER

A small synthetic task, so that a training takes seconds. Every mode has the cost of the same number
of full trainings. The fitness is the best of the full trainings so far, which is what each of them
goes by; what is adopted is then trained on seeds that the search has not seen, beside the
defaults, and measured on the test split. Finished evolutions are kept in FOLDER and not repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from wafer.datasets.splitting import resplit
from wafer.datasets.synthetic.generate import generate_workspace
from wafer.datasets.workspace import Workspace, open_workspace
from wafer.detector.evaluating import evaluate_model
from wafer.detector.evolve.genes import genome_of
from wafer.detector.evolve.records import Settings, Trial, TrialState
from wafer.detector.evolve.schedule import next_step, verdict
from wafer.detector.evolve.trial import LAST_EPOCHS, outcome_of
from wafer.detector.training import TrainingArguments, prepare_training, train_detector

MODES = ("classic", "random", "genetic", "halving")
TASK: TrainingArguments = {"batch": 32, "imgsz": 64, "optimizer": "AdamW", "device": "cpu"}
START = {"lr0": 0.001, "momentum": 0.9, "warmup_bias_lr": 0.0}


def main() -> None:
    """Run what is missing and print the tables."""
    given = arguments()
    root = given.folder.resolve()
    workspace = task(root)
    results = read(root / "results.ndjson")
    for seed in range(given.seeds):
        for mode in MODES:
            if any((row["mode"], row["seed"]) == (mode, seed) for row in results):
                continue
            row = evolution(workspace, mode, seed, given)
            results.append(row)
            with (root / "results.ndjson").open("a") as handle:
                handle.write(json.dumps(row) + "\n")
            sys.stderr.write(f"{mode} seed {seed}: {row['curve'][-1]}, test {row['test']}\n")
    sys.stdout.write(table(results, budget=given.trainings * given.epochs))


def arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trainings", type=int, default=7)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=5)
    return parser.parse_args()


def task(root: Path) -> Workspace:
    """Return the workspace, made where there is none."""
    if (root / "workspace" / "wafer.toml").is_file():
        return open_workspace(root / "workspace")
    workspace = generate_workspace(
        root / "workspace", images=150, counts="balanced", size=128, difficulty="easy", seed=11
    )
    # As many images to validate and to test on as to train on: else chance decides everything.
    resplit(workspace, train=1 / 3, val=1 / 3, test=1 / 3, seed=0)
    return workspace


def read(path: Path) -> list[dict[str, Any]]:
    """Return the results of earlier calls."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def evolution(
    workspace: Workspace, mode: str, seed: int, given: argparse.Namespace
) -> dict[str, Any]:
    """Run one evolution and return its curve, and how its outcome does on fresh seeds."""
    ready = prepare_training(workspace, epochs=given.epochs, hyperparameters=START, **TASK)
    plan = Settings(
        mode="genetic" if mode == "random" else mode,  # type: ignore[arg-type]
        trainings=given.trainings,
        epochs=given.epochs,
        seed=seed,
        optimizer="AdamW",
        colour=False,
        defaults=ready.arguments["hyperparameters"],
    )
    folder = given.folder.resolve() / f"{mode}-{seed}"
    states: list[TrialState] = []
    while isinstance(step := next_step(plan, states), Trial):
        trial = at_random(step, plan) if mode == "random" else step
        states.append(trained(workspace, trial, folder / f"{trial.number:03d}", mode))
    result = states[verdict(plan, states).trial].trial.hyp
    fresh = 1000 + seed
    test = measured(workspace, result, folder / "test", seed=fresh, epochs=given.epochs)
    defaults = given.folder.resolve() / "defaults" / str(seed)
    base = measured(workspace, plan.defaults, defaults, seed=fresh, epochs=given.epochs)
    row = {"mode": mode, "seed": seed, "curve": curve(states, epochs=given.epochs)}
    return {**row, "test": round(test, 4), "defaults": round(base, 4)}


def at_random(step: Trial, plan: Settings) -> Trial:
    """Return the trial with genes drawn evenly from their ranges, on the scale of each."""
    if step.candidate == 0 or step.stage == "confirm":
        return step
    random = np.random.default_rng((plan.seed, step.candidate, 7))
    genes = {}
    for name, gene in genome_of(optimizer=plan.optimizer, colour=plan.colour).items():
        ends = np.log([gene.low, gene.high]) if gene.scale == "log" else (gene.low, gene.high)
        value = random.uniform(*ends)
        genes[name] = float(np.exp(value) if gene.scale == "log" else value)
    return replace(step, hyp={**step.hyp, **genes})


def trained(workspace: Workspace, trial: Trial, folder: Path, mode: str) -> TrialState:
    """Train one trial, or read what an earlier call trained."""
    epochs = 1 if mode == "classic" else LAST_EPOCHS
    outcome = outcome_of(folder, epochs=epochs)
    if outcome is None:
        run(workspace, trial.hyp, folder, seed=trial.seed, epochs=trial.epochs)
        outcome = outcome_of(folder, epochs=epochs)
    assert outcome is not None
    return TrialState(trial=trial, status="finished", fitness=outcome.fitness, folder=str(folder))


def run(
    workspace: Workspace, hyp: Mapping[str, float], folder: Path, *, seed: int, epochs: int
) -> Path:
    """Train and return the run folder."""
    return train_detector(
        workspace, runs=folder, hyperparameters=hyp, seed=seed, epochs=epochs, **TASK
    ).folder


def measured(
    workspace: Workspace, hyp: Mapping[str, float], folder: Path, *, seed: int, epochs: int
) -> float:
    """Return mAP50-95 on the test split after a training on a fresh seed."""
    outcome = outcome_of(folder)
    path = run(workspace, hyp, folder, seed=seed, epochs=epochs) if outcome is None else outcome.run
    found = evaluate_model(workspace, weights=path, split="test").evaluation.to_dict()
    return float(found["map50_95"])


def curve(states: list[TrialState], *, epochs: int) -> list[tuple[int, float]]:
    """Return epochs spent and the best fitness of a full training of the search so far."""
    points: list[tuple[int, float]] = []
    spent, best = 0, 0.0
    for state in states:
        if state.trial.stage == "confirm":
            continue
        spent += state.trial.epochs
        if state.trial.epochs == epochs:
            best = max(best, state.fitness or 0.0)
        points.append((spent, round(best, 4)))
    return points


def table(results: list[dict[str, Any]], *, budget: int) -> str:
    """Return two tables as Markdown: the curves, and what is adopted beside the defaults."""
    marks = [round(budget * share / 7) for share in range(1, 8)]
    lines = [["best fitness after", *(f"{mark} epochs" for mark in marks), "reaches classic's at"]]
    lines.append(["---"] * len(lines[0]))
    goal = mean_at(results, "classic", budget)
    for mode in MODES:
        means = [mean_at(results, mode, mark) for mark in marks]
        spent = next((e for e in range(1, budget + 1) if mean_at(results, mode, e) >= goal), None)
        found = "never" if spent is None else f"{spent} epochs ({spent / budget:.2f})"
        lines.append([mode, *(f"{mean:.4f}" for mean in means), found])
    more = [["on test, fresh seeds", "adopted", "defaults", "difference", "its standard error"]]
    more.append(["---"] * 5)
    for mode in MODES:
        rows = [row for row in results if row["mode"] == mode]
        differences = [row["test"] - row["defaults"] for row in rows]
        error = statistics.stdev(differences) / len(rows) ** 0.5 if len(rows) > 1 else float("nan")
        means = [statistics.mean(row[key] for row in rows) for key in ("test", "defaults")]
        shown = [*means, statistics.mean(differences), error]
        more.append([mode, *(f"{value:.4f}" for value in shown)])
    tables = ("\n".join(f"| {' | '.join(line)} |" for line in part) for part in (lines, more))
    return "\n\n".join(tables) + "\n"


def mean_at(results: list[dict[str, Any]], mode: str, epochs: int) -> float:
    """Return the best fitness after so many epochs, the mean over seeds."""
    curves = [row["curve"] for row in results if row["mode"] == mode]
    return statistics.mean(
        max((fitness for spent, fitness in curve if spent <= epochs), default=0.0)
        for curve in curves
    )


if __name__ == "__main__":
    main()
