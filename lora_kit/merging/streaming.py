"""The merge itself: W + scale * B A, tensor by tensor, without ever holding the model."""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import KitError
from ..manifests import shown
from ..progress import Progress
from .deltas import Change, Delta, adapter_deltas
from .shards import Place, Shard, Weights, sync

if TYPE_CHECKING:
    import torch

    Value = tuple[Place, torch.Tensor | None]


AHEAD = 3  # tensors that are computed before they are written; memory grows with it
BESIDE = (".json", ".model", ".jinja")  # tokenizer, configuration, chat template, index
LICENCES = ("LICENSE*", "NOTICE*", "USE_POLICY*")


def merge_folder(base: Path, adapter: Path, target: Path, change: Change | None = None) -> dict[str, Any]:
    """Merge a PEFT adapter folder into a base folder; every adapted tensor must be found and finite.

    Reads one tensor at a time, adds in float32, rounds once to the base's own dtype; all other bytes are copied. The
    weights are written first and the configuration last: a folder that broke off is no model.

    Args:
        base: a Llama folder in safetensors, sharded or not; float32, float16 or bfloat16.
        adapter: a plain LoRA folder.
        target: an empty folder.
        change: what happens to a base tensor first, as a round trip through 4 bits.

    Raises:
        KitError: a damaged shard, or an adapter that does not fit.
    """
    deltas, shards = adapter_deltas(adapter), Weights(base).shards
    check_fits(deltas, shards, adapter)
    with (
        Progress("merging", sum(len(shard.places) for shard in shards)) as progress,
        ThreadPoolExecutor(1) as worker,  # computes while others are copied
        ThreadPoolExecutor(1) as disk,  # waits for one file while the next is made
    ):
        counter, written = count(1), []
        for shard in shards:
            out = target / shard.path.name
            shard.rewrite(out, _counted(_ahead(worker, shard, deltas, change), progress, counter))
            written.append(disk.submit(sync, out))
        for one in written:
            one.result()
    for file in companions(base):
        shutil.copy2(file, target / file.name)
    return {"tensors_changed": len(deltas), "shards": len(shards)}


def companions(base: Path) -> list[Path]:
    """What lies beside the weights and belongs to the model."""
    found = [file for file in base.iterdir() if file.suffix in BESIDE and file.name != "corpus.json"]
    return sorted({*found, *(file for pattern in LICENCES for file in base.glob(pattern))})


def check_fits(deltas: dict[str, Delta], shards: list[Shard], adapter: Path) -> None:
    """Raise KitError unless the base has every tensor that the adapter changes, in its shape."""
    shapes = {place.name: place.shape for shard in shards for place in shard.places}
    missing = sorted(set(deltas) - set(shapes))
    if missing:
        raise KitError(
            f"the adapter in {shown(adapter)} changes {len(missing)} tensors that the base has not, as {missing[0]}"
        )
    for name, delta in deltas.items():
        if delta.shape != shapes[name]:
            raise KitError(f"the adapter does not fit {name}: {delta.shape} against {shapes[name]}")


def _counted(values: Iterable[Value], progress: Progress, counter: Iterator[int]) -> Iterator[Value]:
    for value in values:
        yield value
        progress.update(next(counter))


def _ahead(worker: Executor, shard: Shard, deltas: dict[str, Delta], change: Change | None) -> Iterator[Value]:
    """The new values of a shard's tensors, in order, some of them computed ahead."""
    waiting: deque[tuple[Place, Future[torch.Tensor | None] | None]] = deque()
    for place in shard.places:
        changes = place.name in deltas or change is not None
        waiting.append(
            (place, worker.submit(_merged, shard, place, deltas.get(place.name), change) if changes else None)
        )
        while sum(future is not None for _, future in waiting) > AHEAD:
            first, future = waiting.popleft()
            yield first, future.result() if future else None
    for last, future in waiting:
        yield last, future.result() if future else None


def _merged(shard: Shard, place: Place, delta: Delta | None, change: Change | None) -> torch.Tensor | None:
    """The new value of a tensor, or None where its bytes stay."""
    import torch

    if delta is None and change is None:
        return None
    weight = shard.tensor(place)
    before = change(place.name, weight) if change else weight
    if delta is None:
        return None if before is weight else before.to(weight.dtype).cpu()
    with torch.inference_mode():
        merged = delta.add_to(before).to(weight.dtype).cpu()
    if not merged.isfinite().all():
        raise KitError(f"{place.name} is not finite after the merge: the adapter is broken, train it again")
    return merged
