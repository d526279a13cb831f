"""The prepared rows, one at a time, with what is learned in colour; and a search."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

from ..base import load_tokenizer
from ..data import Encoded, row_html, row_text, row_tokens
from ..errors import KitError
from .shown import widgets_shown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..data import Prepared
    from ..runs import Run


class Rows:
    """The rows of prepared data, as tokens with their mask."""

    def __init__(self, data: Prepared, tokenizer: PreTrainedTokenizerBase) -> None:
        self._train, self._tokenizer = data.train, tokenizer

    def __len__(self) -> int:
        return len(self._train)

    def tokens(self, number: int) -> list[dict[str, Any]]:
        """The row's tokens: id, text, learned, special."""
        if not isinstance(number, int) or not 0 <= number < len(self):
            raise KitError(f"row={number} is not there: the rows are 0 to {len(self) - 1}")
        return row_tokens(Encoded(**self._train[number]), self._tokenizer)

    def find(self, words: str, start: int) -> int | None:
        """The next row that holds these words, capital and small letters alike, from `start` on and around the end."""
        for number in (*range(start, len(self)), *range(start)):
            if words.lower() in str(self._tokenizer.decode(self._train[number]["input_ids"])).lower():
                return number
        return None


def browse(data: Prepared, run: Run, row: int = 0) -> None:
    """Show prepared rows token by token; with widgets off, the one row as text, learned tokens between ⟦ and ⟧.

    Args:
        data: from `lk.prepare`.
        run: its base has the tokenizer.
        row: which to begin with, from 0.

    Raises:
        KitError: there is no such row.
    """
    rows = Rows(data, load_tokenizer(run.profile.base))
    tokens = rows.tokens(row)
    if widgets_shown():
        _box(rows, row)
    else:
        print(f"row {row} of {len(rows):,}, learned between ⟦ and ⟧:\n{row_text(tokens)}")


def _box(rows: Rows, row: int) -> None:
    import ipywidgets
    from IPython.display import display

    place = ipywidgets.IntSlider(row, 0, len(rows) - 1, description="row", layout={"width": "30em"})
    words = ipywidgets.Text(placeholder="words to look for")
    button = ipywidgets.Button(description="Next")
    shown, told = ipywidgets.HTML(), ipywidgets.HTML()

    def show(_: Any = None) -> None:
        shown.value = f"<p style='line-height:1.9'>{row_html(rows.tokens(place.value))}</p>"

    def search(_: Any) -> None:
        found = rows.find(words.value.strip(), place.value + 1)
        told.value = "" if found is not None else f"no row holds {html.escape(words.value)}"
        place.value = place.value if found is None else found

    place.observe(show, "value")
    button.on_click(search)
    show()
    display(ipywidgets.VBox([ipywidgets.HBox([place, words, button]), told, shown]))  # type: ignore[no-untyped-call]
