"""The picture before the camera: pattern, process, materials and class-blind marks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wafer.datasets.synthetic.fields import (
    Field,
    blur,
    chance,
    generator,
    log_uniform,
    noise_field,
    smooth_field,
    uniform,
)
from wafer.datasets.synthetic.layout import Layout, draw_layout
from wafer.datasets.synthetic.plan import SampleSpec
from wafer.datasets.synthetic.recipes import (
    FAMILIES,
    RECIPES,
    REFERENCE_SIZE,
    Mode,
    Range,
    Recipe,
)
from wafer.datasets.synthetic.warp import CANVAS, Warp, deviating, nuisance, roughened

__all__ = ["Scene", "Window", "build_scene", "radiance"]

Window = tuple[slice, slice]

SPECKS = 2.2
SPECK_RADIUS: Range = (1.5, 5.0)
SPECK_GREY: Range = (3.0, 14.0)
STAINED = 0.35


@dataclass(frozen=True, kw_only=True, slots=True)
class Process:
    """What the images of one wafer share; lengths in pixels, levels in grey."""

    pitch: float
    duty: float
    upright: bool
    dielectric: float
    metal: float
    via: float
    rim: float
    rim_length: float
    shadow: float
    shadow_length: float
    grain: float
    grain_length: float
    relief: tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """One wafer position, ready to be drawn with or without its defect.

    ``metal`` and ``via`` are the masks as seen, 0 to 1; ``texture`` and ``backdrop`` are grey
    levels that no edit of the pattern changes; ``unit`` is pixels per pixel of a 680 px image.
    """

    spec: SampleSpec
    recipe: Recipe
    process: Process
    layout: Layout
    warp: Warp
    metal: Field
    via: Field
    texture: Field
    backdrop: Field
    light: tuple[float, float]
    unit: float

    @property
    def size(self) -> int:
        """Return the side of the image in pixels."""
        return self.spec.size


def build_scene(spec: SampleSpec, *, twin: bool = False) -> Scene:
    """Return the scene of an image; the class only decides whether the pattern deviates.

    Each stage has its own random stream. With ``twin`` a deviating pattern keeps the small
    misalignment that every image has.
    """
    recipe, unit = RECIPES[spec.difficulty], spec.size / REFERENCE_SIZE
    process = _process(spec, recipe, unit)
    layout = _layout(spec, process)
    geometry = nuisance(generator(spec.seed, "geometry"))
    if spec.image_class == "deviation" and not twin:
        geometry += deviating(generator(spec.seed, "deviation"), recipe)
    warp = roughened(generator(spec.seed, "warp"), geometry, size=spec.size, unit=unit)
    return Scene(
        spec=spec,
        recipe=recipe,
        process=process,
        layout=layout,
        warp=warp,
        metal=warp.sample(layout.metal),
        via=warp.sample(layout.via),
        texture=_texture(spec, process),
        backdrop=_backdrop(spec, process, warp, unit),
        light=_light(spec),
        unit=unit,
    )


def radiance(scene: Scene, metal: Field, via: Field, window: Window = np.s_[:, :]) -> Field:
    """Return the grey levels of a pattern seen through ``window``, without noise, before optics.

    ``metal`` and ``via`` are the masks inside the window, 0 to 1, same shape as the result.
    """
    level = _MODES[scene.spec.mode](scene.process, metal, via)
    level += scene.texture[window] * (0.35 + 0.65 * metal)
    level += scene.backdrop[window] * (1 - 0.8 * metal)
    return level


def _sem(process: Process, metal: Field, via: Field) -> Field:
    """Bright rims inside the edges of the metal, a soft shadow on the dielectric beside it."""
    near = blur(metal, process.rim_length)
    level = process.dielectric + (process.metal - process.dielectric) * metal
    level += (2 * process.rim) * metal * (1 - near)
    level -= (2 * process.shadow) * (1 - metal) * blur(metal, process.shadow_length)
    level += process.relief[0] * _slope(near, 1) + process.relief[1] * _slope(near, 0)
    ring = blur(via, process.rim_length)
    level += via * (process.via + (2.4 * process.rim + 12) * (1 - ring) - 10 * ring * ring)
    return level


def _bright_field(process: Process, metal: Field, via: Field) -> Field:
    """Bright flats, thin dark rims where the edge scatters light out of the lens."""
    near = blur(metal, process.rim_length)
    level = process.dielectric + (process.metal - process.dielectric) * metal
    level -= (3 * process.rim + 20) * near * (1 - near)
    ring = blur(via, process.rim_length)
    level += process.via * via - (2 * process.rim + 16) * ring * (1 - ring)
    return level


def _dark_field(process: Process, metal: Field, via: Field) -> Field:
    """Dark flats; only edges send light into the lens."""
    near = blur(metal, process.rim_length)
    contrast = process.metal - process.dielectric
    level = 34 + (0.22 * contrast) * metal
    level += (3.0 * abs(contrast) + 60) * _scatter(near)
    ring = blur(via, process.rim_length)
    level += (2.0 * abs(contrast) + 60) * _scatter(ring)
    return level


_MODES: Mapping[Mode, Callable[[Process, Field, Field], Field]] = {
    "sem": _sem,
    "bright_field": _bright_field,
    "dark_field": _dark_field,
}


def _slope(field: Field, axis: int) -> Field:
    """Return the central difference along one axis, zero at the frame."""
    slope = np.zeros_like(field)
    along, out = np.moveaxis(field, axis, 0), np.moveaxis(slope, axis, 0)
    out[1:-1] = along[2:] - along[:-2]
    return slope


def _scatter(edge: Field) -> Field:
    """Return how much light an edge sends into a dark-field lens, 0 to 0.25."""
    profile = np.maximum(edge * (1 - edge), 0)
    return np.asarray(2 * profile * np.sqrt(profile), np.float32)


def _process(spec: SampleSpec, recipe: Recipe, unit: float) -> Process:
    """Draw the wafer, then let the image differ from it a little."""
    wafer = _wafer_process(generator(spec.wafer_seed, "process"), recipe, unit)
    rng = generator(spec.seed, "process")
    turn = chance(rng, 0.3)
    return replace(
        wafer,
        pitch=wafer.pitch * log_uniform(rng, (0.8, 1.25)),
        duty=min(0.7, max(0.3, wafer.duty + uniform(rng, (-0.06, 0.06)))),
        upright=wafer.upright is not turn,
        dielectric=wafer.dielectric + uniform(rng, (-6, 6)),
        metal=wafer.metal + uniform(rng, (-6, 6)),
        rim=wafer.rim * uniform(rng, (0.8, 1.2)),
        shadow=wafer.shadow * uniform(rng, (0.8, 1.2)),
    )


def _wafer_process(rng: np.random.Generator, recipe: Recipe, unit: float) -> Process:
    dielectric, step = uniform(rng, (62, 118)), uniform(rng, recipe.material)
    inverted = chance(rng, 0.2)
    angle = uniform(rng, (0, 2 * math.pi))
    relief = uniform(rng, (6, 18)) if chance(rng, 0.4) else 0.0
    return Process(
        pitch=log_uniform(rng, recipe.pitch) * unit,
        duty=uniform(rng, (0.35, 0.65)),
        upright=chance(rng, 0.5),
        dielectric=dielectric,
        metal=dielectric + (-step if inverted else step),
        via=uniform(rng, (12, 34)) * (1 if chance(rng, 0.5) else -1),
        rim=uniform(rng, (4, 24)),
        rim_length=max(0.8, uniform(rng, (1.6, 4.0)) * unit),
        shadow=uniform(rng, (4, 26)),
        shadow_length=max(0.8, uniform(rng, (4, 16)) * unit),
        grain=uniform(rng, recipe.grain),
        grain_length=max(0.6, uniform(rng, (0.8, 2.2)) * unit),
        relief=(relief * math.cos(angle), relief * math.sin(angle)),
    )


def _layout(spec: SampleSpec, process: Process) -> Layout:
    return draw_layout(
        generator(spec.seed, "layout"),
        family=spec.family,
        side=round(spec.size * CANVAS),
        pitch=max(4.0, process.pitch),
        duty=process.duty,
        upright=process.upright,
    )


def _texture(spec: SampleSpec, process: Process) -> Field:
    rng = generator(spec.seed, "texture")
    grain = blur(noise_field(rng, spec.size, spec.size), process.grain_length)
    # A Gaussian of length s leaves 1 / (2 s sqrt(pi)) of the standard deviation of white noise.
    return grain * np.float32(process.grain * 2 * math.sqrt(math.pi) * process.grain_length)


def _backdrop(spec: SampleSpec, process: Process, warp: Warp, unit: float) -> Field:
    """Return the layer below, film tint, specks and stains: the same law for every class."""
    rng = generator(spec.seed, "backdrop")
    backdrop = smooth_field(rng, spec.size, spec.size, scale=170 * unit) * 2.0
    if chance(rng, 0.5):
        backdrop += _ghost(rng, spec, process, warp)
    _add_specks(rng, backdrop, unit)
    if chance(rng, STAINED):
        _add_stain(rng, backdrop, unit)
    return backdrop


def _ghost(rng: np.random.Generator, spec: SampleSpec, process: Process, warp: Warp) -> Field:
    under = draw_layout(
        rng,
        family=FAMILIES[int(rng.integers(len(FAMILIES)))],
        side=round(spec.size * CANVAS),
        pitch=max(6.0, process.pitch * uniform(rng, (1.2, 2.2))),
        duty=uniform(rng, (0.35, 0.6)),
        upright=chance(rng, 0.5),
    )
    depth = uniform(rng, (2.0, 4.0)) * spec.size / REFERENCE_SIZE
    return blur(warp.sample(under.metal), max(0.8, depth)) * uniform(rng, (-9, 9))


def _add_specks(rng: np.random.Generator, field: Field, unit: float) -> None:
    for _ in range(int(rng.poisson(SPECKS))):
        radius = max(0.7, uniform(rng, SPECK_RADIUS) * unit / 2)
        grey = log_uniform(rng, SPECK_GREY) * (1 if chance(rng, 0.5) else -1)
        _add_blot(field, rng.uniform(0, field.shape[0], 2), (radius, radius), grey)


def _add_stain(rng: np.random.Generator, field: Field, unit: float) -> None:
    radii = uniform(rng, (40, 140)) * unit, uniform(rng, (40, 140)) * unit
    grey = uniform(rng, (1.5, 5)) * (1 if chance(rng, 0.5) else -1)
    _add_blot(field, rng.uniform(0, field.shape[0], 2), radii, grey)


def _add_blot(
    field: Field, centre: NDArray[np.float64], radii: tuple[float, float], grey: float
) -> None:
    reach = [max(2, math.ceil(3 * radius)) for radius in radii]
    rows, columns = (
        np.arange(max(0, int(c) - r), min(field.shape[0], int(c) + r + 1), dtype=np.float32)
        for c, r in zip(centre, reach, strict=True)
    )
    down = np.exp(-(((rows - centre[0]) / radii[0]) ** 2) / 2)[:, None]
    across = np.exp(-(((columns - centre[1]) / radii[1]) ** 2) / 2)[None, :]
    window = np.ix_(rows.astype(int), columns.astype(int))
    field[window] += (grey * down * across).astype(np.float32)


def _light(spec: SampleSpec) -> tuple[float, float]:
    angle = generator(spec.seed, "light").uniform(0, 2 * math.pi)
    return math.cos(angle), math.sin(angle)
