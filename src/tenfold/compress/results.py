"""What was measured of each technique: the figures of the committed benchmark results that ship with the package."""

from __future__ import annotations

import json
from importlib.resources import files

from tenfold.compress.registry import TECHNIQUES, technique_class
from tenfold.compress.technique import Json


def known_results() -> list[Json]:
    """Every registered technique: `technique`, `text` (what it does) and `results`, empty where there is none.

    A result is a row of a file in `measured/`, which `benchmarks/compress` writes: `variant`, `network`, `runtime`,
    `file_bytes` and `folder_bytes` with `times_smaller` of each, `times_faster` and `drop` with their 95% intervals,
    `score`, and the trivial `baseline` of the same size (None where there is none). `date` and `processor` are those
    of the file, or the row's own where it was added later.
    """
    rows: dict[str, list[Json]] = {}
    folder = files("tenfold.compress") / "measured"
    entries = folder.iterdir() if folder.is_dir() else ()  # an installed package holds no empty folder
    for entry in sorted(entries, key=lambda entry: entry.name):
        if not entry.name.endswith(".json"):
            continue
        result = json.loads(entry.read_text(encoding="utf-8"))
        shared = {key: result[key] for key in ("network", "data", "runtime", "date")}
        for row in result["rows"]:
            processor = row.get("environment", result["environment"])["cpu"]
            rows.setdefault(row["technique"], []).append({**shared, "processor": processor, **row})
    return [
        {"technique": name, "text": summary(name), "results": rows.get(name, [])}
        for name in sorted(TECHNIQUES)
    ]


def summary(name: str) -> str:
    """The first sentence of a technique's docstring, without its name."""
    lines = (technique_class(name).__doc__ or "").strip().split("\n\n")[0].split()
    return " ".join(lines).split(". ")[0].rstrip(".")
