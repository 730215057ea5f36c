"""Which images a training saw, so that no answer about one of them passes for a proof."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from wafer.datasets.files import sha256_file, write_text
from wafer.datasets.records import Sample
from wafer.datasets.runs import MODEL_FILE
from wafer.datasets.workspace import Workspace

__all__ = ["SEEN", "seen_before", "write_seen"]

SEEN = "seen.txt"
"""In a run folder, a line for each training image."""
DIGITS = 16
"""Of the SHA-256 of an image: enough to tell a million apart."""


def write_seen(
    workspace: Workspace, samples: Iterable[Sample], folder: Path, *, start: Path | None
) -> None:
    """Write down the images that the training of a run folder sees.

    Args:
        workspace: where the images are.
        samples: those that are trained on.
        folder: of the run.
        start: the model that it starts from; what that has seen counts too, as far as it is known.
    """
    before = None if start is None else _seen_by(start, workspace)
    digests = {*_digests(workspace, samples), *(before or ())}
    write_text(folder / SEEN, "".join(f"{digest}\n" for digest in sorted(digests)))


def seen_before(workspace: Workspace, samples: Iterable[Sample], model: Path) -> int | None:
    """Return how many of some images the training of a model saw, though they are not in train now.

    Images are told by their content. None where it is not known: it is of run folders, and of
    bundles of the runs of the workspace.
    """
    seen = _seen_by(model, workspace)
    if seen is None:
        return None
    others = (sample for sample in samples if sample.split != "train")
    return sum(each in seen for each in _digests(workspace, others))


def _seen_by(model: Path, workspace: Workspace) -> frozenset[str] | None:
    run = _run_of(model, workspace)
    return None if run is None else frozenset((run / SEEN).read_text(encoding="utf-8").split())


def _digests(workspace: Workspace, samples: Iterable[Sample]) -> Iterator[str]:
    cache = workspace.image_cache()
    for image in {sample.image: None for sample in samples}:
        yield cache.sha256(image)[:DIGITS]
    cache.save()


def _run_of(model: Path, workspace: Workspace) -> Path | None:
    """Return the run folder that a model file lies in, or that holds the same file."""
    own = model.parent.parent
    if (own / SEEN).is_file():
        return own
    digest = sha256_file(model)
    runs = (path.parent for path in sorted(workspace.runs.glob(f"*/{SEEN}")))
    files = (run / MODEL_FILE for run in runs)
    same = (file for file in files if file.is_file() and sha256_file(file) == digest)
    return next((file.parent.parent for file in same), None)
