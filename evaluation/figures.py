"""Figures of an evaluation, as matplotlib ``Figure`` objects that no window ever sees.

Colours are those of Okabe and Ito, which people with any kind of colour vision can tell apart;
nothing is said by colour alone.
"""

from __future__ import annotations

import functools
import io
import warnings
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec

import matplotlib as mpl  # noqa: TID253
import numpy as np
from matplotlib.axes import Axes  # noqa: TID253
from matplotlib.figure import Figure  # noqa: TID253
from matplotlib.patches import Rectangle  # noqa: TID253
from numpy.typing import NDArray

from wafer.datasets.records import Box, Sample
from wafer.evaluation.metrics import Interval, clopper_pearson
from wafer.evaluation.records import Prediction
from wafer.evaluation.reliability import ReliabilityBin, RiskCoverage
from wafer.evaluation.results import Evaluation

__all__ = [
    "LoadImage",
    "class_figure",
    "comparison_figure",
    "detection_confusion_figure",
    "png_bytes",
    "reliability_figure",
    "risk_coverage_figure",
    "top_one_confusion_figure",
]

LoadImage = Callable[[str], NDArray[np.uint8]]

BLUE, VERMILLION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
INK, FAINT = "#1f2933", "#8a94a0"
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titley": 1.0,  # else each title looks for ticks above its axes, which none of ours has
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}
DPI = 130
PAIRS_A_ROW = 3
IMAGE_INCHES = 2.3
HEADING_INCHES, TITLE_INCHES, GAP_INCHES = 0.25, 0.45, 0.08
TITLE_LETTERS = 28
"""So many of the largest type are as wide as an image."""

P = ParamSpec("P")


def _styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Let a function draw in our style, whatever the style of the process is."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context(STYLE):
            return draw(*args, **kwargs)

    return drawn


def png_bytes(figure: Figure) -> bytes:
    """Return a figure as a PNG, the same bytes for the same figure."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), mpl.rc_context(STYLE):
        # Class names may be in a script that the font lacks; the tables spell them out.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def top_one_confusion_figure(evaluation: Evaluation) -> Figure:
    """Return the confusion of images: which class was answered to which."""
    return _confusion_figure(
        evaluation.confusion,
        evaluation.classes.names,
        title="Images: true class against answer",
        column_label="answer of the model",
    )


def detection_confusion_figure(evaluation: Evaluation) -> Figure | None:
    """Return the confusion of boxes, with background; None for a model that gives no boxes."""
    if evaluation.detection_confusion is None:
        return None
    return _confusion_figure(
        evaluation.detection_confusion,
        (*evaluation.classes.detector_names, "background"),
        title="Boxes (score at least 0.25, IoU at least 0.5)",
        column_label="class of the box found",
    )


@_styled
def class_figure(evaluation: Evaluation) -> Figure:
    """Return recall and precision of every class with their 95 % intervals."""
    names, rates = evaluation.classes.names, evaluation.rates
    figure, axes = _figure(7.2, 1.5 + 0.52 * len(names))
    places = np.arange(len(names), dtype=np.float64)
    _bars(axes, places - 0.19, [r.recall for r in rates], [r.recall_interval for r in rates], BLUE)
    _bars(
        axes,
        places + 0.19,
        [r.precision for r in rates],
        [r.precision_interval for r in rates],
        ORANGE,
    )
    axes.set_yticks(
        places, [f"{_plain(n)} ({r.support})" for n, r in zip(names, rates, strict=True)]
    )
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="share of images, line: 95 % interval", ylabel="class (images)")
    figure.suptitle("Recall and precision of every class", fontsize=11)  # long names leave little
    axes.grid(axis="x", alpha=0.25)
    handles = [Rectangle((0, 0), 1, 1, color=colour) for colour in (BLUE, ORANGE)]
    meanings = (
        "recall: of its images, how many are named so",
        "precision: of those named so, how many are right",
    )
    figure.legend(handles, meanings, loc="outside lower center", frameon=False, fontsize=8.5)
    return figure


@_styled
def reliability_figure(evaluation: Evaluation) -> Figure:
    """Return the accuracy of answers against their confidence, in bins of equal mass."""
    figure, axes = _figure(5.2, 4.8)
    axes.plot([0, 1], [0, 1], color=FAINT, linestyle="--", linewidth=1, label="as sure as right")
    for item in evaluation.bins:
        axes.plot([item.confidence] * 2, _bin_interval(item), color=BLUE, alpha=0.45, linewidth=1.5)
    axes.scatter(
        [item.confidence for item in evaluation.bins],
        [item.accuracy for item in evaluation.bins],
        color=BLUE,
        zorder=3,
        s=28,
        label="images of similar confidence, 95 % interval",
    )
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set(xlabel="mean confidence", ylabel="share of right answers")
    axes.set_title("Is the confidence what it says?")
    axes.set_aspect("equal")
    axes.grid(alpha=0.25)
    axes.text(0.03, 0.9, "too cautious", color=FAINT, style="italic")
    axes.text(0.97, 0.06, "too sure", color=FAINT, style="italic", ha="right")
    figure.legend(loc="outside lower center", frameon=False, fontsize=8.5)
    return figure


@_styled
def risk_coverage_figure(evaluation: Evaluation) -> Figure:
    """Return the error rate among the most confident answers against how many they are."""
    figure, axes = _figure(5.2, 4.8)
    curve: RiskCoverage = evaluation.curve
    shown = curve.complete
    axes.plot(
        np.r_[0.0, curve.coverage[shown]],
        np.r_[curve.risk[shown][:1], curve.risk[shown]],
        color=BLUE,
        linewidth=2,
        drawstyle="steps-pre",
    )
    top = max(0.1, float(curve.risk.max(initial=0.0)) * 1.1)
    for risk in (0.05, 0.02):
        axes.axhline(risk, color=FAINT, linewidth=1, linestyle=":")
        axes.text(0.01, risk + top * 0.01, f"{1 - risk:.0%} right", color=FAINT, fontsize=8)
    axes.set(xlim=(0, 1), ylim=(0, top))
    axes.set(xlabel="share of images answered, surest first", ylabel="share of wrong answers")
    axes.set_title("What is gained by leaving the unsure to a person")
    axes.grid(alpha=0.25)
    return figure


@_styled
def comparison_figure(
    pairs: Sequence[tuple[Sample, Prediction]], *, truths: Sequence[str], load_image: LoadImage
) -> Figure:
    """Return a sheet with the truth on the left and the answer on the right of each pair.

    Args:
        pairs: samples with the answers to them; at least one.
        truths: what to write over each truth, usually the true class.
        load_image: gives the decoded image, of shape (height, width) or (height, width, 3).
    """
    images = [load_image(sample.image) for sample, _ in pairs]
    tallest = min(2.0, max(image.shape[0] / image.shape[1] for image in images))
    rows, columns = -(-len(pairs) // PAIRS_A_ROW), min(len(pairs), PAIRS_A_ROW)
    wide, high = IMAGE_INCHES - GAP_INCHES, IMAGE_INCHES * tallest
    width = 2 * IMAGE_INCHES * columns
    height = (high + TITLE_INCHES) * rows + HEADING_INCHES + GAP_INCHES
    # Not the constrained layout: measuring 24 titles takes longer than drawing the images.
    figure = Figure(figsize=(width, height))
    figure.subplots_adjust(
        left=GAP_INCHES / 2 / width,
        right=1 - GAP_INCHES / 2 / width,
        bottom=GAP_INCHES / height,
        top=1 - (HEADING_INCHES + TITLE_INCHES) / height,
        wspace=GAP_INCHES / wide,
        hspace=TITLE_INCHES / high,
    )
    heading = "Left: truth (solid box). Right: answer (dashed box)"
    figure.suptitle(heading, fontsize=11, y=1 - GAP_INCHES / height)
    grid = figure.subplots(rows, 2 * columns, squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    for index, ((sample, prediction), truth) in enumerate(zip(pairs, truths, strict=True)):
        row, column = divmod(index, PAIRS_A_ROW)
        left, right = grid[row, 2 * column], grid[row, 2 * column + 1]
        _draw_pair(left, right, sample, prediction, truth, images[index])
    return figure


def _draw_pair(
    left: Axes,
    right: Axes,
    sample: Sample,
    prediction: Prediction,
    truth: str,
    image: NDArray[np.uint8],
) -> None:
    for axes in (left, right):
        axes.imshow(image, cmap="gray", vmin=0, vmax=255)
    for annotation in sample.annotations or ():
        _draw_box(left, annotation.box, GREEN, "-")
    good = prediction.class_name == truth
    if prediction.box is not None:
        _draw_box(right, prediction.box, GREEN if good else VERMILLION, "--")
    left.set_title(_plain(truth), fontsize=_fitting(truth), fontweight="normal")
    name = f"{'' if good else 'wrong: '}{prediction.class_name}"
    mark = "" if prediction.decision == "auto" else f", {prediction.decision}"
    right.set_title(
        f"{_plain(name)}\n{prediction.confidence:.2f}{mark}",
        fontsize=_fitting(name),
        fontweight="normal" if good else "bold",
        color=INK if good else VERMILLION,
    )


def _fitting(title: str) -> float:
    """Return the size of type in which a title is no wider than its image."""
    return min(9.0, 9.0 * TITLE_LETTERS / max(1, len(title)))


def _draw_box(axes: Axes, box: Box, colour: str, line: str) -> None:
    for width, shade in ((2.2, "white"), (1.2, colour)):  # a white rim: visible on any ground
        axes.add_patch(
            Rectangle(
                (box.xmin - 0.5, box.ymin - 0.5),  # pixel centres lie at whole numbers
                box.width,
                box.height,
                fill=False,
                edgecolor=shade,
                linewidth=width,
                linestyle="-" if shade == "white" else line,
            )
        )


@_styled
def _confusion_figure(
    counts: NDArray[np.int64], names: Sequence[str], *, title: str, column_label: str
) -> Figure:
    side = 1.6 + 0.55 * len(names)
    figure, axes = _figure(side + 0.7, side)
    totals = counts.sum(axis=1)
    shares = counts / np.maximum(totals, 1)[:, None]
    axes.imshow(_confusion_colours(shares), aspect="equal")
    for row, column in np.argwhere(counts > 0).tolist():
        share = shares[row, column]
        axes.text(
            column,
            row,
            f"{counts[row, column]}\n{share:.0%}",
            ha="center",
            va="center",
            color="white" if share > 0.55 else INK,
            fontsize=8.5,
        )
    places = range(len(names))
    labels = [_plain(name) for name in names]
    axes.set_xticks(places, labels, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(places, [f"{n} ({t})" for n, t in zip(labels, totals.tolist(), strict=True)])
    axes.set_xticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#d9dee4", linewidth=0.8)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    note = "count and share of the row, blue right, orange wrong"
    axes.set(xlabel=f"{column_label}\n{note}", ylabel="truth (count)")
    axes.set_title(title)
    return figure


def _confusion_colours(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return white to blue on the diagonal and white to orange beside it, shape (k, k, 3)."""
    right = np.eye(len(shares), dtype=bool)[..., None]
    full = np.where(right, mpl.colors.to_rgb(BLUE), mpl.colors.to_rgb(VERMILLION))
    return np.asarray(1 - shares[..., None] * (1 - full))


def _bars(
    axes: Axes,
    places: NDArray[np.float64],
    values: Sequence[float | None],
    intervals: Sequence[Interval | None],
    colour: str,
) -> None:
    axes.barh(places, [value or 0.0 for value in values], height=0.36, color=colour, alpha=0.75)
    for place, value, interval in zip(places.tolist(), values, intervals, strict=True):
        if value is None or interval is None:
            axes.text(0.01, place, "none", va="center", fontsize=8, color=FAINT)
        else:
            axes.plot(interval, [place, place], color=INK, linewidth=1.1)
            axes.plot([value], [place], marker="|", color=INK, markersize=6)


def _bin_interval(item: ReliabilityBin) -> list[float]:
    interval = clopper_pearson(round(item.accuracy * item.count), item.count)
    return list(interval or (0.0, 1.0))


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _plain(text: str) -> str:
    """Return the text such that a dollar sign in it does not start a formula."""
    return text.replace("$", r"\$")
