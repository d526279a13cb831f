"""The forward pass of a model that does not fit: one decoder layer at a time from disk, all rows through it.

    ids -> embeddings -> layer 0 (all rows) -> layer 1 (all rows) -> ... -> last hidden states where they are asked for

In float32. At Llama-2-7B size a layer takes 0.8 GB; hidden states take 16 KiB a token.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from .deltas import Change, Delta
from .shards import Weights

if TYPE_CHECKING:
    import torch

SLICE = 2048  # tokens that go through a layer at a time
POSITIONS = 256  # positions whose logits exist at a time: 256 x 32000 x 4 bytes is 33 MB


def unchanged(name: str, weight: torch.Tensor) -> torch.Tensor:
    """The weight as it is stored."""
    return weight


@dataclass
class Source:
    """A model to run: stored weights, what is done to each when it is read, an adapter that stays beside them."""

    weights: Weights
    change: Change = unchanged
    beside: dict[str, Delta] = field(default_factory=dict)

    def read(self, name: str, device: str) -> torch.Tensor:
        """A tensor in float32."""
        return self.change(name, self.weights[name]).to(device).float()


def last_states(
    source: Source, rows: Sequence[list[int]], starts: Sequence[int], device: str, seen: Callable[[], None]
) -> torch.Tensor:
    """Hidden states, after the last norm, that predict the tokens of each row from `starts` on.

    Args:
        source: the model.
        rows: token ids.
        starts: per row the place of the first token that is predicted, 1 at least.
        device: "cpu" or "cuda".
        seen: called after every layer.

    Returns:
        (positions of all rows in their order, dim) float32 on `device`.
    """
    import torch
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(source.weights.folder, attn_implementation="sdpa")
    layer = _one_layer(config, device)
    norm, layer.norm = layer.norm, torch.nn.Identity()
    with torch.inference_mode():
        embedding = source.weights["model.embed_tokens.weight"]
        batches = _slices(rows)
        hidden = [embedding[_padded([rows[i] for i in batch])].to(device).float() for batch in batches]
        del embedding
        for number in range(config.num_hidden_layers):
            hooks = _load(layer, source, number, device)
            for place, states in enumerate(hidden):
                hidden[place] = layer(inputs_embeds=states, use_cache=False).last_hidden_state
            for hook in hooks:
                hook.remove()
            seen()
        found = {
            row: states[place, starts[row] - 1 : len(rows[row]) - 1]
            for batch, states in zip(batches, hidden, strict=True)
            for place, row in enumerate(batch)
        }
        norm.weight = torch.nn.Parameter(source.read("model.norm.weight", device), requires_grad=False)
        return norm(torch.cat([found[row] for row in range(len(rows))]))


def head_of(source: Source, device: str) -> torch.Tensor:
    """The weights that turn a last hidden state into logits: (vocabulary, dim) float32."""
    name = "lm_head.weight" if "lm_head.weight" in source.weights else "model.embed_tokens.weight"
    return source.read(name, device)


def _one_layer(config: Any, device: str) -> Any:
    """transformers' own Llama with a single layer; its weights come later."""
    import torch
    from transformers import LlamaModel

    small = copy.deepcopy(config)
    small.num_hidden_layers = 1
    with torch.device("meta"):
        model = LlamaModel(small)
    model.rotary_emb = type(model.rotary_emb)(config=small).to(device)
    return model.requires_grad_(False).eval()


def _load(layer: Any, source: Source, number: int, device: str) -> list[Any]:
    """Put one layer's weights into the single layer, and its adapter beside them."""
    import torch

    before, hooks, only = f"model.layers.{number}.", [], layer.layers[0]
    for name, _ in list(only.named_parameters()):
        owner, _, last = name.rpartition(".")
        module = only.get_submodule(owner)
        setattr(module, last, None)  # the layer before is freed first
        setattr(module, last, torch.nn.Parameter(source.read(before + name, device), requires_grad=False))
        if (delta := source.beside.get(before + name)) is not None:
            hooks.append(module.register_forward_hook(partial(_add, delta)))
    return hooks


def _add(delta: Delta, module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
    return output + delta.beside(inputs[0])


def _slices(rows: Sequence[list[int]]) -> list[list[int]]:
    """Rows of like length together, at most SLICE tokens with padding."""
    batches: list[list[int]] = []
    for row in sorted(range(len(rows)), key=lambda row: len(rows[row])):
        if not batches or (len(batches[-1]) + 1) * len(rows[row]) > SLICE:
            batches.append([])
        batches[-1].append(row)
    return batches


def _padded(rows: list[list[int]]) -> torch.Tensor:
    """Padding stands on the right, where causal attention never looks."""
    import torch

    width = max(map(len, rows))
    return torch.tensor([row + [0] * (width - len(row)) for row in rows])
