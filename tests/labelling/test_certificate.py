"""The sample of an audit, what it certifies, and how often it would be wrong."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, hypergeom

from wafer.labelling.certificate import (
    audit_class,
    kept_after_failure,
    plan_audit,
    precision_bound,
    replay_audits,
)

PROMISE = {"promise": 0.9, "confidence": 0.9}


@pytest.mark.parametrize(
    ("accepted", "attempt", "size", "allowed"),
    # A large class needs what the binomial test needs (LABELLING.md, section 3 step 8).
    [(500, 1, 44, 1), (100_000, 1, 76, 3), (100, 1, 36, 1), (100, 2, 40, 1)],
)
def test_sizes_of_a_sample(accepted: int, attempt: int, size: int, allowed: int) -> None:
    plan = plan_audit(accepted, attempt=attempt, **PROMISE)
    assert plan is not None
    assert (plan.size, plan.allowed) == (size, allowed)


@pytest.mark.parametrize("accepted", [0, 1, 9, 40, 60])
def test_a_small_class_is_looked_at_whole(accepted: int) -> None:
    assert plan_audit(accepted, attempt=1, **PROMISE) is None


@pytest.mark.slow
@given(
    accepted=st.integers(70, 3000),
    promise=st.sampled_from([0.8, 0.9, 0.95]),
    attempt=st.sampled_from([1, 2]),
)
@settings(max_examples=60, deadline=None)
def test_a_class_just_below_the_promise_passes_too_rarely_to_matter(
    accepted: int, promise: float, attempt: int
) -> None:
    plan = plan_audit(accepted, promise=promise, confidence=0.9, attempt=attempt)
    if plan is None:
        return
    bad = next(w for w in range(accepted) if (accepted - w) / accepted < promise - 1e-12)
    assert hypergeom.cdf(plan.allowed, accepted, bad, plan.size) <= 0.1 / 2**attempt
    bound = precision_bound(accepted, plan.size, plan.allowed, chance=0.1 / 2**attempt)
    assert bound >= promise - 1e-9


def test_the_bound_of_a_large_class_is_that_of_clopper_and_pearson() -> None:
    exact = beta.ppf(0.05, 75, 2)
    assert precision_bound(1_000_000, 76, 1, chance=0.05) == pytest.approx(exact, abs=1e-4)


def population(
    number: int, share: float, seed: int
) -> tuple[list[tuple[str, float]], dict[str, bool]]:
    draw = random.Random(seed)
    images = [(f"{k:04d}", draw.random()) for k in range(number)]
    wrong = {name for name, _ in draw.sample(images, round((1 - share) * number))}
    return images, {name: name not in wrong for name, _ in images}


@pytest.mark.parametrize("share", [0.7, 0.85, 0.89, 0.9, 0.95, 1.0])
def test_replays_break_the_promise_no_more_often_than_allowed(share: float) -> None:
    images, right = population(300, share, 1)
    (row,) = replay_audits({"a": images}, right, draws=400, **PROMISE).values()
    assert row["kept"] >= 0.9
    if share == 1.0:
        assert row["certified"] == 1.0
    if share == 0.7:
        assert row["certified"] < 0.01


def test_a_perfect_class_is_certified_by_the_first_sample() -> None:
    images, right = population(200, 1.0, 0)
    outcome = audit_class(images, right, seed=0, **PROMISE)
    assert (outcome.answer, outcome.seen, outcome.wrong) == ("certified", 40, 0)
    assert len(outcome.labelled) == 200
    assert outcome.bound == pytest.approx(0.94)


def test_a_hopeless_class_keeps_only_what_a_person_found_right() -> None:
    images, right = population(300, 0.3, 0)
    outcome = audit_class(images, right, seed=0, **PROMISE)
    assert outcome.answer == "review it whole"
    first = plan_audit(300, attempt=1, **PROMISE)
    assert first is not None
    assert first.size < outcome.seen <= 2 * first.size + 5
    assert all(right[image] for image in outcome.labelled)
    assert len(outcome.labelled) == outcome.seen - outcome.wrong


def test_a_class_too_small_for_a_sample_keeps_its_labels_without_a_certificate() -> None:
    images, right = population(30, 0.9, 0)
    outcome = audit_class(images, right, seed=0, **PROMISE)
    assert (outcome.answer, outcome.bound, outcome.seen) == ("review it whole", None, 0)
    assert len(outcome.labelled) == 30


def test_after_a_failure_the_likelier_half_is_kept() -> None:
    assert kept_after_failure([("a", 0.1), ("b", 0.9), ("c", 0.5), ("d", 0.9)]) == ("b", "d")
