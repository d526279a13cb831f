"""General rows against forgetting say what the base itself says, whatever base it is.

A general question's written answer is that of the model that the dataset was made for. Another base would learn from it
to speak like that model, so it is asked itself, once, and rehearses its own words (Huang et al. 2024, "Self-synthesized
rehearsal").
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..base import load_tokenizer
from ..generation import generate_ids, prompts_of, text_of
from ..progress import Progress
from ..quantization import load_base, release
from .reading import Conversation

if TYPE_CHECKING:
    from ..runs import Run

MOST = 160  # rows, evenly spaced: each is an answer that the base has to make first
LONGEST = 96  # tokens of an answer; one that does not end within them is left out


def is_answered_elsewhere(row: Conversation, card: dict[str, Any], source: str) -> bool:
    """Whether a row is a general one whose answer is another base's.

    Args:
        row: of the dataset.
        card: the dataset's own; `answered_by` names the base that its general rows were written for, if any.
        source: of the base at hand.
    """
    return row.kind == "general" and card.get("answered_by", source) != source


def in_own_words(run: Run, rows: list[Conversation]) -> list[Conversation]:
    """Some of the rows, each with the base's own greedy answer; answers that are empty or do not end are left out.

    Args:
        run: its base is loaded, asked, and freed again.
        rows: general ones; with none nothing is loaded.
    """
    chosen = rows[:: max(1, -(-len(rows) // MOST))]
    if not chosen:
        return []
    tokenizer, model = load_tokenizer(run.profile.base), load_base(run)
    try:
        with Progress("general answers of the base", len(chosen)) as progress:
            answers = generate_ids(
                model,
                prompts_of([row.messages for row in chosen], tokenizer),
                max_new_tokens=LONGEST,
                eos_token_id=tokenizer.eos_token_id,
                batch_size=run.profile.evaluation.batch_size,
                done=progress.update,
            )
    finally:
        release(model)
    found = []
    for row, ids in zip(chosen, answers, strict=True):
        text = text_of(ids, tokenizer)
        if text and ids[-1] == tokenizer.eos_token_id:
            answer = {"role": "assistant", "content": text}
            found.append(replace(row, messages=[*row.messages[:-1], answer], accepted=[text]))
    print(
        f"general rows: {len(found)} of {len(chosen)} as the base answers them; the others took over {LONGEST} tokens"
    )
    return found
