"""One image from its specification: pixels, boxes, and the noise-free pair behind them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from wafer.datasets.errors import WaferError
from wafer.datasets.records import Box
from wafer.datasets.synthetic.defects import DRAWN_CLASSES, Patch, draw_defect
from wafer.datasets.synthetic.fields import Bytes, Field, chance, generator
from wafer.datasets.synthetic.optics import Camera, build_camera, expose, padding, project
from wafer.datasets.synthetic.plan import SampleSpec
from wafer.datasets.synthetic.scene import Scene, Window, build_scene, radiance

__all__ = ["Finding", "Rendering", "change_box", "render_sample"]

SECOND = 0.12
ATTEMPTS = 150
PATIENCE = 20
WIDEST = 2.0
"""Half of the band in which the middle of a centred box lies, in standard deviations."""
LEAST_SPREAD = 0.02
SNAPPING = {"BEOL": 0.8, "small_missing_cu": 0.7}
"""What snaps to the pattern is drawn closer to the middle, to end as far away as others."""
LEAST_CNR = 2.0
EXPOSURES = (1.0, 0.5, 0.25)
"""What is left of the noise in exposures that are tried one after the other."""
LEAST_PIXELS = 12
FLOOR, SHARE = 3.0, 0.35
SOFT_FLOOR, SOFT_SHARE = 2.0, 0.25


@dataclass(frozen=True, slots=True)
class Finding:
    """One defect in the image: its box, and its contrast-to-noise ratio max|change| / sigma."""

    box: Box
    cnr: float


@dataclass(frozen=True, slots=True)
class Rendering:
    """A rendered image.

    ``pixels`` is uint8 (size, size). ``clean`` and ``defective`` are the same view without and
    with its defects, before the noise, float32 (size, size), grey levels. ``findings`` is empty
    for images without a defect and for clean twins; a deviating image has one that is the frame.
    """

    pixels: Bytes
    findings: tuple[Finding, ...]
    clean: Field
    defective: Field

    @property
    def boxes(self) -> tuple[Box, ...]:
        """Return the boxes in pixels of the image."""
        return tuple(finding.box for finding in self.findings)


@dataclass(frozen=True, slots=True)
class _View:
    """A scene through its camera: the noise-free image without defect, and the noise."""

    scene: Scene
    camera: Camera
    level: Field
    clean: Field
    sigma: float


def render_sample(spec: SampleSpec, *, twin: bool = False) -> Rendering:
    """Render one image; a pure function of its specification.

    With ``twin`` the same image is rendered without its defect: every random number outside the
    defect stays as it was.

    Raises:
        WaferError: no place in the image takes a visible defect of the class.
    """
    scene = build_scene(spec, twin=twin)
    findings: list[Finding] = []
    if spec.image_class in DRAWN_CLASSES:
        view, defective, findings = _with_defects(scene)
    else:
        view = _view(scene, build_camera(spec))
        defective = view.clean
    if spec.image_class == "deviation":
        findings = [Finding(Box(0, 0, spec.size, spec.size), float("inf"))]
    if twin:
        defective, findings = view.clean, []
    pixels = expose(view.camera, defective, view.clean)
    return Rendering(pixels, tuple(findings), view.clean, defective)


def change_box(change: Field, *, floor: float = FLOOR, share: float = SHARE) -> Box | None:
    """Return the box around ``|change| > max(floor, share * max|change|)``, or None.

    ``change`` is the noise-free difference in grey levels, (rows, columns); the box is in its
    pixels. Rule and numbers are those of the design notes, section 5.
    """
    size = np.abs(change)
    marked = size > max(floor, share * float(size.max(initial=0)))
    rows, columns = np.flatnonzero(marked.any(axis=1)), np.flatnonzero(marked.any(axis=0))
    if not len(rows):
        return None
    edges = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return Box(*map(float, edges))


def _view(scene: Scene, camera: Camera) -> _View:
    level = radiance(scene, scene.metal, scene.via)
    seen = project(camera, level) + camera.light
    offset = camera.mean - camera.gain * float(seen.mean())
    clean = seen * camera.gain + offset
    shot = 0.5 + 0.005 * camera.mean / camera.gain
    pixel = camera.noise * shot**0.5 + camera.speckle * camera.mean / camera.gain
    sigma = camera.gain * float(np.hypot(pixel, camera.row_noise))
    return _View(scene, camera, level, clean, sigma)


def _with_defects(scene: Scene) -> tuple[_View, Field, list[Finding]]:
    """Return the view with its defects; where noise would hide all, it is a longer exposure."""
    spec, camera = scene.spec, build_camera(scene.spec)
    for noise in EXPOSURES:
        view = _view(scene, _exposed(camera, noise))
        rng = generator(spec.seed, "instances")
        level, defective = view.level.copy(), view.clean.copy()
        findings: list[Finding] = []
        for instance in range(2 if chance(rng, SECOND) else 1):
            found = _instance(view, level, defective, instance, findings)
            if found is not None:
                findings.append(found)
        if findings:
            return view, defective, findings
    raise WaferError(
        f"no place for a visible {spec.image_class} on an image of {spec.size} pixels; "
        "choose a larger --size"
    )


def _exposed(camera: Camera, noise: float) -> Camera:
    return replace(
        camera,
        noise=noise * camera.noise,
        speckle=noise * camera.speckle,
        row_noise=noise * camera.row_noise,
    )


def _instance(
    view: _View, level: Field, defective: Field, instance: int, others: list[Finding]
) -> Finding | None:
    """Draw until a defect can be seen and boxed, add it to both images, or give up."""
    spec = view.scene.spec
    for attempt in range(ATTEMPTS):
        rng = generator(spec.seed, f"defect {instance} {attempt}")
        boost = 1.05 ** max(0, attempt - PATIENCE)
        scene = _placed(view.scene, instance, boost)
        patch = draw_defect(rng, spec.image_class, scene, level, boost=boost)
        if patch is None:
            continue
        window, change = _seen(view, defective, patch)
        found = _finding(view, window, change)
        if found is None or _off_centre(found.box, scene):
            continue
        if not any(found.box.iou(other.box) for other in others):
            level[patch.window] += patch.delta
            defective[window] += change
            return found
    return None


def _placed(scene: Scene, instance: int, boost: float) -> Scene:
    """Return the scene with the spread of this instance.

    A second defect may lie anywhere, and one for which the middle holds no place goes further out.
    """
    sigma = scene.spec.center_sigma
    if sigma is None:
        return scene
    spread = SNAPPING.get(scene.spec.image_class, 1.0) * sigma
    if boost > 1:
        spread = boost * max(spread, LEAST_SPREAD)
    placed = None if instance else min(1.0, spread)
    return replace(scene, spec=replace(scene.spec, center_sigma=placed))


def _off_centre(box: Box, scene: Scene) -> bool:
    """Return whether a box lies too far out for the spread of the centring.

    An edit snaps to the lines of the pattern; without a limit its place would tell its class.
    """
    sigma, middle = scene.spec.center_sigma, scene.size / 2
    if sigma is None:
        return False
    away = abs((box.xmin + box.xmax) / 2 - middle), abs((box.ymin + box.ymax) / 2 - middle)
    return max(away) > max(LEAST_SPREAD, WIDEST * sigma) * scene.size


def _seen(view: _View, defective: Field, patch: Patch) -> tuple[Window, Field]:
    """Return what lens, scan and gain leave of a change, with the window it reaches."""
    reach, size = padding(view.camera), view.scene.size
    window = tuple(
        slice(max(0, part.start - reach), min(size, part.stop + reach)) for part in patch.window
    )
    rows, columns = window
    wide = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.float32)
    top, left = patch.window[0].start - rows.start, patch.window[1].start - columns.start
    wide[top : top + patch.delta.shape[0], left : left + patch.delta.shape[1]] = patch.delta
    change = project(view.camera, wide, (rows, columns)) * view.camera.gain
    before = defective[rows, columns]
    return (rows, columns), np.clip(before + change, 0, 255) - np.clip(before, 0, 255)


def _finding(view: _View, window: Window, change: Field) -> Finding | None:
    soft = view.scene.spec.image_class == "C_residue"
    floor, share = (SOFT_FLOOR, SOFT_SHARE) if soft else (FLOOR, SHARE)
    box = change_box(change, floor=floor, share=share)
    if box is None:
        return None
    peak = float(np.abs(change).max())
    marked = int((np.abs(change) > max(floor, share * peak)).sum())
    least = LEAST_PIXELS * min(1.0, view.scene.unit * 2) ** 2
    if peak / view.sigma < LEAST_CNR or marked < least:
        return None
    top, left = window[0].start, window[1].start
    moved = Box(box.xmin + left, box.ymin + top, box.xmax + left, box.ymax + top)
    return Finding(moved, peak / view.sigma)
