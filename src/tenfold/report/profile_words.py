"""What the page of a profile says: its headline, its tiles, its notes and where the figures come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tenfold.cost.roofline import COMPUTE, MEMORY, OVERHEAD
from tenfold.report import wording
from tenfold.report.profile_view import View
from tenfold.report.roofs import LIMIT, Roofs
from tenfold.report.totals import totals

BOUNDS = {bound: f"bound by {bound}" for bound in (COMPUTE, MEMORY, OVERHEAD)}
KINDS = {
    "dense": "convolution or matrix product",
    "depthwise": "depthwise convolution",
    "attention": "attention",
    "other": "everything else",
}
LIMIT_IS = "a limit from the device's roofs, which no run beats"


def headline(views: Sequence[View], roofs: Roofs | None) -> str:
    """The answer in a line."""
    if len(views) == 2:
        rows = {row["name"]: row["ratio"] for row in totals(*views)}
        wanted = (("Latency", ""), ("MACs", " MACs"), ("Parameters", " parameters"))
        said = [f"{rows[name]}{what}" for name, what in wanted if rows.get(name, "") not in ("", "equal")]
        return f"{views[1].name} against {views[0].name}" + (f": {', '.join(said)}" if said else "")
    (one,) = views
    if one.ms is None or roofs is None:
        return f"{one.name}: {wording.amount(one.macs)} MACs and {wording.amount(one.params)} parameters"
    return f"{one.name}: {_latency(one)} on {roofs.device}"


def lead(views: Sequence[View], roofs: Roofs | None) -> str:
    """What the time goes to, where there is one."""
    if roofs is None or any(view.ms is None for view in views):
        return ""
    said = []
    for view in views:
        shares = {bound: view.share(bound) for bound in BOUNDS}
        parts = [f"{share:.0%} bound by {bound}" for bound, share in shares.items() if share >= 0.005]
        said.append(f"{view.name if len(views) == 2 else 'Of the time'}: {', '.join(parts)}.")
    if _limited(views):
        said.append("The time is the limit that peak rate and bandwidth set; no run beats it.")
    return " ".join(said)


def tiles(one: View, roofs: Roofs | None) -> list[tuple[str, str, str]]:
    """(name, figure, what to know beside it) of the figures on top."""
    others = f"; {wording.amount(one.other_flops)} beside the products" if one.other_flops else ""
    causal = ""
    if one.causal_macs != one.macs:
        causal = f"; {wording.amount(one.causal_macs)} MACs without what causal masks hide"
    active = f", {wording.amount(one.active_params)} active" if one.active_params != one.params else ""
    peak = f"{wording.size(one.fused_peak_bytes)} where a runtime fuses"
    rows = [
        ("Arithmetic", f"{wording.amount(one.macs)} MACs", f"{wording.amount(one.flops)} FLOPs{others}{causal}"),
        ("Parameters", wording.amount(one.params), f"{wording.size(one.weight_bytes)} with buffers{active}"),
        ("Peak activations", wording.size(one.peak_bytes), peak),
        ("Moved", wording.size(one.moved), f"{wording.significant(one.intensity)} FLOP for each byte"),
    ]  # fmt: skip
    if one.ms is not None and roofs is not None:
        detail = f"a limit, in {roofs.dtype}"
        if one.how != LIMIT:
            detail = f"predicted, in {roofs.dtype}"
            if one.interval is not None:
                low, high = map(wording.significant, one.interval)
                detail += f"; 90% interval {low} to {high}"
        rows.insert(0, ("Latency", _latency(one), detail))
    return rows


def _latency(one: View) -> str:
    text = wording.milliseconds(one.ms).replace(" ", "\N{NO-BREAK SPACE}")
    return f"at least {text}" if one.how == LIMIT else text


def _limited(views: Sequence[View]) -> bool:
    return any(view.how == LIMIT for view in views)


def legend(views: Sequence[View]) -> list[tuple[str, str]]:
    """(mark, text): the networks of two, what binds the layers of one, or what they do where there is no device."""
    if len(views) == 2:
        return [(COMPUTE, views[0].name), (MEMORY, views[1].name)]
    layers = [layer for layer in views[0].layers if layer.flops]
    if any(layer.bound for layer in layers):
        return [(key, text) for key, text in BOUNDS.items() if any(layer.bound == key for layer in layers)]
    kinds = {layer.kind if layer.kind in KINDS else "other" for layer in layers}
    return [(key, text) for key, text in KINDS.items() if key in kinds]


def note(views: Sequence[View], roofs: Roofs | None) -> str:
    """What the picture of the roofs does not say by itself."""
    layers = [layer for view in views for layer in view.layers]
    said = [
        f"Layers that are alike are one mark; its area is their share of the {'time' if roofs else 'work'}."
    ]
    if roofs:
        said.append(f"The thick roof is {roofs.dtype} from {roofs.level}; above it is what caches serve.")
    hidden = {
        "only move data": sum(not layer.flops and not layer.fused for layer in layers),
        "run within another's kernel": sum(layer.fused for layer in layers),
    }
    parts = [f"{count:,} {what}" for what, count in hidden.items() if count]
    if parts:
        said.append(f"Layers without a mark: {', '.join(parts)}.")
    return " ".join(said)


def provenance(views: Sequence[View], roofs: Roofs | None, given: Mapping[str, str]) -> list[tuple[str, str]]:
    """(name, text): where the figures come from."""
    rows = [
        ("figures", "Counted on shapes alone, not measured: one forward pass in eval mode. MACs are the multiply-adds of convolutions, matrix products and attention; a MAC is 2 FLOPs."),
        ("bytes", "As eager execution reads and writes them, each operator on its own, caches apart."),
    ]  # fmt: skip
    if roofs is not None:
        peaks = [f"{name} {wording.prefixed(rate)}FLOP/s" for name, rate in roofs.peaks.items()]
        levels = [f"{name} {wording.prefixed(rate)}B/s" for name, rate in roofs.bandwidths.items()]
        rows.append(("device", f"{roofs.device}: {', '.join([*peaks, *levels])}"))
        if roofs.source:
            rows.append(("its source", roofs.source))
        fused = any(layer.fused for view in views for layer in view.layers)
        how = LIMIT_IS if _limited(views) else "predicted for each kernel from a calibration of the device"
        also = "; a kernel's time stands at the first of the layers that it runs" if fused else ""
        rows.append(("times", f"{how[0].upper()}{how[1:]}{also}."))
    return [*rows, *given.items()]
