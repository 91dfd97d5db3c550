"""What a network costs: counts, memory, devices, prediction, and measurement of any callable."""

from tenfold.cost.arithmetic import register
from tenfold.cost.calling import Inputs, as_args, batch_size, call, main_output, map_inputs
from tenfold.cost.count import profile
from tenfold.cost.cpu import cpu_features, has_int8_dot_product, vector_lanes
from tenfold.cost.device import Device
from tenfold.cost.fusion import FusedOperator, fused
from tenfold.cost.memory import own_peak_rss, peak_rss
from tenfold.cost.predict import LatencyModel, Prediction
from tenfold.cost.provenance import environment
from tenfold.cost.record import LayerCost, LiveTensor, OperatorCost, OperatorTotal, Profile
from tenfold.cost.size import predicted_size
from tenfold.cost.statistics import (
    Interval,
    bootstrap_mean,
    bootstrap_median,
    paired_bootstrap,
    paired_difference_interval,
    spearman,
    wilson_interval,
)
from tenfold.cost.timing import Timing, measure, ratio

__all__ = [
    "Device",
    "FusedOperator",
    "Inputs",
    "Interval",
    "LatencyModel",
    "LayerCost",
    "LiveTensor",
    "OperatorCost",
    "OperatorTotal",
    "Prediction",
    "Profile",
    "Timing",
    "as_args",
    "batch_size",
    "bootstrap_mean",
    "bootstrap_median",
    "call",
    "cpu_features",
    "environment",
    "fused",
    "has_int8_dot_product",
    "main_output",
    "map_inputs",
    "measure",
    "own_peak_rss",
    "paired_bootstrap",
    "paired_difference_interval",
    "peak_rss",
    "predicted_size",
    "profile",
    "ratio",
    "register",
    "spearman",
    "vector_lanes",
    "wilson_interval",
]
