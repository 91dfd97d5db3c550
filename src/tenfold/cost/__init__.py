"""What a network costs: counts, memory, devices, prediction, and measurement of any callable."""

from tenfold.cost.arithmetic import register
from tenfold.cost.calibrating import calibrate
from tenfold.cost.calling import Inputs, as_args, batch_size, call, main_output, map_inputs
from tenfold.cost.catalogue import catalogue_device, catalogue_machine, catalogue_names, read_device
from tenfold.cost.count import profile
from tenfold.cost.cpu import cpu_count, cpu_features, has_int8_dot_product, vector_lanes
from tenfold.cost.device import Device
from tenfold.cost.device_prediction import (
    NetworkPrediction,
    annotate,
    is_predictable,
    predict_network,
    roofline_ms,
)
from tenfold.cost.fusion import FusedOperator, fused
from tenfold.cost.headroom import free_memory
from tenfold.cost.memory import own_peak_rss, peak_rss
from tenfold.cost.predict import LatencyModel, Prediction
from tenfold.cost.provenance import environment
from tenfold.cost.record import LayerCost, LiveTensor, OperatorCost, OperatorTotal, Profile
from tenfold.cost.roofline import Machine, MemoryLevel, attainable, ridge
from tenfold.cost.size import predicted_size
from tenfold.cost.statistics import (
    Interval,
    bootstrap_mean,
    bootstrap_median,
    bootstrap_metric,
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
    "Machine",
    "MemoryLevel",
    "NetworkPrediction",
    "OperatorCost",
    "OperatorTotal",
    "Prediction",
    "Profile",
    "Timing",
    "annotate",
    "as_args",
    "attainable",
    "batch_size",
    "bootstrap_mean",
    "bootstrap_median",
    "calibrate",
    "call",
    "catalogue_device",
    "catalogue_machine",
    "catalogue_names",
    "cpu_count",
    "cpu_features",
    "environment",
    "free_memory",
    "fused",
    "has_int8_dot_product",
    "is_predictable",
    "main_output",
    "map_inputs",
    "measure",
    "own_peak_rss",
    "bootstrap_metric",
    "paired_bootstrap",
    "paired_difference_interval",
    "peak_rss",
    "predict_network",
    "predicted_size",
    "profile",
    "ratio",
    "read_device",
    "register",
    "ridge",
    "roofline_ms",
    "spearman",
    "vector_lanes",
    "wilson_interval",
]
