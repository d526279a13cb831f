"""The doctor: every known trap as a check, with what was found and the line that fixes it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from . import machine
from .base import access_problem, local_folder
from .config import Base, Profile
from .files import absolute, shown, version
from .machine import LIBRARIES, choose_profile, default_root, has_token, scratch_root
from .presets import profile

if TYPE_CHECKING:
    from .runs import Run

NEEDS = {  # GiB of free disk, free RAM, GPU memory
    "tiny-cpu": (0.5, 1.0, 0.0),
    "smollm2-cpu": (1.0, 2.0, 0.0),  # a training on two cores held 1.6
    "smollm2-t4": (1.0, 2.0, 2.0),
    "tinyllama-t4": (4.0, 4.0, 4.0),
    "llama3.2-3b-t4": (8.0, 5.0, 5.0),  # this and the next from their sizes
    "qwen3-4b-t4": (10.0, 5.0, 6.0),
}
NEEDS_7B = (15.0, 6.0, 9.0)  # the merged model takes 12.6 GiB of disk and is written piece by piece
RESTART = "then restart the kernel"
PATIENCE = 6.0  # seconds that the Hub may take to answer


@dataclass(frozen=True)
class Check:
    """One finding: what was looked at, what was found, and the way out when it is not in order."""

    name: str
    ok: bool
    evidence: str
    fix: str = ""


class Checkup(list[Check]):
    """All findings; printed, a table with each way out below its line."""

    @property
    def failed(self) -> list[Check]:
        return [check for check in self if not check.ok]

    def __str__(self) -> str:
        width = max(len(check.name) for check in self)
        lines = []
        for check in self:
            lines.append(f"{'ok' if check.ok else 'FAIL':<5} {check.name:<{width}}  {check.evidence}")
            if not check.ok:
                lines.append(f"{'':{width + 8}}-> {check.fix}")
        failed = len(self.failed)
        return "\n".join([*lines, f"{failed} of {len(self)} to fix" if failed else f"all {len(self)} in order"])


def doctor(run: Run | str | None = None) -> Checkup:
    """Look at everything that a run needs: seconds, no download; extra GPUs are hidden as a run would hide them.

    Args:
        run: the run, or the name of a profile, to check for; by default the profile that `lk.Run()` would take.
    """
    chosen = profile(choose_profile(run)[0]) if isinstance(run, str | None) else run.profile
    found, has_widgets = sys.version.split()[0], importlib.util.find_spec("ipywidgets") is not None
    checks = [
        Check("python", sys.version_info >= (3, 11), f"{found}, wanted >=3.11", "install Python 3.11 or newer"),
        *(_library(name, wanted) for name, wanted in LIBRARIES.items()),
        *_gpu(chosen, machine.set_visible_gpus(chosen)),
        _build(chosen),
        *_room(chosen),
        *_base(chosen.base),
        Check("ipywidgets", has_widgets, "installed" if has_widgets else "missing", "pip install ipywidgets"),
    ]
    return Checkup(checks)


def _library(name: str, wanted: str) -> Check:
    from packaging.specifiers import SpecifierSet

    found = version(name)
    ok = found != "missing" and SpecifierSet(wanted).contains(found, prereleases=True)
    return Check(name, ok, f"{found}, wanted {wanted}", f'pip install -U "{name}{wanted}", {RESTART}')


def _gpu(chosen: Profile, count: int) -> list[Check]:
    """The card, its memory, and cards that should be hidden."""
    if chosen.device != "cuda":
        unused = shutil.which("nvidia-smi") and torch_cuda() == ""  # as PyPI's torch for Windows
        hint = "; there is a GPU, but this torch has no CUDA: pytorch.org tells the command" if unused else ""
        return [Check("gpu", True, f"not needed: {chosen.name} runs on the CPU{hint}")]
    found, problem = machine.gpu(), machine.gpu_problem(chosen, count)
    need, gib = NEEDS.get(chosen.name, NEEDS_7B)[2], found.gib if found else 0.0
    smaller = "use the profile tinyllama-t4, or a card with more memory" if found else machine.WAY_OUT
    visible = machine.gpu_count() if machine.HIDDEN not in os.environ else 1
    seen = f"{count} here, {visible} visible, {chosen.processes} used at most"
    restart = f"restart the kernel and call lk.Run() first, or set {machine.VISIBLE}=0 before Python starts"
    return [
        Check("gpu", problem is None, f"{found or 'none'}, {machine.compute_dtype(chosen)[0]} is used", problem or ""),
        Check("gpu memory", gib >= need, f"{gib:.1f} GiB, wanted {need:g}", smaller),
        Check("several gpus", visible < 2 or chosen.processes > 1, seen, restart),
    ]


def bitsandbytes_builds() -> set[str]:
    """What the installed bitsandbytes has a file for, "cpu" and CUDA versions as in "128"; it is not imported."""
    found = importlib.util.find_spec("bitsandbytes")
    folders = found.submodule_search_locations if found else None
    files = [path.stem for folder in folders or () for path in Path(folder).glob("libbitsandbytes_c*")]
    return {name.removeprefix("libbitsandbytes_").removeprefix("cuda").partition("_")[0] for name in files}


def torch_cuda() -> str | None:
    """The CUDA version that torch was built with, as in "128"; empty for a CPU build, None without torch."""
    try:
        import torch
    except ImportError:
        return None
    return (torch.version.cuda or "").replace(".", "")


def _build(chosen: Profile) -> Check:
    """bitsandbytes has one file for each CUDA version, and picks the one of torch's."""
    builds, wanted = bitsandbytes_builds(), torch_cuda() if chosen.device == "cuda" else "cpu"
    evidence = f"wanted {wanted or 'CUDA, and torch has none'}, there are {', '.join(sorted(builds)) or 'none'}"
    fix = "pip install -U --force-reinstall --no-deps bitsandbytes" if wanted else "install a torch with CUDA"
    return Check("bitsandbytes build", wanted in builds, evidence, f"{fix}, {RESTART}")


def _room(chosen: Profile) -> list[Check]:
    """Free memory, a disk that takes the merged model, which is most of a run, and a root that can be written."""
    need_disk, need_ram, _ = NEEDS.get(chosen.name, NEEDS_7B)
    (free, total), root = machine.memory(), default_root()
    place, scratch = _existing(root), scratch_root(root)
    free_disk = shutil.disk_usage(_existing(scratch)).free / 2**30
    room = f"{free_disk:.1f} GiB free at {shown(scratch)}, wanted {need_disk:g}"
    larger = "free some space, or set LORA_KIT_RUNS to a folder on a larger disk"
    fewer = "close other programs and notebooks, or use a smaller profile"
    is_writable = place.is_dir() and os.access(place, os.W_OK)
    return [
        Check("ram", free >= need_ram, f"{free:.1f} of {total:.1f} GiB free, wanted {need_ram:g}", fewer),
        Check("disk", free_disk >= need_disk, room, larger),
        Check("write access", is_writable, shown(root), "set LORA_KIT_RUNS to another folder"),
    ]


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    folder = absolute(folder)
    return next(place for place in (folder, *folder.parents) if os.path.exists(place))  # Path raises on long names


def _base(base: Base) -> list[Check]:
    """Whether the base can be had: it is here, or the Hub gives it; a token's value is never shown."""
    if local_folder(base):
        return [Check("base", True, f"{base.title} is here")]
    found = []
    if base.gated:
        there, fix = has_token(), f"accept the licence at huggingface.co/{base.source} and set the secret HF_TOKEN"
        found = [Check("token", there, f"{'found' if there else 'none'}; {base.title} is gated", fix)]
    if (problem := _problem_in_time(base)) is None:
        return [*found, Check("base", True, f"{base.title} can be downloaded")]
    otherwise = f", or use the profile {base.fallback}" if base.fallback else ""
    return [*found, Check("base", False, f"{base.title} cannot be had", f"{problem}{otherwise}")]


def _problem_in_time(base: Base) -> str | None:
    """What is wrong with access, or that the Hub is silent: a daemon thread asks, as its library knows no timeout."""
    answers: list[str | None] = []
    asking = Thread(target=lambda: answers.append(access_problem(base)), daemon=True)
    asking.start()
    asking.join(PATIENCE)
    silent = f"the Hub does not answer within {PATIENCE:g} s: check the network, or give a local folder"
    return answers[0] if answers else silent
