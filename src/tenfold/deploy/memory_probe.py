"""Run by path in a fresh process: load one network, run it, print the process's peak resident size as JSON.

    python memory_probe.py onnxruntime MODEL.onnx INPUTS.npz THREADS
    python memory_probe.py torch PROGRAM.pt2 INPUTS.npz THREADS

It imports nothing of the package, so that what it reports is the cost of the runtime and the network alone.
"""

import json
import resource
import sys


def run_onnxruntime(path: str, inputs: str, threads: int) -> None:
    import numpy
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    with numpy.load(inputs) as arrays:
        values = list(arrays.values())
    names = [value.name for value in session.get_inputs()]
    session.run(None, dict(zip(names, values, strict=True)))


def run_torch(path: str, inputs: str, threads: int) -> None:
    import numpy
    import torch

    torch.set_num_threads(threads)
    module = torch.export.load(path).module()
    with numpy.load(inputs) as arrays:
        values = {name: torch.from_numpy(array) for name, array in arrays.items()}
    args = [value for name, value in values.items() if name.isdigit()]
    kwargs = {name: value for name, value in values.items() if not name.isdigit()}
    with torch.inference_mode():
        module(*args, **kwargs)


def peak_resident_bytes() -> tuple[int, str]:
    """The peak so far, and where it was read."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024, "VmHWM"
    except OSError:
        pass
    # On Linux a child inherits this figure from its parent, which is why it is only the second choice.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024), "ru_maxrss"  # bytes on macOS, KiB elsewhere


if __name__ == "__main__":
    runtime, path, inputs, threads = sys.argv[1:5]
    {"onnxruntime": run_onnxruntime, "torch": run_torch}[runtime](path, inputs, int(threads))
    peak, read_from = peak_resident_bytes()
    print(json.dumps({"peak_bytes": peak, "read_from": read_from}))
