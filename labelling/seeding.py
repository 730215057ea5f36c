"""Which images a person should draw first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from wafer.datasets.classes import ClassTable
from wafer.datasets.errors import ImageError, WaferError
from wafer.datasets.keeping import keep_copy
from wafer.datasets.labels_csv import write_labels
from wafer.datasets.records import Sample
from wafer.datasets.workspace import Workspace, trusted
from wafer.labelling.looks import look_at
from wafer.labelling.orders import Order, kcenter_order, random_order
from wafer.labelling.sheet import write_sheet

__all__ = ["SeedChoice", "Strategy", "choose_seed", "take_turns", "write_seed"]

Strategy = Literal["kcenter", "random"]
Drawable = Literal["train", "val", "test"]
SHOWN = 5


@dataclass(frozen=True, slots=True)
class SeedChoice:
    """The chosen images in the order in which they should be drawn, and notes for the user.

    Whoever stops after k of them has the best k: a smaller choice is the beginning of a larger,
    and once the first are drawn, the next choice goes on with the others.
    """

    samples: tuple[Sample, ...]
    split: Drawable
    notes: tuple[str, ...]


def choose_seed(
    workspace: Workspace,
    number: int,
    *,
    strategy: Strategy | None = None,
    split: Drawable = "train",
    seed: int = 0,
    device: str = "auto",
    progress: Callable[[int, int | None], None] | None = None,
) -> SeedChoice:
    """Choose images for a person to draw, among those that need it and that nobody has drawn.

    Classes take turns, the one with the fewest drawn and chosen images first and of equal ones
    the rarest. Images of the classes ``none`` and ``whole_image`` have their boxes by rule and are
    never chosen; those without a class take turns like one more class.

    Args:
        workspace: its images are looked at; nothing is written but its cache.
        number: how many images.
        strategy: ``kcenter`` as `kcenter_order`, the default for train; ``random`` as
            `random_order`, the only one for val and test, where a choice of unusual images would
            measure something else than what arrives.
        split: whose images.
        seed: of ``random``.
        device: ``auto``, ``cpu`` or ``cuda:N``.
        progress: called with the images looked at and their number.

    Raises:
        WaferError: a number below 1, ``kcenter`` for val or test, or no image left to draw.
        DataError: faults in the workspace.
    """
    strategy = strategy or ("kcenter" if split == "train" else "random")
    if number < 1:
        raise WaferError(f"{number} images cannot be chosen; give a number from 1 on")
    if strategy == "kcenter" and split != "train":
        raise WaferError(
            f"--strategy kcenter looks for unusual images, and a measurement on {split} needs "
            "usual ones; leave it out"
        )
    samples = workspace.samples()
    ours = [s for s in samples if (s.split or "train") == split]
    drawn = [s for s in ours if _needs_boxes(s, workspace.classes) and trusted(s)]
    waiting = [s for s in ours if _needs_boxes(s, workspace.classes) and not trusted(s)]
    if not waiting:
        raise WaferError(
            f"no image of split {split} is left to draw: all have boxes of a person or by rule"
        )
    unreadable: tuple[ImageError, ...] = ()
    order: Order
    if strategy == "random":
        order = random_order(waiting, seed=seed)
    else:
        looks = look_at(
            workspace, [s.image for s in (*waiting, *drawn)], device=device, progress=progress
        )
        order, unreadable = kcenter_order(waiting, drawn, looks=looks), looks.unreadable
    chosen = take_turns(number, order, have=Counter(s.image_class for s in drawn), among=ours)
    if not chosen:
        nothing = (
            f"no image of split {split} is left to draw: those without boxes look like drawn ones, "
            "or are damaged; `wafer label-propagate` labels the first"
        )
        raise WaferError("\n".join([*_unreadable_notes(unreadable), nothing]))
    notes = [
        *_unreadable_notes(unreadable),
        *_class_notes(chosen, waiting, drawn),
        *_short_notes(chosen, number),
        *_measuring_notes(samples, workspace.classes, split),
    ]
    return SeedChoice(tuple(chosen), split, tuple(notes))


def _needs_boxes(sample: Sample, classes: ClassTable) -> bool:
    return sample.image_class is None or classes[sample.image_class].kind == "box"


def take_turns(
    number: int, order: Order, *, have: Counter[str | None], among: Sequence[Sample]
) -> list[Sample]:
    """Return images of all classes in turn; ``have`` counts those that are drawn already."""
    images = Counter(sample.image_class for sample in among)
    counts = Counter(have)
    waiting = set(order.classes)
    chosen: list[Sample] = []
    while waiting and len(chosen) < number:
        name = min(waiting, key=lambda n: (counts[n], images[n], n is None, n or ""))
        sample = order.next(name)
        if sample is None:
            waiting.remove(name)
            continue
        counts[name] += 1
        chosen.append(sample)
    return chosen


def _unreadable_notes(unreadable: Sequence[ImageError]) -> list[str]:
    if not unreadable:
        return []
    shown = "; ".join(str(error) for error in unreadable[:SHOWN])
    more = f"; and {len(unreadable) - SHOWN} more" if len(unreadable) > SHOWN else ""
    return [f"{len(unreadable)} images cannot be read and are left out: {shown}{more}"]


def _class_notes(
    chosen: Sequence[Sample], waiting: Sequence[Sample], drawn: Sequence[Sample]
) -> list[str]:
    taken, open_ = Counter(s.image_class for s in chosen), Counter(s.image_class for s in waiting)
    have = Counter(s.image_class for s in drawn)
    names = sorted({*open_, *have}, key=lambda n: (open_[n] + have[n], n is None, n or ""))
    return [
        f"{name or 'without a class'}: {taken[name]} chosen of {open_[name]}"
        + (f", {have[name]} drawn before" if have[name] else "")
        for name in names
    ]


def _short_notes(chosen: Sequence[Sample], number: int) -> list[str]:
    if len(chosen) == number:
        return []
    return [
        f"only {len(chosen)} images: all others are drawn, look like one of these, or are damaged"
    ]


def _measuring_notes(samples: Sequence[Sample], classes: ClassTable, split: Drawable) -> list[str]:
    """Return a note for val and test where images without drawn boxes leave a measurement thin."""
    notes = []
    for part in ("val", "test"):
        needed = [s for s in samples if s.split == part and _needs_boxes(s, classes)]
        missing = sum(not trusted(s) for s in needed)
        if missing and part != split:
            notes.append(
                f"{missing} of the {len(needed)} images of {part} that need boxes have none drawn "
                f"and do not count; `wafer seed N --split {part}` draws some at random"
            )
    return notes


def write_seed(workspace: Workspace, choice: SeedChoice) -> tuple[Path, Path]:
    """Write the list and the contact sheet of a choice into the workspace.

    The sheet is ``runs/seed/<split>.png``, where it is not taken for an image of the user. The
    list is ``seed.csv`` (``seed-val.csv``, ``seed-test.csv``) with the columns of
    ``image_labels.csv``, in the order of drawing; another one that was there is kept as ``.bak-N``.

    Returns:
        The list and the sheet.
    """
    name = "seed" if choice.split == "train" else f"seed-{choice.split}"
    table = workspace.root / f"{name}.csv"
    samples = [replace(s, split=choice.split) for s in choice.samples]
    old = table.read_bytes() if table.is_file() else None
    kept = None if old is None else keep_copy(table)
    write_labels(table, samples)
    if kept is not None and table.read_bytes() == old:
        kept.unlink()
    sheet = workspace.root / "runs" / "seed" / f"{choice.split}.png"
    write_sheet(workspace, choice.samples, sheet)
    return table, sheet
