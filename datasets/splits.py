"""Train, val and test: stratified by class, and no group in two of them."""

from __future__ import annotations

import random
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from wafer.datasets.errors import WaferError
from wafer.datasets.records import Sample, Split

__all__ = ["check_shares", "missing_classes", "split_samples"]

FOLDS = 20  # a fold is the smallest share: 5 %
TRIES = 8
GROUPS_A_TRY = 250
# Images that are a group each are dealt out in bundles, this many or twice as many a stratum.
BUNDLES = 100
FEW_GROUPS = 200
SWAPS = 8  # groups tried in exchange for one that has to move
PARTS: tuple[Split, ...] = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class _Groups:
    """The images by group: ``contents[g, c]`` images of group g have class c."""

    contents: NDArray[np.int64]
    members: tuple[tuple[int, ...], ...]


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
    val would stay empty for it. The same samples and seed give the same splits in any order.

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
    if len(found.members) < used:
        raise WaferError(
            f"{len(ordered)} images in {len(found.members)} groups cannot fill {used} splits: add "
            "images of other groups, or write the splits into image_labels.csv by hand"
        )
    parts = _best_parts(_strata(ordered), _bundled(found, seed), shares, seed)
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
    members: dict[tuple[int, str], list[int]] = {}
    for index, sample in enumerate(samples):
        kind, name = (0, sample.group) if sample.group else (1, others.get(sample.image))
        key = (kind, name) if name else (2, sample.image)
        members.setdefault(key, []).append(index)
    # The last column counts images of any kind, so that the sizes of the splits count too.
    contents = np.zeros((len(members), len(names) + 1), np.int64)
    for row, indices in enumerate(members.values()):
        contents[row, -1] = len(indices)
        for index in indices:
            contents[row, [columns[name] for name in _classes(samples[index])]] += 1
    return _Groups(contents, tuple(map(tuple, members.values())))


def _bundled(groups: _Groups, seed: int) -> _Groups:
    """Join groups of a single image that hold the same classes, where there are very many.

    A bundle is dealt out as one, which is as good and takes seconds less for 10,000 images.
    """
    alike: dict[bytes, list[int]] = {}
    for row, members in enumerate(groups.members):
        key = groups.contents[row].tobytes() if len(members) == 1 else row.to_bytes(8, "big") * 2
        alike.setdefault(key, []).append(row)
    shuffle = random.Random(seed).shuffle
    bundles: list[list[int]] = []
    for rows in alike.values():
        shuffle(rows)
        size = max(1, len(rows) // BUNDLES)
        bundles += [rows[start : start + size] for start in range(0, len(rows), size)]
    return _Groups(
        np.array([groups.contents[rows].sum(axis=0) for rows in bundles]),
        tuple(tuple(i for row in rows for i in groups.members[row]) for rows in bundles),
    )


def _best_parts(
    strata: NDArray[np.int64], groups: _Groups, shares: NDArray[np.float64], seed: int
) -> NDArray[np.int64]:
    of_image = np.empty(len(strata), np.int64)
    for row, members in enumerate(groups.members):
        of_image[list(members)] = row
    tries = min(TRIES, 1 + TRIES * GROUPS_A_TRY // len(groups.members))
    candidates = [
        _mended(_dealt(strata, of_image, shares, seed * TRIES + k), groups.contents, shares)
        for k in range(tries)
    ]
    best = min(candidates, key=lambda parts: _badness(parts, groups.contents, shares))
    return _levelled(best, groups.contents, shares)[of_image]


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


def _badness(
    parts: NDArray[np.int64], contents: NDArray[np.int64], shares: NDArray[np.float64]
) -> tuple[int, float]:
    """Return how many times a class misses a part, then how far the parts are from the shares."""
    counts = np.array([contents[parts == part].sum(axis=0) for part in range(len(shares))])
    return int(_missing(counts, contents, shares).sum()), _distance(counts, shares)


def _missing(
    counts: NDArray[np.int64], contents: NDArray[np.int64], shares: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Return which part misses which class: one group goes to train, a second to test."""
    used = [part for part in (0, 2, 1) if shares[part] > 0]
    groups = np.count_nonzero(contents, axis=0)
    missing = np.zeros(counts.shape, np.bool_)
    for rank, part in enumerate(used, 1):
        missing[part] = (counts[part] == 0) & (groups >= rank)
    return missing


def _distance(counts: NDArray[np.int64], shares: NDArray[np.float64]) -> float:
    totals = np.maximum(counts.sum(axis=0), 1)
    return float(np.abs(counts / totals - shares[:, None]).sum(axis=0).mean())


def _mended(
    parts: NDArray[np.int64], contents: NDArray[np.int64], shares: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Move groups into the parts that a class misses, as long as that makes fewer of them."""
    while True:
        counts = np.array([contents[parts == part].sum(axis=0) for part in range(len(shares))])
        missing = np.argwhere(_missing(counts, contents, shares))
        moves = [
            _moved(parts, contents, shares, row=int(row), part=int(part), column=int(column))
            for part, column in missing
            for row in np.flatnonzero(contents[:, column])
        ]
        best = min(moves, key=lambda p: _badness(p, contents, shares), default=parts)
        if _badness(best, contents, shares)[0] >= len(missing):
            return parts
        parts = best


def _levelled(
    parts: NDArray[np.int64], contents: NDArray[np.int64], shares: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Move single groups as long as that brings the parts nearer to their shares.

    A fold is a coarse share of few groups; of many it is fine enough, and moving would take long.
    """
    while len(parts) <= FEW_GROUPS:
        moves = []
        for row, part in product(range(len(parts)), np.flatnonzero(shares)):
            moved = parts.copy()
            moved[row] = part
            moves.append(moved)
        best = min(moves, key=lambda p: _badness(p, contents, shares))
        if _badness(best, contents, shares) >= _badness(parts, contents, shares):
            break
        parts = best
    return parts


def _moved(
    parts: NDArray[np.int64],
    contents: NDArray[np.int64],
    shares: NDArray[np.float64],
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
    return min(candidates, key=lambda p: _badness(p, contents, shares))
