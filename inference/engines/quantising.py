"""INT8 by NNCF: a network of OpenVINO with most of its convolutions in eight bits.

NNCF is an extra. Like OpenVINO it would report to an analytics host, and like OpenVINO it is only
imported here, behind the stub that keeps it from doing so.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wafer.datasets.errors import WeightsError
from wafer.inference.engines.open_vino import fold_constants, openvino, save

__all__ = ["nncf_version", "quantise"]

DISTRIBUTION = "nncf"
NO_OPERATION = {"Constant", "Parameter", "Result"}


def nncf_version() -> str:
    """Return the version of NNCF.

    Raises:
        WeightsError: it is not installed.
    """
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError as error:
        raise WeightsError(
            "--precision int8 needs the package nncf; run `pip install 'wafer-defects[int8]'`"
        ) from error


def quantise(
    source: Path, target: Path, images: NDArray[np.uint8], *, may_be_int8: Callable[[str], bool]
) -> None:
    """Write a float32 network with weights and activations of eight bits.

    Sigmoids stay in float32. An activation's range is the largest seen over the images, not a mean
    over them as NNCF would have it: a defect is what stands out, and would be clipped. Weights use
    half of their range (NNCF's overflow fix): processors without VNNI add two products of an
    activation and a weight in sixteen bits and clip the sum, which then never gets that large. So
    all processors come to the same sums.

    Args:
        source: an .xml file.
        target: the .xml file to write, its .bin beside it.
        images: letterboxed; at least one.
        may_be_int8: says by its name which operation may be computed in eight bits.

    Raises:
        WeightsError: NNCF is not installed.
    """
    nncf_version()
    model = openvino().Core().read_model(source)
    # Biases that come from ONNX are reshaped in the graph, and NNCF takes only constants for them.
    fold_constants(model)
    operations = [o for o in model.get_ordered_ops() if o.get_type_name() not in NO_OPERATION]
    in_float = [
        operation.get_friendly_name()
        for operation in operations
        if operation.get_type_name() == "Sigmoid" or not may_be_int8(operation.get_friendly_name())
    ]
    with _quiet():
        import nncf

        quantised = nncf.quantize(
            model,
            nncf.Dataset([image[None] for image in images]),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(images),
            ignored_scope=nncf.IgnoredScope(names=in_float),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                overflow_fix=nncf.OverflowFix.ENABLE,
                activations_range_estimator_params=_whole_range(),
            ),
        )
    save(quantised, target)


def _whole_range() -> Any:
    from nncf.quantization import range_estimator as of

    return of.RangeEstimatorParameters(
        min=of.StatisticsCollectorParameters(of.StatisticsType.MIN, of.AggregatorType.MIN),
        max=of.StatisticsCollectorParameters(of.StatisticsType.MAX, of.AggregatorType.MAX),
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep bars off standard output, where results go, and remarks of other packages away."""
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)
