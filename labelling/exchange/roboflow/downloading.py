"""An exported version of a Roboflow project, fetched whole or not at all."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import requests

from wafer.datasets.errors import ExchangeError
from wafer.datasets.files import atomic_file
from wafer.labelling.exchange.roboflow.asking import Pause, ask
from wafer.labelling.exchange.roboflow.project import RemoteProject
from wafer.labelling.exchange.roboflow.sdk import get_version_export, http

__all__ = ["download_version"]

log = logging.getLogger(__name__)

LARGEST = 8 << 30
CHUNK = 1 << 20
# Roboflow packs a version when it is first asked for: seconds, or minutes for many images.
PATIENCE = 600.0
LOOK_EVERY = 2.0

Format = Literal["yolov5pytorch", "coco"]


def download_version(
    project: RemoteProject,
    version: int,
    path: Path,
    *,
    export_format: Format = "yolov5pytorch",
    pause: Pause = time.sleep,
    progress: Callable[[int, int | None], None] | None = None,
) -> None:
    """Write the ZIP file of a version to a path.

    Args:
        project: of the version.
        version: its number.
        path: of the file; one that is there is replaced.
        export_format: boxes as shares of the image (YOLO) or in pixels (COCO).
        pause: see `ask`.
        progress: called with the bytes that are there and their number.

    Raises:
        ExchangeError: no such version, one with augmentation, cropping or padding, refused, no
            answer, or more than 8 GiB.
    """
    workspace, _, name = project.name.partition("/")
    what = f"version {version} of {project.name}"

    def question(words: str, call: Callable[[], Any]) -> Any:
        return ask(f"{words} {what}", call, key=project.key, pause=pause)

    about = question("looking up", lambda: project.sdk.version(version))
    changes = sorted(set(about.augmentation or ()) - {"image"})  # that one only counts copies
    if changes:
        raise ExchangeError(
            f"{what} has augmentation ({', '.join(changes)}): its boxes are those of changed "
            "images; generate a version without"
        )
    if moved := _moved(about.preprocessing or {}):
        raise ExchangeError(
            f"{what} has preprocessing that crops or pads ({', '.join(moved)}): its boxes are not "
            "those of the images; generate a version with resize 'Stretch to' or none, and without "
            "the rest"
        )
    waited = 0.0
    while True:
        answer = question(
            "exporting",
            lambda: get_version_export(project.key, workspace, name, str(version), export_format),
        )
        if answer.get("ready") is not False:
            break
        if waited >= PATIENCE:
            raise ExchangeError(f"Roboflow, exporting {what}: not ready; try again later")
        pause(LOOK_EVERY)
        waited += LOOK_EVERY
    link = question("exporting", lambda: answer["export"]["link"])
    parts = urlsplit(link)
    if parts.scheme != urlsplit(project.host).scheme:
        raise ExchangeError(f"Roboflow, exporting {what}: a link to {parts.scheme} only")
    log.info("downloading %s from %s", what, parts.netloc)
    question("downloading", lambda: _fetch(link, path, progress))


def _moved(preprocessing: dict[str, Any]) -> list[str]:
    """Return the steps after which a place in the image is another share of its sides."""
    on = {
        key: step
        for key, step in preprocessing.items()
        if step and not (isinstance(step, dict) and step.get("enabled") is False)
    }
    resize = on.get("resize")
    how = str(resize.get("format")) if isinstance(resize, dict) else ""
    # "Fit (black edges) in" and its like pad, "Fill (with center crop) in" cuts; "Fit within" and
    # "Stretch to" do neither.
    resizing = [f"resize '{how}'"] if how.startswith(("Fit (", "Fill")) else []
    return [key for key in ("static-crop", "tile", "isolate") if key in on] + resizing


def _fetch(link: str, path: Path, progress: Callable[[int, int | None], None] | None) -> None:
    with http.get(link, stream=True) as response, atomic_file(path) as file:
        if response.status_code != requests.codes.ok:
            raise RuntimeError(f"status {response.status_code} instead of a file")
        stated = response.headers.get("Content-Length", "")
        total = int(stated) if stated.isdigit() else None
        done = 0
        for chunk in response.iter_content(CHUNK):
            done += len(chunk)
            if max(done, total or 0) > LARGEST:
                raise RuntimeError(f"more than {LARGEST:,} bytes")
            file.write(chunk)
            if progress is not None:
                progress(done, total)
        if total is not None and done != total:
            raise requests.ConnectionError(f"cut off after {done:,} of {total:,} bytes")
