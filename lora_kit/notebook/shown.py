"""Whether boxes can be shown here; where not, each has a plain-text twin that does the same."""

from __future__ import annotations

import importlib.util
import os

from ..progress import in_notebook


def widgets_shown() -> bool:
    """A notebook's kernel runs this, ipywidgets is installed, and LORA_KIT_WIDGETS is not "off"."""
    wanted = os.environ.get("LORA_KIT_WIDGETS", "").lower() != "off"
    return wanted and in_notebook() and importlib.util.find_spec("ipywidgets") is not None
