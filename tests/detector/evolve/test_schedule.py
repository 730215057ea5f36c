"""Which trial comes next: budgets, promotions, confirmation, verdicts; without any training."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wafer.detector.evolve.records import EvolveMode, Settings, Trial, TrialState
from wafer.detector.evolve.schedule import announcement, brackets, next_step, verdict
from wafer.detector.hyperparameters import HYPERPARAMETERS


def settings(mode: EvolveMode, *, trainings: int = 7, epochs: int = 90, seed: int = 0) -> Settings:
    return Settings(
        mode=mode,
        trainings=trainings,
        epochs=epochs,
        seed=seed,
        optimizer="AdamW",
        colour=False,
        defaults=HYPERPARAMETERS,
    )


def by_candidate(*order: float) -> Callable[[Trial], float]:
    """Give each candidate a fitness of its own; the confirmation repeats it."""
    return lambda trial: order[trial.candidate] if trial.candidate < len(order) else 0.0


def play(plan: Settings, fitness: Callable[[Trial], float | None]) -> list[TrialState]:
    """Run an evolution with made-up fitness; None is a failure."""
    states: list[TrialState] = []
    while isinstance(step := next_step(plan, states), Trial):
        assert step.number == len(states)
        value = fitness(step)
        ended = (
            TrialState(trial=step, status="failed", reason="made up")
            if value is None
            else TrialState(trial=step, status="finished", fitness=value, folder="x")
        )
        states.append(ended)
    assert step == "done"
    return states


def test_genetic_trains_five_candidates_and_two_again() -> None:
    states = play(settings("genetic"), by_candidate(0.5, 0.4, 0.7, 0.6, 0.3))
    trials = [state.trial for state in states]
    assert [(t.candidate, t.seed, t.stage) for t in trials] == [
        *((candidate, 0, "search") for candidate in range(5)),
        (2, 1, "confirm"),
        (0, 1, "confirm"),
    ]
    assert {t.epochs for t in trials} == {90}
    assert trials[0].hyp == trials[6].hyp == HYPERPARAMETERS
    assert trials[5].hyp == trials[2].hyp != HYPERPARAMETERS


def test_the_better_one_on_the_fresh_seed_is_the_result() -> None:
    plan = settings("genetic")
    states = play(plan, by_candidate(0.5, 0.4, 0.7))
    found = verdict(plan, states)
    assert (found.trial, found.adopted) == (5, True)
    assert "candidate 2 reached 0.7000 and the defaults 0.5000" in found.reason

    def lucky(trial: Trial) -> float:
        return 0.5 if trial.candidate == 0 else 0.7 if trial.stage == "search" else 0.45

    states = play(plan, lucky)
    found = verdict(plan, states)
    assert (found.trial, found.adopted) == (6, False)
    assert "was luck" in found.reason


def test_defaults_that_win_the_search_are_kept_without_another_training() -> None:
    plan = settings("genetic")
    states = play(plan, by_candidate(0.5, 0.4, 0.5))
    assert len(states) == 5
    found = verdict(plan, states)
    assert (found.trial, found.adopted) == (0, False)
    assert "no candidate did better than the defaults (0.5000)" in found.reason


@pytest.mark.parametrize("trainings", [1, 2, 3])
def test_few_trainings_are_all_search(trainings: int) -> None:
    plan = settings("genetic", trainings=trainings)
    states = play(plan, by_candidate(0.1, 0.2, 0.3))
    assert [state.trial.candidate for state in states] == list(range(trainings))
    assert verdict(plan, states).adopted == (trainings > 1)


def test_classic_spends_everything_on_the_search() -> None:
    plan = settings("classic")
    states = play(plan, by_candidate(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.55))
    assert [state.trial.candidate for state in states] == list(range(7))
    found = verdict(plan, states)
    assert (found.trial, found.adopted) == (5, True)


def test_halving_promotes_the_best_third_and_starts_again_from_what_it_found() -> None:
    states = play(settings("halving"), lambda trial: 0.01 * (trial.candidate % 7) + trial.rung)
    search = [state.trial for state in states if state.trial.stage == "search"]
    first = [t for t in search if t.bracket == 0]
    assert [(t.candidate, t.epochs) for t in first] == [
        *((candidate, 10) for candidate in range(9)),
        *((candidate, 30) for candidate in (6, 5, 4)),
        (6, 90),
    ]
    assert sum(t.epochs for t in search) <= 5 * 90
    assert sum(state.trial.epochs for state in states) <= 7 * 90
    winner = next(t for t in first if t.candidate == 6)
    assert all(t.hyp == winner.hyp for t in first if t.candidate == 6)


@given(st.integers(1, 20), st.integers(1, 300), st.sampled_from(["genetic", "halving", "classic"]))
def test_no_evolution_costs_more_than_was_said(n: int, epochs: int, mode: EvolveMode) -> None:
    plan = settings(mode, trainings=n, epochs=epochs)
    if mode == "halving" and n > 8:
        return  # many trials: what is to be seen is seen with fewer
    states = play(plan, lambda trial: 0.3 + 0.001 * ((trial.candidate * 7919) % 101))
    assert sum(state.trial.epochs for state in states) <= n * epochs
    assert states[0].trial.hyp == HYPERPARAMETERS
    if mode == "halving":
        assert min(state.trial.epochs for state in states) >= min(10, epochs)


def test_a_short_training_has_no_lower_rung() -> None:
    assert [b.rungs for b in brackets(settings("halving", epochs=29))] == [(29,)]
    assert [b.rungs for b in brackets(settings("halving", epochs=30))] == [(10, 30), (10, 30)]
    assert "a lower rung takes 30 epochs" in announcement(settings("halving", epochs=29))
    assert [b.rungs for b in brackets(settings("halving", trainings=1))] == [(90,)]


def test_the_same_settings_propose_the_same_candidates_and_others_do_not() -> None:
    fitness = by_candidate(0.5, 0.4, 0.7, 0.6, 0.3)
    hyps = [
        [state.trial.hyp for state in play(settings("genetic", seed=seed), fitness)]
        for seed in (0, 0, 1)
    ]
    assert hyps[0] == hyps[1]
    assert hyps[0][1:] != hyps[2][1:]
    assert len({tuple(hyp.items()) for hyp in hyps[0]}) == 5


def test_failed_trials_are_no_parents_and_never_win() -> None:
    plan = settings("genetic")
    states = play(plan, lambda trial: None if trial.candidate % 2 else 0.5 + trial.candidate / 100)
    assert [s.status for s in states[:5]] == [
        *("finished", "failed", "finished", "failed", "finished"),
    ]
    assert states[5].trial.candidate == 4
    assert verdict(plan, states).trial == 5


def test_a_winner_that_fails_the_second_time_is_not_adopted() -> None:
    plan = settings("genetic")

    def fails(trial: Trial) -> float | None:
        return None if trial.stage == "confirm" and trial.candidate else 0.5 + trial.candidate

    found = verdict(plan, play(plan, fails))
    assert (found.trial, found.adopted) == (6, False)
    assert "trial 5 failed (made up)" in found.reason


def test_where_all_candidates_of_a_rung_fail_the_search_goes_on() -> None:
    plan = settings("halving")
    states = play(plan, lambda trial: None if trial.candidate not in (0, 9) else 0.5)
    assert {s.trial.candidate for s in states if s.status == "finished"} == {0, 9}


def test_trials_that_run_elsewhere_are_waited_for() -> None:
    plan = settings("halving")
    states: list[TrialState] = []
    for _ in range(9):
        step = next_step(plan, states)
        assert isinstance(step, Trial)
        states.append(TrialState(trial=step))
    assert next_step(plan, states) == "wait"
    for index in range(8):
        states[index] = replace(states[index], status="finished", fitness=index / 10)
    assert next_step(plan, states) == "wait"
    states[8] = replace(states[8], status="finished", fitness=0.0)
    step = next_step(plan, states)
    assert isinstance(step, Trial)
    assert (step.candidate, step.epochs) == (7, 30)


def test_several_processes_search_and_confirm_side_by_side() -> None:
    plan = settings("genetic")
    states: list[TrialState] = []
    for _ in range(5):
        step = next_step(plan, states)
        assert isinstance(step, Trial)
        states.append(TrialState(trial=step))
    assert next_step(plan, states) == "wait"
    states = [
        replace(state, status="finished", fitness=0.1 + state.trial.number) for state in states
    ]
    for candidate in (4, 0):
        step = next_step(plan, states)
        assert isinstance(step, Trial)
        assert (step.candidate, step.stage) == (candidate, "confirm")
        states.append(TrialState(trial=step))
    assert next_step(plan, states) == "wait"


def test_what_it_costs_is_said() -> None:
    assert announcement(settings("classic", trainings=1)) == (
        "evolve: 1 full training of 90 epochs at most"
    )
    assert announcement(settings("halving")) == (
        "evolve: 7 full trainings of 90 epochs at most, spent on candidates as 9 x 10 epochs, "
        "3 x 30 epochs, 1 x 90 epochs; 5 x 10 epochs, 1 x 30 epochs, 1 x 90 epochs; "
        "the last 2 are winner and defaults on a fresh seed"
    )
