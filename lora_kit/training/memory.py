"""Bytes that a micro-batch keeps for its backward pass, by formula.

Every line says which operation keeps what; tests/test_memory.py holds the sum against what autograd really saves.
T tokens, h hidden, m MLP width, c bytes of the compute dtype. Source of the idea: Korthikanti et al. 2022, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..profiles import Lora
from .loss import CHUNK, learned_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from .batches import Batch

ATTENTION, MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Sizes:
    """What the formula needs to know of a model and its adapter."""

    layers: int
    hidden: int
    mlp: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    compute: int  # bytes of the dtype that it computes in
    noise: int  # bytes that dropout keeps a value: float32 on a CPU, a bool on a card
    lora: Lora

    @classmethod
    def of(cls, model: PreTrainedModel, lora: Lora, compute: int) -> Sizes:
        """Read them from the model's config."""
        config = model.config
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        noise = 4 if model.device.type == "cpu" else 1
        heads = (config.num_attention_heads, config.num_key_value_heads, head_dim)
        widths = (config.num_hidden_layers, config.hidden_size, config.intermediate_size)
        return cls(*widths, *heads, config.vocab_size, compute, noise, lora)

    def width(self, target: str, side: str) -> int:
        """Width of a linear layer's input ("in") or output ("out")."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        inputs = {"o_proj": queries, "down_proj": self.mlp}
        outputs = {"q_proj": queries, "k_proj": keys, "v_proj": keys, "gate_proj": self.mlp, "up_proj": self.mlp}
        return (inputs if side == "in" else outputs).get(target, self.hidden)


def activation_bytes(sizes: Sizes, batch: Batch, recomputed: int = 0) -> int:
    """Bytes kept from the forward to the backward pass of one micro-batch, at their peak.

    Args:
        sizes: of the model and the adapter.
        batch: its rows, padded to one width, and the prefix that they share.
        recomputed: layers that keep their input only; while one of them is computed again, it is there in full.
    """
    tokens, width, before = batch.tokens, batch.width, len(batch.prefix)
    kept = [_layer(sizes, batch, first=n == 0, last=n == sizes.layers - 1) for n in range(sizes.layers)]
    recomputed = min(recomputed, sizes.layers - 1)
    one = tokens * sizes.hidden * sizes.compute
    same = one if sizes.compute == 4 and recomputed > 1 else 0  # in float32 the norm keeps the very input
    again, inputs = max(kept[:recomputed], default=0) - same, recomputed * one
    rotary = 2 * (tokens if before else width) * sizes.head_dim * sizes.compute
    return max(sum(kept[recomputed:]) + _head(sizes, batch), again) + inputs + rotary


def _layer(sizes: Sizes, batch: Batch, *, first: bool, last: bool) -> int:
    """One decoder layer. The first one's input needs no gradient; the last one's MLP finishes only what is read."""
    tokens, c, before = batch.tokens, sizes.compute, len(batch.prefix)
    finished = learned_tokens(batch) if last else tokens
    queries, keys = sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
    norm = tokens * (sizes.hidden + 1) * 4  # input in float32, and 1 / rms
    attention = tokens * (2 * queries + 2 * keys) * c + tokens * sizes.heads * 4  # q, output, k, v; log-sum-exp
    if before:  # keys and values laid before every row, shared heads repeated; the mask, as numbers
        whole = before + batch.width
        attention += 2 * len(batch.rows) * whole * queries * c + batch.width * whole * c
    mlp = 3 * finished * sizes.mlp * c  # gate, silu(gate), up
    count = {name: tokens if name in ATTENTION else finished for name in sizes.lora.target_modules}
    adapters = sum(_adapter(sizes, name, n, first=first) for name, n in count.items())
    return (1 if first else 2) * norm + attention + mlp + adapters + _shared_inputs(sizes, batch, finished)


def _adapter(sizes: Sizes, target: str, tokens: int, *, first: bool) -> int:
    """One adapted linear layer: A's output; its own input where dropout or a cast makes one; casts of A and B."""
    wide, r, c = sizes.width(target, "in"), sizes.lora.r, sizes.compute
    no_gradient = first and target in ("q_proj", "k_proj", "v_proj")  # of its input
    kept = tokens * r * c
    if sizes.lora.lora_dropout or c < 4:
        kept += tokens * wide * c
    if sizes.lora.lora_dropout and not no_gradient:
        kept += tokens * wide * sizes.noise
    if c < 4:
        kept += r * sizes.width(target, "out") * c + (0 if no_gradient else r * wide * c)
    return kept


def _shared_inputs(sizes: Sizes, batch: Batch, finished: int) -> int:
    """In float32 without dropout, adapters with the same input keep it once; an attention's output is kept anyway."""
    if sizes.lora.lora_dropout or sizes.compute < 4:
        return 0
    targets = set(sizes.lora.target_modules)
    attention = batch.tokens * sizes.hidden * bool(targets & {*ATTENTION[:3]})
    if batch.prefix and "o_proj" in targets:  # put together of two attentions
        attention += batch.tokens * sizes.heads * sizes.head_dim
    mlp = finished * (sizes.hidden * bool(targets & {*MLP[:2]}) + sizes.mlp * ("down_proj" in targets))
    return 4 * (attention + mlp)


def _head(sizes: Sizes, batch: Batch) -> int:
    """The last norm, and float32 probabilities where something is learned."""
    read = len(batch.rows) * batch.width + (batch.tokens if batch.prefix else 0)  # where something is learned
    learned = learned_tokens(batch)
    return batch.tokens * (sizes.hidden + 1) * 4 + read + learned * (sizes.vocab * 4 + 8) + 4


def passing_bytes(sizes: Sizes, batch: Batch) -> int:
    """Bytes that are there only for a moment: logits with their gradient, and one layer's weights out of 4 bits."""
    logits = min(learned_tokens(batch), CHUNK) * sizes.vocab * (sizes.compute + 4 + 4)
    return logits + sizes.hidden * sizes.mlp * sizes.compute
