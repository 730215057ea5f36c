"""From the export of a labelling tool to the label files of a workspace."""

from __future__ import annotations

from pathlib import Path

from wafer.datasets.errors import WaferError
from wafer.datasets.image_names import ImageNames
from wafer.datasets.workspace import Workspace
from wafer.labelling.exchange.drawings import TakenIn, take_in
from wafer.labelling.exchange.labelstudio import read_export

__all__ = ["import_labels"]


def import_labels(workspace: Workspace, export: Path, *, force: bool = False) -> TakenIn:
    """Take in what people drew, from an export of Label Studio (JSON or JSON-MIN).

    Args:
        workspace: where the images are and the label files go.
        export: the file.
        force: see `wafer.labelling.exchange.drawings.take_in`.

    Raises:
        WaferError: no such file, or one of another kind.
        DataError: all faults of the export, or all conflicts with what is there; nothing is
            written then.
    """
    if not export.is_file():
        raise WaferError(f"{export}: no such file; name an export of Label Studio")
    if export.suffix.lower() != ".json":
        raise WaferError(f"{export}: not an export that is known; export as JSON or JSON-MIN")
    cache = workspace.image_cache()
    names = ImageNames(sample.image for sample in workspace.samples())
    drawings, notes = read_export(export, images=names, size=cache.size, classes=workspace.classes)
    taken = take_in(workspace, drawings, source=str(export), force=force)
    return TakenIn(taken.written, taken.unchanged, taken.replaced, (*notes, *taken.notes))
