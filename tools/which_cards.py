"""Which base fits how many T4s in 4 bits, by formula: python tools/which_cards.py writes the table of docs/training.md.

Nothing here is measured on a T4. Each card has

    its part of the layers' 4-bit weights, and with several cards one whole layer (lora_kit/distributed.py)
    the scales of the blocks, embeddings and head in float16
    an adapter of rank 16 on all linear layers: float32 weights, gradients, AdamW's two numbers
    what a micro-batch of 2,048 tokens takes with all layers but the last computed twice: the layers' inputs, one
    layer's activations, its largest matrices in float16, and logits
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from update_readme import table, write_page

from lora_kit.training.loss import LOGITS
from lora_kit.training.plan import GIB, USABLE

ROOT = Path(__file__).parents[1]
T4 = 14.7  # GiB
RANK, TOKENS = 16, 2048
PER_DIM, PER_MLP = 60, 16  # bytes per token that a layer keeps; 51 and 13 were measured on small models in float16
CARDS = (1, 2, 4, 8)


class Shape(NamedTuple):
    """A model's config.json."""

    layers: int
    dim: int  # hidden_size
    mlp: int  # intermediate_size
    queries: int  # num_attention_heads * head_dim
    keys: int  # num_key_value_heads * head_dim
    vocab: int
    is_tied: bool = False

    @property
    def matrices(self) -> list[tuple[int, int]]:
        """(in, out) of a layer's linear layers."""
        attention = [(self.dim, self.queries), (self.dim, self.keys), (self.dim, self.keys), (self.queries, self.dim)]
        return [*attention, (self.dim, self.mlp), (self.dim, self.mlp), (self.mlp, self.dim)]


MODELS = {
    "Llama-2-7b-chat": Shape(32, 4096, 11008, 4096, 4096, 32000),
    "Mistral-7B-Instruct-v0.3": Shape(32, 4096, 14336, 4096, 1024, 32768),
    "Llama-3.1-8B-Instruct": Shape(32, 4096, 14336, 4096, 1024, 128256),
    "Llama-2-13b-chat": Shape(40, 5120, 13824, 5120, 5120, 32000),
    "Qwen2.5-14B-Instruct": Shape(48, 5120, 13824, 5120, 1024, 152064),
    "Mistral-Small-24B-Instruct-2501": Shape(40, 5120, 32768, 4096, 1024, 131072),
    "Qwen2.5-32B-Instruct": Shape(64, 5120, 27648, 5120, 1024, 152064),
    "Llama-2-70b-chat": Shape(80, 8192, 28672, 8192, 1024, 32000),
}


def weight_bytes(shape: Shape, cards: int) -> int:
    """The frozen weights on each card."""
    per_layer = sum(wide * high for wide, high in shape.matrices)
    packed = shape.layers * per_layer // 2
    part = packed if cards == 1 else -(-packed // cards) + per_layer // 2
    blocks = shape.layers * per_layer // 64  # a scale of 8 bits each, and one of 32 bits per 256 of them
    return part + blocks + 4 * blocks // 256 + 2 * shape.vocab * shape.dim * (2 - shape.is_tied)


def adapter_bytes(shape: Shape, rank: int = RANK) -> int:
    """The adapter with its gradients and AdamW's numbers."""
    return 4 * 4 * rank * shape.layers * sum(wide + high for wide, high in shape.matrices)


def activation_bytes(shape: Shape, tokens: int = TOKENS) -> int:
    """Of one micro-batch at its peak, about."""
    kept = tokens * (2 * shape.layers * shape.dim + PER_DIM * shape.dim + PER_MLP * shape.mlp)
    logits = 3 * min(LOGITS, 4 * shape.vocab * tokens)  # their gradient and one copy too
    return kept + logits + 2 * 2 * shape.dim * shape.mlp


def gib(shape: Shape, cards: int) -> float:
    """All of it on each card."""
    return (weight_bytes(shape, cards) + adapter_bytes(shape) + activation_bytes(shape)) / GIB


def cards() -> str:
    """GiB on each card by the number of cards, and the fewest that suffice."""
    rows = []
    for name, shape in MODELS.items():
        needed = {n: gib(shape, n) for n in CARDS}
        fewest = next((str(n) for n in CARDS if needed[n] <= USABLE * T4), "more")
        rows.append([name, *(f"{value:.1f}" for value in needed.values()), fewest])
    return table(["GiB on each card", *(f"{n} T4" for n in CARDS), "fits on"], rows)


if __name__ == "__main__":
    write_page(ROOT / "docs" / "training.md", {"cards": cards()})
    print(cards())
