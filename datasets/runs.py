"""Run folders: numbered, resumed when the same command comes again, locked while they train."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from wafer.datasets.errors import DataError, Fault, TrainingError
from wafer.datasets.files import write_text

__all__ = [
    "MODEL_FILE",
    "Run",
    "TrainedRun",
    "adopt_run",
    "locked",
    "newest_finished_run",
    "open_run",
    "open_shared_run",
    "versions",
]

MODEL_FILE = Path("weights", "best.safetensors")
"""Where a run folder keeps its model."""

RECORD = "run.json"
LOCK = ".lock"
# Of a training that has not quite ended: what a finished run does not need.
UNFINISHED = ("state.pt", "*.tensors", "overrides.json", ".lock", ".*.tmp-*")
PACKAGES = ("wafer-defects", "ultralytics", "torch", "torchvision", "numpy", "opencv-python")


@dataclass(frozen=True, slots=True)
class Run:
    """One training's folder."""

    folder: Path

    @property
    def record(self) -> dict[str, Any]:
        """Return the content of run.json.

        Raises:
            DataError: it is damaged.
        """
        path = self.folder / RECORD
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise _damaged(path, f"no JSON ({error})") from error
        if not isinstance(content, dict):
            raise _damaged(path, "not a JSON object")
        return content

    def update(self, **entries: Any) -> None:
        """Add entries to run.json, replacing the file at once."""
        path = self.folder / RECORD
        record = self.record if path.is_file() else {}
        write_text(path, json.dumps({**record, **entries}, indent=2, default=str) + "\n")

    @property
    def finished(self) -> bool:
        """Return whether the training came to its end."""
        return bool(self.record.get("status") == "finished")

    @property
    def bundle(self) -> Path | None:
        """Return the folder of the bundle of its model, None where there is none any more."""
        name = self.record.get("bundle") if (self.folder / RECORD).is_file() else None
        folder = None if name is None else self.folder / str(name)
        return folder if folder is not None and folder.is_dir() else None

    def note_bundle(self, folder: Path) -> None:
        """Write down where the bundle of its model is, so that both can be moved together."""
        self.update(bundle=os.path.relpath(folder, self.folder))


@dataclass(frozen=True, slots=True)
class TrainedRun:
    """A finished training: its folder, whether it was gone on with, and its validation metrics."""

    folder: Path
    resumed: bool
    metrics: Mapping[str, float | None]
    notes: tuple[str, ...]


def open_run(
    runs: Path, *, model: str, arguments: Mapping[str, Any], dataset_hash: str
) -> tuple[Run, bool]:
    """Return the unfinished run of the same arguments and data, or a new numbered one.

    Args:
        runs: the folder of all runs, ``runs/train`` of a workspace.
        model: the first part of the folder's name.
        arguments: everything that decides the result; compared with those of earlier runs.
        dataset_hash: the data; a run over other data is never gone on with.

    Returns:
        The run, and whether it is gone on with.
    """
    wanted = json.loads(json.dumps(dict(arguments), default=str))
    for run in reversed(_runs(runs, model)):
        record = run.record
        same = record.get("arguments") == wanted and record.get("dataset_hash") == dataset_hash
        if same and not run.finished and not _busy(run):
            return run, True
    return _new_run(runs, model, wanted, dataset_hash), False


def open_shared_run(
    runs: Path, *, model: str, arguments: Mapping[str, Any], dataset_hash: str
) -> Run:
    """Open a run that several processes may work on; those that come later join the first.

    Arguments as for ``open_run``.
    """
    runs.mkdir(parents=True, exist_ok=True)
    with (runs / LOCK).open("w") as handle:
        fcntl.lockf(handle, fcntl.LOCK_EX)
        run, _ = open_run(runs, model=model, arguments=arguments, dataset_hash=dataset_hash)
    return run


def adopt_run(runs: Path, finished: Run, *, origin: str) -> Run:
    """Copy a finished run of somewhere else into a folder of numbered runs, as its newest.

    Args:
        runs: the folder of all runs.
        finished: the run to copy.
        origin: where it comes from, kept in run.json; a run of that origin is copied only once.
    """
    runs.mkdir(parents=True, exist_ok=True)
    with (runs / LOCK).open("w") as handle:
        fcntl.lockf(handle, fcntl.LOCK_EX)
        known = [run for run in _runs(runs, "") if run.record.get("origin") == origin]
        if known:
            if newest_finished_run(runs) == known[0]:
                _point_latest(runs, known[0])
            return known[0]
        copy = runs / f".copy-{finished.folder.name}"
        shutil.rmtree(copy, ignore_errors=True)  # of a copy that was killed
        shutil.copytree(finished.folder, copy, ignore=shutil.ignore_patterns(*UNFINISHED))
        Run(copy).update(origin=origin, adopted=_now())
        run = Run(_claim_folder(runs, str(finished.record["model"])))
        copy.replace(run.folder)
        _point_latest(runs, run)
        return run


def newest_finished_run(runs: Path) -> Run | None:
    """Return the finished run that was started or adopted last, of whatever model.

    Raises:
        DataError: a run.json that is damaged.
    """

    def begun(run: Run) -> str:
        record = run.record
        time = record.get("adopted", record.get("started"))
        if time is None:
            raise _damaged(run.folder / RECORD, "it says not when the run was started")
        return str(time)

    return max((run for run in _runs(runs, "") if run.finished), key=begun, default=None)


@contextmanager
def locked(run: Run) -> Iterator[None]:
    """Hold a run for this process; the lock ends with the process, however it ends.

    Raises:
        TrainingError: another process is training in the same folder.
    """
    with (run.folder / ".lock").open("w") as handle:
        try:
            # Not flock, which the loader's workers would inherit and outlive this process with.
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise TrainingError(f"another process is training in {run.folder}") from error
        yield


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def _runs(runs: Path, model: str) -> list[Run]:
    if not runs.is_dir():
        return []
    folders = sorted(f for f in runs.iterdir() if f.is_dir() and f.name[0] != ".")
    folders = [f for f in folders if not f.is_symlink()]
    named = [f for f in folders if not model or f.name.rpartition("-")[0] == model]
    return [Run(f) for f in named if (f / RECORD).is_file()]


def _damaged(path: Path, problem: str) -> DataError:
    remedy = "bring it back, or remove the run folder"
    return DataError([Fault(file=str(path), problem=problem, remedy=remedy)])


def _busy(run: Run) -> bool:
    try:
        with locked(run):
            return False
    except TrainingError:
        return True


def _new_run(runs: Path, model: str, arguments: dict[str, Any], dataset_hash: str) -> Run:
    run = Run(_claim_folder(runs, model))
    run.update(
        status="running",
        model=model,
        arguments=arguments,
        dataset_hash=dataset_hash,
        started=_now(),
        versions=versions(),
    )
    _point_latest(runs, run)
    return run


def _claim_folder(runs: Path, model: str) -> Path:
    runs.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        folder = runs / f"{model}-{number:03d}"
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def _point_latest(runs: Path, run: Run) -> None:
    link = runs / f".latest-{run.folder.name}"
    link.unlink(missing_ok=True)
    link.symlink_to(run.folder.name)
    link.replace(runs / "latest")


def _now() -> str:
    return datetime.now(UTC).isoformat()
