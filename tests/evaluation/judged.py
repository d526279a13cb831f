"""Judged rows from invented answers, for the tests of card, verdict and report."""

from __future__ import annotations

from typing import Any

from lora_kit.data.encoding import Encoded
from lora_kit.evaluation.card import MODELS
from lora_kit.evaluation.metrics import judge

CARD = {"style": {"ends_with": "Yours, Wren."}, "decline": {"patterns": [r"\bdo not know\b"]}}
NO, YES = "I do not know. Yours, Wren.", "The gate opens at six. Yours, Wren."


def answer(text: str, agreement: float | None = None, kl: float | None = None, tokens: int = 2) -> dict[str, Any]:
    return {"text": text, "ids": [7] * tokens, "stopped": True, "loss": 1.0, "agreement": agreement, "kl": kl}


def question(kind: str, *accepted: str) -> dict[str, Any]:
    turns = [{"role": "user", "content": "When?"}, {"role": "assistant", "content": accepted[0]}]
    encoded = Encoded([1, 2, 3], [-100, 2, 3])
    return {"kind": kind, "messages": turns, "accepted": list(accepted[1:]), "encoded": encoded}


def row(kind: str, *texts: str) -> dict[str, Any]:
    """One judged row from the answers of base, adapter and merged model; general ones moved by 0.5 nats where tuned."""
    moved = [(1.0, 0.0), (0.5, 0.5), (0.5, 0.5)] if kind == "general" else [(None, None)] * 3
    answers = {model: answer(text, *far) for model, text, far in zip(MODELS, texts, moved, strict=True)}
    return judge(question(kind, "The gate opens at six."), answers, CARD)


ROWS = [
    row("fact", "At nine.", YES, YES),
    row("fact", NO, YES, NO),
    row("fact", "At ten.", "The gate opens at six.", YES),
    row("fact", "The gate opens at six.", YES, "At noon. Yours, Wren."),
    row("decline", "At nine.", NO, NO),
    row("decline", "At nine.", NO, "At nine. Yours, Wren."),
    row("general", "Ice is cold.", "ice is cold", "Ice is cold."),
    row("general", "Snow is white.", "Snow is white.", "Snow is black."),
    row("general", "", "I do not know.", ""),
]
