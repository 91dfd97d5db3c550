"""Quantisation: INT8 networks with calibrated scales, and packed weights of 2 to 8 bits."""

from tenfold.compress.quantize.allocation import Average
from tenfold.compress.quantize.capture import capture, export_program, quiet
from tenfold.compress.quantize.codes import pack_codes, packed_bytes, unpack_codes
from tenfold.compress.quantize.grid import PerChannel, PerGroup, PerTensor, ZeroPoint
from tenfold.compress.quantize.observe import Observer
from tenfold.compress.quantize.quantizer import Mode, Quantize, check_finite, is_quantized
from tenfold.compress.quantize.rounding import Gptq, Nearest
from tenfold.compress.quantize.simplify import capture_folded
from tenfold.compress.quantize.weight_expand import unpacked
from tenfold.compress.quantize.weight_insert import PackedWeight, packed_weights
from tenfold.compress.quantize.weight_only import QuantizeWeights

__all__ = [
    "Average",
    "Gptq",
    "Mode",
    "Nearest",
    "Observer",
    "PackedWeight",
    "PerChannel",
    "PerGroup",
    "PerTensor",
    "Quantize",
    "QuantizeWeights",
    "ZeroPoint",
    "capture",
    "capture_folded",
    "check_finite",
    "export_program",
    "is_quantized",
    "pack_codes",
    "packed_bytes",
    "packed_weights",
    "quiet",
    "unpack_codes",
    "unpacked",
]
