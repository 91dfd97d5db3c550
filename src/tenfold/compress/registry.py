"""Techniques by name. A new one is one line in `TECHNIQUES`; its module is imported when it is first used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, is_dataclass
from importlib import import_module
from typing import Any

from tenfold.coding import CodingError, Keys, decode_fields, encode_fields, short
from tenfold.compress.technique import Technique
from tenfold.errors import RecipeError
from tenfold.naming import nearest

Reason = str | Callable[[Any, Any], str]  # from the earlier step and the later one


@dataclass(frozen=True)
class Entry:
    """Where a technique lives (`module:Class`, or the class) and where it may stand in a recipe.

    `final` says why nothing may follow it, `once` why it may not come twice; "" where either is fine. `undone_by`
    names techniques that may not come later, each with the reason, or with what tells it from both: "" where that
    later one does no harm.
    """

    home: str | type
    final: str = ""
    once: str = ""
    undone_by: Mapping[str, Reason] = field(default_factory=dict)


def _sparsify_after_share(share: Any, sparsify: Any) -> str:
    """Zeros alone leave few values."""
    cure = "put sparsify before share"
    if sparsify.epochs:
        return f"its epochs move shared values apart; {cure}, or give it none"
    if sparsify.saliency.value == "obs":
        return f"saliency obs moves the weights that stay; {cure}, or choose another saliency"
    if share.codebook.length > 1:
        return "zeros within shared vectors make many of few; give share the codebook Scalar, after sparsify"
    return ""


def _prune_after_sparsify(sparsify: Any, prune: Any) -> str:
    """Channels that go close ranks; whole blocks may go."""
    cuts = prune.ratio or prune.residual < 1 or prune.widths or prune.target_macs or prune.target_latency
    if cuts and type(sparsify.pattern).__name__ == "TwoOfFour":
        return "without some of its input channels a layer is not two of four any more; put prune before sparsify"
    return ""


def _share_after_sparsify(sparsify: Any, share: Any) -> str:
    """Vectors know no zeros."""
    if share.codebook.length > 1:
        return "vectors shared by sparse weights would fill their zeros; give share the codebook Scalar"
    return ""


TECHNIQUES: dict[str, Entry] = {
    "prune": Entry("tenfold.compress.prune:Prune"),
    "sparsify": Entry(
        "tenfold.compress.prune:Sparsify",
        undone_by={
            "factorize": "the factors of a sparse weight are dense",
            "tie": "the mean of layers with zeros in different places is dense",
            "prune": _prune_after_sparsify,
            "share": _share_after_sparsify,
        },
    ),
    "share": Entry(
        "tenfold.compress.share:Share",
        once="a layer's values are few already",
        undone_by={
            "distill": "training moves shared values apart; give share epochs of its own",
            "factorize": "the factors of a weight of few values have many",
            "tie": "the mean of layers of few values has many",
            "sparsify": _sparsify_after_share,
        },
    ),
    "shorten": Entry("tenfold.compress.shorten:Shorten"),
    "tie": Entry(
        "tenfold.compress.share:Tie", undone_by={"factorize": "it leaves out weights that are shared"}
    ),
    "factorize": Entry(
        "tenfold.compress.factorize:Factorize", once="the factors of a layer are not worth factorizing again"
    ),
    "distill": Entry("tenfold.compress.distill:Distill"),
    "quantize": Entry(
        "tenfold.compress.quantize:Quantize",
        final="it fixes the scales of the weights and activations, which any later change would make wrong",
        once="quantized weights have no further bits to lose",
    ),
    "quantize-weights": Entry(
        "tenfold.compress.quantize:QuantizeWeights",
        final="it packs the weights into codes, which no later step could change",
        once="quantized weights have no further bits to lose",
    ),
}


def technique_names() -> list[str]:
    """The techniques that a recipe may name."""
    return sorted(TECHNIQUES)


def register(
    name: str,
    home: str | type,
    *,
    final: str = "",
    once: str = "",
    undone_by: Mapping[str, Reason] | None = None,
) -> None:
    """Make a technique known by `name`: a frozen dataclass, or `module:Class` to import on first use.

    The rest is as in `Entry`.
    """
    if name in TECHNIQUES and TECHNIQUES[name].home != home:
        raise ValueError(f"the technique {name!r} is registered already, as {TECHNIQUES[name].home}")
    TECHNIQUES[name] = Entry(home, final, once, undone_by or {})


def technique_class(name: str) -> type:
    """The dataclass of a technique; `RecipeError` with the nearest names where there is none."""
    if name not in TECHNIQUES:
        raise RecipeError(f"no technique {short(name)}{nearest(name, TECHNIQUES)}")
    home = TECHNIQUES[name].home
    if isinstance(home, str):
        module, _, attribute = home.partition(":")
        home = getattr(import_module(module), attribute)
    if not is_dataclass(home) or not isinstance(home, type):
        raise TypeError(f"the technique {name!r} is not a dataclass")
    return home


def technique_name(technique: Technique) -> str:
    """The name under which the technique is registered."""
    cls = type(technique)
    for name, entry in TECHNIQUES.items():
        # Compared as text where it is text, so that no technique is imported only to be told apart.
        if entry.home is cls or (
            isinstance(entry.home, str) and _may_be(entry.home, cls) and technique_class(name) is cls
        ):
            return name
    raise RecipeError(
        f"{cls.__name__} is not a registered technique: compress.registry.register makes it known"
    )


def undoing(earlier: Technique, later: Technique) -> str:
    """Why `later` would undo what `earlier` did; "" where it does not."""
    reason = TECHNIQUES[technique_name(earlier)].undone_by.get(technique_name(later), "")
    return reason if isinstance(reason, str) else reason(earlier, later)


def is_final(technique: Technique) -> bool:
    """Whether nothing may follow it, since it turns weights into integers."""
    return bool(TECHNIQUES[technique_name(technique)].final)


def technique_to_dict(technique: Technique) -> dict[str, Any]:
    """The technique as JSON: `technique` (its name) and its parameters."""
    return {"technique": technique_name(technique), **encode_fields(technique)}


def technique_from(values: Any, keys: Keys = ()) -> Technique:
    """The technique that a mapping describes; `RecipeError` names the technique and the key that is wrong."""
    if not isinstance(values, Mapping):
        raise CodingError(keys, f"a step must be a mapping with the key 'technique', not {short(values)}")
    name = values.get("technique")
    if not isinstance(name, str):
        known = ", ".join(technique_names())
        raise CodingError(keys, f"a step needs the key 'technique', one of {known}")
    if name not in TECHNIQUES:
        raise CodingError((*keys, "technique"), f"no technique {short(name)}{nearest(name, TECHNIQUES)}")
    rest = {key: value for key, value in values.items() if key != "technique"}
    return decode_fields(technique_class(name), rest, keys, name)


def _may_be(home: str, cls: type) -> bool:
    module, _, attribute = home.partition(":")
    return attribute == cls.__name__ and cls.__module__.split(".")[0] == module.split(".")[0]
