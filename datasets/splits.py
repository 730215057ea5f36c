"""Train, val and test: stratified by class, and no group in two of them."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from wafer.datasets.errors import WaferError
from wafer.datasets.records import Sample, Split

__all__ = ["check_shares", "missing_classes", "split_samples"]

FOLDS = 20  # a fold is the smallest share that is dealt out: 5 %
TRIES = 8
GROUPS_A_TRY = 250
# Where very many groups have the same rarest class, they are dealt out in bundles, this many or
# twice as many a class.
BUNDLES = 100
SWAPS = 8  # groups tried in exchange for one that has to move
MOVES_A_LOOK = 1 / 200  # of the groups, moved between two looks at all that could be moved
LEAST_GAIN = 1e-6  # a gain below this is rounding, or one image of a million
MISSING = 10.0  # how bad it is that a class misses a part: worse than any distance from a share
PARTS: tuple[Split, ...] = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class _Groups:
    """The images by group: ``contents[g, c]`` images of group g have class c.

    The last column counts images of any kind, so that the sizes of the splits count too.
    ``of_image`` is the group of each image.
    """

    contents: NDArray[np.int64]
    of_image: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Goal:
    """What the parts should hold: shares of the images of each column of `_Groups`.

    ``needed[p, c]`` says that part p must have an image of column c: one group of a class goes to
    train, a second to test, a third to val.
    """

    shares: NDArray[np.float64]
    totals: NDArray[np.int64]
    needed: NDArray[np.bool_]

    def badness(self, counts: NDArray[np.int64], part: int) -> NDArray[np.float64]:
        """Return how far a part is from its goal with such counts, whose last axis is columns."""
        far = np.abs(counts / self.totals - self.shares[part]).mean(axis=-1)
        missing = np.count_nonzero(self.needed[part] & (counts == 0), axis=-1)
        return np.asarray(far + MISSING * missing)

    def missing(self, counts: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which part misses which column."""
        return np.asarray(self.needed & (counts == 0), np.bool_)

    def total(self, parts: NDArray[np.int64], contents: NDArray[np.int64]) -> float:
        """Return how far all parts are from the goal."""
        counts = _counts(parts, contents)
        return sum(float(self.badness(counts[part], part)) for part in range(len(PARTS)))


def split_samples(
    samples: Sequence[Sample],
    *,
    train: float = 0.65,
    val: float = 0.15,
    test: float = 0.2,
    seed: int = 0,
    groups: Mapping[str, str] | None = None,
) -> tuple[Sample, ...]:
    """Return the samples with new splits, the images of a group all in the same.

    Of several assignments of scikit-learn's ``StratifiedGroupKFold`` the best is taken: first the
    one where fewest classes miss a split, then the one nearest to the shares in every class. A
    class of three groups or more that still misses a split is mended by moving groups, if any
    single move or exchange can; one of two groups goes to train and test, of one to train, unless
    val would stay empty for it. Then single groups move until no move brings the shares nearer.
    The same samples and seed give the same splits in any order.

    Args:
        samples: images; ``group`` of None is a group of its own unless ``groups`` says more.
        train: share of the images, 0 to 1; the three shares sum to 1.
        val: likewise.
        test: likewise.
        seed: chooses among equally good splits.
        groups: the group of images that have none, such as near-duplicates.

    Raises:
        WaferError: shares that do not sum to 1, or fewer groups than splits to fill.
    """
    shares = check_shares(train=train, val=val, test=test)
    ordered = sorted(samples, key=lambda s: s.image)
    found = _groups(ordered, groups or {})
    used = int(np.count_nonzero(shares))
    if len(found.contents) < used:
        raise WaferError(
            f"{len(ordered)} images in {len(found.contents)} groups cannot fill {used} splits: add "
            "images of other groups, or write the splits into image_labels.csv by hand"
        )
    if used == 1:  # train, which always has a share
        return tuple(replace(sample, split="train") for sample in samples)
    parts = _best_parts(_strata(ordered), found, shares, seed)
    splits = {ordered[i].image: PARTS[part] for i, part in enumerate(parts)}
    return tuple(replace(sample, split=splits[sample.image]) for sample in samples)


def check_shares(*, train: float, val: float, test: float) -> NDArray[np.float64]:
    """Return the shares of train, val and test as an array.

    Raises:
        WaferError: a share outside 0 to 1, none for train, or a sum that is not 1.
    """
    shares = np.array([train, val, test], np.float64)
    if not (np.all(shares >= 0) and train > 0 and abs(shares.sum() - 1) < 1e-6):
        raise WaferError(
            f"the shares train {train:g}, val {val:g}, test {test:g} must be 0 to 1, train more "
            "than 0, and sum to 1"
        )
    return shares


def missing_classes(samples: Sequence[Sample]) -> dict[str, tuple[Split, ...]]:
    """Return for each class the splits that have no image of it, where there are any."""
    present = {part: set[str]() for part in PARTS}
    for sample in samples:
        if sample.split in present:
            present[sample.split] |= _classes(sample)
    filled = [part for part in PARTS if any(s.split == part for s in samples)]
    names = sorted(set().union(*present.values()))
    lacking = {n: tuple(part for part in filled if n not in present[part]) for n in names}
    return {name: parts for name, parts in lacking.items() if parts}


def _classes(sample: Sample) -> set[str]:
    names = {annotation.class_name for annotation in sample.annotations or ()}
    return names if sample.image_class is None else names | {sample.image_class}


def _strata(samples: Sequence[Sample]) -> NDArray[np.int64]:
    """Return one class an image: its own, else the rarest of its boxes, else that it has none."""
    images = Counter(name for sample in samples for name in _classes(sample))
    labels = [
        s.image_class or min(_classes(s), key=lambda name: (images[name], name), default="")
        for s in samples
    ]
    return np.unique(np.array(labels), return_inverse=True)[1].astype(np.int64)


def _groups(samples: Sequence[Sample], others: Mapping[str, str]) -> _Groups:
    names = sorted(set().union(*map(_classes, samples))) if samples else []
    columns = {name: column for column, name in enumerate(names)}
    rows: dict[tuple[int, str], int] = {}
    of_image: list[int] = []
    held: list[tuple[int, int]] = []  # for each image its group and each of its columns
    for sample in samples:
        kind, name = (0, sample.group) if sample.group else (1, others.get(sample.image))
        key = (kind, name) if name else (2, sample.image)
        row = rows.setdefault(key, len(rows))
        of_image.append(row)
        held += [(row, columns[name]) for name in _classes(sample)] + [(row, len(names))]
    contents = np.zeros((len(rows), len(names) + 1), np.int64)
    np.add.at(contents, tuple(np.array(held, np.int64).reshape(-1, 2).T), 1)
    return _Groups(contents, np.array(of_image, np.int64))


def _bundles(contents: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Return a bundle for each group: itself, or where there are very many, groups that are alike.

    A bundle is dealt out as one, which takes seconds less for 10,000 groups. The groups of a class
    that few groups have are never bundled.
    """
    groups = np.count_nonzero(contents, axis=0)
    rarest = np.where(contents > 0, groups, len(contents) + 1).argmin(axis=1)
    shuffled = np.random.default_rng(seed % 2**32).permutation(len(contents))
    bundles = np.empty(len(contents), np.int64)
    first = 0
    for column in np.unique(rarest):
        rows = np.flatnonzero(rarest == column)
        size = max(1, len(rows) // BUNDLES)
        if size > 1:
            rows = shuffled[rarest[shuffled] == column]
            rows = rows[np.lexsort(contents[rows].T)]
        bundles[rows] = first + np.arange(len(rows)) // size
        first = int(bundles[rows[-1]]) + 1
    return bundles


def _counts(parts: NDArray[np.int64], contents: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.array([contents[parts == part].sum(axis=0) for part in range(len(PARTS))])


def _goal(contents: NDArray[np.int64], shares: NDArray[np.float64]) -> _Goal:
    used = [part for part in (0, 2, 1) if shares[part] > 0]
    groups = np.count_nonzero(contents, axis=0)
    needed = np.zeros((len(PARTS), contents.shape[1]), np.bool_)
    for rank, part in enumerate(used, 1):
        needed[part] = groups >= rank
    return _Goal(shares, contents.sum(axis=0), needed)


def _best_parts(
    strata: NDArray[np.int64], groups: _Groups, shares: NDArray[np.float64], seed: int
) -> NDArray[np.int64]:
    goal = _goal(groups.contents, shares)
    bundles = _bundles(groups.contents, seed)
    contents = np.zeros((int(bundles.max()) + 1, groups.contents.shape[1]), np.int64)
    np.add.at(contents, bundles, groups.contents)
    tries = min(TRIES, 1 + TRIES * GROUPS_A_TRY // len(groups.contents))
    candidates = [
        _mended(_dealt(strata, bundles[groups.of_image], shares, seed * TRIES + k), contents, goal)
        for k in range(tries)
    ]
    best = min(candidates, key=lambda parts: goal.total(parts, contents))
    return _levelled(best[bundles], groups.contents, goal)[groups.of_image]


def _dealt(
    strata: NDArray[np.int64], groups: NDArray[np.int64], shares: NDArray[np.float64], seed: int
) -> NDArray[np.int64]:
    """Return a part for each group, by folds of scikit-learn dealt to the parts by their shares."""
    from sklearn.model_selection import StratifiedGroupKFold

    count = int(groups.max()) + 1
    folds = min(FOLDS, count)
    if np.bincount(strata).max() < folds:  # too few of every class to be stratified
        strata = np.zeros_like(strata)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed % 2**32)
    parts = np.empty(count, np.int64)
    owner = np.repeat(np.arange(len(shares)), _fold_counts(shares, folds))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        for fold, (_, chosen) in enumerate(splitter.split(strata, strata, groups)):
            parts[groups[chosen]] = owner[fold]
    return parts


def _fold_counts(shares: NDArray[np.float64], folds: int) -> NDArray[np.int64]:
    """Return how many folds each part gets: by largest remainder, at least one where it has any."""
    counts = np.maximum(np.floor(shares * folds + 1e-9), shares > 0).astype(np.int64)
    while counts.sum() < folds:
        counts[np.argmax(shares * folds - counts)] += 1
    while counts.sum() > folds:
        counts[np.argmax(np.where(counts > 1, counts - shares * folds, -np.inf))] -= 1
    return counts


def _mended(
    parts: NDArray[np.int64], contents: NDArray[np.int64], goal: _Goal
) -> NDArray[np.int64]:
    """Move groups into the parts that a class misses, as long as that makes fewer of them."""
    while True:
        missing = np.argwhere(goal.missing(_counts(parts, contents)))
        moves = [
            _moved(parts, contents, goal, row=int(row), part=int(part), column=int(column))
            for part, column in missing
            for row in np.flatnonzero(contents[:, column])
        ]
        best = min(moves, key=lambda p: goal.total(p, contents), default=parts)
        if np.count_nonzero(goal.missing(_counts(best, contents))) >= len(missing):
            return parts
        parts = best


def _moved(
    parts: NDArray[np.int64],
    contents: NDArray[np.int64],
    goal: _Goal,
    *,
    row: int,
    part: int,
    column: int,
) -> NDArray[np.int64]:
    """Return the parts with one group moved, or exchanged for one without that class."""
    moved = parts.copy()
    moved[row] = part
    others = np.flatnonzero((parts == part) & (contents[:, column] == 0))
    candidates = [moved]
    for other in others[np.argsort(contents[others, -1], kind="stable")][:SWAPS]:
        swapped = moved.copy()
        swapped[other] = parts[row]
        candidates.append(swapped)
    return min(candidates, key=lambda p: goal.total(p, contents))


def _levelled(
    parts: NDArray[np.int64], contents: NDArray[np.int64], goal: _Goal
) -> NDArray[np.int64]:
    """Move single groups, those that gain most first, until no move brings the parts nearer."""
    parts = parts.copy()
    counts = _counts(parts, contents)
    moves = 1 + int(len(parts) * MOVES_A_LOOK)
    while True:
        gains = _gains(parts, counts, contents, goal)
        best = np.argsort(-gains, axis=None, kind="stable")[:moves]
        if gains.flat[best[0]] < LEAST_GAIN:
            return parts
        for row, part in zip(*np.unravel_index(best, gains.shape), strict=True):
            # What moved before may have made this move a loss.
            own, content = int(parts[row]), contents[row]
            if own != part and _gain(counts, content, own, int(part), goal) >= LEAST_GAIN:
                counts[own] -= content
                counts[part] += content
                parts[row] = part


def _gain(
    counts: NDArray[np.int64], contents: NDArray[np.int64], own: int, part: int, goal: _Goal
) -> NDArray[np.float64]:
    """Return how much nearer the parts are after groups of one part moved, each alone."""
    leaving = goal.badness(counts[own], own) - goal.badness(counts[own] - contents, own)
    return leaving + goal.badness(counts[part], part) - goal.badness(counts[part] + contents, part)


def _gains(
    parts: NDArray[np.int64],
    counts: NDArray[np.int64],
    contents: NDArray[np.int64],
    goal: _Goal,
) -> NDArray[np.float64]:
    """Return what it gains to move each group to each part."""
    gains = np.full((len(parts), len(PARTS)), -np.inf)
    used = [part for part in range(len(PARTS)) if goal.shares[part] > 0]
    for own, part in permutations(used, 2):
        rows = np.flatnonzero(parts == own)
        gains[rows, part] = _gain(counts, contents[rows], own, part, goal)
    return gains
