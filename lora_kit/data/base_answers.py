"""The base model, asked while data is prepared: loaded for the first question, freed at the end."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from ..base import load_tokenizer
from ..generation import generate_ids, prompts_of, stop_tokens, text_of
from ..progress import Progress
from ..quantization import load_base, release
from .turns import Message

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..runs import Run


class BaseAnswers(AbstractContextManager["BaseAnswers"]):
    """Greedy answers of a run's base."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.model: PreTrainedModel | None = None

    def ask(self, what: str, chats: list[list[Message]], max_new_tokens: int) -> list[tuple[str, bool]]:
        """Each answer as text, and whether it broke off at `max_new_tokens`; `what` is said while it lasts."""
        if not chats:
            return []
        tokenizer = load_tokenizer(self.run.profile.base)
        model = self.model = self.model or load_base(self.run)
        stops = stop_tokens(model, tokenizer)
        with Progress(what, len(chats)) as progress:
            answers = generate_ids(
                model,
                prompts_of(chats, tokenizer),
                max_new_tokens=max_new_tokens,
                eos_token_id=stops,
                batch_size=self.run.profile.evaluation.batch_size,
                done=progress.update,
            )
        # half a character may stand where an answer broke off
        return [(text_of(ids, tokenizer).rstrip("\ufffd"), ids[-1] not in stops) for ids in answers]

    def __exit__(self, *_: object) -> None:
        if self.model is not None:
            release(self.model)
