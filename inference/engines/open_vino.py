"""OpenVINO on the CPU: the graph of a bundle, with a fixed batch; the only module that imports it.

Its defaults are not ours: it computes in bfloat16 wherever the processor can, so that two machines
would differ; it binds several processes to the same core; and its converter reports to an analytics
host. ``-m wafer.inference.engines.open_vino BUNDLE BATCH`` probes it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wafer.datasets.errors import WeightsError
from wafer.inference.bundle import OPENVINO, Bundle
from wafer.inference.engines.backend import Backend, in_batches
from wafer.inference.engines.onnx_runtime import OUTPUTS
from wafer.inference.engines.probe import answer_probe
from wafer.inference.records import TopOne

__all__ = ["OPEN_VINO", "onnx_to_openvino"]

DEVICE = "CPU"


class OpenVinoEngine:
    """An ``Engine`` on OpenVINO, which answers one batch at a time."""

    def __init__(self, bundle: Bundle, batch: int) -> None:
        openvino = _imported()
        about = bundle.description
        core = openvino.Core()
        self._batch = batch
        if about.precision == "bf16" and "BF16" not in core.get_property(
            DEVICE, "OPTIMIZATION_CAPABILITIES"
        ):
            raise WeightsError("this processor cannot compute in bf16; use an f32 bundle")
        path = bundle.folder / OPENVINO
        shape = [batch, about.image_size, about.image_size, *[3] * (about.channels == 3)]
        try:
            model = core.read_model(path)
            model.reshape(shape)
            self._compiled: Any = core.compile_model(model, DEVICE, _settings(about.precision))
        except RuntimeError as error:
            raise WeightsError(f"OpenVINO refuses {path}: {error}") from error
        self._request: Any = self._compiled.create_infer_request()

    def infer(self, images: NDArray[np.uint8], /) -> TopOne:
        """Return the best box of each letterboxed image, and its features."""
        return in_batches(images, self._batch, self._run)

    def _run(self, images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        found = self._request.infer([images], share_inputs=True)
        return [found[name] for name in OUTPUTS]

    def close(self) -> None:
        """Let go of the network."""
        self._request = self._compiled = None


def onnx_to_openvino(onnx: Path, xml: Path) -> None:
    """Write the graph of an ONNX file for OpenVINO, its weights in float32 beside it (``.bin``)."""
    openvino = _imported()
    model = openvino.Core().read_model(onnx)
    # It numbers nameless nodes on through the whole process; equal graphs should be equal files.
    for number, node in enumerate(model.get_ordered_ops()):
        kind = node.get_type_name()
        if re.fullmatch(rf"{kind}_\d+", node.get_friendly_name()):
            node.set_friendly_name(f"{kind}_{number}")
    openvino.save_model(model, xml, compress_to_fp16=False)


def _settings(precision: str) -> dict[str, Any]:
    return {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }


def _imported() -> Any:
    # Without this package OpenVINO takes a stub of its own that reports nothing.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import openvino

    return openvino


OPEN_VINO = Backend(
    name="openvino",
    distribution="openvino",
    module="wafer.inference.engines.open_vino",
    precisions=frozenset({"f32", "bf16"}),
    open=OpenVinoEngine,
)

if __name__ == "__main__":
    answer_probe(OPEN_VINO)
