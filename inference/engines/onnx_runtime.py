"""ONNX Runtime on the CPU: the graph of a bundle, with a fixed batch.

``-m wafer.inference.engines.onnx_runtime BUNDLE BATCH`` probes it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wafer.datasets.errors import WeightsError
from wafer.inference.bundle import ONNX, Bundle
from wafer.inference.engines.backend import Backend, in_batches
from wafer.inference.engines.probe import answer_probe
from wafer.inference.records import TopOne

__all__ = ["ONNX_RUNTIME", "OUTPUTS"]

OUTPUTS = ("boxes", "scores", "features")
"""The outputs of the graph; its input is ``images`` and the axis of the images ``batch``."""

ERRORS_ONLY = 3
# Its errors have no common parent below Exception.
REFUSALS = (
    *("EPFail", "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoModel"),
    *("NoSuchFile", "NotImplemented", "RuntimeException"),
)


class OnnxRuntimeEngine:
    """An ``Engine`` on ONNX Runtime."""

    def __init__(self, bundle: Bundle, batch: int) -> None:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as errors

        onnxruntime.disable_telemetry_events()
        options = onnxruntime.SessionOptions()
        options.add_free_dimension_override_by_name("batch", batch)
        options.intra_op_num_threads = 1
        options.log_severity_level = ERRORS_ONLY
        self._batch = batch
        try:
            self._session: Any = onnxruntime.InferenceSession(
                bundle.folder / ONNX, options, providers=["CPUExecutionProvider"]
            )
        except tuple(getattr(errors, name) for name in REFUSALS) as error:
            raise WeightsError(f"ONNX Runtime refuses {bundle.folder / ONNX}: {error}") from error

    def infer(self, images: NDArray[np.uint8], /) -> TopOne:
        """Return the best box of each letterboxed image, and its features."""
        return in_batches(
            images, self._batch, lambda part: self._session.run(OUTPUTS, {"images": part})
        )

    def close(self) -> None:
        """Let go of the network."""
        self._session = None


ONNX_RUNTIME = Backend(
    name="onnxruntime",
    distribution="onnxruntime",
    module="wafer.inference.engines.onnx_runtime",
    precisions=frozenset({"f32"}),
    open=OnnxRuntimeEngine,
)

if __name__ == "__main__":
    answer_probe(ONNX_RUNTIME)
