"""Images a second that the trainer takes on a GPU, by network, batch and whether the network is compiled.

PYTHONPATH=src:. python -m benchmarks.training.pace mobilenet_v2 256 compiled
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace

import torch
from benchmarks.training.jobs import CLASSES, JOBS, SIDE

from tenfold.data.pixels import Scaling
from tenfold.training import Precision
from tenfold.training.resident import ResidentImages
from tenfold.training.stepper import WARM_UP, Stepper

STEPS = 60


def main() -> None:
    name, batch, how = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    torch.backends.cudnn.benchmark = True
    device, job = torch.device("cuda"), JOBS[name]
    model = job.network().to(device).train()
    pixels = torch.randint(0, 256, (4096, 3, SIDE, SIDE), dtype=torch.uint8)
    data = ResidentImages(
        pixels, torch.randint(0, CLASSES, (4096,)), Scaling((0.5,) * 3, (0.25,) * 3), device, padding=4
    )
    precision = Precision(channels_last=True, bf16=True)
    precision.model(model)
    stepper = Stepper(model, data, replace(job.recipe, batch_size=batch), batch, precision)
    if how == "compiled":
        stepper.compile()
    started = time.monotonic()
    for _ in range(WARM_UP + 2):
        stepper(torch.randint(4096, (batch,), device=device), 0.01)
    torch.cuda.synchronize()
    ready = time.monotonic() - started
    best = 0.0
    for _ in range(5):
        started = time.monotonic()
        for _ in range(STEPS):
            stepper(torch.randint(4096, (batch,), device=device), 0.01)
        torch.cuda.synchronize()
        best = max(best, STEPS * batch / (time.monotonic() - started))
    print(f"{name} batch {batch} {how}: {best:,.0f} images/s, ready after {ready:.0f} s", flush=True)


if __name__ == "__main__":
    main()
