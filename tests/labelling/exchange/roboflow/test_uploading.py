"""To Roboflow: predictions and never truth, each read back, again after trouble, no key shown."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wafer.datasets.errors import DataError, ExchangeError
from wafer.datasets.records import Annotation, Box, Sample
from wafer.datasets.workspace import Workspace
from wafer.labelling.exchange.roboflow.project import RemoteProject, open_project
from wafer.labelling.exchange.roboflow.uploading import Uploaded, upload

BOXES = (
    Annotation(Box(12, 8, 60, 40), "residue", "model", 0.9),
    Annotation(Box(60, 40, 120, 80), "scratch", "model", 0.4),
)


def opened(remote: Any, pauses: list[float]) -> RemoteProject:
    return open_project(remote.name, pause=pauses.append)


def sent(workspace: Workspace, remote: Any, pauses: list[float], samples: list[Sample]) -> Uploaded:
    return upload(
        workspace,
        samples,
        project=opened(remote, pauses),
        batch="wafer-seed-3",
        confirm=lambda _: True,
        pause=pauses.append,
    )


def chosen(workspace: Workspace) -> list[Sample]:
    return [s for s in workspace.samples() if s.image_class != "clean"]


def test_images_arrive_under_names_that_lead_back(
    workspace: Workspace, remote: Any, pauses: list[float]
) -> None:
    done = sent(workspace, remote, pauses, chosen(workspace))
    assert done == Uploaded(3, 0, ())
    cache = workspace.image_cache()
    digests = {s.image: cache.sha256(s.image)[:12] for s in chosen(workspace)}
    assert sorted(stored.name for stored in remote.images.values()) == sorted(
        [
            f"b-{digests['b ü.png']}.png",
            f"lot1-a-{digests['lot1/a.png']}.png",
            f"lot2-a-{digests['lot2/a.png']}.png",
        ]
    )
    by_data = {hashlib.sha256(s.data).hexdigest()[:12]: s for s in remote.images.values()}
    assert by_data.keys() == set(digests.values())
    assert by_data[digests["lot2/a.png"]].split == "valid"
    assert by_data[digests["lot1/a.png"]].split == "train"
    assert {s.batch for s in remote.images.values()} == {"wafer-seed-3"}
    assert remote.count("image") == 3
    assert remote.count("annotate") == 0
    assert pauses == []


def test_boxes_of_a_model_are_predictions_that_never_join_the_dataset(
    workspace: Workspace, remote: Any, pauses: list[float]
) -> None:
    rule = Annotation(Box(0, 0, 120, 80), "deviation", "rule")
    sample = replace(workspace.samples()[1], annotations=(*BOXES, rule))
    sent(workspace, remote, pauses, [sample])
    (stored,) = remote.images.values()
    (query,), (body,) = stored.queries, stored.bodies
    assert (query["prediction"], query["addToDataset"]) == ("true", "false")
    assert "overwrite" not in query
    assert (query["jobName"], query["name"]) == (stored.batch, f"{Path(stored.name).stem}.txt")
    assert body["annotationFile"] == "0 0.3 0.3 0.4 0.4\n1 0.75 0.75 0.5 0.5\n"
    assert body["labelmap"] == {"0": "residue", "1": "scratch", "2": "deviation"}


def test_other_programs_would_show_it_wrong_so_it_goes_as_png(
    workspace: Workspace, remote: Any, pauses: list[float]
) -> None:
    wide = np.linspace(0, 65535, 9600).reshape(80, 120).astype(np.uint16)
    Image.fromarray(wide).save(workspace.images / "wide.tif")
    sent(workspace, remote, pauses, [Sample("wide.tif")])
    (stored,) = remote.images.values()
    assert stored.name.endswith(".png")
    (workspace.root / "got.png").write_bytes(stored.data)
    with Image.open(workspace.root / "got.png") as got:
        assert (np.asarray(got) == np.rint(wide.astype(float) * 255 / 65535)).all()


def test_a_second_call_sends_what_is_new_and_nothing_twice(
    workspace: Workspace, remote: Any, pauses: list[float]
) -> None:
    samples = chosen(workspace)
    sent(workspace, remote, pauses, samples[:2])
    assert sent(workspace, remote, pauses, samples) == Uploaded(1, 2, ())
    assert remote.count("upload") == 3
    changed = replace(samples[0], annotations=BOXES[:1])
    again = sent(workspace, remote, pauses, [changed])
    assert again == Uploaded(1, 0, ("1 images were there already",))
    assert len(remote.images) == 3


def test_without_the_journal_images_are_offered_again_and_found_there(
    workspace: Workspace, remote: Any, pauses: list[float]
) -> None:
    sent(workspace, remote, pauses, chosen(workspace))
    (journal,) = (workspace.cache / "roboflow").glob("*.jsonl")
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join([lines[0], "no json\n", "3\n", lines[1], lines[2][:20]]))
    assert sent(workspace, remote, pauses, chosen(workspace)).before == 2
    assert len(journal.read_text().splitlines()) == 6
    journal.unlink()
    done = sent(workspace, remote, pauses, chosen(workspace))
    assert done == Uploaded(3, 0, ("3 images were there already",))
    assert len(remote.images) == 3


def test_what_a_person_annotated_there_stays_as_it_is(
    workspace: Workspace, remote: Any, pauses: list[float]
) -> None:
    sample = replace(workspace.samples()[1], annotations=None)
    sent(workspace, remote, pauses, [sample])
    (stored,) = remote.images.values()
    stored.annotated = True
    done = sent(workspace, remote, pauses, [replace(sample, annotations=BOXES)])
    assert done.notes == ("1 images have boxes there already and stay as they are",)
    assert stored.boxes == []


def test_nothing_is_sent_unless_confirmed(
    workspace: Workspace, remote: Any, pauses: list[float]
) -> None:
    remote.public = True
    asked: list[str] = []

    def refuse(text: str) -> bool:
        asked.append(text)
        return False

    samples = [replace(s, annotations=BOXES) for s in chosen(workspace)]
    with pytest.raises(ExchangeError, match="nothing was sent"):
        upload(workspace, samples, project=opened(remote, pauses), batch="b", confirm=refuse)
    size = sum(workspace.image_path(s.image).stat().st_size for s in samples)
    assert asked == [
        f"3 images with their names ({size / 1e6:.1f} MB) and 6 boxes of a model as predictions "
        f"will be sent to project {remote.name} at {remote.url} (PUBLIC: everybody can see its "
        "images), batch b"
    ]
    assert remote.requests == ["project"]


def test_an_image_that_cannot_be_read_is_named_before_anything_is_sent(
    workspace: Workspace, remote: Any, pauses: list[float]
) -> None:
    for image in ("lot1/a.png", "b ü.png"):
        workspace.image_path(image).write_bytes(b"no image")
    with pytest.raises(DataError) as caught:
        sent(workspace, remote, pauses, chosen(workspace))
    assert len(caught.value.faults) == 2
    assert remote.images == {}


# Trouble


@pytest.mark.parametrize("kind", ["upload", "annotate", "image", "project"])
@pytest.mark.parametrize("trouble", [429, 503, "cut"])
def test_a_busy_server_and_a_cut_connection_are_asked_again(
    workspace: Workspace, remote: Any, pauses: list[float], kind: str, trouble: object
) -> None:
    remote.troubles[kind] = [trouble, trouble]
    sample = replace(workspace.samples()[1], annotations=BOXES)
    assert sent(workspace, remote, pauses, [sample]).sent == 1
    (stored,) = remote.images.values()
    assert len(stored.boxes) == 2
    assert remote.count(kind) == 3
    heard = trouble == 429 and kind in ("image", "project")  # the SDK's uploads drop the headers
    assert pauses == ([3, 3] if heard else [1, 2])


def test_a_server_that_stays_busy_ends_it_and_what_was_sent_counts(
    workspace: Workspace, remote: Any, pauses: list[float]
) -> None:
    project = opened(remote, pauses)
    remote.troubles["upload"] = [None, *[429] * 6]
    with pytest.raises(ExchangeError, match=r"no answer after 6 tries \(trouble 429 \(status 429"):
        upload(
            workspace,
            chosen(workspace),
            project=project,
            batch="b",
            confirm=lambda _: True,
            pause=pauses.append,
        )
    assert pauses == [1, 2, 4, 8, 16]
    assert sent(workspace, remote, pauses, chosen(workspace)).before == 1


@pytest.mark.parametrize("kind", ["project", "upload", "annotate"])
def test_a_refused_key_is_not_asked_again_and_never_shown(
    workspace: Workspace,
    remote: Any,
    pauses: list[float],
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sample = replace(workspace.samples()[1], annotations=BOXES)
    remote.troubles[kind] = [401]
    with pytest.raises(ExchangeError, match="refused") as caught:
        sent(workspace, remote, pauses, [sample])
    assert "check ROBOFLOW_API_KEY" in str(caught.value)
    assert remote.count(kind) == 1
    monkeypatch.setenv("ROBOFLOW_API_KEY", "another-sEcret")
    with pytest.raises(ExchangeError, match="refused") as caught:
        opened(remote, pauses)
    assert "sEcret" not in str(caught.value)
    assert pauses == []


def test_the_key_is_in_no_error_of_the_connection(remote: Any, pauses: list[float]) -> None:
    remote.troubles["project"] = ["cut"] * 6
    with pytest.raises(ExchangeError, match="no answer after 6 tries") as caught:
        opened(remote, pauses)
    shown = f"{caught.value} {caught.value.__cause__}"
    assert remote.key not in shown
    assert "sEcret" not in shown


def test_an_ok_that_stored_no_image_is_a_fault_and_the_image_is_sent_again(
    workspace: Workspace, remote: Any, pauses: list[float]
) -> None:
    remote.troubles["upload"] = ["lose", None, "no id"]
    with pytest.raises(DataError) as caught:
        sent(workspace, remote, pauses, chosen(workspace))
    first, second = caught.value.faults
    assert first.problem.startswith("Roboflow said ok, but does not show the image")
    assert second.problem.startswith("Roboflow took it without saying where")
    assert (first.file, second.file) == ("b ü.png", "lot2/a.png")
    assert pauses == [1, 2, 4]
    assert sent(workspace, remote, pauses, chosen(workspace)) == Uploaded(2, 1, ())
    assert len(remote.images) == 3


def test_an_ok_that_stored_no_boxes_is_a_fault(
    workspace: Workspace, remote: Any, pauses: list[float]
) -> None:
    remote.troubles["annotate"] = ["lose"]
    sample = replace(workspace.samples()[1], annotations=BOXES)
    with pytest.raises(DataError, match="Roboflow said ok, but shows 0 of 2 boxes"):
        sent(workspace, remote, pauses, [sample])
    assert sent(workspace, remote, pauses, [sample]).sent == 1


def test_an_answer_that_is_no_json_is_no_answer(
    workspace: Workspace, remote: Any, pauses: list[float]
) -> None:
    remote.troubles["image"] = ["html"]
    assert sent(workspace, remote, pauses, chosen(workspace)[:1]).sent == 1
    assert remote.count("image") == 2


@pytest.mark.parametrize("name", ["defects", "a/b/c", "fab 9/defects", "fab-9/../defects", ""])
def test_a_name_that_is_no_project_is_refused_before_anything_is_sent(
    remote: Any, name: str
) -> None:
    with pytest.raises(ExchangeError, match="is not WORKSPACE/PROJECT"):
        open_project(name)
    assert remote.requests == []


def test_a_project_that_is_not_there_or_not_for_boxes_is_said(
    remote: Any, pauses: list[float]
) -> None:
    with pytest.raises(ExchangeError, match="check the names of workspace, project"):
        open_project("fab-9/other", pause=pauses.append)
    remote.kind = "classification"
    with pytest.raises(ExchangeError, match="is a project for classification"):
        opened(remote, pauses)


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        *[(key, "ROBOFLOW_API_KEY is not set") for key in (None, "", "  ")],
        *[(key, "has signs that no key of Roboflow has") for key in ("a&b=c", "a b", "ä")],
    ],
)
def test_without_a_key_nothing_is_asked(
    remote: Any, monkeypatch: pytest.MonkeyPatch, key: str | None, problem: str
) -> None:
    if key is None:
        monkeypatch.delenv("ROBOFLOW_API_KEY")
    else:
        monkeypatch.setenv("ROBOFLOW_API_KEY", key)
    with pytest.raises(ExchangeError, match=problem):
        open_project(remote.name)
    assert remote.requests == []


def test_the_sdk_prints_nothing_and_leaves_warnings_alone(
    workspace: Workspace, remote: Any, pauses: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    sent(workspace, remote, pauses, chosen(workspace))
    assert capsys.readouterr() == ("", "")
    code = (
        "import warnings; before = warnings.formatwarning\n"
        "import wafer.labelling.exchange.roboflow.sdk\n"
        "assert warnings.formatwarning is before"
    )
    subprocess.run([sys.executable, "-P", "-W", "error", "-c", code], check=True)


# Through the command line, in a process of its own


def run(workspace: Workspace, *arguments: str, answer: str = "") -> Any:
    return subprocess.run(
        [Path(sys.executable).with_name("wafer"), *arguments],
        cwd=workspace.root,
        input=answer,
        capture_output=True,
        text=True,
    )


SEED = ("seed", "2", "--strategy", "random", "--to", "roboflow", "--project")


@pytest.mark.slow
@pytest.mark.parametrize("answer", ["", "n\n"])
def test_the_command_says_what_it_would_send_and_asks(
    workspace: Workspace, remote: Any, answer: str
) -> None:
    done = run(workspace, *SEED, remote.name, answer=answer)
    assert done.returncode == 1
    assert f"looking up {remote.name} at {remote.url}" in done.stderr
    assert re.search(rf"2 images .* will be sent to project {remote.name} at", done.stderr)
    assert "wafer: nothing was sent; answer yes, or add --yes" in done.stderr
    assert remote.requests == ["project"]


@pytest.mark.slow
def test_the_command_sends_with_yes(workspace: Workspace, remote: Any) -> None:
    done = run(workspace, *SEED, remote.name, "--yes")
    assert done.returncode == 0, done.stderr
    assert "2 images sent and read back, 0 sent before; batch wafer-seed-2" in done.stderr
    assert done.stdout == f"{workspace.root / 'seed.csv'}\n"
    assert len(remote.images) == 2
    assert remote.key not in done.stderr
    again = run(workspace, *SEED, remote.name)
    assert "0 images sent and read back, 2 sent before" in again.stderr


@pytest.mark.slow
def test_a_killed_upload_goes_on(workspace: Workspace, remote: Any) -> None:
    for number in range(30):
        pixels = np.random.default_rng(number + 50).integers(0, 256, (80, 120), dtype=np.uint8)
        Image.fromarray(pixels).save(workspace.images / f"more{number}.png")
    (workspace.root / "image_labels.csv").unlink()
    command = [Path(sys.executable).with_name("wafer"), *SEED, remote.name, "--yes"]
    command[2] = "30"
    process = subprocess.Popen(command, cwd=workspace.root, stderr=subprocess.DEVNULL)
    while len(remote.images) < 5:
        assert process.poll() is None
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = len(remote.images)
    assert before < 30
    done = run(workspace, *(part if part != "2" else "30" for part in SEED), remote.name, "--yes")
    assert done.returncode == 0, done.stderr
    assert len(remote.images) == 30
    (journal,) = (workspace.cache / "roboflow").glob("*.jsonl")
    rows = [json.loads(line) for line in journal.read_text().splitlines() if line.strip()]
    assert len({row["mark"] for row in rows}) == 30
