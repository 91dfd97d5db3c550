"""What other counters print for the same networks, beside Tenfold and the figure by hand, in MACs.

    python -m benchmarks.counters.peers

fvcore, ptflops and torchinfo report MACs under various names; calflops and torch's own counter report FLOPs, halved
here. All run on the CPU as their manuals show them.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from benchmarks.common import print_table, write_result
from benchmarks.counters.networks import CASES
from torch import nn

from tenfold.cost import profile
from tenfold.cost.calling import as_args

RESULT = Path(__file__).with_name("peers.json")


def tenfold_macs(model: nn.Module, inputs: Any) -> int:
    return profile(model, inputs).macs


def torch_macs(model: nn.Module, inputs: Any) -> float:
    from torch.utils.flop_counter import FlopCounterMode

    args, kwargs = as_args(inputs)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(*args, **kwargs)
    return counter.get_total_flops() / 2


def fvcore_macs(model: nn.Module, inputs: Any) -> float:
    from fvcore.nn import FlopCountAnalysis

    args, kwargs = as_args(inputs)
    # Its tracer knows no keywords and no outputs that are dataclasses.
    flat = _Flat(model, list(kwargs))
    return FlopCountAnalysis(flat, (*args, *kwargs.values())).total()


def ptflops_macs(model: nn.Module, inputs: Any) -> float:
    from ptflops import get_model_complexity_info

    args, kwargs = as_args(inputs)
    names = list(kwargs) or list(range(len(args)))
    values = [*args, *kwargs.values()]
    flat = _Flat(model, list(kwargs))
    wrapped = _Named(flat, len(values))
    macs, _ = get_model_complexity_info(
        wrapped, tuple(values[0].shape[1:]) or (1,), as_strings=False, print_per_layer_stat=False, verbose=False,
        input_constructor=lambda _: {f"x{i}": value for i, value in enumerate(values)},
    )  # fmt: skip
    if macs is None:
        raise RuntimeError(f"no count for inputs {names}")
    return macs


def torchinfo_macs(model: nn.Module, inputs: Any) -> float:
    from torchinfo import summary

    args, kwargs = as_args(inputs)
    return summary(model, input_data=kwargs or list(args), verbose=0, device="cpu").total_mult_adds


def calflops_macs(model: nn.Module, inputs: Any) -> float:
    from calflops import calculate_flops

    args, kwargs = as_args(inputs)
    _, macs, _ = calculate_flops(
        model,
        args=list(args),
        kwargs=dict(kwargs),
        print_results=False,
        print_detailed=False,
        output_as_string=False,
    )
    return macs


class _Flat(nn.Module):
    """A network with keyword inputs as one of positional inputs and one tensor out."""

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        from tenfold.cost import main_output

        if self.names:
            return main_output(self.model(**dict(zip(self.names, values, strict=True))))
        return main_output(self.model(*values))


class _Named(nn.Module):
    """The same with inputs named x0, x1, x2, as ptflops hands them over."""

    def __init__(self, model: nn.Module, count: int) -> None:
        super().__init__()
        self.model, self.count = model, count

    def forward(self, x0: Any = None, x1: Any = None, x2: Any = None) -> torch.Tensor:
        return self.model(*(x0, x1, x2)[: self.count])


COUNTERS: dict[str, Callable[[nn.Module, Any], float]] = {
    "tenfold": tenfold_macs,
    "torch FlopCounterMode": torch_macs,
    "fvcore": fvcore_macs,
    "ptflops": ptflops_macs,
    "torchinfo": torchinfo_macs,
    "calflops": calflops_macs,
}


def main() -> None:
    """Count every network by every counter; a counter that fails says so in its cell."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    networks: list[dict[str, Any]] = [
        {"network": case.name, "by_hand": case.macs, "counters": {}} for case in CASES
    ]
    # Counter by counter, calflops last: where it fails it leaves torch's functions wrapped, and others stumble.
    for name, count in COUNTERS.items():
        for case, entry in zip(CASES, networks, strict=True):
            model, inputs = case.build().eval(), case.inputs()  # fresh: some leave hooks behind
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    found: dict[str, Any] = {"macs": int(count(model, inputs))}
            except Exception as error:
                said = (str(error).strip().splitlines() or [""])[0][:120]
                found = {"error": f"{type(error).__name__}: {said}"}
            entry["counters"][name] = found
            print(name, case.name, found, flush=True)
    write_result(RESULT, {"unit": "MACs", "networks": networks},
                 ("timm", "transformers", "fvcore", "ptflops", "torchinfo", "calflops"))  # fmt: skip
    print_table(
        "Multiply-adds, and how far from the figure by hand",
        ["network", "by hand", *COUNTERS],
        [
            [entry["network"], f"{entry['by_hand']:,}", *(_cell(entry["counters"][n], entry["by_hand"]) for n in COUNTERS)]
            for entry in networks
        ],
    )  # fmt: skip


def _cell(found: dict[str, Any], truth: int) -> str:
    if "error" in found:
        return "fails"
    return "exact" if found["macs"] == truth else f"{found['macs'] / truth - 1:+.1%}"


if __name__ == "__main__":
    main()
