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
from wafer.inference.bundle import OPENVINO, Bundle, Precision
from wafer.inference.engines.backend import Backend, in_batches
from wafer.inference.engines.onnx_runtime import OUTPUTS
from wafer.inference.engines.probe import answer_probe
from wafer.inference.records import TopOne

__all__ = [
    "OPEN_VINO",
    "OpenVinoEngine",
    "fold_constants",
    "onnx_to_openvino",
    "openvino",
    "save",
]

DEVICE = "CPU"


class OpenVinoEngine:
    """An ``Engine`` on OpenVINO, which answers one batch at a time.

    Args:
        path: the network, an .xml file.
        batch: images a call.
        precision: of what is not int8 in the file itself.

    Raises:
        WeightsError: this processor cannot run it.
    """

    def __init__(self, path: Path, *, batch: int, precision: Precision) -> None:
        core = openvino().Core()
        self._batch = batch
        if precision == "bf16" and "BF16" not in core.get_property(
            DEVICE, "OPTIMIZATION_CAPABILITIES"
        ):
            raise WeightsError("this processor cannot compute in bf16; use an f32 bundle")
        try:
            model = core.read_model(path)
            _, *shape = model.input().get_partial_shape()
            model.reshape([batch, *shape])
            self._compiled: Any = core.compile_model(model, DEVICE, _settings(precision))
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
    save(openvino().Core().read_model(onnx), xml)


def fold_constants(model: Any) -> None:
    """Compute what does not depend on the images, once and for all."""
    openvino()
    from openvino.passes import ConstantFolding, Manager

    passes = Manager()
    passes.register_pass(ConstantFolding())
    passes.run_passes(model)


def save(model: Any, xml: Path) -> None:
    """Write a network as an .xml file with its weights as they are in a .bin file beside it."""
    # Nameless nodes are numbered on through the whole process; equal graphs should be equal files.
    # ONNX has names of that form too, which get one more number where a nameless node has theirs.
    for number, node in enumerate(model.get_ordered_ops()):
        kind = node.get_type_name()
        if re.fullmatch(rf"{kind}_\d+(_\d+)?", node.get_friendly_name()):
            node.set_friendly_name(f"{kind}_{number}")
    openvino().save_model(model, xml, compress_to_fp16=False)


def _open(bundle: Bundle, batch: int) -> OpenVinoEngine:
    return OpenVinoEngine(
        bundle.folder / OPENVINO, batch=batch, precision=bundle.description.precision
    )


def _settings(precision: Precision) -> dict[str, Any]:
    return {
        # An int8 file says itself what is int8; the rest of it is computed in float32.
        "INFERENCE_PRECISION_HINT": "f32" if precision == "int8" else precision,
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }


def openvino() -> Any:
    """Return the package, which reports nothing to anybody."""
    # Without this package OpenVINO takes a stub of its own that reports nothing.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import openvino as package

    return package


OPEN_VINO = Backend(
    name="openvino",
    distribution="openvino",
    module="wafer.inference.engines.open_vino",
    precisions=frozenset({"f32", "bf16", "int8"}),
    open=_open,
)

if __name__ == "__main__":
    answer_probe(OPEN_VINO)
