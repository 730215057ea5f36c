"""What the paper claims of its models, beside what was measured here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from wafer.evaluation.tables import percent
from wafer.experiments.comparison.plan import CLASSIFIERS, DETECTOR, PUBLISHED

__all__ = ["Claim", "claims"]

Verdict = Literal["holds here", "does not hold here", "not decided"]

Rows = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Claim:
    """A sentence of the paper, what was found here, and whether the two agree."""

    claim: str
    here: str
    verdict: Verdict


def claims(rows: Rows, speeds: Rows) -> tuple[Claim, ...]:
    """Return the claims about which something was measured.

    Args:
        rows: of Table 1 by the name of the model, only those that are measured.
        speeds: the same of Table 2.
    """
    found: list[Claim] = []
    if "mlp_hog" in rows:
        found.append(_hog(rows["mlp_hog"]))
    if "mlp" in rows:
        found.append(_pixels(rows["mlp"]))
    if "inception_v3" in rows and len(rows) > 1:
        found.append(_best(rows))
    if "inception_v3" in speeds and len(speeds) > 1:
        found.append(_fastest(speeds))
    found += [_detector(row) for name, row in rows.items() if name not in CLASSIFIERS]
    return tuple(found)


def _hog(row: Mapping[str, Any]) -> Claim:
    low, high = row["accuracy_interval"]
    verdict: Verdict = "not decided"
    if low > 0.83:
        verdict = "holds here"
    elif high < 0.83:
        verdict = "does not hold here"
    return Claim("HOG and a perceptron rise above 83 % precision", _accuracy(row), verdict)


def _pixels(row: Mapping[str, Any]) -> Claim:
    low, high = row["accuracy_interval"]
    verdict: Verdict = "not decided"
    if high <= 0.80:
        verdict = "holds here"
    elif low > 0.80:
        verdict = "does not hold here"
    return Claim("A perceptron on pixels stays below 80 % precision", _accuracy(row), verdict)


def _best(rows: Rows) -> Claim:
    """Inception is best: undecided while a network has not converged, or intervals overlap."""
    text = "InceptionV3 has the highest weighted accuracy (0.9832); no other model reaches it"
    inception = rows["inception_v3"]
    best = max(rows.values(), key=lambda row: float(row["weighted_accuracy"] or 0))
    here = f"weighted accuracy {_share(inception['weighted_accuracy'])} of inception_v3"
    if best is not inception:
        here += f", {_share(best['weighted_accuracy'])} of {best['model']}"
    unfinished = [row["model"] for row in rows.values() if row["model"] in PUBLISHED]
    unfinished = [name for name in unfinished if rows[name]["converged"] is False]
    if unfinished:
        here += f"; not converged: {', '.join(unfinished)}"
        return Claim(text, here, "not decided")
    others = [row for row in rows.values() if row is not inception]
    if all(_above(inception, row) for row in others):
        return Claim(text, here, "holds here")
    beaten = any(_above(row, inception) for row in others)
    return Claim(text, here, "does not hold here" if beaten else "not decided")


def _above(row: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether the whole interval of a weighted accuracy is above that of another."""
    ours, theirs = row["weighted_accuracy_interval"], other["weighted_accuracy_interval"]
    return bool(ours and theirs and ours[0] > theirs[1])


def _fastest(speeds: Rows) -> Claim:
    text = "InceptionV3 is the fastest for each image (69.24 ms; ResNet50 70.04 ms)"
    inception = speeds["inception_v3"]
    published = [speeds[name] for name in PUBLISHED if name in speeds]
    fastest = min(published, key=lambda row: float(row["model_ms"]))
    of_all = min(speeds.values(), key=lambda row: float(row["model_ms"]))
    if len({(row["processor"], row["threads"], row["device"]) for row in published}) > 1:
        return Claim(text, "timed on different machines", "not decided")
    here = f"{inception['model_ms']:.1f} ms of inception_v3"
    if fastest is not inception:
        here += f", {fastest['model_ms']:.1f} ms of {fastest['model']}"
    if of_all is not fastest:
        here += f"; of all models {of_all['model']}, {of_all['model_ms']:.1f} ms"
    others = [row for row in published if row is not inception]
    verdict: Verdict = "not decided"
    if others and all(_quicker(inception, row) for row in others):
        verdict = "holds here"
    elif any(_quicker(row, inception) for row in others):
        verdict = "does not hold here"
    return Claim(text, here, verdict)


def _quicker(row: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether a model is faster than another in 95 of 100 images, not just in the median."""
    return bool(row["model_p95_ms"] < other["model_ms"])


def _detector(row: Mapping[str, Any]) -> Claim:
    text = (
        "The detector's best box has weighted accuracy 0.976 and classification ratio 0.9121, on "
        "all images, those it was trained on among them"
    )
    here = (
        f"{_share(row['weighted_accuracy'])} and {_share(row['mean_confidence'])} on test; "
        f"{_share(row['seen_weighted_accuracy'])} and {_share(row['seen_mean_confidence'])} on its "
        "training and validation images"
    )
    # What is like the paper's are the images that the training has seen; there the weighted
    # accuracy says nothing of others, so there is no interval to wait for.
    seen = row["seen_weighted_accuracy"], row["seen_mean_confidence"]
    if None in seen:
        return Claim(text, here, "not decided")
    reached = seen[0] >= DETECTOR.weighted_accuracy and seen[1] >= DETECTOR.mean_confidence
    return Claim(text, here, "holds here" if reached else "does not hold here")


def _accuracy(row: Mapping[str, Any]) -> str:
    low, high = row["accuracy_interval"]
    return f"{percent(row['accuracy'])} % of all answers right, {percent(low)} to {percent(high)}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
