"""INT8 quantisation: calibrated scales, integer weights, corrected biases."""

from tenfold.compress.quantize.capture import capture, export_program, quiet
from tenfold.compress.quantize.observe import Observer
from tenfold.compress.quantize.quantizer import Mode, Quantize, check_finite, is_quantized
from tenfold.compress.quantize.simplify import capture_folded

__all__ = [
    "Mode",
    "Observer",
    "Quantize",
    "capture",
    "capture_folded",
    "check_finite",
    "export_program",
    "is_quantized",
    "quiet",
]
