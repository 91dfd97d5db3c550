"""Runtimes: export, verify and run, one thin file a target."""

from tenfold.deploy.artifact import Artifact, Precision, Runner, deploy_eager, deploy_onnx, precision_of
from tenfold.deploy.calibration import calibrate
from tenfold.deploy.memory import peak_memory
from tenfold.deploy.onnx_export import export_onnx
from tenfold.deploy.runners import EagerRunner, OnnxRunner
from tenfold.deploy.verification import Verification, verify

__all__ = [
    "Artifact",
    "EagerRunner",
    "OnnxRunner",
    "Precision",
    "Runner",
    "Verification",
    "calibrate",
    "deploy_eager",
    "deploy_onnx",
    "export_onnx",
    "peak_memory",
    "precision_of",
    "verify",
]
