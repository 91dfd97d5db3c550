"""Quantisation: INT8 networks with calibrated scales, and packed weights of 2 to 8 bits."""

from tenfold.compress.quantize.allocation import Average
from tenfold.compress.quantize.capture import capture, export_program, quiet
from tenfold.compress.quantize.checks import check_finite, is_quantized
from tenfold.compress.quantize.codes import pack_codes, packed_bytes, unpack_codes
from tenfold.compress.quantize.grid import PerChannel, PerGroup, PerTensor, ZeroPoint
from tenfold.compress.quantize.integers import Mode
from tenfold.compress.quantize.observe import Observer
from tenfold.compress.quantize.quantizer import Quantize
from tenfold.compress.quantize.rounding import Gptq, Learned, Nearest
from tenfold.compress.quantize.simplify import capture_folded
from tenfold.compress.quantize.spans import Unit
from tenfold.compress.quantize.stored import StoredWeight, stored_weights
from tenfold.compress.quantize.weight_expand import CodedWeight, coded_weights, unpacked
from tenfold.compress.quantize.weight_insert import PackedWeight, packed_weights
from tenfold.compress.quantize.weight_only import QuantizeWeights

__all__ = [
    "Average",
    "CodedWeight",
    "Gptq",
    "Learned",
    "Mode",
    "Nearest",
    "Observer",
    "PackedWeight",
    "PerChannel",
    "PerGroup",
    "PerTensor",
    "Quantize",
    "QuantizeWeights",
    "StoredWeight",
    "Unit",
    "ZeroPoint",
    "capture",
    "capture_folded",
    "check_finite",
    "coded_weights",
    "export_program",
    "is_quantized",
    "pack_codes",
    "packed_bytes",
    "packed_weights",
    "quiet",
    "stored_weights",
    "unpack_codes",
    "unpacked",
]
