"""`wafer serve` where nobody has made a model yet, as the README has it; and all boxes."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wafer.datasets.synthetic.generate import generate_workspace
from wafer.detector.classification import classify_images

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_shipped_model_answers_what_the_readme_asks_and_gives_all_boxes(
    start: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    counts = {"particle": 6, "scratch": 6}
    made = generate_workspace(tmp_path / "w", counts=counts, size=340, processes=1)
    images = sorted(made.images.iterdir())
    here = tmp_path / "here"
    here.mkdir()
    shutil.copy(images[0], here / "image.png")
    log = tmp_path / "log.jsonl"
    server = start(dict(os.environ), log, "--deadline", "60", folder=here)
    try:
        server.until_ready()
        first, second = log.read_text().splitlines()[:2]
        assert first.startswith("making a bundle of the model that ships, yolov5n-synthetic")
        assert "no bundle is promoted here: the small model that ships answers" in second

        if shutil.which("curl") is not None:
            (line,) = re.findall(r"^curl .*$", README, flags=re.MULTILINE)
            command = line.replace("8080", str(server.port)).split()
            said = subprocess.run(command, cwd=here, capture_output=True, check=True).stdout
            assert json.loads(said)["model"].startswith("yolov5n-")

        bundle = next((tmp_path / "cache" / "wafer" / "shipped").glob("*/sha256-*"))
        classify_images(
            [str(path) for path in images[:4]],
            weights=bundle,
            output=tmp_path / "rows.csv",
            all_boxes=tmp_path / "boxes.jsonl",
        )
        expected = [json.loads(e) for e in (tmp_path / "boxes.jsonl").read_text().splitlines()]
        assert sum(len(each["boxes"]) for each in expected) > 0
        files = [(path.name, path.read_bytes()) for path in images[:4]]
        sent = [*files, ("bad.png", b"\x89PNG\r\n\x1a\n")]
        *results, bad = server.send_form(sent, query="?all_boxes=1").json["results"]
        assert (bad["vector"], bad["boxes"]) == (None, [])
        assert bad["error"].startswith("damaged or cut off")
        for result, wanted in zip(results, expected, strict=True):
            assert len(result["boxes"]) == len(wanted["boxes"])
            for ours, theirs in zip(result["boxes"], wanted["boxes"], strict=True):
                assert ours["class_code"] == theirs["class_code"]
                assert ours["confidence"] == pytest.approx(theirs["confidence"], abs=1e-4)
                assert ours["xmin"] == pytest.approx(theirs["xmin"], abs=0.1)
        assert "boxes" not in server.classify(files[0][1]).json
        assert server.stop() == 0
    finally:
        server.process.kill()
        server.process.wait()
        assert server.process.stdout is not None
        server.process.stdout.close()
