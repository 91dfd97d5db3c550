"""Numbers as text, once for the page, the terminal and the picture. None is `NOT_MEASURED`, whatever the unit."""

from __future__ import annotations

NOT_MEASURED = "not measured"


def significant(value: float, digits: int = 3) -> str:
    """`value` to at least so many significant digits, without an exponent: 0.3061 -> '0.306', 1234.4 -> '1,234'."""
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits - 1}e}")
    decimals = max(0, digits - 1 - int(f"{rounded:e}".split("e")[1]))
    return f"{value:,.{decimals}f}"


def milliseconds(value: float | None, iqr: float | None = None) -> str:
    """A latency; `iqr` (ms), the distance between the quartiles, follows in brackets."""
    if value is None:
        return NOT_MEASURED
    spread = "" if iqr is None else f" (IQR {significant(iqr, 2)})"
    return f"{significant(value)} ms{spread}"


def size(value: float | None) -> str:
    """Bytes in decimal units; megabytes from 0.1 on, so that sizes stand beside a limit in MB: '0.306 MB'."""
    if value is None:
        return NOT_MEASURED
    for factor, unit, least in ((1e9, "GB", 1e9), (1e6, "MB", 1e5), (1e3, "kB", 1e3)):
        if abs(value) >= least:
            return f"{significant(value / factor)} {unit}"
    return f"{value:.0f} bytes"


def amount(value: float | None) -> str:
    """A plain count in thousands, millions, billions and so on: 125_000_000 -> '125 M'."""
    if value is None:
        return NOT_MEASURED
    for factor, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{significant(value / factor)} {unit}"
    return f"{value:.0f}"


def prefixed(value: float) -> str:
    """A rate or a round value with a decimal prefix, for axes: 7.3e10 -> '73 G', 500 -> '500 '; a unit follows."""
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor * 0.9995:
            return f"{value / factor:.3g} {prefix}"
    return f"{value:.3g} "


def told_passes(number: float) -> str:
    """A number of passes over the data in plain digits: 0.25, 3.5, 120."""
    return f"{number:.2g}" if number < 10 else f"{number:.0f}"


def counted_passes(number: float) -> str:
    """The same with its noun: '0.25 passes', '1 pass', '120 passes'."""
    told = told_passes(number)
    return f"{told} {'pass' if told == '1' else 'passes'}"


def duration(seconds: float | None) -> str:
    """'48 s', '4 min 12 s', '1 h 5 min'."""
    if seconds is None:
        return NOT_MEASURED
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def ratio(value: float) -> str:
    """'11.2×', '3.4×', '1.07×'."""
    decimals = 0 if value >= 100 else 1 if value >= 1.995 else 2
    return f"{value:.{decimals}f}×"


def is_share(metric: str) -> bool:
    """Whether the metric is a share in [0, 1] that people read in percent."""
    return metric.lower().replace("-", "_").endswith("accuracy")


def score(value: float | None, metric: str, low: float | None = None, high: float | None = None) -> str:
    """A score with its 95% interval: '94.12% (93.65 to 94.57)'."""
    return _with_interval(value, metric, low, high, "%")


def drop(value: float | None, metric: str, low: float | None = None, high: float | None = None) -> str:
    """A drop with its 95% interval: '0.48 points (0.21 to 0.76)'; negative where the score rose."""
    return _with_interval(value, metric, low, high, " points")


def _with_interval(value: float | None, metric: str, low: float | None, high: float | None, unit: str) -> str:
    if value is None:
        return NOT_MEASURED
    interval = "" if low is None or high is None else f" ({figure(low, metric)} to {figure(high, metric)})"
    return f"{figure(value, metric)}{unit if is_share(metric) else ''}{interval}"


def figure(value: float, metric: str) -> str:
    """The bare number of a score or a drop: hundredths of a percent for a share, else four digits."""
    text = f"{100 * value:.2f}" if is_share(metric) else f"{value:.4g}"
    return "0.00" if text == "-0.00" else text.replace("-", "−")
