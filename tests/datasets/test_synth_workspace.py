"""The workspace on disk: bytes, resuming, shares of labels, noise in labels, refusals."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from wafer.datasets import DataError, WorkspaceError
from wafer.datasets.classes import paper_classes
from wafer.datasets.images import decode_image
from wafer.datasets.initialisation import initialise
from wafer.datasets.synthetic import plan_samples
from wafer.datasets.synthetic.generate import generate_workspace
from wafer.datasets.synthetic.sheets import contact_sheet
from wafer.datasets.workspace import Workspace

COUNTS = dict.fromkeys(paper_classes().names, 6)
SMALL = {"counts": COUNTS, "size": 96, "processes": 1}


def _digests(root: Path) -> dict[str, str]:
    """SHA-256 of each file; ``.cache`` and the path in ``data.yaml`` depend on the place."""
    digests = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_file() and not name.startswith(".cache/"):
            data = path.read_bytes().replace(str(root.resolve()).encode(), b"ROOT")
            digests[name] = hashlib.sha256(data).hexdigest()
    return digests


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return generate_workspace(tmp_path_factory.mktemp("synth") / "made", **SMALL)  # type: ignore[arg-type]


def test_workspace_has_its_files(made: Workspace) -> None:
    names = {path.name for path in made.root.iterdir()}
    expected = "images labels truth image_labels.csv classes.yaml data.yaml wafer.toml synth.json"
    assert names - {".cache"} == set(expected.split())
    assert len(list(made.images.iterdir())) == 48
    assert {p.stem for p in made.truth.iterdir()} == {p.stem for p in made.images.iterdir()}
    assert made.classes == paper_classes()


def test_workspace_samples(made: Workspace) -> None:
    samples = made.samples()
    assert samples == made.true_samples()
    assert Counter(sample.image_class for sample in samples) == COUNTS
    for sample in samples:
        assert sample.annotations is not None
        assert {a.class_name for a in sample.annotations} <= {sample.image_class}
        assert bool(sample.annotations) is (sample.image_class != "no_defect")
    assert decode_image(made.image_path(samples[0].image)).shape == (96, 96)


def test_splits_keep_wafers_together(made: Workspace) -> None:
    splits: dict[str | None, set[str | None]] = {}
    for sample in made.samples():
        splits.setdefault(sample.group, set()).add(sample.split)
    assert all(len(found) == 1 for found in splits.values())
    assert set.union(*splits.values()) == {"train", "val", "test"}


@pytest.mark.slow
def test_same_bytes_with_two_processes(made: Workspace, tmp_path: Path) -> None:
    again = generate_workspace(tmp_path / "made", **{**SMALL, "processes": 2})  # type: ignore[arg-type]
    assert _digests(again.root) == _digests(made.root)


@pytest.mark.slow
def test_another_seed_gives_other_images(made: Workspace, tmp_path: Path) -> None:
    other = generate_workspace(tmp_path / "made", seed=1, **SMALL)  # type: ignore[arg-type]
    one, two = (set(_digests(w.images).values()) for w in (made, other))
    assert not one & two


def test_finished_workspace_is_returned_as_it_is(made: Workspace) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.root.rglob("*")}
    assert generate_workspace(made.root, **SMALL) == made  # type: ignore[arg-type]
    assert {path: path.stat().st_mtime_ns for path in made.root.rglob("*")} == before


def test_progress_counts_every_image(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    generate_workspace(
        tmp_path / "w",
        counts={"particle": 5},
        size=64,
        processes=1,
        progress=lambda *p: seen.append(p),
    )
    assert seen == [(done, 5) for done in range(1, 6)]


KILLED = """
import sys
from pathlib import Path
from wafer.datasets.synthetic.generate import generate_workspace
if __name__ == "__main__":
    generate_workspace(Path(sys.argv[1]), counts={counts!r}, size=96, processes={processes})
"""


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_run_is_completed(made: Workspace, tmp_path: Path, processes: int) -> None:
    root, script = tmp_path / "made", tmp_path / "run.py"
    script.write_text(KILLED.format(counts=COUNTS, processes=processes), encoding="utf-8")
    child = subprocess.Popen([sys.executable, str(script), str(root)])
    limit = time.monotonic() + 60
    while len(list(root.glob("images/*.jpg"))) < 5 and time.monotonic() < limit:
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert 5 <= len(list(root.glob("images/*.jpg"))) < 48
    assert not (root / "wafer.toml").exists()
    (root / "images" / ".0123.jpg.tmp-abc").write_bytes(b"half an ima")
    time.sleep(0.5)  # workers of the killed run end by themselves
    done = generate_workspace(root, **SMALL)  # type: ignore[arg-type]
    assert _digests(done.root) == _digests(made.root)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to find the workers")
def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    root, script = tmp_path / "made", tmp_path / "run.py"
    script.write_text(KILLED.format(counts={"BEOL": 400}, processes=2), encoding="utf-8")
    child = subprocess.Popen([sys.executable, str(script), str(root)])
    limit = time.monotonic() + 60
    while not list(root.glob("images/*.jpg")) and time.monotonic() < limit:
        time.sleep(0.01)
    workers = _children(child.pid)
    child.kill()
    child.wait()
    assert len(workers) >= 2
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < limit:
        time.sleep(0.05)
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]


def _children(parent: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        if int(fields[1]) == parent:
            found.append(int(path.parent.name))
    return found


@pytest.mark.slow
def test_run_killed_while_it_wrote_the_tables_is_completed(made: Workspace, tmp_path: Path) -> None:
    root = tmp_path / "made"
    generate_workspace(root, **SMALL)  # type: ignore[arg-type]
    (root / "wafer.toml").unlink()
    (root / "image_labels.csv").write_text("image,cl", encoding="utf-8")
    assert _digests(generate_workspace(root, **SMALL).root) == _digests(made.root)  # type: ignore[arg-type]


@pytest.mark.slow
def test_run_killed_in_its_first_moment_is_completed(made: Workspace, tmp_path: Path) -> None:
    root = tmp_path / "made"
    root.mkdir()
    (root / ".synth.json.tmp-0123").write_text("{", encoding="utf-8")
    assert _digests(generate_workspace(root, **SMALL).root) == _digests(made.root)  # type: ignore[arg-type]


@pytest.mark.slow
def test_share_of_boxes(tmp_path: Path) -> None:
    counts = {"BEOL": 20, "particle": 6, "no_defect": 8, "deviation": 6}
    made = generate_workspace(
        tmp_path / "w", counts=counts, size=64, seed_fraction=0.15, processes=1
    )
    looked = [s for s in made.samples() if s.annotations is not None]
    boxed = Counter(
        s.image_class for s in looked if paper_classes()[s.image_class or ""].kind == "box"
    )
    assert boxed == {"BEOL": 3, "particle": 1}
    assert {s.split for s in looked if s.image_class == "particle"} == {"train"}
    assert all(sample.annotations is not None for sample in made.true_samples())
    # No label is needed to know where nothing, or the whole frame, is.
    assert Counter(s.image_class for s in looked)["deviation"] == 6


@pytest.mark.slow
def test_noise_in_labels_is_in_train_alone(tmp_path: Path) -> None:
    arguments = {"counts": {"BEOL": 30, "scratch": 30, "no_defect": 20}, "size": 64, "processes": 1}
    clean = generate_workspace(tmp_path / "clean", **arguments)  # type: ignore[arg-type]
    noisy = generate_workspace(tmp_path / "noisy", label_noise=0.2, **arguments)  # type: ignore[arg-type]
    assert _digests(noisy.truth) == _digests(clean.truth)
    assert _digests(noisy.images) == _digests(clean.images)
    pairs = list(zip(clean.samples(), noisy.samples(), strict=True))
    train = [pair for pair in pairs if pair[0].split == "train"]
    wrong = [pair for pair in train if pair[0].image_class != pair[1].image_class]
    assert len(wrong) == round(0.2 * len(train))
    assert all(one == other for one, other in pairs if one.split != "train")
    for one, other in train:
        if one.image_class == other.image_class:
            for a, b in zip(one.annotations or (), other.annotations or (), strict=True):
                _check_jitter(a.box.corners, b.box.corners)


def _check_jitter(true: tuple[float, ...], given: tuple[float, ...]) -> None:
    lengths = (true[2] - true[0], true[3] - true[1]) * 2
    for corner, moved, length in zip(true, given, lengths, strict=True):
        share = abs(moved - corner) / length
        assert share <= 0.0801
        assert share >= 0.0299 or moved in (0, 64)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"counts": "sratch=3"}, "unknown class 'sratch'"),
        ({"images": 20}, "20 images cannot hold"),
        ({"size": 10_000}, "size 10000"),
        ({"seed_fraction": 0}, "seed fraction 0"),
        ({"label_noise": 1.5}, "label noise 1.5"),
        ({"processes": 0}, "0 processes"),
        ({"families": ["maze"]}, "maze"),
    ],
)
def test_faults_come_before_anything_is_written(
    tmp_path: Path, arguments: dict[str, object], text: str
) -> None:
    with pytest.raises(DataError, match=re.escape(text)):
        generate_workspace(tmp_path / "w", **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "w").exists()


def test_foreign_files_are_refused_even_with_force(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine", encoding="utf-8")
    for force in (False, True):
        with pytest.raises(WorkspaceError, match="not of `synth`"):
            generate_workspace(tmp_path, force=force)
    with pytest.raises(WorkspaceError, match="is a file"):
        generate_workspace(tmp_path / "thesis.tex")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_other_arguments_are_refused_without_force(tmp_path: Path) -> None:
    few = {"size": 64, "processes": 1}
    first = generate_workspace(tmp_path / "w", counts={"particle": 4}, **few)  # type: ignore[arg-type]
    (first.runs / "yolov5n-001").mkdir(parents=True)
    before = _digests(first.root)
    with pytest.raises(WorkspaceError, match=r"\(counts, seed differ\)"):
        generate_workspace(tmp_path / "w", counts={"BEOL": 5}, seed=1, **few)  # type: ignore[arg-type]
    assert _digests(first.root) == before
    second = generate_workspace(
        tmp_path / "w",
        counts={"BEOL": 5},
        seed=1,
        force=True,
        **few,  # type: ignore[arg-type]
    )
    assert [sample.image_class for sample in second.samples()] == ["BEOL"] * 5
    assert (first.runs / "yolov5n-001").is_dir()


def _drawn_on(root: Path) -> Workspace:
    """Return a synthetic workspace in which a person has deleted a box and named a class."""
    made = generate_workspace(root, counts={"particle": 4}, size=64, processes=1)
    sample = made.samples()[0]
    made.label_path(sample.image).write_text("", encoding="utf-8")
    table = made.table.read_text(encoding="utf-8")
    made.table.write_text(table.replace("particle", "scratch", 1), encoding="utf-8")
    (made.root / "notes.txt").write_text("mine", encoding="utf-8")
    return made


def test_force_keeps_what_people_may_have_changed(tmp_path: Path) -> None:
    made = _drawn_on(tmp_path / "w")
    before = _digests(made.root)
    generate_workspace(made.root, counts={"BEOL": 5}, size=64, processes=1, force=True)
    after = _digests(made.root)
    kept = {name: digest for name, digest in before.items() if name.startswith("labels/")}
    assert len(kept) == 4
    for name, digest in kept.items():
        assert after[name.replace("labels/", "labels.bak-1/")] == digest
    for name in ("image_labels.csv", "classes.yaml", "wafer.toml"):
        assert after[f"{name}.bak-1"] == before[name]
    assert after["notes.txt"] == before["notes.txt"]
    old, new = (
        {digest for name, digest in digests.items() if name.startswith("images/")}
        for digests in (before, after)
    )
    assert (len(old), len(new), old & new) == (4, 5, set())


def test_images_that_were_not_drawn_are_refused_even_with_force(tmp_path: Path) -> None:
    made = _drawn_on(tmp_path / "w")
    (made.images / ".0123.jpg.tmp-abc").write_bytes(b"half an ima")  # of a killed run
    (made.images / "mine.png").write_bytes(b"mine")
    before = _digests(made.root)
    with pytest.raises(WorkspaceError, match=r"images/mine.png is not of `synth`; take it away"):
        generate_workspace(made.root, counts={"BEOL": 5}, size=64, processes=1, force=True)
    assert _digests(made.root) == before
    (made.images / "mine.png").unlink()
    generate_workspace(made.root, counts={"BEOL": 5}, size=64, processes=1, force=True)
    assert len(list(made.images.iterdir())) == 5


def test_a_workspace_of_other_images_is_none_of_synth(tmp_path: Path) -> None:
    made = _drawn_on(tmp_path / "w")
    outer = Path(shutil.copytree(made.images, tmp_path / "outer"))
    rows = [f"{path.name},mine,train" for path in outer.iterdir()]
    table = tmp_path / "outer.csv"
    table.write_text("\n".join(["image,class,split", *rows]), encoding="utf-8")
    record, truth = (made.root / "synth.json").read_bytes(), _digests(made.truth)
    own = initialise(made.root, images=outer, image_labels=table, force=True).workspace
    assert (own.root / "synth.json.bak-1").read_bytes() == record
    assert _digests(own.root / "truth.bak-1") == truth
    assert own.true_samples() == own.samples()
    assert {sample.image_class for sample in own.samples()} == {"mine"}
    before = _digests(own.root)
    for force in (False, True):
        with pytest.raises(WorkspaceError, match="holds files that are not of `synth`"):
            generate_workspace(own.root, counts={"particle": 4}, size=64, force=force)
    # As older versions left it.
    (own.root / "synth.json").write_bytes(record)
    for counts in ({"particle": 4}, {"BEOL": 5}):
        with pytest.raises(WorkspaceError, match=r"is a workspace of the images in .*outer; name"):
            generate_workspace(own.root, counts=counts, size=64, force=True)
    (own.root / "synth.json").unlink()
    assert _digests(own.root) == before


def test_the_record_names_the_arguments(made: Workspace) -> None:
    record = json.loads((made.root / "synth.json").read_text(encoding="utf-8"))
    assert (record["counts"], record["size"], record["seed"]) == (COUNTS, 96, 0)


def test_contact_sheets(made: Workspace, tmp_path: Path) -> None:
    contact_sheet(made, tmp_path / "a.png", columns=4, side=64, per_class=1)
    assert decode_image(tmp_path / "a.png").shape == (2 * (64 + 18), 4 * 64)
    specs = plan_samples({"BEOL": 5}, size=64)
    contact_sheet(specs, tmp_path / "b.jpg", columns=3, side=64)
    assert decode_image(tmp_path / "b.jpg").shape == (2 * (64 + 18), 3 * 64)


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_is_one_line(tmp_path: Path) -> None:
    wafer = Path(sys.executable).with_name("wafer")
    command = [wafer, "synth", tmp_path / "w", "--images", "400", "--size", "680"]
    process = subprocess.Popen(
        # A shell starts what runs in the background, as the tests may, with SIGINT ignored.
        ["env", "--default-signal=INT", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not list((tmp_path / "w").glob("images/*.jpg")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the workers too
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1, said
    assert "Traceback" not in said
    assert said.rstrip().endswith("wafer: stopped; start the same command again to go on")
