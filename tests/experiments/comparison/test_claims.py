"""What the paper claims, beside made-up measurements."""

from typing import Any

import pytest

from wafer.experiments.comparison.claims import claims


def row(model: str, accuracy: float, *, converged: bool = True, spread: float = 0.02) -> Any:
    interval = [accuracy - spread, accuracy + spread]
    return {
        "model": model,
        "accuracy": accuracy,
        "accuracy_interval": interval,
        "weighted_accuracy": accuracy,
        "weighted_accuracy_interval": interval,
        "mean_confidence": 0.9,
        "converged": converged,
        "seen_weighted_accuracy": 0.99,
        "seen_mean_confidence": 0.95,
    }


def timing(name: str, ms: float, *, processor: str = "A") -> dict[str, Any]:
    return {
        "model": name,
        "model_ms": ms,
        "model_p95_ms": ms + 2,
        "processor": processor,
        "threads": 2,
        "device": "cpu",
    }


def verdicts(*rows: Any, speeds: tuple[tuple[str, float], ...] = ()) -> dict[str, str]:
    timed = {name: timing(name, ms) for name, ms in speeds}
    found = claims({row["model"]: row for row in rows}, timed)
    return {claim.claim.split(" ")[0]: claim.verdict for claim in found}


@pytest.mark.parametrize(
    ("accuracy", "verdict"),
    [(0.90, "holds here"), (0.80, "does not hold here"), (0.84, "not decided")],
)
def test_83_per_cent_holds_where_the_whole_interval_is_above(accuracy: float, verdict: str) -> None:
    assert verdicts(row("mlp_hog", accuracy)) == {"HOG": verdict}


def test_the_best_is_not_decided_among_networks_that_have_not_converged() -> None:
    best, other = row("inception_v3", 0.93), row("resnet50", 0.88)
    assert verdicts(best, other)["InceptionV3"] == "holds here"
    assert verdicts(best, row("mlp", 0.98))["InceptionV3"] == "does not hold here"
    for close in (0.92, 0.94):  # intervals of 0.02 either way
        assert verdicts(best, row("mlp", close))["InceptionV3"] == "not decided"
    unfinished = row("efficientnet_b7", 0.3, converged=False)
    assert verdicts(best, other, unfinished)["InceptionV3"] == "not decided"
    (claim,) = (c for c in claims({r["model"]: r for r in (best, unfinished)}, {}))
    assert claim.here.endswith("not converged: efficientnet_b7")


def test_the_fastest_is_one_of_the_paper_s_four() -> None:
    slower = (("inception_v3", 70.0), ("efficientnet_b3", 90.0), ("mlp", 1.0))
    assert verdicts(speeds=slower) == {"InceptionV3": "holds here"}
    assert verdicts(speeds=(*slower, ("resnet50", 60.0))) == {"InceptionV3": "does not hold here"}
    for close in (69.0, 71.0):  # 95 of 100 images take up to 2 ms more than the median
        assert verdicts(speeds=(*slower, ("resnet50", close))) == {"InceptionV3": "not decided"}
    timed = {name: timing(name, ms) for name, ms in slower}
    timed["efficientnet_b3"] |= {"processor": "B"}
    (claim,) = claims({}, timed)
    assert (claim.here, claim.verdict) == ("timed on different machines", "not decided")


@pytest.mark.parametrize(
    ("seen", "verdict"),
    [
        ((0.976, 0.9121), "holds here"),
        ((0.975, 0.95), "does not hold here"),
        ((0.99, 0.91), "does not hold here"),
        ((None, None), "not decided"),
    ],
)
def test_the_detector_is_judged_by_images_it_has_seen_as_in_the_paper(
    seen: tuple[float | None, float | None], verdict: str
) -> None:
    detector = row("yolov5n", 0.90)
    detector |= {"seen_weighted_accuracy": seen[0], "seen_mean_confidence": seen[1]}
    (claim,) = claims({"yolov5n": detector}, {})
    assert claim.here.startswith("0.9000 and 0.9000 on test; ")
    assert claim.verdict == verdict


def test_nothing_measured_is_nothing_claimed() -> None:
    assert claims({}, {}) == ()
    assert claims({"xgboost": row("xgboost", 0.9)}, {}) == ()
