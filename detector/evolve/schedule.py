"""Which trial comes next, and what comes out: pure functions of settings and finished trials.

Every random choice is a function of the seed and the number of the candidate, so that an
evolution that was killed proposes the same candidates again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from wafer.detector.evolve.genes import (
    Candidate,
    genome_of,
    mutate,
    mutate_classic,
    select_parent,
)
from wafer.detector.evolve.records import Settings, Trial, TrialState, Verdict

__all__ = ["Bracket", "Step", "announcement", "brackets", "champion", "next_step", "verdict"]

ETA = 3
"""One in so many candidates goes to the next rung (Li et al., arXiv:1810.05934)."""
SHORTEST_RUNG = 10
"""Epochs; after fewer a detector has hardly found its first box."""

Step = Trial | Literal["wait", "done"]
"""A trial to start, ``wait`` for trials that run elsewhere, or ``done``."""


@dataclass(frozen=True, slots=True)
class Bracket:
    """Candidates that start together on the lowest rung, and the epochs of each rung."""

    candidates: int
    rungs: tuple[int, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Return how many candidates train on each rung."""
        return tuple(max(1, self.candidates // ETA**rung) for rung in range(len(self.rungs)))

    @property
    def epochs(self) -> int:
        """Return what the bracket costs."""
        return sum(size * epochs for size, epochs in zip(self.sizes, self.rungs, strict=True))


def brackets(settings: Settings) -> tuple[Bracket, ...]:
    """Return the brackets that the search has epochs for.

    Rungs are a third of each other, up to full trainings; none is under 10 epochs. Outside the
    mode ``halving``, and where the trainings are too short or too few for a lower rung, the search
    is one bracket of full trainings.

    Example:
        >>> from wafer.detector.evolve.records import Settings
        >>> seven = Settings(mode="halving", trainings=7, epochs=90, seed=0,
        ...                  optimizer="AdamW", colour=False, defaults={})
        >>> [(bracket.sizes, bracket.rungs) for bracket in brackets(seven)]
        [((9, 3, 1), (10, 30, 90)), ((5, 1, 1), (10, 30, 90))]
    """
    found: tuple[Bracket, ...] = ()
    levels = math.floor(math.log(settings.epochs / SHORTEST_RUNG, ETA) + 1e-9)
    if settings.mode == "halving" and levels > 0:
        rungs = tuple(round(settings.epochs / ETA ** (levels - rung)) for rung in range(levels + 1))
        budget = settings.searching * settings.epochs
        found = tuple(_affordable(budget, rungs, most=ETA**levels))
    return found or (Bracket(settings.searching, (settings.epochs,)),)


def _affordable(epochs: int, rungs: tuple[int, ...], *, most: int) -> Iterator[Bracket]:
    while True:
        sizes = (Bracket(number, rungs) for number in range(most, ETA - 1, -1))
        bracket = next((each for each in sizes if each.epochs <= epochs), None)
        if bracket is None:
            return
        epochs -= bracket.epochs
        yield bracket


def announcement(settings: Settings) -> str:
    """Return in one sentence what an evolution is going to cost.

    Example:
        >>> from wafer.detector.evolve.records import Settings
        >>> seven = Settings(mode="genetic", trainings=7, epochs=100, seed=0,
        ...                  optimizer="AdamW", colour=False, defaults={})
        >>> announcement(seven)
        'evolve: 7 full trainings of 100 epochs at most; the last 2 are winner and defaults on a \
fresh seed'
    """
    number = settings.trainings
    cost = f"{number} full training{'s' if number > 1 else ''} of {settings.epochs} epochs at most"
    found = brackets(settings)
    if settings.mode == "halving":
        shown = (zip(bracket.sizes, bracket.rungs, strict=True) for bracket in found)
        plan = "; ".join(", ".join(f"{n} x {e} epochs" for n, e in rungs) for rungs in shown)
        cost += f", spent on candidates as {plan}"
        if len(found[0].rungs) == 1:
            cost += f" (a lower rung takes {ETA * SHORTEST_RUNG} epochs and 2 trainings to search)"
    again = "; the last 2 are winner and defaults on a fresh seed" if settings.confirmed else ""
    return f"evolve: {cost}{again}"


def next_step(settings: Settings, trials: Sequence[TrialState]) -> Step:
    """Return the next trial, given all that were proposed so far, in order of their numbers."""
    search = [state for state in trials if state.trial.stage == "search"]
    for number, bracket in enumerate(brackets(settings)):
        step = _next_in_bracket(settings, trials, search, number, bracket)
        if step is not None:
            return step
    return _next_confirmation(settings, trials)


def _next_in_bracket(
    settings: Settings,
    trials: Sequence[TrialState],
    search: Sequence[TrialState],
    number: int,
    bracket: Bracket,
) -> Step | None:
    """Return the next step in a bracket, None when it is finished."""
    here = [state for state in search if state.trial.bracket == number]
    if sum(state.trial.rung == 0 for state in here) < bracket.candidates:
        return _new_candidate(settings, len(trials), search, number, bracket)
    for rung in range(len(bracket.rungs)):
        ran = [state for state in here if state.trial.rung == rung]
        if any(state.status == "open" for state in ran):
            return "wait"
        if rung + 1 < len(bracket.rungs):
            best = sorted(_finished(ran), key=_fitness, reverse=True)[: bracket.sizes[rung + 1]]
            above = {state.trial.candidate for state in here if state.trial.rung == rung + 1}
            left = [state.trial for state in best if state.trial.candidate not in above]
            if left:
                epochs = bracket.rungs[rung + 1]
                return replace(left[0], number=len(trials), epochs=epochs, rung=rung + 1)
    return None


def _new_candidate(
    settings: Settings, number: int, search: Sequence[TrialState], place: int, bracket: Bracket
) -> Trial:
    candidate = len({state.trial.candidate for state in search})
    return Trial(
        number=number,
        candidate=candidate,
        hyp=_propose(settings, candidate, search),
        epochs=bracket.rungs[0],
        seed=settings.seed,
        bracket=place,
    )


def _propose(settings: Settings, candidate: int, search: Sequence[TrialState]) -> dict[str, float]:
    if candidate == 0:
        return dict(settings.defaults)
    random = np.random.default_rng((settings.seed, candidate))
    known = [Candidate(state.trial.hyp, _fitness(state)) for state in _highest(search)]
    parent = select_parent(known, random=random) if known else settings.defaults
    genome = genome_of(optimizer=settings.optimizer, colour=settings.colour)
    operator = mutate_classic if settings.mode == "classic" else mutate
    return operator(parent, genome, random=random)


def _highest(search: Sequence[TrialState]) -> list[TrialState]:
    """Return the longest finished trial of each candidate."""
    longest: dict[int, TrialState] = {}
    for state in sorted(_finished(search), key=lambda state: state.trial.rung):
        longest[state.trial.candidate] = state
    return list(longest.values())


def _next_confirmation(settings: Settings, trials: Sequence[TrialState]) -> Step:
    best = champion(trials)
    if not settings.confirmed or best is None or best.trial.candidate == 0:
        return "done"
    again = [state for state in trials if state.trial.stage == "confirm"]
    if len(again) < 2:
        candidate, hyp = (0, settings.defaults) if again else (best.trial.candidate, best.trial.hyp)
        return Trial(
            number=len(trials),
            candidate=candidate,
            hyp=hyp,
            epochs=settings.epochs,
            seed=settings.seed + 1,
            stage="confirm",
        )
    return "wait" if any(state.status == "open" for state in again) else "done"


def champion(trials: Sequence[TrialState]) -> TrialState | None:
    """Return the best of the search: the fittest of the longest trials; None without any.

    Of equals the first, so that the defaults win a draw.
    """
    found = _finished([state for state in trials if state.trial.stage == "search"])
    if not found:
        return None
    return max(found, key=lambda s: (s.trial.epochs, _fitness(s), -s.trial.number))


def verdict(settings: Settings, trials: Sequence[TrialState]) -> Verdict:
    """Return how an evolution ends in which there is nothing more to do.

    Raises:
        ValueError: no trial has finished.
    """
    best = champion(trials)
    if best is None:
        raise ValueError("an evolution has no verdict before a trial has finished")
    again = [state for state in trials if state.trial.stage == "confirm"]
    if best.trial.candidate == 0:
        reason = f"no candidate did better than the defaults ({_fitness(best):.4f})"
        return Verdict(trial=best.trial.number, adopted=False, reason=reason)
    if not again:
        reason = _unconfirmed(settings, best, trials)
        return Verdict(trial=best.trial.number, adopted=True, reason=reason)
    return _confirmed(best, again)


def _unconfirmed(settings: Settings, best: TrialState, trials: Sequence[TrialState]) -> str:
    defaults = next((s for s in _finished(trials) if s.trial.candidate == 0), None)
    beside = "" if defaults is None else f" beside {_fitness(defaults):.4f} of the defaults"
    why = "classic does not" if settings.mode == "classic" else "for that --evolve takes 4 or more"
    return (
        f"candidate {best.trial.candidate} was the best, {_fitness(best):.4f}{beside}; "
        f"not confirmed on a fresh seed ({why})"
    )


def _confirmed(best: TrialState, again: Sequence[TrialState]) -> Verdict:
    winner, defaults = again
    name = f"candidate {best.trial.candidate}"
    if winner.status == "failed" or defaults.status == "failed":
        failed = winner if winner.status == "failed" else defaults
        kept = next((state for state in again if state.status == "finished"), best)
        return Verdict(
            trial=kept.trial.number,
            adopted=kept.trial.candidate != 0,
            reason=f"{name} could not be compared with the defaults on a fresh seed: trial "
            f"{failed.trial.number} failed ({failed.reason})",
        )
    ours, theirs = _fitness(winner), _fitness(defaults)
    numbers = f"on a fresh seed {name} reached {ours:.4f} and the defaults {theirs:.4f}"
    if ours > theirs:
        return Verdict(trial=winner.trial.number, adopted=True, reason=numbers)
    return Verdict(
        trial=defaults.trial.number,
        adopted=False,
        reason=f"{numbers}: its lead in the search ({_fitness(best):.4f}) was luck",
    )


def _finished(trials: Sequence[TrialState]) -> list[TrialState]:
    return [state for state in trials if state.status == "finished"]


def _fitness(state: TrialState) -> float:
    assert state.fitness is not None, "a finished trial has a fitness"
    return state.fitness
