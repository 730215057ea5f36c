"""The bundle of the model that ships, for who has none of their own yet; made when first wanted."""

from __future__ import annotations

import logging
import shutil
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from wafer.datasets.classes import ClassTable
from wafer.datasets.errors import DataError, WeightsError
from wafer.datasets.files import cache_folder
from wafer.inference.bundle import Bundle, open_bundle
from wafer.weights.manifest import WeightsRecord, read_manifest, shipped

__all__ = ["shipped_bundle"]

log = logging.getLogger(__name__)

SHIPPED = "yolov5n"
PACKAGE = "wafer-defects"
IMAGES, SIDE, SEED = 64, 340, 9205
"""Of the synthetic workspace whose images are the golden ones."""


def shipped_bundle(classes: ClassTable | None) -> Path | None:
    """Return the folder of the bundle of the shipped model, in the user's cache folder.

    It takes a minute to make, once for each version of wafer, and then nothing; one that was
    damaged since is made anew.

    Args:
        classes: those it should know; None for whatever it knows.

    Returns:
        None where no model ships, or it knows other classes.

    Raises:
        OSError: the cache folder cannot be written.
        WeightsError: what is damaged in it cannot be removed.
    """
    record = next((r for r in read_manifest() if r.shipped and r.architecture == SHIPPED), None)
    if record is None or (classes is not None and classes.detector_names != record.classes):
        return None
    place = cache_folder() / "shipped" / f"{record.sha256[:12]}-{version(PACKAGE)}"
    bundle = _sound(place) or _made(place, record)
    if classes is not None and not bundle.classes.answers_as(classes):
        return None
    return bundle.folder


def _sound(place: Path) -> Bundle | None:
    found = next(iter(sorted(place.glob("sha256-*"))), None)
    if found is None:
        return None
    try:
        return open_bundle(found)
    except (DataError, WeightsError) as error:
        log.warning("%s", error)
        shutil.rmtree(place, ignore_errors=True)  # nothing there is but what is made again
        return None


def _made(place: Path, record: WeightsRecord) -> Bundle:
    from wafer.datasets.synthetic.generate import generate_workspace
    from wafer.detector.exporting import export_model

    model = shipped(record.architecture)
    assert model is not None
    log.info("making a bundle of the model that ships, %s; this once, a minute", record.name)
    place.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=place.parent, prefix=".making-") as scratch:
        made = generate_workspace(
            Path(scratch, "w"), images=IMAGES, counts="balanced", size=SIDE, seed=SEED, processes=1
        )
        export_model(made, model)
        with suppress(OSError):  # another process has made it meanwhile
            made.models.rename(place)
    bundle = _sound(place)
    if bundle is None:
        raise WeightsError(f"{place}: a damaged bundle that cannot be replaced; remove the folder")
    return bundle
