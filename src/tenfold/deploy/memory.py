"""The memory that running an artefact takes: the peak resident size of a fresh process that does nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from tenfold.compress.quantize import export_program, quiet
from tenfold.cost import Inputs, as_args
from tenfold.deploy.artifact import Artifact
from tenfold.errors import NetworkError

PROBE = Path(__file__).with_name("memory_probe.py")
TIMEOUT_S = 300


def peak_memory(artifact: Artifact, inputs: Inputs, threads: int = 1) -> int:
    """Bytes: interpreter, runtime, weights and activations of one call on `inputs` in a process of its own.

    An eager network is carried over as an exported program, which runs the same operators one by one without the
    user's code. Raises `NetworkError` if the process fails.
    """
    args, kwargs = as_args(inputs)
    arrays = {str(i): t.detach().numpy() for i, t in enumerate(args)}
    arrays |= {name: t.detach().numpy() for name, t in kwargs.items()}
    with tempfile.TemporaryDirectory(prefix="tenfold-memory-") as folder:
        feeds, path = Path(folder, "inputs.npz"), artifact.paths[0]
        np.savez(feeds, **arrays)  # type: ignore[arg-type]
        if artifact.model is not None:
            path = Path(folder, "program.pt2")
            with quiet():
                torch.export.save(export_program(artifact.model, inputs), path)
        command = [sys.executable, "-P", str(PROBE), artifact.runtime, str(path), str(feeds), str(threads)]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=TIMEOUT_S, env=environment, check=True
            )
        except subprocess.TimeoutExpired as error:
            raise NetworkError(f"{path.name} did not finish one call in {TIMEOUT_S} s") from error
        except subprocess.CalledProcessError as error:
            last = (error.stderr or "").strip().splitlines()[-1:] or [f"exit status {error.returncode}"]
            raise NetworkError(f"{path.name} cannot be run in a fresh process: {last[0][:300]}") from error
    return int(json.loads(done.stdout.strip().splitlines()[-1])["peak_bytes"])
