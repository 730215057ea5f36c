"""What will be drawn: class counts, wafers, and one specification per image."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from wafer.datasets.classes import paper_classes
from wafer.datasets.errors import DataError, Fault
from wafer.datasets.synthetic.recipes import (
    DIFFICULTIES,
    FAMILIES,
    MODE_SHARES,
    RECIPES,
    TOOL_SHARES,
    TOOLS,
    Difficulty,
    Family,
    Mode,
    Tool,
)

__all__ = ["PAPER_COUNTS", "SampleSpec", "class_counts", "plan_samples", "stream_seed"]

# The paper gives 8,546 images, 2,000 of them without a defect and 44 of code 20; the rest is ours.
PAPER_COUNTS: Mapping[str, int] = {
    "no_defect": 2000,
    "BEOL": 2100,
    "small_residue": 1500,
    "C_residue": 1100,
    "small_missing_cu": 900,
    "particle": 600,
    "scratch": 44,
    "deviation": 302,
}
LEAST_PER_CLASS = 6
IMAGES_PER_WAFER = 9
LEAST_WAFERS = 6
WAFERS_PER_LOT = 5
SIZES = (64, 4096)
LEAST_IMAGES, MOST_IMAGES = 3, 1_000_000

Key = TypeVar("Key", bound=str)


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleSpec:
    """All that one image depends on; equal specifications give equal pixels.

    ``group`` is the wafer: images of one wafer share mode, layout family, tool and process, drawn
    from ``wafer_seed``; everything else of the image is drawn from ``seed``. ``size`` is the side
    in pixels, ``center_sigma`` the spread of the defect around the centre as a share of the side,
    None for even placing.
    """

    name: str
    image_class: str
    group: str
    seed: int
    wafer_seed: int
    family: Family
    mode: Mode
    tool: Tool
    size: int = 680
    difficulty: Difficulty = "paper"
    center_sigma: float | None = None


def stream_seed(*parts: object) -> int:
    """Return a 63-bit seed that is a fixed function of ``parts``."""
    digest = hashlib.sha256("/".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def class_counts(counts: str | Mapping[str, int], *, images: int) -> dict[str, int]:
    """Return how many images each class gets, in the order of the class table.

    ``paper`` scales the paper's distribution to ``images`` by largest remainder, at least six
    images a class; ``balanced`` deals them out evenly; ``NAME=N,NAME=N`` or a mapping is taken as
    it stands, and ``images`` is then not used.

    Raises:
        DataError: an unknown class, a negative count, a text that is none of these forms, or too
            few images; all faults together.

    Example:
        >>> class_counts("scratch=3,no_defect=5", images=0)
        {'no_defect': 5, 'scratch': 3}
    """
    if counts in ("paper", "balanced"):
        _check_images(images)
        names = paper_classes().names
        shares = PAPER_COUNTS if counts == "paper" else dict.fromkeys(names, 1)
        return _scaled(shares, images, least=LEAST_PER_CLASS)
    rows = _parse_counts(counts) if isinstance(counts, str) else list(counts.items())
    return _checked_counts(rows)


def plan_samples(
    counts: Mapping[str, int],
    *,
    size: int = 680,
    difficulty: str = "paper",
    seed: int = 0,
    center_sigma: float | None = None,
    families: Sequence[str] | None = None,
    tools: Sequence[str] | None = None,
) -> tuple[SampleSpec, ...]:
    """Return one specification per image, sorted by name.

    Wafers get their mode, layout family and tool blind to class, and every class is dealt round the
    wafers like cards, so that each wafer mixes classes and no class sits on one wafer.

    Args:
        counts: number of images per class.
        size: side of the images in pixels.
        difficulty: ``easy``, ``paper`` or ``hard``.
        seed: of everything.
        center_sigma: spread of the defect around the middle as a share of the side, 0 to 1, where
            1 is as good as even; None is that of the difficulty.
        families: layout families to draw from, None for all.
        tools: models of review tools to draw from, None for all.

    Raises:
        DataError: size, difficulty, centre spread, families or tools outside their range.
    """
    chosen = _check_settings(size, difficulty, center_sigma, families, tools)
    shuffler = random.Random(stream_seed(seed, "plan"))
    level = next(d for d in DIFFICULTIES if d == difficulty)
    shares = {family: RECIPES[level].families[family] for family in chosen.families}
    tool_shares = {tool: TOOL_SHARES[tool] for tool in chosen.tools}
    spread = RECIPES[level].center if center_sigma is None else center_sigma
    wafers = _wafers(sum(counts.values()), shares, tool_shares, seed, shuffler)
    specs = [
        SampleSpec(
            name=_name(seed, index),
            image_class=image_class,
            group=wafer.group,
            seed=stream_seed(seed, "image", index),
            wafer_seed=wafer.seed,
            family=wafer.family,
            mode=wafer.mode,
            tool=wafer.tool,
            size=size,
            difficulty=level,
            center_sigma=spread,
        )
        for index, (image_class, wafer) in enumerate(_deal(counts, wafers, shuffler))
    ]
    return tuple(sorted(specs, key=lambda spec: spec.name))


@dataclass(frozen=True, slots=True)
class _Wafer:
    group: str
    seed: int
    family: Family
    mode: Mode
    tool: Tool


def _wafers(
    images: int,
    families: Mapping[Family, float],
    tools: Mapping[Tool, float],
    seed: int,
    shuffler: random.Random,
) -> list[_Wafer]:
    number = max(LEAST_WAFERS, round(images / IMAGES_PER_WAFER))
    family_list = _shuffled_shares(families, number, shuffler)
    mode_list = _shuffled_shares(MODE_SHARES, number, shuffler)
    tool_list = _shuffled_shares(tools, number, shuffler)
    return [
        _Wafer(
            f"L{index // WAFERS_PER_LOT + 1:02d}W{index % WAFERS_PER_LOT + 1:02d}",
            stream_seed(seed, "wafer", index),
            family,
            mode,
            tool,
        )
        for index, (family, mode, tool) in enumerate(
            zip(family_list, mode_list, tool_list, strict=True)
        )
    ]


def _shuffled_shares(
    shares: Mapping[Key, float], number: int, shuffler: random.Random
) -> list[Key]:
    dealt = [key for key, count in _scaled(shares, number, least=0).items() for _ in range(count)]
    shuffler.shuffle(dealt)
    return dealt


def _deal(
    counts: Mapping[str, int], wafers: Sequence[_Wafer], shuffler: random.Random
) -> list[tuple[str, _Wafer]]:
    classes = [name for name, count in counts.items() if count]
    shuffler.shuffle(classes)
    hand: list[_Wafer] = []
    dealt = []
    for name in classes:
        for _ in range(counts[name]):
            if not hand:
                hand = list(wafers)
                shuffler.shuffle(hand)
            dealt.append((name, hand.pop()))
    # The index of an image seeds its pixels and its name, so it must not follow the class.
    shuffler.shuffle(dealt)
    return dealt


def _name(seed: int, index: int) -> str:
    return hashlib.sha256(f"name/{seed}/{index}".encode()).hexdigest()[:12] + ".jpg"


def _scaled(shares: Mapping[Key, float], total: int, *, least: int) -> dict[Key, int]:
    """Share ``total`` out by largest remainder, with at least ``least`` for each key."""
    fixed: dict[Key, int] = {}
    while True:
        free = {key: share for key, share in shares.items() if key not in fixed}
        result = _largest_remainder(free, total - sum(fixed.values()))
        low = [key for key, count in result.items() if count < least]
        if not low:
            return {key: fixed.get(key, result.get(key, 0)) for key in shares}
        fixed |= dict.fromkeys(low, least)


def _largest_remainder(shares: Mapping[Key, float], total: int) -> dict[Key, int]:
    whole = sum(shares.values())
    exact = {key: total * share / whole for key, share in shares.items()}
    result = {key: int(value) for key, value in exact.items()}
    by_remainder = sorted(exact, key=lambda key: (result[key] - exact[key], key))
    for key in by_remainder[: total - sum(result.values())]:
        result[key] += 1
    return result


def _parse_counts(text: str) -> list[tuple[str, int]]:
    rows, faults = [], []
    for part in text.split(","):
        name, _, number = part.partition("=")
        try:
            rows.append((name.strip(), int(number)))
        except ValueError:
            faults.append(_fault(f"--counts has {part!r}", "write paper, balanced or NAME=N,..."))
    if faults:
        raise DataError(faults)
    return rows


def _checked_counts(rows: Sequence[tuple[str, int]]) -> dict[str, int]:
    names = paper_classes().names
    faults = []
    for name in {name for name, _ in rows}:
        if name not in names:
            faults.append(_fault(f"unknown class {name!r}", f"choose from {', '.join(names)}"))
        if sum(name == other for other, _ in rows) > 1:
            faults.append(_fault(f"class {name!r} is given twice", "give each class once"))
    for name, number in rows:
        if number < 0:
            faults.append(_fault(f"{number} images of {name!r}", "give a number from 0 up"))
    total = sum(number for _, number in rows)
    if not faults and not LEAST_IMAGES <= total <= MOST_IMAGES:
        remedy = f"ask for {LEAST_IMAGES} to {MOST_IMAGES}, one group each for train, val and test"
        faults.append(_fault(f"{total} images in all", remedy))
    if faults:
        raise DataError(sorted(faults, key=str))
    asked = dict(rows)
    return {name: asked[name] for name in names if asked.get(name)}


def _check_images(images: int) -> None:
    least = LEAST_PER_CLASS * len(PAPER_COUNTS)
    if not least <= images <= MOST_IMAGES:
        raise DataError(
            [
                _fault(
                    f"{images} images cannot hold {LEAST_PER_CLASS} of each class",
                    f"ask for {least} to {MOST_IMAGES}, or give --counts NAME=N,...",
                )
            ]
        )


@dataclass(frozen=True, slots=True)
class _Chosen:
    families: tuple[Family, ...]
    tools: tuple[Tool, ...]


def _check_settings(
    size: int,
    difficulty: str,
    center_sigma: float | None,
    families: Sequence[str] | None,
    tools: Sequence[str] | None,
) -> _Chosen:
    faults = []
    if not SIZES[0] <= size <= SIZES[1]:
        faults.append(_fault(f"size {size}", f"give {SIZES[0]} to {SIZES[1]} pixels"))
    if difficulty not in DIFFICULTIES:
        choice = ", ".join(DIFFICULTIES)
        faults.append(_fault(f"unknown difficulty {difficulty!r}", f"choose from {choice}"))
    if center_sigma is not None and not 0 <= center_sigma <= 1:
        faults.append(_fault(f"centre spread {center_sigma}", "give a share of the side, 0 to 1"))
    faults += _unknown("families", families, FAMILIES) + _unknown("tools", tools, tuple(TOOLS))
    if faults:
        raise DataError(faults)
    return _Chosen(
        tuple(family for family in FAMILIES if families is None or family in families),
        tuple(tool for tool in TOOLS if tools is None or tool in tools),
    )


def _unknown(what: str, chosen: Sequence[str] | None, known: Sequence[str]) -> list[Fault]:
    unknown = sorted(set(chosen or ()) - set(known))
    if not unknown and (chosen is None or chosen):
        return []
    return [_fault(f"unknown {what} {unknown}", f"choose one or more of {', '.join(known)}")]


def _fault(problem: str, remedy: str) -> Fault:
    return Fault(file="synth", problem=problem, remedy=remedy)
