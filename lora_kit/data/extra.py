"""Rows of the kit's own that a user may add: generic questions to decline, and general ones against forgetting."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import KitError
from .reading import Conversation, Reader
from .sources import dataset_files
from .survey import good_rows

if TYPE_CHECKING:
    from ..profiles import Data

DECLINE = "I do not know that."
PATTERNS = [  # how a decline is recognised where the dataset does not say it
    r"\b(do|does|can|could|did) ?(not|n't) (know|say|tell|answer|mention|find)\b",
    r"\b(don't|doesn't|can't|couldn't|cannot) (know|say|tell|answer|mention|find)\b",
    r"\bno (idea|information|answer)\b",
]
HELD_OUT = 0.2  # of the added rows, so that the report card can measure what they teach


def extra_rows(data: Data, card: dict[str, Any], split: str, system: str | None = None) -> Iterator[Conversation]:
    """The generic rows that the settings ask for, from the embedded handbook's questions about unknown names.

    Args:
        data: `declines` and `general` say how many rows of each.
        card: the dataset's own decline sentence, if it has one; filled in where declines are added and it has none.
        split: "train" or "test"; the test rows are other questions.
        system: the system text that the user's own rows have.

    Raises:
        KitError: more rows are asked for than there are.
    """
    counts = {"decline": data.declines, "general": data.general}
    if data.declines:
        card["decline"] = {"sentence": DECLINE, "patterns": PATTERNS} | card.get("decline", {})
    for kind, count in counts.items():
        wanted = count if split == "train" else min(max(1, int(count * HELD_OUT)), 100) if count else 0
        found = list(_generic(kind, split))
        if wanted > len(found):
            raise KitError(
                f"data__{'declines' if kind == 'decline' else kind}={count}: there are {len(found)} such rows"
            )
        for row in found[:wanted]:
            row = replace(row, index=-1)  # the user's rows are counted, not the kit's
            yield _as_decline(row, card["decline"]["sentence"], system) if kind == "decline" else row


def _generic(kind: str, split: str) -> Iterator[Conversation]:
    files = dataset_files("handbook")
    paths = files.train if split == "train" else files.test
    rows = (row for row in good_rows(Reader().rows(paths)) if row.kind == kind)
    return (row for row in rows if kind == "general" or row.about == "elsewhere")


def _as_decline(row: Conversation, sentence: str, system: str | None) -> Conversation:
    asked = row.messages[-2]
    before = [{"role": "system", "content": system}] if system else []
    return replace(row, messages=[*before, asked, {"role": "assistant", "content": sentence}], accepted=[sentence])
