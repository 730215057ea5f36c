"""How hard the images are: one table of ranges per difficulty, shared by all classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

__all__ = [
    "DIFFICULTIES",
    "FAMILIES",
    "MODES",
    "MODE_SHARES",
    "RECIPES",
    "REFERENCE_SIZE",
    "TOOLS",
    "TOOL_SHARES",
    "Difficulty",
    "Family",
    "Mode",
    "Range",
    "Recipe",
    "Tool",
    "ToolModel",
]

Difficulty = Literal["easy", "paper", "hard"]
Family = Literal["lines", "routed", "vias", "pads", "fill"]
Mode = Literal["sem", "bright_field", "dark_field"]
Tool = Literal["sharp", "standard", "soft"]
Range = tuple[float, float]

DIFFICULTIES: tuple[Difficulty, ...] = get_args(Difficulty)
FAMILIES: tuple[Family, ...] = get_args(Family)
MODES: tuple[Mode, ...] = get_args(Mode)
VARIED: Mapping[Family, float] = {
    "lines": 0.28,
    "routed": 0.36,
    "vias": 0.14,
    "pads": 0.10,
    "fill": 0.12,
}
REGULAR: Mapping[Family, float] = {
    "lines": 0.66,
    "routed": 0.20,
    "vias": 0.05,
    "pads": 0.04,
    "fill": 0.05,
}
MODE_SHARES: Mapping[Mode, float] = {"sem": 0.60, "bright_field": 0.30, "dark_field": 0.10}

TOOL_SHARES: Mapping[Tool, float] = {"sharp": 0.4, "standard": 0.4, "soft": 0.2}

REFERENCE_SIZE = 680
"""Side of the image in which all lengths of a recipe are given, pixels."""


@dataclass(frozen=True, slots=True)
class ToolModel:
    """How one model of review tool differs from the middle of all: factors of lens and noise.

    ``rows`` is the probability that its rows have a noise of their own.
    """

    lens: float
    noise: float
    rows: float


TOOLS: Mapping[Tool, ToolModel] = {
    "sharp": ToolModel(lens=0.85, noise=1.12, rows=0.2),
    "standard": ToolModel(lens=1.0, noise=1.0, rows=0.6),
    "soft": ToolModel(lens=1.4, noise=0.8, rows=1.0),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Ranges of one difficulty; lengths in pixels of a 680 px image, contrasts in grey levels."""

    families: Mapping[Family, float]
    """Share of the wafers that has each kind of layout."""
    center: float | None
    """Spread of the defect around the middle of the image, in sides; None is even placing."""
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
        families=REGULAR,
        center=0.04,
        pitch=(135, 220),
        material=(34, 66),
        noise=(1.2, 2.6),
        grain=(0.4, 2.5),
        contrast=(44, 95),
        stain=(0.42, 0.70),
        depth=(18, 45),
        sides={
            "BEOL": (140, 300),
            "small_residue": (115, 240),
            "C_residue": (140, 350),
            "small_missing_cu": (165, 330),
            "particle": (145, 300),
            "scratch": (280, 600),
        },
        scratch_width=(6, 11),
        rotation=(5, 9),
        keystone=(0.09, 0.15),
        bend=(0.055, 0.09),
    ),
    "paper": Recipe(
        families=REGULAR,
        center=0.04,
        pitch=(105, 170),
        material=(24, 50),
        noise=(2.4, 5.0),
        grain=(0.4, 3.5),
        contrast=(25, 58),
        stain=(0.30, 0.58),
        depth=(8, 32),
        sides={
            "BEOL": (120, 265),
            "small_residue": (95, 210),
            "C_residue": (115, 310),
            "small_missing_cu": (140, 290),
            "particle": (120, 265),
            "scratch": (240, 560),
        },
        scratch_width=(4, 9),
        rotation=(4, 8),
        keystone=(0.07, 0.14),
        bend=(0.045, 0.08),
    ),
    "hard": Recipe(
        families=VARIED,
        center=None,
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
