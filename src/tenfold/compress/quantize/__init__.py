"""INT8 quantisation: calibrated scales, integer weights, corrected biases."""

from tenfold.compress.quantize.batch_norm import capture_folded
from tenfold.compress.quantize.capture import capture, export_program, quiet
from tenfold.compress.quantize.cpu import cpu_flags, exact_weight_bits
from tenfold.compress.quantize.observe import Observer
from tenfold.compress.quantize.quantizer import Mode, Quantize, check_finite, is_quantized

__all__ = [
    "Mode",
    "Observer",
    "Quantize",
    "capture",
    "capture_folded",
    "check_finite",
    "cpu_flags",
    "exact_weight_bits",
    "export_program",
    "is_quantized",
    "quiet",
]
