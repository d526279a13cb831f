"""Each model's answers are kept as soon as they are whole, so that an evaluation that breaks off goes on with the next.

evaluation-unfinished-3f2a91/   base.json  base-again.json  adapter.json     gone when the card is written
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..disk import whole_file


class Kept:
    """Parts of an evaluation by name.

    Args:
        folder: where they are kept; None keeps nothing, as where other things are measured of a model besides.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def get(self, name: str, make: Callable[[], Any]) -> Any:
        """The part as it was kept, or made and kept now. It must be what JSON gives back."""
        if self.folder is None:
            return make()
        path = self.folder / f"{name}.json"
        if path.is_file():
            print(f"{name}: answered before this evaluation broke off, kept in {path.parent.name}")
            return json.loads(path.read_text())
        made = make()
        self.folder.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as partial:
            partial.write_text(json.dumps(made))
        return made

    def remove(self) -> None:
        """All of it: the card is written."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
