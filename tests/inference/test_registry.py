"""The models folder: one pointer that moves at once or not at all, and its history."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from wafer.datasets.errors import DataError, WeightsError
from wafer.inference.bundle import SUMS, Bundle, open_bundle
from wafer.inference.registry import (
    CURRENT,
    add_bundle,
    current_bundle,
    find_bundle,
    history,
    named_bundle,
    promote,
    rollback,
)

Make = Callable[..., Bundle]


def fine(_bundle: Bundle) -> None:
    pass


def refuse(_bundle: Bundle) -> None:
    raise WeightsError("no engine gives the golden answers")


def promoted(models: Path) -> list[str]:
    return [entry.name for entry in history(models)]


def test_a_rollback_goes_back_one_promotion_at_a_time(make: Make, tmp_path: Path) -> None:
    models = tmp_path / "models"
    a, b, c = (make(name).folder for name in (b"a", b"b", b"c"))
    assert current_bundle(models) is None
    for folder in (a, b, c):
        assert promote(models, folder.name, check=fine).folder == folder
        assert current_bundle(models) == folder
    assert rollback(models, check=fine).folder == b
    assert rollback(models, check=fine).folder == a
    with pytest.raises(WeightsError, match="nothing was promoted before"):
        rollback(models, check=fine)
    promote(models, c.name, check=fine)
    assert rollback(models, check=fine).folder == a
    assert [entry.action for entry in history(models)] == [
        *["promote"] * 3,
        *["rollback"] * 2,
        *("promote", "rollback"),
    ]
    assert promoted(models)[:4] == [a.name, b.name, c.name, b.name]


def test_promoting_the_current_bundle_again_changes_but_the_time(
    make: Make, tmp_path: Path
) -> None:
    """By it, a service that could not use the bundle looks once more."""
    models = tmp_path / "models"
    name = make().folder.name
    promote(models, name, check=fine)
    before = (models / CURRENT).read_bytes()
    os.utime(models / CURRENT, (1, 1))
    promote(models, name, check=fine)
    assert (models / CURRENT).read_bytes() == before
    assert (models / CURRENT).stat().st_mtime > 1


def test_a_bundle_whose_goldens_fail_leaves_the_pointer_alone(make: Make, tmp_path: Path) -> None:
    models = tmp_path / "models"
    first, second = make(b"a").folder, make(b"b").folder
    promote(models, first.name, check=fine)
    promote(models, second.name, check=fine)
    before = (models / CURRENT).read_bytes()
    with pytest.raises(WeightsError, match="golden answers"):
        promote(models, first.name, check=refuse)
    with pytest.raises(WeightsError, match="golden answers"):
        rollback(models, check=refuse)
    (first / "model.onnx").write_bytes(b"")
    with pytest.raises(DataError, match=r"model\.onnx: altered"):
        promote(models, first.name, check=fine)
    with pytest.raises(DataError, match=r"model\.onnx: altered"):
        rollback(models, check=fine)
    assert (models / CURRENT).read_bytes() == before


def test_a_bundle_is_found_by_name_path_or_first_digits(make: Make, tmp_path: Path) -> None:
    models = tmp_path / "models"
    folder = make().folder
    digest = folder.name.removeprefix("sha256-")
    for name in (folder.name, str(folder), digest, digest[:4], f"sha256-{digest[:9]}"):
        assert find_bundle(models, name) == folder
    for name in (digest[:3], "", "sha256-", str(tmp_path / "elsewhere" / folder.name)):
        with pytest.raises(WeightsError, match="no bundle in"):
            find_bundle(models, name)
    with pytest.raises(WeightsError, match="wafer export"):
        find_bundle(models, "ffff" if digest[:4] != "ffff" else "0000")
    (models / f"sha256-{digest[:8]}").mkdir()
    with pytest.raises(WeightsError) as caught:
        find_bundle(models, digest[:8])
    assert (
        str(caught.value) == f"{digest[:8]}: 2 bundles of this name in {models}; name more digits"
    )


def test_the_pointer_is_no_model(make: Make, tmp_path: Path) -> None:
    models = tmp_path / "models"
    folder = make().folder
    promote(models, folder.name, check=fine)
    assert named_bundle(None, weights=folder) == folder
    with pytest.raises(WeightsError) as caught:
        named_bundle(None, weights=models / CURRENT)
    assert str(caught.value) == (
        f"{models / CURRENT}: this is the pointer to the promoted bundle; name none, or "
        f"name the bundle, {folder}"
    )


def test_a_model_file_may_be_called_like_the_pointer(tmp_path: Path) -> None:
    (tmp_path / CURRENT).write_bytes(b"\x80tensors\nof a model")
    assert named_bundle(None, weights=tmp_path / CURRENT) is None


def test_every_odd_line_of_the_pointer_is_named(tmp_path: Path) -> None:
    lines = ["2026-01-01T00:00:00+00:00 promote sha256-ab", "nonsense", "x delete sha256-ab", ""]
    (tmp_path / CURRENT).write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError) as caught:
        history(tmp_path)
    assert [fault.line for fault in caught.value.faults] == [2, 3, 4]


PROMOTE_ONCE = """
import sys
from pathlib import Path
from wafer.inference.registry import promote
promote(Path(sys.argv[1]), sys.argv[2], check=lambda bundle: None)
"""


def test_no_promotion_waits_for_an_export(make: Make, tmp_path: Path) -> None:
    models = tmp_path / "models"
    name = make().folder.name
    current: list[Path | None] = []

    def fill(_folder: Path) -> None:
        # A process of its own, because a lock never keeps out the process that holds it.
        command = [sys.executable, "-P", "-c", PROMOTE_ONCE, str(models), name]
        subprocess.run(command, check=True, timeout=60)
        current.append(current_bundle(models))
        raise InterruptedError

    with pytest.raises(InterruptedError):
        add_bundle(models, fill)
    assert current == [models / name]


PROMOTING = """
import sys
from pathlib import Path
from wafer.inference.registry import promote
models = Path(sys.argv[1])
while True:
    for name in sys.argv[2:]:
        promote(models, name, check=lambda bundle: None)
        print(flush=True)
"""


@pytest.mark.slow
def test_a_kill_leaves_the_old_pointer_or_the_new_one(make: Make, tmp_path: Path) -> None:
    models = tmp_path / "models"
    names = [make(b"a").folder.name, make(b"b").folder.name]
    chance = random.Random(0)
    before: list[str] = []
    for _ in range(10):
        child = subprocess.Popen(
            [sys.executable, "-P", "-c", PROMOTING, str(models), *names], stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(chance.uniform(0, 0.05))
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        after = promoted(models)
        assert after[: len(before)] == before
        assert all(one != other for one, other in pairwise(after))
        assert set(after) <= set(names)
        assert open_bundle(models / after[-1]).folder == current_bundle(models)
        before = after
    assert len(before) >= 10


HALF = """
import sys, time
from pathlib import Path
from wafer.inference.registry import add_bundle
def fill(folder):
    (folder / "model.onnx").write_bytes(b"half")
    print(flush=True)
    time.sleep(60)
add_bundle(Path(sys.argv[1]), fill)
"""


@pytest.mark.slow
def test_a_killed_export_leaves_nothing_that_the_next_one_does_not_remove(
    make: Make, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    child = subprocess.Popen(
        [sys.executable, "-P", "-c", HALF, str(models)], stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    child.stdout.readline()
    child.kill()
    child.wait()
    child.stdout.close()
    assert list(models.glob("sha256-*")) == []
    assert len(list(models.glob(".export-*"))) == 1
    folder = make().folder
    assert list(models.glob(".export-*")) == []
    assert list(models.glob("sha256-*")) == [folder]


def test_exporting_again_leaves_a_sound_bundle_as_it_is(make: Make, tmp_path: Path) -> None:
    folder = make().folder
    before = (folder / "model.onnx").stat().st_ino
    assert make().folder == folder
    assert (folder / "model.onnx").stat().st_ino == before
    assert sorted(p.name for p in (tmp_path / "models").iterdir()) == [".lock", folder.name]


@pytest.mark.parametrize("damage", ["altered", "missing", "no sums", "another", "dangling link"])
def test_exporting_again_mends_a_damaged_bundle(make: Make, tmp_path: Path, damage: str) -> None:
    folder = make().folder
    if damage == "altered":
        (folder / "model.onnx").write_bytes(b"damaged")
    elif damage == "missing":
        (folder / "model.onnx").unlink()
    elif damage == "no sums":
        (folder / SUMS).unlink()
    else:
        shutil.rmtree(folder)
        if damage == "another":
            make(b"other").folder.rename(folder)
        else:
            folder.symlink_to("nowhere")
    before = {p.name: p.read_bytes() for p in folder.glob("*")}
    bundle = make()
    assert bundle.folder == folder
    assert open_bundle(folder).digest == folder.name.removeprefix("sha256-")
    assert [p for p in folder.parent.iterdir() if p.name.startswith((".export-", "sha256-"))] == [
        folder
    ]
    (aside,) = folder.parent.glob(f"damaged-*-{folder.name}")
    assert aside.is_symlink() == (damage == "dangling link")
    assert {p.name: p.read_bytes() for p in aside.glob("*")} == before
    with pytest.raises(WeightsError, match="no bundle of this name"):
        find_bundle(folder.parent, aside.name)
    assert find_bundle(folder.parent, bundle.digest[:6]) == folder


def test_a_failed_export_leaves_nothing(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / "model.onnx").write_bytes(b"half")
        raise OSError(28, os.strerror(28))

    with pytest.raises(OSError, match="No space"):
        add_bundle(tmp_path / "models", fill)
    assert [p.name for p in (tmp_path / "models").iterdir()] == [".lock"]
