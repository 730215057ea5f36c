"""The live table of an evolution: every trial, how far it is, and how well it did."""

from __future__ import annotations

from rich.table import Table

from wafer.detector.evolve.evolving import View
from wafer.detector.evolve.outputs import changed_genes
from wafer.detector.evolve.records import TrialState
from wafer.detector.evolve.schedule import champion

__all__ = ["evolve_table", "time_left", "trial_line"]

GENES_SHOWN = 4


def evolve_table(view: View) -> Table:
    """Return the table for a terminal."""
    best = champion(view.trials)
    table = Table(title=f"evolve, {view.settings.mode}", title_justify="left")
    for name in ("trial", "candidate", "epochs", "seed"):
        table.add_column(name, justify="right")
    table.add_column("state")
    table.add_column("fitness", justify="right")
    table.add_column("most changed", overflow="ellipsis", no_wrap=True)
    for state in view.trials:
        trial = state.trial
        genes = changed_genes(trial.hyp, view.settings.defaults)[:GENES_SHOWN]
        table.add_row(
            str(trial.number),
            str(trial.candidate),
            str(trial.epochs),
            str(trial.seed),
            _state(view, state),
            "" if state.fitness is None else f"{state.fitness:.4f}",
            ", ".join(genes) or "the defaults",
            style="bold" if state is best else None,
        )
    left = time_left(view)
    if left is not None:
        table.caption = f"about {left / 60:.0f} min left"
    return table


def trial_line(view: View, state: TrialState) -> str:
    """Return one line about a trial that has ended, with the time left."""
    trial = state.trial
    genes = changed_genes(trial.hyp, view.settings.defaults)[:GENES_SHOWN]
    ending = f"fitness {state.fitness:.4f}" if state.fitness is not None else f"{state.reason}"
    left = time_left(view)
    return (
        f"trial {trial.number}, candidate {trial.candidate}, {trial.epochs} epochs: "
        f"{state.status}, {ending} ({', '.join(genes) or 'the defaults'})"
        + ("" if left is None else f"; about {left / 60:.0f} min left at most")
    )


def _state(view: View, state: TrialState) -> str:
    running = view.running
    number = state.trial.number
    if running is not None and running.trial == number:
        return f"epoch {running.epoch}/{running.epochs}, batch {running.batch}/{running.batches}"
    if state.status == "open":
        return f"on {view.elsewhere[number]}" if number in view.elsewhere else "waiting"
    return state.status


def time_left(view: View) -> float | None:
    """Return the seconds that an evolution may still take; None before a trial has finished.

    It is an upper limit for one process: the epochs of the full cost that are left, at the speed
    of the trials so far.
    """
    done = [state for state in view.trials if state.status == "finished" and state.seconds]
    epochs = sum(state.trial.epochs for state in done)
    if not epochs:
        return None
    seconds = sum(state.seconds or 0.0 for state in done)
    settled = sum(state.trial.epochs for state in view.trials if state.status != "open")
    running = 0.0
    if view.running is not None:
        running = view.running.epoch - 1 + view.running.batch / view.running.batches
    total = view.settings.trainings * view.settings.epochs
    return max(total - settled - running, 0) * seconds / epochs
