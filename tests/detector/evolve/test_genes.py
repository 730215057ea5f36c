"""Selection and mutation against YOLOv5 v7.0's, and the additive step that it lacks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wafer.detector.evolve.genes import (
    META,
    Candidate,
    genome_of,
    mutate,
    mutate_classic,
    select_parent,
)
from wafer.detector.hyperparameters import HYPERPARAMETERS, RANGES

seeds = st.integers(0, 2**32 - 1)


def yolov5_mutation(
    parent: dict[str, float], meta: dict[str, tuple[float, float, float]], npr: np.random.Generator
) -> dict[str, float]:
    """train.py, v7.0: mutate, constrain to limits, significant digits."""
    mp, s = 0.8, 0.2
    g = np.array([gain for gain, _, _ in meta.values()])
    ng = len(meta)
    v = np.ones(ng)
    while all(v == 1):
        hit = npr.random(ng) < mp
        v = (g * hit * npr.standard_normal(ng) * npr.random() * s + 1).clip(0.3, 3.0)
    hyp = {k: float(parent[k] * v[i]) for i, k in enumerate(meta)}
    for k, (_, low, high) in meta.items():
        hyp[k] = max(hyp[k], low)
        hyp[k] = min(hyp[k], high)
        hyp[k] = round(hyp[k], 5)
    return hyp


@given(seeds)
def test_classic_is_yolov5_to_the_letter(seed: int) -> None:
    meta = {name: (gene.gain, gene.low, gene.high) for name, gene in META.items()}
    parent = dict(HYPERPARAMETERS)
    theirs = yolov5_mutation(parent, meta, np.random.default_rng(seed))
    ours = mutate_classic(parent, META, random=np.random.default_rng(seed))
    assert ours == {**parent, **theirs}


def test_the_table_is_that_of_yolov5_for_the_genes_it_shares() -> None:
    v7 = {
        "lr0": (1, 1e-5, 1e-1),
        "lrf": (1, 0.01, 1.0),
        "momentum": (0.3, 0.6, 0.98),
        "weight_decay": (1, 0.0, 0.001),
        "warmup_epochs": (1, 0.0, 5.0),
        "warmup_momentum": (1, 0.0, 0.95),
        "warmup_bias_lr": (1, 0.0, 0.2),
        "hsv_h": (1, 0.0, 0.1),
        "hsv_s": (1, 0.0, 0.9),
        "hsv_v": (1, 0.0, 0.9),
        "degrees": (1, 0.0, 45.0),
        "translate": (1, 0.0, 0.9),
        "scale": (1, 0.0, 0.9),
        "shear": (1, 0.0, 10.0),
        "perspective": (0, 0.0, 0.001),
        "flipud": (1, 0.0, 1.0),
        "fliplr": (0, 0.0, 1.0),
        "mosaic": (1, 0.0, 1.0),
        "mixup": (1, 0.0, 1.0),
    }
    assert {n: (g.gain, g.low, g.high) for n, g in META.items() if n in v7} == v7
    assert META.keys() - v7.keys() == {"box", "cls", "dfl"}


def test_every_bound_is_a_value_that_a_training_takes() -> None:
    for name, gene in META.items():
        low, high = RANGES[name]
        assert low <= gene.low <= HYPERPARAMETERS[name] <= gene.high <= high, name


@given(seeds, st.booleans())
def test_children_stay_in_bounds_and_keep_what_does_not_evolve(seed: int, colour: bool) -> None:
    genome = genome_of(optimizer="AdamW", colour=colour)
    parent = dict(HYPERPARAMETERS)
    random = np.random.default_rng(seed)
    for _ in range(5):
        child = mutate(parent, genome, random=random)
        assert child.keys() == HYPERPARAMETERS.keys()
        assert child != parent
        assert {type(value) for value in child.values()} <= {float, int}
        for name, value in child.items():
            if name in genome:
                assert genome[name].low <= value <= genome[name].high
            else:
                assert value == HYPERPARAMETERS[name]
        parent = child


def test_a_gene_at_zero_moves_and_in_classic_stays() -> None:
    genome = genome_of(optimizer="SGD", colour=False)
    zero = [name for name in genome if HYPERPARAMETERS[name] == 0]
    assert set(zero) == {"degrees", "shear", "perspective", "mixup"}
    random = np.random.default_rng(0)
    ours = [mutate(HYPERPARAMETERS, genome, random=random) for _ in range(200)]
    theirs = [mutate_classic(HYPERPARAMETERS, genome, random=random) for _ in range(200)]
    for name in zero:
        assert sum(child[name] > 0 for child in ours) > 10
        assert all(child[name] == 0 for child in theirs)


def test_additive_steps_hit_a_quarter_of_the_genes_by_a_share_of_their_range() -> None:
    genome = {name: gene for name, gene in META.items() if name in ("degrees", "shear")}
    parent = {"degrees": 22.5, "shear": 0.0}
    random = np.random.default_rng(1)
    moves = np.array([mutate(parent, genome, random=random)["shear"] for _ in range(4000)])
    hit = moves > 0  # half of the steps go below zero, where they are cut off
    # a quarter of the time by chance, and one of two genes always: 1 - 3/4 x 1/2 of the steps
    assert hit.mean() == pytest.approx((1 - 0.75 * 0.5) / 2, abs=0.03)
    assert np.sqrt((moves[hit] ** 2).mean()) == pytest.approx(0.15 * 10, rel=0.06)


def test_a_learning_rate_moves_by_factors() -> None:
    genome = {"lr0": META["lr0"]}
    random = np.random.default_rng(2)
    steps = [np.log(mutate({"lr0": 1e-3}, genome, random=random)["lr0"] / 1e-3) for _ in range(999)]
    assert np.median(steps) == pytest.approx(0, abs=0.15)
    assert np.std(steps) == pytest.approx(0.15 * np.log(1e4), rel=0.1)


def test_grey_images_and_adam_have_fewer_genes() -> None:
    assert META.keys() - genome_of(optimizer="SGD", colour=False).keys() == {"hsv_h", "hsv_s"}
    adam = genome_of(optimizer="AdamW", colour=True)
    assert META.keys() - adam.keys() == {"warmup_bias_lr", "warmup_momentum"}


def test_parents_come_from_the_best_five_by_their_lead() -> None:
    found = [Candidate({"n": n}, fitness) for n, fitness in enumerate([0.1, 0.5, 0.3, 0.2, 0.4, 0])]
    random = np.random.default_rng(0)
    chosen = [select_parent(found, random=random)["n"] for _ in range(10_000)]
    shares = np.bincount(np.array(chosen, int), minlength=6) / len(chosen)
    np.testing.assert_allclose(shares, [0, 0.4, 0.2, 0.1, 0.3, 0], atol=0.02)


def test_equals_are_chosen_alike() -> None:
    found = [Candidate({"n": n}, 0.2) for n in range(2)]
    random = np.random.default_rng(0)
    share = np.mean([select_parent(found, random=random)["n"] for _ in range(2000)])
    assert share == pytest.approx(0.5, abs=0.04)


def test_there_is_no_parent_among_none() -> None:
    with pytest.raises(ValueError, match="no candidate"):
        select_parent([], random=np.random.default_rng(0))
