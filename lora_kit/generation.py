"""Answers from a model: `model.generate` on batches of prompts that are encoded exactly as in training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from threading import Event
from typing import TYPE_CHECKING, Any

from .data.chat_template import stop_id
from .data.encoding import encode_prompt
from .data.reading.turns import Message
from .errors import KitError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def generate_ids(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    eos_token_id: Sequence[int],
    batch_size: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
    done: Callable[[int], Any] | None = None,
    watch: Callable[..., torch.Tensor] | None = None,
) -> list[list[int]]:
    """Continuations of `prompts`, in their order, each with its stop token where it has ended.

    Args:
        prompts: token ids; prompts of similar length share a batch.
        max_new_tokens: the longest answer; time grows with it.
        eos_token_id: the tokens that end an answer (`stop_tokens`); without any, each runs to its limit.
        batch_size: prompts at a time; memory grows with it, greedy answers depend on it only by rounding.
        temperature: 0 takes the likeliest token, 1 draws as the model believes, more is wilder; `seed` is of the draws.
        done: called with the number of finished prompts after every batch.
        watch: a stopping criterion of transformers, called after every token with the ids so far.
    """
    from transformers import GenerationConfig

    stops = [*eos_token_id] or None
    config = GenerationConfig(max_new_tokens=max_new_tokens, eos_token_id=stops, pad_token_id=0, use_cache=True)
    if temperature > 0:
        config.update(do_sample=True, temperature=float(temperature), top_k=0, top_p=1.0)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers = dict[int, list[int]]()
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        found = _generate(model, [prompts[i] for i in rows], config, seed + start, [watch] if watch else [])
        for i, row in zip(rows, found, strict=True):
            end = next((n for n, token in enumerate(row, start=1) if token in eos_token_id), None)
            answers[i] = row[:end]  # a row is padded after its stop token
        if done:
            done(len(answers))
    return [answers[i] for i in range(len(prompts))]


def _generate(model: Any, prompts: list[list[int]], config: Any, seed: int, watch: list[Any]) -> Any:
    """The continuations of one batch, as lists of one length; nothing but `config` steers them."""
    import torch
    from transformers import StoppingCriteriaList

    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in prompts], device=model.device)  # (rows, width)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts], device=model.device)
    own, model.generation_config = model.generation_config, config  # else the base's own settings fill every gap
    try:
        with torch.random.fork_rng([ids.device] if ids.is_cuda else []):
            torch.manual_seed(seed)
            out = model.generate(ids, config, stopping_criteria=StoppingCriteriaList(watch), attention_mask=mask)
    finally:
        model.generation_config = own
    return out[:, width:].tolist()


def stop_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every token that ends an answer of this base: its format's, the tokenizer's EOS, its generation config's."""
    own = getattr(model.generation_config, "eos_token_id", None)
    found = {stop_id(tokenizer), tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])}
    return sorted(found - {None})


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
        KitError: something that is not a conversation.
    """
    if isinstance(conversations, str):
        raise KitError(f"conversations must be a list, as [{conversations[:40]!r}]")
    prompts, stops = prompts_of(conversations, tokenizer), stop_tokens(model, tokenizer)
    rows = generate_ids(model, prompts, max_new_tokens=max_new_tokens, eos_token_id=stops, batch_size=batch_size)
    return [text_of(row, tokenizer) for row in rows]


def stream(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, chat: list[Message], *, max_new_tokens: int, **draw: Any
) -> Iterator[str]:
    """One answer as it grows: the text so far, after every token that adds to it; `draw`: temperature and seed.

    It ends where the model takes no more tokens, also before `max_new_tokens`.
    """
    prompts, stops = prompts_of([chat], tokenizer), stop_tokens(model, tokenizer)
    room = model.config.max_position_embeddings - len(prompts[0])
    if room < 1:
        raise KitError(
            f"the question has {len(prompts[0]):,} tokens, and this model takes {len(prompts[0]) + room:,} in all"
        )
    sent, shown = SimpleQueue[list[int] | None](), ""
    left = Event()  # nobody reads on: the next token is the last

    def watch(ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        sent.put(ids[0, len(prompts[0]) :].tolist())
        return ids.new_full((1,), left.is_set()).bool()

    options = {"max_new_tokens": min(max_new_tokens, room), "eos_token_id": stops, "watch": watch, **draw}
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(generate_ids, model, prompts, **options)
        answer.add_done_callback(lambda _: sent.put(None))
        try:
            for row in iter(sent.get, None):
                text = text_of(row, tokenizer)  # here, not in the thread: a tokenizer serves one thread at a time
                if text != shown and not text.endswith("\ufffd"):  # a character whose other half is still to come
                    shown = text
                    yield text
            answer.result()  # raises what went wrong in the thread
        finally:
            left.set()


def check_length(longest: int, max_new_tokens: int, room: int) -> None:
    """Raise KitError where the longest prompt leaves no room for an answer in the `room` tokens of the model."""
    if longest + max_new_tokens > room:
        asked = f"the longest question has {longest:,} tokens, and evaluation__max_new_tokens={max_new_tokens}"
        raise KitError(f"{asked}; this model takes {room:,} in all: shorten the question, or lower that setting")


def prompts_of(conversations: Sequence[str | list[Message]], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Token ids up to where the answer begins; a plain text is the user's, a last assistant turn is left out."""
    prompts = []
    for chat in conversations:
        turns = [{"role": "user", "content": chat}] if isinstance(chat, str) else chat
        if not turns or not all(isinstance(turn, dict) and {"role", "content"} <= turn.keys() for turn in turns):
            raise KitError(f"{str(chat)[:80]!r} is no conversation: give a text, or messages with role and content")
        prompts.append(encode_prompt(turns[:-1] if turns[-1]["role"] == "assistant" else turns, tokenizer))
    return prompts


def text_of(row: list[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """An answer's tokens as text."""
    return str(tokenizer.decode(row, skip_special_tokens=True)).strip()
