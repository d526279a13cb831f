"""The merge: W + scale * B A, one tensor at a time, so that the whole model is never in memory.

    base file -> W -> (dequantize(quantize(W))) -> W + scale * B A in float32 -> rounded once to W's dtype -> new file

All other tensors keep their bytes. The files of the new model have about 1 GB each.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..adapter_files import read_adapter
from ..base import locate
from ..errors import KitError
from ..files import check_files, file_hash, read_json, shown, write_json
from ..model_files import INDEX, Weights, companions
from ..progress import Progress
from ..quantization import card_released, round_trip
from ..training.train import train_inputs, trained_adapter
from .cards import card_texts
from .certificate import ONTO, Change, certify, table

if TYPE_CHECKING:
    import torch

    from ..runs import Run

SHARD = 10**9  # bytes of one file of the new model; memory grows with it
KAGGLE_WORKING = Path("/kaggle/working")
KAGGLE_KEEPS = 20 * 10**9  # bytes of that folder; beyond them a session's output is lost
PLAIN = ("torch.float32", "torch.float16", "torch.bfloat16")  # the dtypes of weights that can be added to


def merge(run: Run, *, onto: str | None = None) -> Path:
    """Write base + adapter as a plain model folder with its certificate, and return it.

    Reads one tensor at a time, adds in float32, rounds once to the base's dtype. The same inputs are merged once.

    Args:
        run: its adapter is trained.
        onto: as `merge__onto`, by default the profile's. "original" adds to the base as it is published, which is what
            people share. "dequantized" adds to what the adapter was trained on, the base after its trip through 4 bits;
            in 4 bits again it would lose what was learned, as those weights go back to their levels.

    Raises:
        KitError: no trained adapter, one that is not plain LoRA, a damaged file, a full disk, or a refused merge.
    """
    inputs = merge_inputs(run, onto)
    folder = run.find("merged", inputs)
    if folder:
        check_files(folder)
    else:
        adapter, base = trained_adapter(run), locate(run.profile.base)
        change = round_trip(run.profile) if inputs["onto"] == "dequantized" else None
        with run.writing("merged", inputs) as stage, card_released():
            folder = stage.target
            check_room(folder.parent, size(base))
            stage.figures |= merge_folder(base, adapter, stage.folder, change)
            certificate = certify(base, adapter, stage.folder, change=change)
            if certificate["problems"]:
                raise KitError(f"{table(certificate)}\nthe merge is refused and was deleted: call lk.merge(run) again")
            write_json(stage.folder / "certificate.json", certificate)
            for file, text in card_texts(run, "merged", certificate).items():
                (stage.folder / file).write_text(text, encoding="utf-8")
    print(table(read_json(folder / "certificate.json")))
    print(f"merged: {size(folder) / 2**20:,.1f} MiB in {shown(folder)}")
    if run.scratch != run.path:
        print("  a scratch disk, empty when the session ends; what you export is kept")
    return folder


def merge_folder(base: Path, adapter: Path, target: Path, change: Change | None = None) -> dict[str, Any]:
    """Merge a plain LoRA folder into a base folder of safetensors, and write the result into an empty one.

    The weights are written first and the configuration last: a folder that broke off is no model. `change` is what
    happens to a base tensor first (`quantization.round_trip`).

    Raises:
        KitError: a damaged file, an adapter that does not fit, or a result that is not finite.
    """
    from huggingface_hub import split_state_dict_into_shards_factory
    from safetensors.torch import save_file

    deltas, weights = adapter_deltas(adapter), Weights(base)
    check_fits(deltas, weights, adapter)
    split = split_state_dict_into_shards_factory(
        {name: weight.nbytes for name, weight in weights.items()},
        get_storage_size=int,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=SHARD,
    )
    with Progress("merging", len(weights)) as progress:
        for file, names in split.filename_to_tensors.items():
            save_file(
                {name: merged_tensor(name, weights[name], deltas.get(name), change) for name in names},
                target / file,
                metadata={"format": "pt"},  # transformers needs it
            )
            (target / file).chmod(0o644)  # safetensors lets nobody but the owner read it
            progress.update(progress.done + len(names))
    if split.is_sharded:
        write_json(target / INDEX, {"metadata": split.metadata, "weight_map": split.tensor_to_filename})
    for path in companions(base):
        shutil.copy2(path, target / path.name)
    return {"tensors_changed": len(deltas), "shards": len(split.filename_to_tensors)}


def merged_tensor(name: str, weight: torch.Tensor, delta: Delta | None, change: Change | None) -> torch.Tensor:
    """A tensor of the merged model on the CPU, in the dtype of the base's `weight`."""
    import torch

    with torch.inference_mode():
        merged = change(name, weight) if change else weight
        if delta is not None:
            merged = delta.add_to(merged)
        merged = merged.to(weight.dtype).cpu()
    if delta is not None and not merged.isfinite().all():
        raise KitError(f"{name} is not finite after the merge: the adapter is broken, train it again")
    return merged


class Delta(NamedTuple):
    """The update scale * B A of one weight."""

    b: torch.Tensor  # (out, r) float32
    a: torch.Tensor  # (r, in) float32
    scale: float

    def add_to(self, weight: torch.Tensor) -> torch.Tensor:
        """W + scale * B A in float32, on the weight's device: (out, in)."""
        return (self.b.to(weight.device) @ self.a.to(weight.device)).mul_(self.scale).add_(weight)


def adapter_deltas(adapter: Path) -> dict[str, Delta]:
    """The update of every adapted tensor of the base; KitError for an adapter that is damaged or not plain LoRA."""
    saved = read_adapter(adapter)
    halves = {name: value.float() for name, value in saved.tensors.items()}
    return {
        f"{name}.weight": Delta(halves[f"{name}.lora_B.weight"], halves[f"{name}.lora_A.weight"], saved.scale)
        for name in saved.modules
    }


def check_fits(deltas: dict[str, Delta], weights: Weights, adapter: Path) -> None:
    """Raise KitError unless the base has every tensor that the adapter changes, in its shape, as numbers to add to."""
    if missing := sorted(set(deltas) - set(weights)):
        raise KitError(f"{shown(adapter)} changes {len(missing)} tensors that the base does not have, as {missing[0]}")
    for name, delta in deltas.items():
        shape, weight = (len(delta.b), delta.a.shape[1]), weights[name]
        if shape != weight.shape or str(weight.dtype) not in PLAIN:
            stored = f"{tuple(weight.shape)} in {weight.dtype}"
            raise KitError(f"the adapter does not fit {name}: {shape} against {stored}")


def merge_inputs(run: Run, onto: str | None = None) -> dict[str, Any]:
    """What the merged model is made from: by default as the profile says, an unquantized base always as it is."""
    is_quantized = run.profile.quantization.kind != "none"
    if onto not in (None, *ONTO):
        raise KitError(f"onto={onto!r} is no base to merge onto; there are {', '.join(map(repr, ONTO))}")
    if onto == "dequantized" and not is_quantized:
        raise KitError("this base is not quantized: there is nothing to dequantize, merge onto='original'")
    onto = onto or (run.profile.merge.onto if is_quantized else "original")
    adapter = file_hash(trained_adapter(run) / "adapter_model.safetensors")
    return {"training": train_inputs(run), "adapter": adapter, "onto": onto}


def check_room(folder: Path, needed: int) -> None:
    """Raise KitError when the disk cannot take `needed` bytes of weights and the little that lies beside them."""
    free = shutil.disk_usage(folder).free
    if folder.is_relative_to(KAGGLE_WORKING):
        free = min(free, KAGGLE_KEEPS - sum(f.stat().st_size for f in KAGGLE_WORKING.rglob("*") if f.is_file()))
    if free < needed * 1.05:
        short = f"the model needs {needed / 2**20:,.0f} MiB and {shown(folder)} has {free / 2**20:,.0f} MiB free"
        raise KitError(f"{short}: free some, or choose another place with lk.Run(root=...), on Kaggle /kaggle/temp")


def size(folder: Path) -> int:
    """Bytes of the weights in a model folder."""
    return sum(path.stat().st_size for path in {*Weights(folder).files.values()})
