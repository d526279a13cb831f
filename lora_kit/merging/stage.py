"""Notebook 04 in one call: stream base + adapter into a plain model folder, and certify it or refuse it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base import locate
from ..disk import check_writable
from ..errors import KitError
from ..manifests import check_files, file_hash, read_manifest, shown
from ..quantization import round_trip
from ..training import train_inputs, trained_adapter
from .asked import answered, say_minutes
from .cards import card_texts
from .certificate import ONTO, Certificate, certify, table
from .comparing import Rows
from .shards import Weights
from .streaming import merge_folder

if TYPE_CHECKING:
    from ..runs import Run, Stage

COMPARED = 64  # answers on which merge and adapter are compared
REFUSED = "refused-merge"  # the folder of a merge that failed its certificate
KAGGLE_WORKING = Path("/kaggle/working")
KAGGLE_KEEPS = 20 * 10**9  # bytes of that folder; beyond them a session's output is lost


def merge(run: Run, *, onto: str = "original", compare: int = COMPARED) -> Path:
    """Write base + adapter as a plain model folder with its certificate, and return it.

    Reads one tensor at a time, adds in float32, rounds once to the base's own type. The same inputs are merged once.

    Args:
        run: its adapter is trained.
        onto: "original" adds to the base as it is published, which is what people share; "dequantized" adds to what
            the adapter was trained on, the base after its trip through 4 bits: nearer to the trained model, and no
            longer the published weights elsewhere.
        compare: answers on which merge and adapter are compared; 0 checks the tensors alone. Time grows with it.

    Raises:
        KitError: no trained adapter, an adapter that is not plain LoRA, a damaged shard, no room on the disk, or a
            merge that fails its certificate.
    """
    if onto not in ONTO:
        raise KitError(f"onto={onto!r} is no base to merge onto; there are {', '.join(map(repr, ONTO))}")
    inputs, name = merge_inputs(run, onto), "merged" if onto == "original" else f"merged-{onto}"
    folder = run.find(name, inputs)
    if folder is None:
        adapter, base = trained_adapter(run), locate(run.profile.base)
        check_writable(run.scratch)
        check_room(run.scratch, size(base))
        with run.writing(name, inputs) as stage:
            change = round_trip(run.profile)
            if onto == "dequantized" and change is None:
                raise KitError("this base is not quantized: there is nothing to dequantize, merge onto='original'")
            stage.figures |= merge_folder(base, adapter, stage.folder, change if onto == "dequantized" else None)
            certificate = _certified(run, base, adapter, stage, onto, compare)
            for file, text in card_texts(run, "merged", certificate).items():
                (stage.folder / file).write_text(text)
            folder = stage.target
    else:
        check_files(folder)
    print(table(json.loads((folder / "certificate.json").read_text())))
    print(f"merged: {size(folder) / 2**20:,.1f} MiB in {shown(folder)}")
    if run.scratch != run.path:
        print("  a scratch disk, empty when the session ends; what you export is kept")
    return folder


def merge_inputs(run: Run, onto: str = "original") -> dict[str, Any]:
    """What the merged model is made from."""
    adapter = file_hash(trained_adapter(run) / "adapter_model.safetensors")
    return {"training": train_inputs(run), "adapter": adapter, "onto": onto}


def _certified(run: Run, base: Path, adapter: Path, stage: Stage, onto: str, compare: int) -> Certificate:
    """The certificate of what was just written; a merge that fails is set apart."""
    rows, change = Rows([], []), round_trip(run.profile)
    if compare:
        rows = answered(run, base, adapter, compare)
        models = 3 + (change is not None and onto == "original")
        say_minutes(rows, size(base) // _bytes_each(base), models, run.profile.device)
    certificate = certify(
        base,
        adapter,
        stage.folder,
        rows,
        round_trip=change,
        onto=onto,
        device=run.profile.device,
        expected=_hashes(run, adapter),
    )
    (stage.folder / "certificate.json").write_text(json.dumps(certificate, indent=2) + "\n")
    if certificate["problems"]:
        apart = run.scratch / REFUSED
        shutil.rmtree(apart, ignore_errors=True)
        stage.folder.rename(apart)
        raise KitError(f"{table(certificate)}\nthe merge is refused and lies in {shown(apart)}: delete it, merge again")
    return certificate


def _hashes(run: Run, adapter: Path) -> dict[str, str]:
    """What the training's manifest says of the adapter's and the base's files."""
    manifest = read_manifest(adapter.parent)
    known = dict(manifest["inputs"]["data"]["base"]["files"])
    known["adapter_model.safetensors"] = manifest["files"]["adapter/adapter_model.safetensors"]["sha256"]
    return known


def check_room(folder: Path, needed: int) -> None:
    """Raise KitError when the disk cannot take `needed` bytes, with the little that lies beside weights."""
    free = shutil.disk_usage(folder).free
    if folder.is_relative_to(KAGGLE_WORKING):
        used = sum(file.stat().st_size for file in KAGGLE_WORKING.rglob("*") if file.is_file())
        free = min(free, KAGGLE_KEEPS - used)
    if free < needed * 1.05:
        raise KitError(
            f"the model needs {needed / 2**30:.1f} GiB and {shown(folder)} has {free / 2**30:.1f} GiB free: "
            "free some space, or choose another place with lk.Run(root=...), on Kaggle /kaggle/temp"
        )


def size(folder: Path) -> int:
    """Bytes of the weights in a model folder."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _bytes_each(base: Path) -> int:
    """Bytes of one stored weight."""
    _, place = next(iter(Weights(base).found.values()))
    return 4 if place.dtype == "F32" else 2
