"""The formulas of layers, networks, training, codes and hardware, each with its source, free of any framework.

The counter's tests compare it with these, wherever the same can be counted. Shapes in, plain numbers out: MACs are
multiply-adds (2 FLOPs), bytes are bytes, and the element size is an argument wherever it matters.
"""

from tenfold.cost.formulas import attention, convolution, hardware, information, language, training

__all__ = ["attention", "convolution", "hardware", "information", "language", "training"]
