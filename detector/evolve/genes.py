"""Hyperparameters as genes: their bounds, the choice of a parent, and mutation.

The operators are those of YOLOv5 v7.0 (``train.py``, lines 530 to 619), with a seeded generator.
``mutate_classic`` is v7.0 to the letter. ``mutate`` adds a second, additive step, because a
product leaves a gene at zero where it is: of YOLOv5's defaults rotation, shear, perspective,
vertical flip and mixup could never evolve.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Candidate", "Gene", "Genome", "genome_of", "mutate", "mutate_classic", "select_parent"]

Genome = Mapping[str, "Gene"]
Hyperparameters = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Gene:
    """One hyperparameter that evolves.

    ``gain`` scales its multiplicative mutation, 0 for none (YOLOv5's meta table); ``low`` and
    ``high`` bound it; ``scale`` is the one on which additive steps are taken.
    """

    gain: float
    low: float
    high: float
    scale: Literal["linear", "log"] = "linear"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A set of hyperparameters and how well it did."""

    hyp: Hyperparameters
    fitness: float


META: Genome = {
    "lr0": Gene(1, 1e-5, 1e-1, "log"),
    "lrf": Gene(1, 0.01, 1.0, "log"),
    "momentum": Gene(0.3, 0.6, 0.98),
    "weight_decay": Gene(1, 0.0, 0.001),
    "warmup_epochs": Gene(1, 0.0, 5.0),
    "warmup_momentum": Gene(1, 0.0, 0.95),
    "warmup_bias_lr": Gene(1, 0.0, 0.2),
    "box": Gene(1, 1.0, 20.0),
    "cls": Gene(1, 0.1, 4.0),
    "dfl": Gene(1, 0.4, 12.0),
    "hsv_h": Gene(1, 0.0, 0.1),
    "hsv_s": Gene(1, 0.0, 0.9),
    "hsv_v": Gene(1, 0.0, 0.9),
    "degrees": Gene(1, 0.0, 45.0),
    "translate": Gene(1, 0.0, 0.9),
    "scale": Gene(1, 0.0, 0.9),
    "shear": Gene(1, 0.0, 10.0),
    "perspective": Gene(0, 0.0, 0.001),
    "flipud": Gene(1, 0.0, 1.0),
    "fliplr": Gene(0, 0.0, 1.0),
    "mosaic": Gene(1, 0.0, 1.0),
    "mixup": Gene(1, 0.0, 1.0),
}
"""YOLOv5 v7.0's table of gains and bounds for the genes that the anchor-free u-head has.

``box``, ``cls`` and ``dfl`` have the bounds of the u-head's losses. ``obj``, ``iou_t``, the
anchors, ``fl_gamma`` and YOLOv5's ``cls_pw`` do not exist there; ``copy_paste`` needs outlines.
"""

PARENTS = 5
MUTATION_PROBABILITY = 0.8
SIGMA = 0.2
DIGITS = 5
# Of the additive step: how often a gene takes it, and its standard deviation as a share of the
# gene's range. Few genes at a time and far, where the multiplicative step moves nearly all a bit.
ADDITIVE_PROBABILITY = 0.25
ADDITIVE_SIGMA = 0.15


def genome_of(*, optimizer: str, colour: bool) -> Genome:
    """Return the genes that have an effect on a training.

    Args:
        optimizer: the Adam family has no warm-up of the momentum; the learning rate of its
            biases begins at zero like that of the rest.
        colour: grey images have no hue and saturation.
    """
    dead = set() if colour else {"hsv_h", "hsv_s"}
    if optimizer.startswith("Adam"):
        dead |= {"warmup_bias_lr", "warmup_momentum"}
    return {name: gene for name, gene in META.items() if name not in dead}


def select_parent(
    candidates: Sequence[Candidate], *, random: np.random.Generator
) -> Hyperparameters:
    """Return one of the best five, the fitter the likelier.

    The weight is the fitness above that of the worst of the five, plus 1e-6 (YOLOv5 v7.0,
    parent ``single``).

    Raises:
        ValueError: there is no candidate.
    """
    if not candidates:
        raise ValueError("no candidate to choose from")
    best = sorted(candidates, key=lambda candidate: -candidate.fitness)[:PARENTS]
    fitness = np.array([candidate.fitness for candidate in best])
    weights = fitness - fitness.min() + 1e-6
    return best[int(random.choice(len(best), p=weights / weights.sum()))].hyp


def mutate_classic(
    parent: Hyperparameters, genome: Genome, *, random: np.random.Generator
) -> dict[str, float]:
    """Multiply genes by random factors, as YOLOv5 v7.0 does.

    A gene is hit with probability 0.8; its factor is ``gain x N(0, 1) x U(0, 1) x 0.2 + 1``
    clipped to 0.3 to 3, with one uniform number for all genes, drawn again until any factor is
    not 1. The result is clipped to the bounds and rounded to 5 digits.

    Returns:
        All hyperparameters of the parent, the genes mutated.
    """
    factors = _factors(genome, random)
    values = {name: parent[name] * factor for name, factor in zip(genome, factors, strict=True)}
    return {**parent, **_bounded(values, genome)}


def mutate(
    parent: Hyperparameters, genome: Genome, *, random: np.random.Generator
) -> dict[str, float]:
    """Multiply as ``mutate_classic`` does, then move some genes by additive steps.

    A gene takes such a step with probability 0.25, at least one gene does; the step is normal with
    15 % of the gene's range, for learning rates on a logarithmic scale.

    Returns:
        All hyperparameters of the parent, the genes mutated.
    """
    child = mutate_classic(parent, genome, random=random)
    hit = random.random(len(genome)) < ADDITIVE_PROBABILITY
    hit[int(random.integers(len(genome)))] = True
    steps = random.standard_normal(len(genome)) * ADDITIVE_SIGMA
    moved = {
        name: _step(child[name], gene, step)
        for (name, gene), step, taken in zip(genome.items(), steps, hit, strict=True)
        if taken
    }
    return {**child, **_bounded(moved, genome)}


def _factors(genome: Genome, random: np.random.Generator) -> NDArray[np.float64]:
    gains = np.array([gene.gain for gene in genome.values()])
    factors = np.ones(len(genome))
    while (factors == 1).all():
        hit = random.random(len(genome)) < MUTATION_PROBABILITY
        noise = random.standard_normal(len(genome)) * random.random() * SIGMA
        factors = (gains * hit * noise + 1).clip(0.3, 3.0)
    return factors


def _step(value: float, gene: Gene, step: float) -> float:
    if gene.scale == "linear":
        return value + step * (gene.high - gene.low)
    return value * math.exp(step * math.log(gene.high / gene.low))


def _bounded(values: Hyperparameters, genome: Genome) -> dict[str, float]:
    return {
        name: round(float(min(max(value, genome[name].low), genome[name].high)), DIGITS)
        for name, value in values.items()
    }
