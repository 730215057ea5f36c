"""Graphs for OpenVINO are the same file whenever they are written."""

from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from wafer.inference.engines.open_vino import onnx_to_openvino, openvino


def graph_with_names_from(number: int) -> bytes:
    """Return convolutions with constants that are named as OpenVINO names nameless nodes."""
    nodes, values, last = [], [], "images"
    for step in range(40):
        constant = numpy_helper.from_array(np.full((1, 1, 1, 1), step + 1, np.float32))
        name = f"Constant_{number + step}"
        nodes.append(helper.make_node("Constant", [], [f"factor{step}"], name=name, value=constant))
        nodes.append(helper.make_node("Mul", [last, f"factor{step}"], [f"large{step}"]))
        inputs = [f"large{step}", "weight", "bias"]
        nodes.append(helper.make_node("Conv", inputs, [f"out{step}"]))
        last = f"out{step}"
    values.append(helper.make_tensor("weight", TensorProto.FLOAT, [1, 1, 1, 1], [1.0]))
    values.append(helper.make_tensor("bias", TensorProto.FLOAT, [1], [0.5]))
    shape = ["batch", 1, 4, 4]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("images", last)]
    graph = helper.make_graph(nodes, "names", ends[:1], ends[1:], values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    content: bytes = model.SerializeToString()
    return content


def next_number() -> int:
    """Return the number of the next nameless node in this process."""
    openvino()
    from openvino import opset13

    constant: Any = opset13.constant(np.zeros(1))
    return int(constant.get_name().rpartition("_")[2]) + 1


def test_a_graph_is_the_same_file_whatever_the_process_did_before(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(graph_with_names_from(next_number()))
    written = []
    for name in ("first.xml", "second.xml"):
        onnx_to_openvino(tmp_path / "model.onnx", tmp_path / name)
        written.append((tmp_path / name).read_text())
    assert "Constant_" in written[0]
    assert written[0] == written[1]
