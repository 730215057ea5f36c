"""From the export of a labelling tool to the label files of a workspace."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from wafer.datasets.errors import WaferError
from wafer.datasets.image_names import ImageNames
from wafer.datasets.workspace import Workspace
from wafer.labelling.exchange.drawings import Drawing, TakenIn, take_in
from wafer.labelling.exchange.labelstudio import read_export as read_labelstudio
from wafer.labelling.exchange.roboflow.export import read_export as read_roboflow

__all__ = ["import_labels"]

REMOTE = re.compile(r"roboflow:([^/]+/[^/]+)/([0-9]+)")
KNOWN = "a JSON export of Label Studio, a ZIP export of Roboflow, or roboflow:WORKSPACE/PROJECT/3"

Read = tuple[tuple[Drawing, ...], tuple[str, ...]]


def import_labels(
    workspace: Workspace,
    source: str,
    *,
    force: bool = False,
    progress: Callable[[int, int | None], None] | None = None,
) -> TakenIn:
    """Take in what people drew elsewhere.

    Args:
        workspace: where the images are and the label files go.
        source: an export of Label Studio (JSON or JSON-MIN), one of Roboflow (ZIP, as YOLO or
            COCO), or ``roboflow:WORKSPACE/PROJECT/VERSION``, which is downloaded first.
        force: see `wafer.labelling.exchange.drawings.take_in`.
        progress: called with the bytes downloaded and their number.

    Raises:
        WaferError: no such file, or one of another kind.
        ExchangeError: the version cannot be downloaded.
        DataError: all faults of the export, or all conflicts with what is there; nothing is
            written then.
    """
    remote = REMOTE.fullmatch(source)
    if remote is not None:
        drawings, notes = _downloaded(workspace, remote[1], int(remote[2]), progress)
    else:
        drawings, notes = _read(workspace, Path(source))
    taken = take_in(workspace, drawings, source=source, force=force)
    return TakenIn(taken.written, taken.unchanged, taken.replaced, (*notes, *taken.notes))


def _read(workspace: Workspace, path: Path) -> Read:
    if not path.is_file():
        raise WaferError(f"{path}: no such file; name {KNOWN}")
    if path.suffix.lower() == ".zip":
        return read_roboflow(path, workspace)
    if path.suffix.lower() != ".json":
        raise WaferError(f"{path}: not an export that is known; name {KNOWN}")
    return read_labelstudio(
        path,
        images=ImageNames(sample.image for sample in workspace.samples()),
        size=workspace.image_cache().size,
        classes=workspace.classes,
    )


def _downloaded(
    workspace: Workspace,
    name: str,
    version: int,
    progress: Callable[[int, int | None], None] | None,
) -> Read:
    from wafer.labelling.exchange.roboflow.downloading import download_version
    from wafer.labelling.exchange.roboflow.project import open_project

    archive = workspace.cache / "roboflow" / f"{name.replace('/', '--')}-{version}.zip"
    try:
        download_version(open_project(name), version, archive, progress=progress)
        return read_roboflow(archive, workspace)
    finally:
        archive.unlink(missing_ok=True)
