"""What a notebook runs: the menu of bases, your data, single settings; as a form, or as the cell above it."""

from __future__ import annotations

import html
from types import MappingProxyType
from typing import Any

from .. import profiles
from ..environment import choose_profile
from ..errors import KitError
from ..machine import gpu_count
from ..runs import Run
from .shown import widgets_shown

BASES = MappingProxyType(
    {  # as people call them -> what lk.Run takes
        "auto": {},  # what this machine can do: Llama 2 on a GPU, the embedded model without one
        "llama-2": {"profile": "llama2-7b-t4"},
        "llama-2-mirror": {"profile": "llama2-7b-t4", "base__source": profiles.LLAMA2_MIRROR.source},
        "tinyllama": {"profile": "tinyllama-t4"},
        "smollm2": {"profile": "smollm2-cpu"},  # or -t4, where a GPU is
        "tiny": {"profile": "tiny-cpu"},
    }
)


class Settings:
    """The choice so far; a form changes it, `run()` takes it.

    Args:
        base: one of BASES.
        data: an embedded dataset, or the path of your file.
        changes: single settings as on the command line, "lora__r=8 training__epochs=2".
    """

    def __init__(self, base: str = "auto", data: Any = "handbook", changes: str = "") -> None:
        self.base, self.data, self.changes = base, data, changes

    def run(self, **given: Any) -> Run:
        """The run of what is chosen now.

        Args:
            given: what `lk.Run` takes, instead of the choice: other data, a name, single settings.

        Raises:
            KitError: no such base or setting; the message lists the right ones.
        """
        return Run(**{"data": self.data} | self._given() | given)

    def problem(self) -> str | None:
        """What is wrong with the choice, or None; nothing is made."""
        try:
            given = self._given()
            profiles.profile(choose_profile(given.pop("profile", None))[0], **given)
        except KitError as error:
            return str(error)
        return None

    def _given(self) -> dict[str, Any]:
        if self.base not in BASES:
            raise KitError(f"BASE={self.base!r} is not known; there are {', '.join(BASES)}")
        given = BASES[self.base] | dict(_change(part) for part in self.changes.split())
        return given | ({"profile": "smollm2-t4"} if self.base == "smollm2" and gpu_count() else {})

    def __str__(self) -> str:
        data = self.data if isinstance(self.data, str) else type(self.data).__name__
        return f"base {self.base}, data {data}" + (f", {self.changes}" if self.changes else "")


def settings(base: str = "auto", data: Any = "handbook", changes: str = "") -> Settings:
    """Show the choice as a form; with widgets off it is printed, and the cell above changes it.

    Args:
        base: "auto", "llama-2", "llama-2-mirror", "tinyllama", "smollm2" or "tiny".
        data: an embedded dataset ("handbook", "triage"), your own file, or rows.
        changes: single settings, "lora__r=8 training__epochs=2".

    Raises:
        KitError: no such base or setting; the message lists the right ones.
    """
    if not isinstance(base, str) or not isinstance(changes, str):
        raise KitError(f"base={base!r} and changes={changes!r} must be texts, as 'auto' and 'lora__r=8'")
    if data is None or data == "":
        raise KitError("DATA is empty: name a dataset ('handbook'), a file, or give rows")
    chosen = Settings(base, data, changes)
    if problem := chosen.problem():
        raise KitError(problem)
    if widgets_shown():
        _form(chosen)
    else:
        print(f"{chosen}. Another choice: change the cell above, and run on")
    return chosen


def _form(chosen: Settings) -> None:
    import ipywidgets
    from IPython.display import display

    wide = {"width": "32em"}
    fields = {
        "base": ipywidgets.Dropdown(options=list(BASES), value=chosen.base, description="base", layout=wide),
        "changes": ipywidgets.Text(
            chosen.changes, placeholder="lora__r=8 training__epochs=2", description="settings", layout=wide
        ),
    }
    if isinstance(chosen.data, str):  # rows that were given as objects stay as they are
        fields["data"] = ipywidgets.Text(chosen.data, description="data", layout=wide)
    told = ipywidgets.HTML()

    def take(_: Any = None) -> None:
        for name, field in fields.items():
            setattr(chosen, name, field.value.strip())
        problem = chosen.problem()
        told.value = html.escape(f"Not yet: {problem}" if problem else f"Chosen: {chosen}. Now run the next cells.")

    for field in fields.values():
        field.observe(take, "value")
    take()
    shown = [fields[name] for name in ("base", "data", "changes") if name in fields]
    display(ipywidgets.VBox([*shown, told]))  # type: ignore[no-untyped-call]


def _change(part: str) -> tuple[str, str]:
    name, equals, value = part.partition("=")
    if not equals or not value:
        raise KitError(f"{part!r} is no setting: write NAME=VALUE, as in lora__r=8, with spaces between")
    return name, value
