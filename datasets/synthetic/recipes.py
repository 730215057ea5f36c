"""How hard the images are: one table of ranges per difficulty, shared by all classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

__all__ = [
    "DIFFICULTIES",
    "FAMILIES",
    "FAMILY_SHARES",
    "MODES",
    "MODE_SHARES",
    "RECIPES",
    "REFERENCE_SIZE",
    "Difficulty",
    "Family",
    "Mode",
    "Range",
    "Recipe",
]

Difficulty = Literal["easy", "paper", "hard"]
Family = Literal["lines", "routed", "vias", "pads", "fill"]
Mode = Literal["sem", "bright_field", "dark_field"]
Range = tuple[float, float]

DIFFICULTIES: tuple[Difficulty, ...] = get_args(Difficulty)
FAMILIES: tuple[Family, ...] = get_args(Family)
MODES: tuple[Mode, ...] = get_args(Mode)
FAMILY_SHARES: Mapping[Family, float] = {
    "lines": 0.28,
    "routed": 0.36,
    "vias": 0.14,
    "pads": 0.10,
    "fill": 0.12,
}
MODE_SHARES: Mapping[Mode, float] = {"sem": 0.60, "bright_field": 0.30, "dark_field": 0.10}

REFERENCE_SIZE = 680
"""Side of the image in which all lengths of a recipe are given, pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Ranges of one difficulty; lengths in pixels of a 680 px image, contrasts in grey levels."""

    pitch: Range
    """Distance from line to line; drawn log-uniformly per wafer."""
    material: Range
    """Difference of grey between copper and dielectric."""
    noise: Range
    """Standard deviation of the pixel noise before the gain; log-uniform."""
    grain: Range
    """Standard deviation of the texture of the metal."""
    contrast: Range
    """Strength of residues, particles and scratches, either sign; one log-law for all of them."""
    stain: Range
    """Share of the light that a C residue takes away."""
    depth: Range
    """How far the floor of missing copper lies below the dielectric, in grey."""
    sides: Mapping[str, Range]
    """Intended side of a defect per class (length of a scratch); log-uniform."""
    scratch_width: Range
    """Width of a scratch."""
    rotation: Range
    """Rotation of a deviating pattern, degrees."""
    keystone: Range
    """Relative change of scale over half the image of a deviating pattern."""
    bend: Range
    """Sag of a deviating pattern as a share of half the image."""


RECIPES: Mapping[Difficulty, Recipe] = {
    "easy": Recipe(
        pitch=(52, 180),
        material=(30, 62),
        noise=(1.5, 3.5),
        grain=(0.4, 3.0),
        contrast=(20, 60),
        stain=(0.26, 0.60),
        depth=(5, 35),
        sides={
            "BEOL": (64, 165),
            "small_residue": (54, 130),
            "C_residue": (80, 220),
            "small_missing_cu": (66, 170),
            "particle": (54, 180),
            "scratch": (140, 560),
        },
        scratch_width=(5, 10),
        rotation=(4, 8),
        keystone=(0.08, 0.15),
        bend=(0.05, 0.09),
    ),
    "paper": Recipe(
        pitch=(40, 150),
        material=(21, 48),
        noise=(2.4, 5.2),
        grain=(0.4, 4.0),
        contrast=(16, 46),
        stain=(0.22, 0.52),
        depth=(0, 18),
        sides={
            "BEOL": (50, 130),
            "small_residue": (40, 105),
            "C_residue": (50, 170),
            "small_missing_cu": (52, 135),
            "particle": (40, 150),
            "scratch": (90, 420),
        },
        scratch_width=(3, 8),
        rotation=(3, 7),
        keystone=(0.06, 0.13),
        bend=(0.04, 0.07),
    ),
    "hard": Recipe(
        pitch=(22, 110),
        material=(22, 75),
        noise=(1.5, 7.5),
        grain=(0.4, 7.0),
        contrast=(7, 60),
        stain=(0.08, 0.55),
        depth=(0, 35),
        sides={
            "BEOL": (10, 60),
            "small_residue": (8, 30),
            "C_residue": (44, 180),
            "small_missing_cu": (8, 26),
            "particle": (14, 110),
            "scratch": (60, 420),
        },
        scratch_width=(1, 3),
        rotation=(2, 7),
        keystone=(0.04, 0.13),
        bend=(0.02, 0.06),
    ),
}
