"""One HTML file that needs nothing else: styles, scripts and data inline, and a policy that forbids the network.

Text from the user reaches the page in two ways only: through jinja2 with autoescape on, and as JSON in a data block
in which `<`, `>`, `&` and `'` are escaped. Scripts of the page are allowed by their hash, so that one which slipped
in would not run, and `default-src 'none'` keeps the browser from fetching anything.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

TEMPLATES = Path(__file__).parent / "templates"


def render(
    template: str,
    scripts: Sequence[str],
    plotly: bool = True,
    styles: Sequence[str] = ("page.css",),
    **context: Any,
) -> str:
    """The page of `template` (a name in `templates/`) with these styles and scripts, in order, behind plotly.js."""
    sources = [_plotly()] if plotly else []
    sources += [(TEMPLATES / name).read_text(encoding="utf-8") for name in scripts]
    inline = [_inline(source) for source in sources]
    hashes = " ".join(f"'sha256-{_digest(source)}'" for source in inline)
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(
        **context,
        style=Markup("\n".join((TEMPLATES / name).read_text(encoding="utf-8") for name in styles)),
        scripts=[Markup(source) for source in inline],
        # plotly.js writes its own style rules, and hands a saved picture over as a blob.
        policy=f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:",
    )


def _plotly() -> str:
    from plotly.offline import get_plotlyjs  # imported late: it takes a while, and only a page needs it

    return get_plotlyjs()


def _inline(source: str) -> str:
    """A script as it may stand in HTML: nothing that ends the element, line ends as the parser will hash them."""
    return source.replace("\r\n", "\n").replace("\r", "\n").replace("</script", r"<\/script")


def _digest(source: str) -> str:
    return base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
