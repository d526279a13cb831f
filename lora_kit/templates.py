"""Pages and cards from the Jinja templates in assets/: whatever a value holds, it stays text in the finished page."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING, Any

from .base import ASSETS

if TYPE_CHECKING:
    from markupsafe import Markup


def render(template: str, **values: Any) -> str:
    """The filled template below assets/; its suffix decides how values are escaped, unless they are Markup already."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_markdown if template.endswith(".md") else None,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(values)


def one_line(text: Any) -> str:
    """Text without line breaks and control characters, which could repaint a terminal or end a table's row."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


def _markdown(value: Any) -> Markup:
    """A value as Markdown that shows it as it is."""
    from markupsafe import Markup

    if isinstance(value, Markup):
        return value
    return Markup(re.sub(r"([\\`*_\[\]|~#])", r"\\\1", html.escape(one_line(value), quote=False)))
