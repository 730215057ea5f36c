"""Drift while it happens: the answers of today beside what is usual, as figures for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from wafer.inference.bundle import Bundle
from wafer.inference.records import Row
from wafer.inference.tally import Tally
from wafer.service.drift.judging import Verdict, judge

__all__ = ["Drifting"]

MOST = 200
"""Pairs of tool and step; clients name them, and memory must not grow with what they say."""
OTHERS = ("others", "others")


class Drifting(Collector):
    """Counts the answers of today (UTC), since the server started, by tool and step.

    Args:
        bundle: returns the one at work; answers of another are not counted.
        today: returns the day, ISO 8601.
    """

    def __init__(
        self,
        bundle: Callable[[], Bundle],
        *,
        today: Callable[[], str] = lambda: datetime.now(UTC).date().isoformat(),
    ) -> None:
        self._bundle = bundle
        self._today = today
        self._of: tuple[str, str] = ("", "")
        self._tallies: dict[tuple[str, str], Tally] = {}

    def add(self, row: Row, *, tool: str, step: str, digest: str) -> None:
        """Count an answer of a bundle; one that is an error says nothing of drift."""
        self._begin()
        answer, appearance = row.prediction, row.appearance
        if answer is None or digest != self._of[1]:
            return
        key = (tool, step)
        if key not in self._tallies and len(self._tallies) >= MOST:
            key = OTHERS
        values = {} if appearance is None else appearance._asdict()
        tally = self._tallies.setdefault(key, Tally())
        tally.add(answer.class_name, answer.decision, {"confidence": answer.confidence, **values})

    def collect(self) -> Iterator[Metric]:
        """Yield the figures as they are now; part of prometheus_client's interface."""
        self._begin()
        where = ["tool", "step"]
        images = GaugeMetricFamily("wafer_today_images", "Images answered today.", labels=where)
        value = GaugeMetricFamily(
            "wafer_drift", "Figures of today, where enough is known.", labels=[*where, "figure"]
        )
        alarm = GaugeMetricFamily(
            "wafer_drift_alarm", "1 while a figure is not as usual.", labels=[*where, "figure"]
        )
        for key, tally in self._tallies.items():
            totals = tally.totals()
            images.add_metric(key, totals.images)
            verdict: Verdict = judge(totals, self._bundle().description.usual)
            for check in verdict.checks:
                value.add_metric([*key, check.name], check.value)
                alarm.add_metric([*key, check.name], check.alarm)
        yield from (images, value, alarm)

    def _begin(self) -> None:
        """Count anew where it is another day, or another bundle is at work."""
        now = (self._today(), self._bundle().digest)
        if now != self._of:
            self._of = now
            self._tallies.clear()
