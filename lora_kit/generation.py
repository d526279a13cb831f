"""Answers from a model: batched, greedy unless asked otherwise, prompts encoded exactly as in training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .data import encode_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Message = dict[str, str]


def generate_ids(
    model: PreTrainedModel,
    prompts: list[list[int]],
    *,
    max_new_tokens: int,
    eos_token_id: int,
    pad_token_id: int,
    batch_size: int = 64,
) -> list[list[int]]:
    """Greedy continuations of `prompts`, in their order, each cut after its EOS.

    Args:
        prompts: token ids, one list a prompt; prompts of like length share a batch, padded on the left.
        max_new_tokens: the longest answer; time grows with it.
        batch_size: prompts at a time; memory grows with it.
    """
    import torch

    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers: list[list[int]] = [[] for _ in prompts]
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        width = max(len(prompts[i]) for i in rows)
        ids = torch.tensor([[pad_token_id] * (width - len(prompts[i])) + prompts[i] for i in rows], device=model.device)
        mask = torch.tensor(
            [[0] * (width - len(prompts[i])) + [1] * len(prompts[i]) for i in rows], device=model.device
        )
        with torch.inference_mode():
            out = model.generate(  # type: ignore[operator]  # typed as a tensor or a module upstream
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                use_cache=True,
                eos_token_id=eos_token_id,
                pad_token_id=pad_token_id,
            )
        for i, row in zip(rows, out[:, width:].tolist(), strict=True):
            answers[i] = row[: row.index(eos_token_id) + 1] if eos_token_id in row else row
    return answers


def answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    conversations: list[list[Message]],
    *,
    max_new_tokens: int,
    batch_size: int = 64,
) -> list[str]:
    """The model's greedy answers as text.

    Args:
        conversations: each ends with the user's turn; a last assistant turn is left out.
        max_new_tokens: the longest answer in tokens.
        batch_size: prompts at a time; memory grows with it.
    """
    asked = [chat[:-1] if chat[-1]["role"] == "assistant" else chat for chat in conversations]
    rows = generate_ids(
        model,
        [encode_prompt(chat, tokenizer) for chat in asked],
        max_new_tokens=max_new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        batch_size=batch_size,
    )
    return [str(tokenizer.decode(row, skip_special_tokens=True)).strip() for row in rows]
