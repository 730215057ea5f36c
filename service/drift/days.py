"""The audit log, summed up by day, tool, step and model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from wafer.datasets.errors import DataError, Fault, WaferError
from wafer.inference.bundle import bundle_name, is_bundle, open_bundle
from wafer.inference.tally import VALUES, Tally, Totals
from wafer.service.audit import AUDIT, read_audit
from wafer.service.drift.judging import Verdict, judge

__all__ = ["Day", "Drift", "Stream", "days_given", "drift_of"]


class Stream(NamedTuple):
    """Where images come from, and the digest of the bundle that answered."""

    tool: str
    step: str
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """The answers of a day (UTC, ISO 8601), what is usual, and whether they are.

    ``unreadable`` images are in none of the figures but their own share.
    """

    day: str
    stream: Stream
    totals: Totals
    unreadable: int
    usual: Totals | None
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Drift:
    """Days, oldest first, and what to know about them."""

    days: tuple[Day, ...]
    notes: tuple[str, ...]

    @property
    def moved(self) -> bool:
        """Return whether the newest day of some tool and step has an alarm."""
        newest = {(each.stream.tool, each.stream.step): each.day for each in self.days}
        return any(
            each.verdict.alarms and each.day == newest[each.stream.tool, each.stream.step]
            for each in self.days
        )


def drift_of(
    log: Path,
    *,
    models: Path | None,
    weights: Path | None = None,
    reference: tuple[str, str] | None = None,
    newest: int = 30,
) -> Drift:
    """Compare the answers of each day with what is usual.

    That is what the bundle answered for validation images, or the answers of some days of the log
    from the same tool and step by the same bundle.

    Args:
        log: an audit log, whose chain is checked; or the output of `wafer watch`.
        models: a folder of bundles.
        weights: a bundle that lies elsewhere.
        reference: the first and the last day to compare with instead.
        newest: so many days of the log, at least 1.

    Raises:
        DataError: no log, one that was changed, or one without an image; no answer on the days
            of reference; or a damaged bundle.
    """
    found, usual = _Counts(), _Counts()
    for line in _lines(log):
        day, stream = str(line["time"])[:10], _stream(line)
        found.add((day, *stream), line)
        if reference is not None and reference[0] <= day <= reference[1]:
            usual.add(("", *stream), line)
    if not found.keys:
        raise _nothing(log, "no answer in it", "serve some images first")
    if reference is not None and not usual.tallies:
        text = f"no answer from {reference[0]} to {reference[1]}"
        raise _nothing(log, text, "name other days with --reference")
    totals = {Stream(*key[1:]): usual.totals(key) for key in usual.keys}
    notes: tuple[str, ...] = ()
    if reference is None:
        totals, notes = _of_bundles({key[3] for key in found.keys}, models, weights, found)
    shown = sorted({key[0] for key in found.keys})[-newest:]
    days = [
        _day(key, found, totals.get(Stream(*key[1:])), usual.unreadable["", *key[1:]])
        for key in sorted(found.keys)
        if key[0] in shown
    ]
    return Drift(tuple(days), notes)


def days_given(text: str) -> tuple[str, str]:
    """Return the first and the last day of ``FIRST..LAST``.

    Raises:
        WaferError: not two days as ``2026-01-31``, the first not after the last.

    Example:
        >>> days_given("2026-01-01..2026-01-31")
        ('2026-01-01', '2026-01-31')
    """
    first, _, last = text.partition("..")
    try:
        found = date.fromisoformat(first).isoformat(), date.fromisoformat(last).isoformat()
    except ValueError:
        found = ("", "")
    if not first or found != (first, last) or first > last:
        raise WaferError(f"--reference {text}: not two days; say 2026-01-01..2026-01-31")
    return found


def _lines(log: Path) -> Iterator[dict[str, Any]]:
    """Yield the answers of an audit log, or of that in an output of `wafer watch`."""
    if log.is_dir():
        if not (log / AUDIT).is_file():
            raise _nothing(
                log, f"no {AUDIT} in it", "name the output of `wafer watch`, or an audit log"
            )
        log /= AUDIT
    return read_audit(log)


class _Counts:
    """Answers by day and stream, and how many could not be read."""

    def __init__(self) -> None:
        self.tallies: dict[tuple[str, str, str, str], Tally] = {}
        self.unreadable: Counter[tuple[str, str, str, str]] = Counter()

    @property
    def keys(self) -> set[tuple[str, str, str, str]]:
        """Return where there was any image, read or not."""
        return self.tallies.keys() | self.unreadable.keys()

    def totals(self, key: tuple[str, str, str, str]) -> Totals:
        return self.tallies.get(key, Tally()).totals()

    def add(self, key: tuple[str, str, str, str], line: Mapping[str, Any]) -> None:
        if line.get("error"):
            self.unreadable[key] += 1
            return
        values = {name: line.get(name) for name in VALUES}
        tally = self.tallies.setdefault(key, Tally())
        tally.add(str(line["class"]), str(line["decision"]), values)


def _stream(line: Mapping[str, Any]) -> Stream:
    """Return where an image came from; who names no tool is one by its key."""
    tool = line.get("tool") or line.get("key") or ""
    return Stream(str(tool), str(line.get("step") or ""), str(line["model_digest"]))


def _day(
    key: tuple[str, str, str, str], found: _Counts, usual: Totals | None, usually_unreadable: int
) -> Day:
    totals, unreadable = found.totals(key), found.unreadable[key]
    return Day(
        day=key[0],
        stream=Stream(*key[1:]),
        totals=totals,
        unreadable=unreadable,
        usual=usual,
        verdict=judge(totals, usual, not_read=unreadable, usually_not_read=usually_unreadable),
    )


def _of_bundles(
    digests: Iterable[str], models: Path | None, weights: Path | None, found: _Counts
) -> tuple[dict[Stream, Totals], tuple[str, ...]]:
    """Return what each bundle answered for validation images, and why not."""
    usual: dict[str, Totals] = {}
    notes = []
    folders = [] if weights is None else [open_bundle(weights).folder]
    for digest in sorted(digests):
        here = [] if models is None else [models / bundle_name(digest)]
        bundles = [open_bundle(folder) for folder in (*folders, *here) if is_bundle(folder)]
        same = [bundle.description.usual for bundle in bundles if bundle.digest == digest]
        if same and same[0] is not None:
            usual[digest] = same[0]
            continue
        why = "says nothing of validation images" if same else "is not here"
        notes.append(
            f"the bundle {digest[:12]} {why}; name days to compare with, --reference FIRST..LAST"
        )
    streams = {Stream(*key[1:]) for key in found.keys}
    return {s: usual[s.model] for s in streams if s.model in usual}, tuple(notes)


def _nothing(log: Path, problem: str, remedy: str) -> DataError:
    return DataError([Fault(file=str(log), problem=problem, remedy=remedy)])
