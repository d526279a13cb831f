"""Answers from a model: batched, greedy unless asked otherwise, prompts encoded exactly as in training.

What prompts begin with is computed once, rows of like length share a batch, and a row that ended leaves it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .data.encoding import common_start, encode_prompt
from .errors import KitError

if TYPE_CHECKING:
    import torch
    from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

Message = dict[str, str]
SHARED = 16  # tokens: a shorter common beginning is not worth a forward pass of its own
FEW = 4  # prompts: fewer are not worth one either


def generate_ids(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    eos_token_id: int,
    batch_size: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
    done: Callable[[int], Any] | None = None,
) -> list[list[int]]:
    """Continuations of `prompts`, in their order, each with its EOS where it has ended.

    Args:
        prompts: token ids, one list a prompt; prompts of like length share a batch, padded on the left.
        max_new_tokens: the longest answer; time grows with it.
        batch_size: prompts at a time; memory grows with it, greedy answers do not depend on it but for rounding.
        temperature: 0 takes the likeliest token, 1 draws as the model believes, more is wilder.
        seed: of the draws.
        done: called with the number of finished prompts after every batch.
    """
    answers: list[list[int]] = [[] for _ in prompts]
    finished = 0
    for group in _groups(prompts):
        shared = Prefix(model, [prompts[i] for i in group])
        for start in range(0, len(group), batch_size):
            rows, choose = group[start : start + batch_size], chooser(temperature, seed + finished)
            for tokens in decode(model, [prompts[i] for i in rows], shared, choose, eos_token_id, max_new_tokens):
                for place, token in tokens:
                    answers[rows[place]].append(token)
            finished += len(rows)
            if done:
                done(finished)
    return answers


def _groups(prompts: Sequence[list[int]]) -> list[list[int]]:
    """Places of prompts that begin alike (the same system text), by length; those that few share stay together."""
    alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i in sorted(range(len(prompts)), key=lambda i: len(prompts[i])):
        alike[tuple(prompts[i][:SHARED])].append(i)
    rest = sorted((i for group in alike.values() if len(group) < FEW for i in group), key=lambda i: len(prompts[i]))
    return [*(group for group in alike.values() if len(group) >= FEW), *([rest] if rest else [])]


class Prefix:
    """What all prompts of a group begin with, its keys and values computed once."""

    def __init__(self, model: PreTrainedModel, prompts: Sequence[list[int]]) -> None:
        import torch
        from transformers import DynamicCache

        common = common_start([row[:-1] for row in prompts]) if len(prompts) > 1 else []
        self.length = len(common) if len(common) >= SHARED else 0
        self._cache = DynamicCache()
        if self.length:
            with torch.no_grad():
                ids = torch.tensor([common], device=model.device)
                model(ids, logits_to_keep=1, **_under_its_name(model, self._cache))

    def cache(self, rows: int) -> DynamicCache:
        """Keys and values for a batch of its own."""
        from copy import deepcopy

        cache = deepcopy(self._cache)
        if self.length:
            cache.batch_repeat_interleave(rows)
        return cache


def decode(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    shared: Prefix,
    choose: Callable[[torch.Tensor], torch.Tensor],
    eos_token_id: int,
    max_new_tokens: int,
) -> Iterator[list[tuple[int, int]]]:
    """One batch token by token: after every forward pass the (row, token) pairs of the rows that have not ended."""
    import torch

    ids, mask = _padded([prompt[shared.length :] for prompt in prompts], shared.length, model.device)
    cache, rows = shared.cache(len(prompts)), list(range(len(prompts)))
    known = _under_its_name(model, cache)
    positions = (mask.cumsum(1) - 1).clamp(min=0)[:, shared.length :]
    for _ in range(max_new_tokens):
        with torch.no_grad():
            logits = model(ids, attention_mask=mask, position_ids=positions, logits_to_keep=1, **known).logits[:, -1]
        tokens = choose(logits.float())
        said = tokens.tolist()
        yield list(zip(rows, said, strict=True))
        going = [place for place, token in enumerate(said) if token != eos_token_id]
        if not going:
            return
        if len(going) < len(rows):  # those that ended leave, so that nothing is computed for them
            kept = torch.tensor(going, device=model.device)
            cache.batch_select_indices(kept)
            tokens, mask, positions, rows = tokens[kept], mask[kept], positions[kept], [rows[place] for place in going]
        ids, positions = tokens[:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)


def _under_its_name(model: PreTrainedModel, cache: DynamicCache) -> dict[str, DynamicCache]:
    """The cache as the argument that this transformers takes it by: `cache` from 5.24, `past_key_values` before."""
    from inspect import signature

    return {"cache" if "cache" in signature(model.forward).parameters else "past_key_values": cache}


def chooser(temperature: float, seed: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """How the next token is taken from (rows, vocabulary) logits."""
    import torch

    if temperature == 0:
        return lambda logits: logits.argmax(-1)
    source = torch.Generator().manual_seed(seed)

    def draw(logits: torch.Tensor) -> torch.Tensor:
        chances = (logits / temperature).softmax(-1).cpu()  # drawn on the CPU: the same on every machine
        return torch.multinomial(chances, 1, generator=source)[:, 0].to(logits.device)

    return draw


def _padded(rows: list[list[int]], before: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids padded on the left, and the mask of these and of `before` tokens in front: (rows, width), (rows, all)."""
    import torch

    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[1] * before + [0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


def answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[str | list[Message]],
    *,
    max_new_tokens: int,
    batch_size: int = 64,
) -> list[str]:
    """The model's greedy answers as text.

    Args:
        conversations: each a question, or messages that end with the user's turn; a last assistant turn is left out.
        max_new_tokens: the longest answer in tokens.
        batch_size: prompts at a time; memory grows with it.

    Raises:
        KitError: what is no conversation.
    """
    rows = generate_ids(
        model,
        prompts_of(conversations, tokenizer),
        max_new_tokens=max_new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        batch_size=batch_size,
    )
    return [text_of(row, tokenizer) for row in rows]


def stream(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    conversation: list[Message],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
) -> Iterator[str]:
    """One answer as it grows: the whole text so far, after every token that adds to it.

    Args:
        conversation: ends with the user's turn.
        max_new_tokens: the longest answer in tokens.
        temperature: 0 takes the likeliest token, 1 draws as the model believes, more is wilder.
        seed: of the draws.
    """
    prompts = prompts_of([conversation], tokenizer)
    check_length(len(prompts[0]), max_new_tokens, model.config.max_position_embeddings)
    shared, said, shown = Prefix(model, prompts), [], ""
    for tokens in decode(model, prompts, shared, chooser(temperature, seed), tokenizer.eos_token_id, max_new_tokens):
        said.append(tokens[0][1])
        text = text_of(said, tokenizer)
        if text != shown and not text.endswith("\ufffd"):  # a character whose other half is still to come
            shown = text
            yield text


def check_length(longest: int, max_new_tokens: int, room: int) -> None:
    """Refuse a prompt that leaves no room for an answer.

    Raises:
        KitError: with its tokens and what the model can hold.
    """
    if longest + max_new_tokens > room:
        raise KitError(
            f"the longest question has {longest:,} tokens; with evaluation__max_new_tokens={max_new_tokens} that is "
            f"more than the {room:,} that this model can hold: shorten it, or lower that setting"
        )


def prompts_of(conversations: Sequence[str | list[Message]], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Token ids up to where the answer begins; a last assistant turn is left out."""
    return [encode_prompt(_asked(chat), tokenizer) for chat in conversations]


def _asked(chat: str | list[Message]) -> list[Message]:
    """The messages up to where the answer begins; a plain text is the user's."""
    if isinstance(chat, str):
        return [{"role": "user", "content": chat}]
    if not chat or not all(isinstance(turn, dict) and {"role", "content"} <= turn.keys() for turn in chat):
        raise KitError(f"{str(chat)[:80]!r} is no conversation: give a text, or messages with role and content")
    return chat[:-1] if chat[-1]["role"] == "assistant" else chat


def text_of(row: list[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """An answer's tokens as text."""
    return str(tokenizer.decode(row, skip_special_tokens=True)).strip()
