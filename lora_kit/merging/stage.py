"""Notebook 04 in one call: W + scale * B A, shard by shard, without ever holding the model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..adapters import PREFIX, read_adapter
from ..base import locate
from ..errors import KitError
from ..manifests import file_hash, shown
from ..progress import Progress
from ..training import train_inputs, trained_adapter

if TYPE_CHECKING:
    import torch

    from ..runs import Run

NOTICE = (
    "Llama 2 is licensed under the LLAMA 2 Community License, "
    "Copyright (c) Meta Platforms, Inc. All Rights Reserved.\n"
)  # section 1.b.iii asks for exactly this line beside every copy


def merge(run: Run) -> Path:
    """Write base + adapter as a plain model folder and return it; the same inputs are not merged twice.

    Reads one tensor at a time and one shard into memory; adds in float32, stores in the base's own dtype.

    Raises:
        KitError: no trained adapter, a damaged shard, no room on the disk, or a merge that fails its check.
    """
    inputs = merge_inputs(run)
    folder = run.find("merged", inputs)
    if folder is None:
        adapter, base = trained_adapter(run), locate(run.profile.base)
        check_room(run.path, base)
        with run.writing("merged", inputs) as stage:
            stage.figures |= merge_folder(base, adapter, stage.folder)
            if run.profile.base.licence == "llama2":
                (stage.folder / "NOTICE").write_text(NOTICE)
            folder = stage.target
    print(f"merged: {size(folder) / 2**20:,.1f} MiB in {shown(folder)}")
    return folder


def merge_inputs(run: Run) -> dict[str, Any]:
    """What the merged model is made from."""
    return {"training": train_inputs(run), "adapter": file_hash(trained_adapter(run) / "adapter_model.safetensors")}


def merge_folder(base: Path, adapter: Path, target: Path) -> dict[str, Any]:
    """Merge a PEFT adapter folder into a base folder; every adapted tensor must be found, finite and changed.

    Raises:
        KitError: the adapter has tensors that the base has not, or a merged tensor is not finite.
    """
    deltas = adapter_deltas(adapter)
    shards = sorted(base.glob("*.safetensors"))
    done: set[str] = set()
    with Progress("merging", len(shards)) as progress:
        for number, shard in enumerate(shards, start=1):
            done |= _merge_shard(shard, deltas, target / shard.name)
            progress.update(number)
    missing = sorted(set(deltas) - done)
    if missing:
        raise KitError(
            f"the adapter in {shown(adapter)} changes {len(missing)} tensors that the base has not, as {missing[0]}"
        )
    for file in base.iterdir():
        if file.suffix in (".json", ".model", ".jinja") and file.name != "corpus.json":
            shutil.copy2(file, target / file.name)
    return {"tensors_changed": len(done), "shards": len(shards)}


def adapter_deltas(adapter: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor, float]]:
    """Per adapted base tensor: B (out, r), A (r, in) and the scale, as PEFT computes it.

    Raises:
        KitError: an adapter that is not plain LoRA.
    """
    config = json.loads((adapter / "adapter_config.json").read_text())
    if config.get("peft_type") != "LORA" or config.get("use_dora"):
        raise KitError(f"{shown(adapter)} is a {config.get('peft_type')} adapter; only plain LoRA is merged")
    root = config["r"] ** 0.5 if config.get("use_rslora") else config["r"]
    tensors = read_adapter(adapter)
    names = {name.rsplit(".lora_", 1)[0] for name in tensors}
    return {
        f"{name.removeprefix(PREFIX)}.weight": (
            tensors[f"{name}.lora_B.weight"].float(),
            tensors[f"{name}.lora_A.weight"].float(),
            config["lora_alpha"] / root,
        )
        for name in names
    }


def _merge_shard(shard: Path, deltas: dict[str, tuple[torch.Tensor, torch.Tensor, float]], target: Path) -> set[str]:
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file

    try:
        with safe_open(shard, framework="pt") as file:
            names, metadata = list(file.keys()), file.metadata()
            tensors = {name: _merged(name, file.get_tensor(name), deltas.get(name)) for name in names}
    except SafetensorError as error:
        raise KitError(f"{shown(shard)} is damaged ({error}): fetch the base model again") from error
    save_file(tensors, target, metadata=metadata)
    return set(names) & set(deltas)


def _merged(name: str, weight: torch.Tensor, delta: tuple[torch.Tensor, torch.Tensor, float] | None) -> torch.Tensor:
    if delta is None:
        return weight
    b, a, scale = delta
    if (b.shape[0], a.shape[1]) != tuple(weight.shape):
        raise KitError(f"the adapter does not fit {name}: {(b.shape[0], a.shape[1])} against {tuple(weight.shape)}")
    merged = (weight.float() + scale * (b @ a)).to(weight.dtype)
    if not merged.isfinite().all():
        raise KitError(f"{name} is not finite after the merge: the adapter is broken, train it again")
    return merged


def check_room(folder: Path, base: Path) -> None:
    """Raise KitError when the disk cannot take another copy of the base."""
    needed, free = size(base), shutil.disk_usage(folder).free
    if free < needed * 1.05:
        raise KitError(
            f"the merged model needs {needed / 2**30:.1f} GiB and {shown(folder)} has {free / 2**30:.1f} GiB free: "
            "free some space, or choose another place with lk.Run(root=...)"
        )


def size(folder: Path) -> int:
    """Bytes of the weights in a model folder."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
