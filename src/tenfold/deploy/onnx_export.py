"""From a PyTorch network, float or quantised, to one self-contained ONNX file with a dynamic batch."""

from __future__ import annotations

import re
from pathlib import Path

import onnx
import torch
from torch import fx, nn

from tenfold.compress.quantize import (
    capture_folded,
    check_finite,
    export_program,
    is_quantized,
    quiet,
    unpacked,
)
from tenfold.cost import Inputs
from tenfold.deploy.onnx_codes import keep_codes
from tenfold.deploy.onnx_operators import translations
from tenfold.deploy.onnx_slim import share_initializers, shorten_names, slim
from tenfold.deploy.onnx_stored import keep_stored
from tenfold.errors import ExportError, NetworkError
from tenfold.files import written

PROTOBUF_LIMIT = 2**31 - 1
CLAMPS = (torch.ops.aten.clamp.default, torch.ops.aten.clip.default)


def export_onnx(model: nn.Module, inputs: Inputs, path: Path | str, *, codes: bool = True) -> None:
    """Write `model` to `path` as ONNX: batch norm folded, dynamic batch, integers kept as integers, no metadata.

    Packed weights stay codes, or become floats without `codes`: a larger file that is faster to run where the runtime
    has no operator for codes. `inputs` are example inputs, the batch first. Raises `ExportError` naming the operator or layer that cannot be
    exported, `OutputError` if the file cannot be written.
    """
    proto = to_onnx(model, inputs, codes=codes)
    with written(path) as temporary:
        temporary.write_bytes(proto.SerializeToString())


def to_onnx(model: nn.Module, inputs: Inputs, *, codes: bool = True) -> onnx.ModelProto:
    """The ONNX model of `export_onnx`, in memory."""
    try:
        check_finite(model)
    except NetworkError as error:
        raise ExportError(str(error)) from error
    # Folding first is worth a second trace: it is the exporter's decompositions that take the time.
    flat = unpacked(model) if is_quantized(model) else capture_folded(model, inputs)
    program = export_program(flat, inputs)
    _level_bounds(program.graph)
    try:
        with quiet(), torch.no_grad():
            exported = torch.onnx.export(
                program,
                (),
                dynamo=True,
                optimize=True,
                verify=False,
                verbose=False,
                custom_translation_table=translations(),
            )
        assert exported is not None
        proto = exported.model_proto
    except Exception as error:
        raise ExportError(f"{type(model).__name__} cannot be exported to ONNX: {_reason(error)}") from error
    slim(proto)
    if codes:
        keep_codes(proto, model)
        if keep_stored(proto, model):
            share_initializers(proto.graph)
            shorten_names(proto.graph)
    if proto.ByteSize() > PROTOBUF_LIMIT:
        raise ExportError(f"{type(model).__name__} is larger than the 2 GB that one ONNX file can hold")
    return proto


def _level_bounds(graph: fx.Graph) -> None:
    """clamp(x, 0, 1.5) as clamp(x, 0.0, 1.5), in place: PyTorch's exporter takes no whole bound beside a fractional one."""
    for node in graph.nodes:
        if node.target in CLAMPS and any(isinstance(bound, float) for bound in node.args[1:]):
            node.args = (
                node.args[0],
                *(float(bound) if isinstance(bound, int) else bound for bound in node.args[1:]),
            )


def _reason(error: BaseException) -> str:
    """The innermost cause of an exporter's error, with the operator in it, on one line."""
    causes = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    for cause in reversed(causes):
        text = re.sub(r"\x1b\[[0-9;]*m", "", str(cause))
        operator = re.search(r"<OpOverload\(op='([\w.:]+)', overload='(\w+)'\)>", text)
        if operator:
            return (
                f"ONNX has no form of the operator {operator[1]}; replace it in the network, "
                "or run this network with the runtime torch"
            )
    lines = [line.strip() for line in str(causes[-1]).splitlines() if line.strip()]
    return f"{type(causes[-1]).__name__}: {lines[0][:300]}" if lines else type(causes[-1]).__name__
