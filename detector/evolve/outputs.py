"""What an evolution leaves for people: a table, a file of hyperparameters, a picture."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from matplotlib.axes import Axes  # noqa: TID253
from matplotlib.figure import Figure  # noqa: TID253
from matplotlib.ticker import MaxNLocator  # noqa: TID253

from wafer.datasets.files import write_text
from wafer.detector.draws import write_figure
from wafer.detector.evolve.genes import genome_of
from wafer.detector.evolve.records import Settings, TrialState, Verdict
from wafer.detector.evolve.schedule import champion

__all__ = [
    "changed_genes",
    "evolve_figure",
    "hyp_text",
    "write_outputs",
]

TABLE, HYP, FIGURE = "evolve.csv", "hyp_evolve.yaml", "evolve.png"

# The names of YOLOv5's evolve.csv.
METRICS = {
    "precision": "metrics/precision",
    "recall": "metrics/recall",
    "map50": "metrics/mAP_0.5",
    "map50_95": "metrics/mAP_0.5:0.95",
}
COLUMNS = 5
BLUE, VERMILLION, GREY = "#0072B2", "#D55E00", "#8a94a0"


def write_outputs(
    folder: Path, settings: Settings, trials: Sequence[TrialState], verdict: Verdict | None
) -> None:
    """Write ``evolve.csv``, ``hyp_evolve.yaml`` and ``evolve.png`` as things stand, atomically.

    Args:
        folder: of the evolution.
        settings: of the evolution.
        trials: all that were proposed so far.
        verdict: how it ended; None before it has.
    """
    write_text(folder / TABLE, table_text(trials))
    best = champion(trials) if verdict is None else trials[verdict.trial]
    if best is None:
        return
    write_text(folder / HYP, hyp_text(settings, best, verdict))
    write_figure(evolve_figure(settings, trials, best), folder / FIGURE)


def table_text(trials: Sequence[TrialState]) -> str:
    """Return the CSV table of all trials, one a line, with every hyperparameter."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    genes = list(trials[0].trial.hyp) if trials else []
    head = ["trial", "candidate", "stage", "epochs", "seed", "status", "fitness"]
    writer.writerow([*head, *METRICS.values(), *genes, "seconds", "reason"])
    for state in trials:
        trial, metrics = state.trial, state.metrics or {}
        writer.writerow(
            [
                *(trial.number, trial.candidate, trial.stage, trial.epochs, trial.seed),
                *(state.status, _cell(state.fitness), *(_cell(metrics.get(k)) for k in METRICS)),
                *(trial.hyp[name] for name in genes),
                *(_cell(state.seconds), state.reason or ""),
            ]
        )
    return text.getvalue()


def hyp_text(settings: Settings, best: TrialState, verdict: Verdict | None) -> str:
    """Return a file of hyperparameters for ``wafer train --hyp``, with where it comes from."""
    outcome = "best so far, the evolution has not ended"
    if verdict is not None:
        reason = " ".join(verdict.reason.split())  # a failure may have said several lines
        outcome = f"{'adopted' if verdict.adopted else 'the defaults are kept'}: {reason}"
    trial = best.trial
    metrics = ", ".join(f"{name} {value:.4f}" for name, value in (best.metrics or {}).items())
    lines = [
        "# YOLOv5 hyperparameter evolution; use with `wafer train --hyp`",
        f"# {settings.mode}, {settings.trainings} trainings of {settings.epochs} epochs, "
        f"seed {settings.seed}",
        f"# trial {trial.number}, candidate {trial.candidate}, {trial.epochs} epochs",
        f"# fitness {best.fitness:.5f}, last validation: {metrics}",
        f"# {outcome}",
        f"optimizer: {settings.optimizer}",
    ]
    return "\n".join(lines) + "\n" + yaml.safe_dump(dict(trial.hyp), sort_keys=False)


def evolve_figure(settings: Settings, trials: Sequence[TrialState], best: TrialState) -> Figure:
    """Return the fitness against each gene, one plot a gene, the best trial marked.

    Trials of fewer epochs are paler: their fitness is not comparable.
    """
    genome = genome_of(optimizer=settings.optimizer, colour=settings.colour)
    rows = math.ceil(len(genome) / COLUMNS)
    figure = Figure(figsize=(2.6 * COLUMNS, 2.1 * rows), layout="constrained")
    finished = [state for state in trials if state.status == "finished"]
    axes = figure.subplots(rows, COLUMNS, squeeze=False, sharey=True).flatten()
    for axis, name in zip(axes, genome, strict=False):
        _plot_gene(axis, name, settings, finished, best)
    for axis in axes[len(genome) :]:
        axis.set_axis_off()
    for axis in axes[::COLUMNS]:
        axis.set_ylabel("fitness")
    defaults = f"dashed: default; marked: candidate {best.trial.candidate}, {best.fitness:.4f}"
    figure.suptitle(f"evolve, {settings.mode}: {len(finished)} trials ({defaults})", fontsize=11)
    return figure


def _plot_gene(
    axis: Axes,
    name: str,
    settings: Settings,
    finished: Sequence[TrialState],
    best: TrialState,
) -> None:
    most = max(state.trial.epochs for state in finished)
    paleness: Any = [0.2 + 0.6 * state.trial.epochs / most for state in finished]
    axis.axvline(settings.defaults[name], color=GREY, linestyle="--", linewidth=0.9)
    axis.scatter(
        [state.trial.hyp[name] for state in finished],
        [state.fitness or 0.0 for state in finished],
        s=22,
        color=BLUE,
        alpha=paleness,
        linewidths=0,
    )
    axis.plot(best.trial.hyp[name], best.fitness or 0.0, "P", color=VERMILLION, markersize=9)
    axis.xaxis.set_major_locator(MaxNLocator(3))
    axis.set_title(f"{name} = {best.trial.hyp[name]:.4g}", fontsize=9)
    axis.tick_params(labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def changed_genes(hyp: Mapping[str, float], defaults: Mapping[str, float]) -> list[str]:
    """Return the genes that differ from the defaults as ``name value``, the most moved first."""
    moved = {n: abs(v - defaults[n]) / max(abs(defaults[n]), 1e-3) for n, v in hyp.items()}
    order = sorted((n for n in hyp if hyp[n] != defaults[n]), key=lambda name: -moved[name])
    return [f"{name} {hyp[name]:.4g}" for name in order]
