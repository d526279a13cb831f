"""Layers that are computed again in the backward pass, and a prefix whose keys and values all rows share.

    prefix  -> keys, values of every layer, kept in the graph           (Recorder)
    rows    -> see those keys and values before their own               (Shared)

transformers' own checkpointing drops the cache. Here each layer is checkpointed by itself (Chen et al. 2016), and the
caches store nothing when a layer is computed a second time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import DynamicCache, PreTrainedModel


@contextmanager
def recomputed(model: PreTrainedModel, count: int) -> Iterator[None]:
    """Keep only the inputs of the first `count` layers, and compute those layers again in the backward pass.

    Args:
        model: its decoder layers are `model.model.layers`.
        count: layers; each saves all of its activations but one hidden state a token, and takes a third longer.
    """
    from torch.utils.checkpoint import checkpoint

    layers = model.model.layers[:count]
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def recorder() -> Any:
    """A cache for the prefix's pass: `kept` takes the keys and values of every layer, once."""
    from transformers import DynamicCache

    class Recorder(DynamicCache):
        def __init__(self) -> None:
            super().__init__()
            self.kept: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

        def update(self, key_states: Any, value_states: Any, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
            self.kept.setdefault(layer_idx, (key_states, value_states))
            return key_states, value_states

    return Recorder()


def shared(kept: dict[int, tuple[torch.Tensor, torch.Tensor]], rows: int) -> DynamicCache:
    """A cache for the rows' pass: every row sees the prefix's keys and values before its own.

    Args:
        kept: from the recorder, (1, heads, prefix, head_dim) each.
        rows: how many rows share them; nothing is copied until a layer needs it.
    """
    import torch
    from transformers import DynamicCache

    class Shared(DynamicCache):
        def update(self, key_states: Any, value_states: Any, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
            before: Any = self.layers[layer_idx]
            return torch.cat([before.keys, key_states], dim=-2), torch.cat([before.values, value_states], dim=-2)

    cache = Shared()
    for index in sorted(kept):
        keys, values = (tensor.expand(rows, -1, -1, -1) for tensor in kept[index])
        DynamicCache.update(cache, keys[..., :0, :], values[..., :0, :], index)  # makes the layer, without a copy
        layer: Any = cache.layers[index]
        layer.keys, layer.values = keys, values
    return cache
