"""Figures for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from wafer.inference.records import Row

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SIZES = (1, 2, 3, 4)


class Metrics:
    """What one server counts; nothing is shared with others in the process."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self.requests = Counter(
            "wafer_requests", "Requests by path and status.", ["path", "status"], registry=registry
        )
        self.refused = Counter(
            "wafer_refused", "Requests without an answer, by reason.", ["reason"], registry=registry
        )
        self._images = Counter(
            "wafer_images",
            "Images by class and decision; decision error for one that cannot be read.",
            ["class_name", "decision"],
            registry=registry,
        )
        self._confidence = Histogram(
            "wafer_confidence",
            "Confidence of answers.",
            registry=registry,
            buckets=[step / 10 for step in range(1, 11)],
        )
        self._seconds = Histogram(
            "wafer_seconds",
            "Seconds an image spent in each stage.",
            ["stage"],
            registry=registry,
            buckets=SECONDS,
        )
        self._sizes = Histogram(
            "wafer_batch_images",
            "Images given to a process at once.",
            registry=registry,
            buckets=SIZES,
        )
        self._model = Gauge(
            "wafer_model", "1 for the bundle at work.", ["model", "digest"], registry=registry
        )
        self._gauge = Gauge(
            "wafer_model_refused", "1 while a promoted bundle is not used.", registry=registry
        )

    def follow(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Show a number as it is when somebody asks."""
        Gauge(name, text, registry=self._registry).set_function(value)

    def show(self, collector: Collector) -> None:
        """Show what something else counts."""
        self._registry.register(collector)

    def add_image(self, row: Row, stages: dict[str, float]) -> None:
        """Count an image that was answered, and the seconds of its stages."""
        answer = row.prediction
        if answer is None:
            self._images.labels("", "error").inc()
        else:
            self._images.labels(answer.class_name, answer.decision).inc()
            self._confidence.observe(answer.confidence)
        for stage, seconds in stages.items():
            self._seconds.labels(stage).observe(seconds)

    def add_batch(self, images: int) -> None:
        """Count a question to a process."""
        self._sizes.observe(images)

    def set_model(self, model: str, digest: str) -> None:
        """Say which bundle is at work."""
        self._model.clear()
        self._model.labels(model, digest).set(1)

    def set_refused(self, refused: bool) -> None:
        """Say whether the promoted bundle is another one, which failed."""
        self._gauge.set(refused)

    def text(self) -> bytes:
        """Return all figures in Prometheus' text format."""
        return generate_latest(self._registry)
