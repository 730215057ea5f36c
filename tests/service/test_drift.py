"""Drift: figures against numbers worked out by hand, days that moved, and logs that say nothing."""

import csv
import json
import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from prometheus_client import CollectorRegistry, generate_latest
from scipy.stats import chi2
from typer.testing import CliRunner

from wafer.cli import app
from wafer.datasets.errors import DataError, WaferError
from wafer.datasets.records import Sample
from wafer.datasets.workspace import create_workspace
from wafer.evaluation.records import Prediction
from wafer.inference.appearance import appearance_of
from wafer.inference.bundle import Bundle
from wafer.inference.preprocess import letterbox
from wafer.inference.records import Appearance, Row
from wafer.inference.tally import Moments, Tally, Totals
from wafer.service.audit import AuditLog
from wafer.service.drift.days import Drift, drift_of
from wafer.service.drift.judging import judge, mean_check, mix_check, psi, rate_check
from wafer.service.drift.report import report_folder
from wafer.service.web.drifting import MOST, Drifting

DIGEST = "d" * 64


def totals(images: int, *, review: int = 0, spots: int | None = None) -> Totals:
    """Return totals of two classes, of a confidence of 0.9 and a brightness of 100 +- 10."""
    spots = images // 2 if spots is None else spots
    return Totals(
        images=images,
        classes={"spot": spots, "line": images - spots},
        decisions={"auto": images - review, "review": review},
        values={
            "confidence": Moments(images, 0.9, 0.05),
            "brightness": Moments(images, 100.0, 10.0),
        },
    )


def test_psi_is_what_one_works_out_by_hand() -> None:
    # 30.5 and 10.5 of 41 against 20.5 and 20.5 of 41
    by_hand = 10 / 41 * math.log(30.5 / 20.5) - 10 / 41 * math.log(10.5 / 20.5)
    assert by_hand == pytest.approx(0.260086, abs=5e-7)
    assert psi({"a": 30, "b": 10}, {"a": 20, "b": 20}) == pytest.approx(by_hand, rel=1e-12)
    assert psi({"a": 7, "b": 3}, {"a": 7, "b": 3}) == 0
    # a class that is gone: 40.5 and 0.5 of 41
    gone = 20 / 41 * math.log(40.5 / 20.5) - 20 / 41 * math.log(0.5 / 20.5)
    assert psi({"a": 40}, {"a": 20, "b": 20}) == pytest.approx(gone, rel=1e-12)


def test_the_limit_of_psi_is_a_fifth_or_what_chance_does() -> None:
    few = mix_check({"a": 30, "b": 20, "c": 10}, {"a": 30, "b": 20, "c": 10})
    assert few.high == pytest.approx(chi2.isf(0.0027, 2) * (1 / 60 + 1 / 60))
    assert mix_check({"a": 5000, "b": 5000}, {"a": 5000, "b": 5000}).high == 0.2


def test_rates_have_the_limits_of_a_p_chart() -> None:
    check = rate_check("review", 30, 200, 10, 100)
    # p = 10.5/101 = 0.10396; sigma = sqrt(0.10396 * 0.89604 * (1/200 + 1/100)) = 0.037380
    assert check.value == 0.15
    assert check.usual == pytest.approx(0.103960, abs=5e-7)
    assert check.high == pytest.approx(0.103960 + 3 * 0.037380 + 0.0025, abs=5e-6)
    assert check.low == 0.0
    many = rate_check("review", 30, 1000, 30_000, 99_999)
    # p = 0.3; sigma = sqrt(0.21 * (1/1000 + 1/99999)) = 0.014564
    assert (many.low, many.high) == pytest.approx((0.255809, 0.344191), abs=2e-5)
    assert many.alarm
    assert not rate_check("unknown", 1, 50, 0, 500).alarm  # a single image proves nothing


def test_a_mean_may_move_by_half_a_deviation_or_three_errors() -> None:
    usual = Moments(100, 50.0, 8.0)
    many = mean_check("brightness", Moments(900, 54.1, 8.0), usual)
    assert (many.low, many.high, many.alarm) == (46.0, 54.0, True)
    few = mean_check("brightness", Moments(50, 54.1, 8.0), usual)
    assert few.high == pytest.approx(50 + 3 * 8 * math.sqrt(1 / 50 + 1 / 100))
    assert not few.alarm
    assert not mean_check("distance", Moments(900, 1.0, 8.0), usual).alarm


def test_too_few_images_and_no_reference_are_no_alarm() -> None:
    odd = totals(49, review=49, spots=0)
    assert judge(odd, totals(500)).state == "too few"
    assert judge(totals(500), odd).state == "too few"
    assert judge(odd, None).state == "no reference"
    assert judge(totals(500), totals(200)).state == "steady"
    assert judge(totals(60, review=40, spots=0), totals(500)).alarms == ("class mix", "review")


def test_the_share_that_cannot_be_read_has_a_limit_upwards() -> None:
    nothing = totals(0)
    # p = 0.5/501 = 0.000998; sigma = sqrt(0.000998 * 0.999002 * (1/100 + 1/500)) = 0.0034589
    verdict = judge(totals(98), totals(500), not_read=2)
    (check,) = [check for check in verdict.checks if check.name == "not read"]
    assert (check.value, check.low) == (0.02, 0.0)
    assert check.high == pytest.approx(0.000998 + 3 * 0.0034589 + 0.005, abs=5e-6)
    assert verdict.alarms == ("not read",)
    assert judge(totals(99), totals(500), not_read=1).state == "steady"
    assert judge(totals(100), totals(250), not_read=0, usually_not_read=250).state == "steady"
    for usual in (None, totals(10), totals(500)):
        assert judge(nothing, usual, not_read=50).alarms == ("not read",)
        assert judge(nothing, usual, not_read=49).checks == ()
    assert judge(nothing, totals(60), not_read=100, usually_not_read=900).state == "alarm"
    assert judge(totals(60), None, not_read=60) == judge(totals(60), None)
    names = [check.name for check in judge(totals(98), totals(500)).checks]
    assert "not read" not in names


def test_a_tally_has_the_mean_and_deviation_of_all_values() -> None:
    values = np.random.default_rng(3).normal(1000, 0.1, 200).tolist()
    tally = Tally()
    for value in values:
        tally.add("spot", "auto", {"confidence": value, "brightness": None})
    found = tally.totals()
    assert (found.images, found.classes, found.decisions) == (200, {"spot": 200}, {"auto": 200})
    assert set(found.values) == {"confidence"}
    moments = found.values["confidence"]
    assert moments.mean == round(statistics.fmean(values), 4)
    assert moments.deviation == round(statistics.stdev(values), 4)


def test_padding_and_colour_do_not_change_how_an_image_looks() -> None:
    stripes = np.zeros((32, 64), np.uint8)
    stripes[:, ::2] = 200
    looks = appearance_of(letterbox(stripes, 64))
    assert looks.brightness == 100
    # the Laplacian of columns 200, 0, 200: -400 on white, 400 on black
    assert looks.sharpness == pytest.approx(400)
    colour = np.array(Image.fromarray(stripes).convert("RGB"))
    assert appearance_of(letterbox(colour, 64)) == looks


def lines(
    day: str, images: int, *, review: int = 0, spots: int | None = None, **more: Any
) -> Iterator[Mapping[str, object]]:
    spots = images // 2 if spots is None else spots
    for number in range(images):
        yield {
            "time": f"{day}T12:00:00.000+00:00",
            "key": "mes",
            "class": "spot" if number < spots else "line",
            "confidence": 0.9 + 0.01 * (number % 2),
            "decision": "review" if number < review else "auto",
            "error": None,
            "model_digest": DIGEST,
            **more,
        }


def write(path: Path, *parts: Iterator[Mapping[str, object]]) -> Path:
    log = AuditLog(path)
    for part in parts:
        log.append(list(part))
    log.close()
    return path


def states(drift: Drift) -> list[tuple[str, str, str, str]]:
    return [(d.day, d.stream.tool, d.stream.step, d.verdict.state) for d in drift.days]


def test_a_day_that_moved_is_told_from_days_that_did_not(tmp_path: Path) -> None:
    sem = {"tool": "sem-1", "step": "M1"}
    log = write(
        tmp_path / "audit.jsonl",
        lines("2026-03-01", 200, review=10, brightness=100.0, **sem),
        lines("2026-03-02", 200, review=12, brightness=100.0, **sem),
        lines("2026-03-03", 200, review=60, spots=180, brightness=100.0, **sem),
        lines("2026-03-03", 20, review=20, spots=0),  # by the key's name, as in older logs
        [{**next(lines("2026-03-03", 1, **sem)), "class": None, "error": "cut off"}],  # type: ignore[arg-type]
    )
    found = drift_of(log, models=None, reference=("2026-03-01", "2026-03-01"))
    assert states(found) == [
        ("2026-03-01", "sem-1", "M1", "steady"),
        ("2026-03-02", "sem-1", "M1", "steady"),
        ("2026-03-03", "mes", "", "no reference"),
        ("2026-03-03", "sem-1", "M1", "alarm"),
    ]
    last = found.days[-1]
    assert last.verdict.alarms == ("class mix", "review")
    assert (last.totals.images, last.unreadable) == (200, 1)
    checks = {check.name: check for check in last.verdict.checks}
    assert set(checks) == {
        "class mix",
        "review",
        "unknown",
        "not read",
        "confidence",
        "brightness",
    }
    assert checks["not read"].value == 1 / 201
    shares = (180.5 / 201, 20.5 / 201, 0.5)
    by_hand = sum((a - shares[2]) * math.log(a / shares[2]) for a in shares[:2])
    assert checks["class mix"].value == pytest.approx(by_hand)
    assert checks["review"].value == 0.3
    assert found.moved
    assert len(drift_of(log, models=None, newest=1).days) == 2


@pytest.mark.slow
def test_the_command_prints_writes_and_tells_by_its_exit_code(
    tmp_path: Path, bundle_of: Callable[..., Bundle]
) -> None:
    models = tmp_path / "models"
    bundle = bundle_of(models, gain=1.0, usual=totals(400, review=20))
    here = {"model_digest": bundle.digest, "tool": "sem-1", "brightness": 103.0}
    log = write(
        tmp_path / "audit.jsonl",
        lines("2026-03-01", 100, review=5, **here),
        lines("2026-03-02", 100, review=40, **{**here, "brightness": 120.0}),
    )
    given = ["drift", str(log), "--weights", str(bundle.folder)]
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 1, done.output
    assert "steady" in done.stdout
    with (tmp_path / "audit-drift" / "drift.csv").open() as handle:
        first, second = csv.DictReader(handle)
    assert (first["verdict"], second["alarms"]) == ("steady", "review brightness")
    # half a deviation of 10 around 100; p = 20.5/401, sigma = sqrt(p (1 - p) (1/100 + 1/400))
    assert (second["brightness"], second["brightness_low"], second["brightness_high"]) == (
        "120",
        "95",
        "105",
    )
    assert float(second["review_high"]) == pytest.approx(0.051122 + 3 * 0.024625 + 0.005, abs=1e-5)
    page = (tmp_path / "audit-drift" / "report.html").read_text()
    assert "alarm: review, brightness" in page
    assert page.count('<img src="data:image/png') == 1
    assert (tmp_path / "audit-drift" / "01-sem-1.png").read_bytes().startswith(b"\x89PNG")
    days = json.loads(CliRunner().invoke(app, [*given, "--json", "--days", "1"]).stdout)["days"]
    assert [day["alarms"] for day in days] == [["review", "brightness"]]
    (log.parent / "audit.head").unlink()
    broken = CliRunner().invoke(app, given)
    assert (broken.exit_code, "audit.head is missing" in broken.stderr) == (1, True)


@pytest.mark.slow
def test_pictures_of_the_report_are_no_images_of_the_workspace(
    fab: Any, shot: Callable[..., bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(shot(90))
    classes, samples = fab.workspace.classes, [Sample("a.png", None, None)]
    made = create_workspace(tmp_path, images=tmp_path, classes=classes, samples=samples)
    write(tmp_path / "audit.jsonl", lines("2026-03-01", 100), lines("2026-03-02", 100, review=40))
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["drift", "--reference", "2026-03-01..2026-03-01"])
    assert done.exit_code == 1, done.output
    assert (tmp_path / "audit-drift" / "01-mes.png").is_file()
    assert [sample.image for sample in made.samples()] == ["a.png"]


def unreadable(day: str, images: int, **more: Any) -> Iterator[Mapping[str, object]]:
    for line in lines(day, images, **more):
        yield {**line, "class": None, "decision": None, "confidence": None, "error": "damaged"}


@pytest.mark.slow
def test_a_tool_whose_images_all_cannot_be_read_is_an_alarm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = write(
        tmp_path / "results" / "audit.jsonl",
        lines("2026-03-01", 100, tool="sem-1"),
        lines("2026-03-01", 100, tool="sem-2"),
        lines("2026-03-02", 100, tool="sem-1"),
        unreadable("2026-03-02", 100, tool="sem-2"),
        unreadable("2026-03-02", 20, tool="sem-3"),
    )
    for reference in (None, ("2026-03-01", "2026-03-01")):
        found = drift_of(log, models=None, reference=reference)
        assert [d.day for d in found.days if d.stream.tool == "sem-2"] == [
            "2026-03-01",
            "2026-03-02",
        ]
        day = found.days[-2]
        assert (day.totals.images, day.unreadable, day.stream.tool) == (0, 100, "sem-2")
        assert day.verdict.alarms == ("not read",)
        assert found.moved
    monkeypatch.chdir(log.parent)
    done = CliRunner().invoke(app, ["drift", ".", "--reference", "2026-03-01..2026-03-01"])
    assert done.exit_code == 1, done.output
    with (tmp_path / "results-drift" / "drift.csv").open() as handle:
        *_, sem_2, sem_3 = csv.DictReader(handle)
    assert (sem_2["images"], sem_2["unreadable"], sem_2["not_read"]) == ("0", "100", "1")
    assert (sem_2["verdict"], sem_2["alarms"], sem_2["review"]) == ("alarm", "not_read", "")
    assert (sem_3["unreadable"], sem_3["verdict"]) == ("20", "no reference")
    assert "alarm: not read" in (tmp_path / "results-drift" / "report.html").read_text()


@pytest.mark.parametrize(
    ("log", "expected"),
    [(".", "fab/out-drift"), ("..", "fab-drift"), ("audit.jsonl", "fab/out/audit-drift")],
)
def test_the_report_is_beside_the_log_whatever_that_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: str, expected: str
) -> None:
    here = tmp_path / "fab" / "out"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    assert report_folder(Path(log)).resolve() == tmp_path / expected


def test_the_output_of_watch_is_read_too(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no audit\.jsonl in it"):
        drift_of(tmp_path, models=None)
    write(tmp_path / "audit.jsonl", lines("2026-03-01", 60, key=None, brightness=90.0))
    (day,) = drift_of(tmp_path, models=None, reference=("2026-03-01", "2026-03-01")).days
    assert (day.day, day.stream.tool, day.totals.images) == ("2026-03-01", "", 60)
    assert day.totals.values["brightness"] == Moments(60, 90.0, 0.0)


def test_without_the_bundle_it_says_what_to_compare_with(tmp_path: Path) -> None:
    log = write(tmp_path / "audit.jsonl", lines("2026-03-01", 60))
    found = drift_of(log, models=tmp_path)
    assert states(found) == [("2026-03-01", "mes", "", "no reference")]
    assert found.notes == (
        "the bundle dddddddddddd is not here; name days to compare with, --reference FIRST..LAST",
    )
    assert not found.moved


def test_a_log_that_says_nothing_or_was_changed_is_refused(tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    AuditLog(log).close()
    with pytest.raises(DataError, match="no answer in it"):
        drift_of(log, models=None)
    write(log, lines("2026-03-01", 60))
    with pytest.raises(DataError, match="no answer from 2026-04-01 to 2026-04-02"):
        drift_of(log, models=None, reference=("2026-04-01", "2026-04-02"))
    log.write_bytes(log.read_bytes().replace(b'"review"', b'"auto"').replace(b"spot", b"line", 1))
    with pytest.raises(DataError, match=r"audit\.jsonl:1: changed"):
        drift_of(log, models=None)
    with pytest.raises(DataError, match="no such file"):
        drift_of(tmp_path / "none.jsonl", models=None)
    for odd in ("2026-03-01", "2026-03-02..2026-03-01", "..", "20260301..20260302"):
        done = CliRunner().invoke(app, ["drift", str(log), "--reference", odd])
        assert (done.exit_code, "not two days" in done.stderr) == (1, True)
    with pytest.raises(WaferError):
        drift_of(log, models=None, weights=tmp_path)


def answered(number: int) -> Row:
    return Row(
        image="i",
        model="m",
        prediction=Prediction("i", None, "spot" if number % 2 else "line", 0.9, "auto"),
        appearance=Appearance(150.0, 3.0),
    )


def test_today_is_shown_while_it_happens_and_begins_anew(
    tmp_path: Path, bundle_of: Callable[..., Bundle]
) -> None:
    bundles = [bundle_of(tmp_path, gain=g, usual=totals(400, review=20)) for g in (1.0, 0.9)]
    day = ["2026-03-01"]
    drifting = Drifting(lambda: bundles[0], today=lambda: day[0])
    registry = CollectorRegistry()
    registry.register(drifting)

    def shown() -> str:
        return generate_latest(registry).decode()

    for number in range(60):
        drifting.add(answered(number), tool="sem-1", step="M1", digest=bundles[0].digest)
        drifting.add(answered(number), tool="sem-1", step="M1", digest=bundles[1].digest)
    assert 'wafer_today_images{step="M1",tool="sem-1"} 60.0' in shown()
    assert 'wafer_drift{figure="brightness",step="M1",tool="sem-1"} 150.0' in shown()
    assert 'wafer_drift_alarm{figure="brightness",step="M1",tool="sem-1"} 1.0' in shown()
    assert 'wafer_drift_alarm{figure="review",step="M1",tool="sem-1"} 0.0' in shown()
    for number in range(MOST + 5):
        drifting.add(answered(0), tool=f"t{number}", step="", digest=bundles[0].digest)
    assert shown().count("wafer_today_images{") == MOST + 1
    assert 'wafer_today_images{step="others",tool="others"} 6.0' in shown()
    day[0] = "2026-03-02"
    assert "wafer_today_images{" not in shown()
