"""Write a synthetic workspace: images, boxes, classes, groups and splits.

Images and their true boxes are written one by one, each in one step; ``synth.json`` names the
arguments from the first moment and ``wafer.toml`` is the last file, so that a killed run is
recognised and completed.
"""

from __future__ import annotations

import ctypes
import json
import logging
import math
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path

from wafer.datasets.boxes import box_lines, parse_boxes
from wafer.datasets.classes import paper_classes
from wafer.datasets.errors import DataError, Fault, WorkspaceError
from wafer.datasets.files import write_bytes, write_text
from wafer.datasets.keeping import put_aside
from wafer.datasets.ledger import HEAD, LEDGER
from wafer.datasets.reading import label_name
from wafer.datasets.records import Annotation, Sample
from wafer.datasets.settings import FILE_NAME, read_settings
from wafer.datasets.splits import split_samples
from wafer.datasets.synthetic.labels import blur_labels, keep_share
from wafer.datasets.synthetic.plan import SampleSpec, class_counts, plan_samples
from wafer.datasets.workspace import SYNTH_RECORD, Workspace, create_workspace, open_workspace

__all__ = ["generate_workspace"]

log = logging.getLogger(__name__)

GENERATOR = 2
"""Raised whenever equal arguments no longer give equal images."""

DERIVED = ("labels", ".cache", "image_labels.csv", "classes.yaml", "data.yaml")
# What people may have changed; the mark of completeness is the first to go.
KEPT = (FILE_NAME, LEDGER, HEAD, "labels", "image_labels.csv", "classes.yaml", "data.yaml")
CHUNK = 4

# Of malloc.h: M_TRIM_THRESHOLD, M_TOP_PAD and M_MMAP_THRESHOLD (32 MB is its maximum), bytes.
MEMORY = {-1: 1 << 28, -2: 1 << 26, -3: 1 << 25}

Progress = Callable[[int, int], None]


def generate_workspace(
    root: Path,
    *,
    images: int = 600,
    counts: str | Mapping[str, int] = "paper",
    size: int = 680,
    difficulty: str = "paper",
    seed: int = 0,
    seed_fraction: float = 1.0,
    label_noise: float = 0.0,
    center_sigma: float | None = None,
    families: Sequence[str] | None = None,
    tools: Sequence[str] | None = None,
    processes: int | None = None,
    progress: Progress | None = None,
    force: bool = False,
) -> Workspace:
    """Write a workspace of synthetic wafer images and return it.

    Equal arguments give equal bytes in every file, whatever ``processes``. A run that was killed
    is completed by the same call; a finished one is returned as it is.

    Args:
        root: folder of the workspace: new, empty, or of an unfinished run of this same call.
        images: number of images, used by the counts ``paper`` and ``balanced``.
        counts: ``paper``, ``balanced``, ``NAME=N,NAME=N`` or class names with numbers.
        size: side of the square images, 64 to 4096 pixels.
        difficulty: ``easy``, ``paper`` or ``hard``.
        seed: any whole number; another seed gives other wafers.
        seed_fraction: share of each class with boxes in ``labels/``, at least one image.
        label_noise: share of training images with a wrong class; above 0, training boxes shake.
        center_sigma: spread of the defect around the middle, in sides, 1 for as good as even
            placing; None is that of the difficulty.
        families: layout families to draw from; None is all.
        tools: models of review tools (optics and noise) to draw from; None is all.
        processes: number of processes; None takes one per processor.
        progress: called with (images done, images in all) after each image.
        force: replace an earlier synthetic workspace of other arguments: its images are drawn anew,
            what people may have changed is put aside under ``<name>.bak-N``, all else stays.

    Raises:
        DataError: arguments outside their range; nothing is written.
        WorkspaceError: the folder holds files of other origin or a workspace of other images;
            without ``force``, files of other arguments; with it, images that were not drawn.
    """
    _check_shares(seed_fraction, label_noise, processes)
    numbers = class_counts(counts, images=images)
    specs = plan_samples(
        numbers,
        size=size,
        difficulty=difficulty,
        seed=seed,
        center_sigma=center_sigma,
        families=families,
        tools=tools,
    )
    labelling = {"seed_fraction": seed_fraction, "label_noise": label_noise}
    if _claim(root, _record(numbers, specs[0], seed, families, tools) | labelling, force=force):
        return open_workspace(root)
    _render_missing(root, specs, processes, progress)
    samples = split_samples(_true_samples(root, specs), seed=seed)
    samples = blur_labels(samples, share=label_noise, size=size, seed=seed)
    samples = keep_share(samples, share=seed_fraction, seed=seed)
    _clear(root, DERIVED)  # a run killed while it wrote these left some of them
    drawn = root / "images"
    return create_workspace(
        root, images=drawn, classes=paper_classes(), samples=samples, synthetic=True
    )


def _record(
    numbers: Mapping[str, int],
    spec: SampleSpec,
    seed: int,
    families: Sequence[str] | None,
    tools: Sequence[str] | None,
) -> dict[str, object]:
    """Return the arguments that decide about the images, as ``synth.json`` keeps them."""
    return {
        "generator": GENERATOR,
        "counts": dict(numbers),
        "size": spec.size,
        "difficulty": spec.difficulty,
        "seed": seed,
        "center_sigma": spec.center_sigma,
        "families": None if families is None else sorted(set(families)),
        "tools": None if tools is None else sorted(set(tools)),
    }


def _claim(root: Path, record: Mapping[str, object], *, force: bool) -> bool:
    """Make the folder ours; return True if it already holds this very workspace, finished."""
    if root.exists() and not root.is_dir():
        raise WorkspaceError(f"{root} is a file; name a new folder")
    leftovers = f".{SYNTH_RECORD}.tmp-"  # of a run killed in its first moment
    if not root.is_dir() or all(path.name.startswith(leftovers) for path in root.iterdir()):
        write_text(root / SYNTH_RECORD, json.dumps(record, indent=1) + "\n")
        return False
    before = _read_record(root)
    _check_workspace(root)
    if before == json.loads(json.dumps(record)):
        return (root / FILE_NAME).exists()
    if not force:
        keys = sorted(key for key in record if before.get(key) != record[key])
        raise WorkspaceError(
            f"{root} holds synthetic images of other arguments ({', '.join(keys)} differ); "
            "name another folder, or let `wafer synth --force` replace them"
        )
    _check_drawn(root)
    for path in (root / name for name in KEPT):
        if path.exists():
            put_aside(path)
    _clear(root, (".cache", "images", "truth"))  # truth/ last: it tells which images are drawn
    write_text(root / SYNTH_RECORD, json.dumps(record, indent=1) + "\n")
    return False


def _read_record(root: Path) -> dict[str, object]:
    try:
        record = json.loads((root / SYNTH_RECORD).read_text(encoding="utf-8"))
    except (FileNotFoundError, UnicodeDecodeError, json.JSONDecodeError):
        record = None
    if not isinstance(record, dict):
        raise WorkspaceError(f"{root} holds files that are not of `synth`; name a new folder")
    return record


def _check_workspace(root: Path) -> None:
    """Refuse a workspace that somebody made of other images in the folder of drawn ones."""
    if not (root / FILE_NAME).exists():
        return
    images = root / read_settings(root / FILE_NAME).images
    if images.resolve() != (root / "images").resolve():
        raise WorkspaceError(f"{root} is a workspace of the images in {images}; name a new folder")


def _check_drawn(root: Path) -> None:
    """Refuse to clear a folder of images where any was not drawn, and so has no boxes in truth/."""
    drawn = {f"{path.stem}.jpg" for path in root.glob("truth/*.txt")}
    others = {path.name for path in root.glob("images/*")} - drawn
    others -= {path.name for path in root.glob("images/.*.tmp-*")}  # of a killed run
    if others:
        raise WorkspaceError(
            f"{root / 'images' / min(others)} is not of `synth`; take it away, or name a new folder"
        )


def _clear(root: Path, names: Sequence[str]) -> None:
    for path in (root / name for name in names):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _render_missing(
    root: Path, specs: Sequence[SampleSpec], processes: int | None, progress: Progress | None
) -> None:
    """Write the images that are not there yet; an image in place is complete, with its boxes."""
    for leftover in (*root.glob(".*.tmp-*"), *root.glob("*/.*.tmp-*")):
        leftover.unlink(missing_ok=True)
    missing = [spec for spec in specs if not (root / "images" / spec.name).exists()]
    done = len(specs) - len(missing)
    if done:
        log.info("going on after %d of %d images", done, len(specs))
    workers = min(processes or os.cpu_count() or 1, math.ceil(len(missing) / CHUNK))
    for _ in _each(root, missing, workers):
        done += 1
        if progress is not None:
            progress(done, len(specs))


def _each(root: Path, specs: Sequence[SampleSpec], workers: int) -> Iterator[None]:
    if workers < 2:
        yield from map(_write_image, repeat(root), specs)
        return
    # Spawned, not forked: the caller may hold threads (torch, OpenCV) that a fork would break.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _prepare_worker) as pool:
        try:
            with _sigint_held():
                written = pool.map(_write_image, repeat(root), specs, chunksize=CHUNK)
            yield from written
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def _sigint_held() -> Iterator[None]:
    """Hold Ctrl-C back, also from the processes that are started meanwhile, which inherit that.

    A terminal sends it to all of them; the workers are ended by the one that was asked.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _prepare_worker() -> None:
    """Prepare a worker: one thread, memory kept, and no life after the parent was killed."""
    import cv2

    cv2.setNumThreads(1)
    _keep_memory()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def _keep_memory() -> None:
    """Let glibc keep what is freed: arrays of megabytes come and go all the time.

    Without it a third of the time goes into handing pages back and forth.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # musl has none
        for option, value in MEMORY.items():
            libc.mallopt(option, value)


def _write_image(root: Path, spec: SampleSpec) -> None:
    from wafer.datasets.synthetic.optics import encode_jpeg
    from wafer.datasets.synthetic.render import render_sample

    rendering = render_sample(spec)
    annotations = [Annotation(box, spec.image_class) for box in rendering.boxes]
    text = box_lines(annotations, classes=paper_classes(), size=(spec.size, spec.size))
    # The image comes last: where it is, its boxes are.
    write_text(root / "truth" / label_name(spec.name), text)
    write_bytes(root / "images" / spec.name, encode_jpeg(spec, rendering.pixels))


def _true_samples(root: Path, specs: Sequence[SampleSpec]) -> tuple[Sample, ...]:
    """Return the samples with the boxes that ``truth/`` has, whichever run wrote them."""
    names = dict(enumerate(paper_classes().detector_names))
    samples, faults = [], []
    for spec in specs:
        path, size = root / "truth" / label_name(spec.name), (spec.size, spec.size)
        text = path.read_text(encoding="utf-8")
        annotations, wrong = parse_boxes(text, file=str(path), names=names, size=size)
        faults += wrong
        samples.append(Sample(spec.name, spec.image_class, tuple(annotations), spec.group))
    if faults:
        raise DataError(faults)
    return tuple(samples)


def _check_shares(seed_fraction: float, label_noise: float, processes: int | None) -> None:
    faults = []
    if not 0 < seed_fraction <= 1:
        faults.append(_fault(f"seed fraction {seed_fraction}", "give a share above 0, up to 1"))
    if not 0 <= label_noise <= 1:
        faults.append(_fault(f"label noise {label_noise}", "give a share from 0 to 1"))
    if processes is not None and processes < 1:
        faults.append(_fault(f"{processes} processes", "give 1 or more"))
    if faults:
        raise DataError(faults)


def _fault(problem: str, remedy: str) -> Fault:
    return Fault(file="synth", problem=problem, remedy=remedy)
