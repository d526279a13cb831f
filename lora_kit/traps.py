"""The doctor: every known trap as a check with what was seen and the line that mends it.

    print(lk.doctor())        seconds, nothing is downloaded, nothing is changed but hidden second GPUs

Looking at the machine is `machine`'s part; here it is judged.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Thread
from typing import Any

from . import machine
from .base import access_problem, has_token, is_here, is_offline
from .disk import absolute
from .environment import LIBRARIES, choose_profile, compute_dtype, default_root, python_version, scratch_root
from .manifests import shown, version
from .profiles import Profile, profile

NEEDS = {"tiny-cpu": (0.5, 1.0, 0.0), "tinyllama-t4": (4.0, 4.0, 4.0)}  # GiB of free disk, free RAM, GPU memory
NEEDS_7B = (15.0, 6.0, 9.0)  # the merged model takes 12.6 GiB of disk and is written piece by piece
RESTART = "then restart the kernel"
PATIENCE = 6.0  # seconds that the Hub may take to answer


@dataclass(frozen=True)
class Check:
    """One finding of the doctor: what was looked at, what was seen, and the way out when it is not in order."""

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
        width = max((len(check.name) for check in self), default=0)
        lines = []
        for check in self:
            lines.append(f"{'ok' if check.ok else 'FAIL':<5} {check.name:<{width}}  {check.evidence}")
            if not check.ok:
                lines.append(f"{'':{width + 8}}-> {check.fix}")
        failed = len(self.failed)
        return "\n".join([*lines, f"{failed} of {len(self)} to mend" if failed else f"all {len(self)} in order"])

    def as_data(self) -> list[dict[str, Any]]:
        """The findings for a program: name, ok, evidence, fix."""
        return [asdict(check) for check in self]


def doctor(profile_name: str | None = None) -> Checkup:
    """Look at everything that a run needs: seconds, no download; extra GPUs are hidden as a run would hide them.

    Args:
        profile_name: the profile to check for; by default the one that `lk.Run()` would take.

    Raises:
        KitError: there is no such profile.
    """
    chosen = profile(choose_profile(profile_name)[0])
    count = machine.set_visible_gpus(chosen)
    libraries = [_library(name, wanted) for name, wanted in LIBRARIES.items()]
    hardware = [_gpu(chosen, count), _vram(chosen), _build(chosen), _bf16(chosen), _several_gpus(chosen, count)]
    place = [_avx512(), _ram(chosen), _disk(chosen), _write_access()]
    return Checkup([_python(), *libraries, _torchao(), *hardware, *place, *_base(chosen), _ipywidgets()])


def _python() -> Check:
    found = python_version()
    ok = tuple(int(part) for part in found.split(".")[:2]) >= (3, 11)
    return Check("python", ok, f"{found}, wanted >=3.11", "install Python 3.11 or newer")


def _library(name: str, wanted: str) -> Check:
    found = version(name)
    fix = f'pip install -U "{name}{wanted}", {RESTART}'
    return Check(name, found != "missing" and _within(found, wanted), f"{found}, wanted {wanted}", fix)


def _within(found: str, wanted: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(wanted).contains(found, prereleases=True)


def _torchao() -> Check:
    """PEFT alone refuses an old torchao, and Colab and Kaggle ship one; the kit passes over it."""
    found = version("torchao")
    if found == "missing":
        return Check("torchao", True, "not installed, not needed")
    old = not _within(found, ">=0.16")
    told = ", passed over here; for PEFT alone: pip uninstall -y torchao" if old else ""
    return Check("torchao", True, f"{found}{told}")


def _gpu(chosen: Profile, count: int) -> Check:
    if chosen.device != "cuda":
        return Check("gpu", True, f"not needed: {chosen.name} runs on the CPU")
    problem = machine.gpu_problem(chosen, count)
    return Check("gpu", problem is None, str(machine.gpu() or "none"), problem or "")


def _vram(chosen: Profile) -> Check:
    need = _needs(chosen)[2]
    if not need:
        return Check("gpu memory", True, "not needed")
    found = machine.gpu()
    gib = found.gib if found else 0.0
    fix = "use the profile tinyllama-t4, or a card with more memory" if found else machine.WAY_OUT
    return Check("gpu memory", gib >= need, f"{gib:.1f} GiB, wanted {need:g}", fix)


def _build(chosen: Profile) -> Check:
    """bitsandbytes has one file for each CUDA version, and picks the one of torch's."""
    if chosen.device != "cuda":
        ok = "cpu" in machine.bitsandbytes_builds()
        seen = "its CPU part is used" if ok else "its CPU part is missing"
        return Check("bitsandbytes build", ok, seen, f"pip install --force-reinstall --no-deps bitsandbytes, {RESTART}")
    wanted, there = machine.torch_cuda(), machine.bitsandbytes_builds() - {"cpu"}
    seen = f"torch has CUDA {wanted or 'none'}, bitsandbytes has {', '.join(sorted(there)) or 'none'}"
    other_torch = f"install a torch with CUDA, {RESTART}" if machine.gpu_count() else machine.WAY_OUT
    fix = f"pip install -U bitsandbytes, {RESTART}" if wanted else other_torch
    return Check("bitsandbytes build", wanted in there, seen, fix)


def _bf16(chosen: Profile) -> Check:
    dtype, why = compute_dtype(chosen)
    return Check("bf16", True, f"{dtype} is used: {why}")


def _several_gpus(chosen: Profile, count: int) -> Check:
    visible = machine.gpu_count() if machine.HID not in os.environ else 1
    ok = visible < 2 or chosen.device == "cpu" or chosen.processes > 1
    fix = f"restart the kernel and call lk.Run() first, or set {machine.VISIBLE}=0 before Python starts"
    return Check("several gpus", ok, f"{count} here, {visible} visible, {chosen.processes} used at most", fix)


def _avx512() -> Check:
    seen = "present: its kernel spoils 4-bit weights; cured when a model is loaded"
    return Check("avx512-bf16", True, seen if "avx512_bf16" in machine.cpu_flags() else "absent")


def _needs(chosen: Profile) -> tuple[float, float, float]:
    return NEEDS.get(chosen.name, NEEDS_7B)


def _ram(chosen: Profile) -> Check:
    (free, total), need = machine.memory(), _needs(chosen)[1]
    fix = "close other programs and notebooks, or use a smaller profile"
    return Check("ram", free >= need, f"{free:.1f} of {total:.1f} GiB free, wanted {need:g}", fix)


def _disk(chosen: Profile) -> Check:
    root, need = scratch_root(default_root()), _needs(chosen)[0]  # the merged model is most of it
    free = shutil.disk_usage(_existing(root)).free / 2**30
    fix = "free some space, or set LORA_KIT_RUNS to a folder on a larger disk"
    return Check("disk", free >= need, f"{free:.1f} GiB free at {shown(root)}, wanted {need:g}", fix)


def _write_access() -> Check:
    root = default_root()
    try:
        with tempfile.TemporaryFile(dir=_existing(root)):
            return Check("write access", True, shown(root))
    except OSError as error:
        return Check("write access", False, f"{shown(root)}: {error.strerror}", "set LORA_KIT_RUNS to another folder")


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    folder = absolute(folder)
    return next(place for place in (folder, *folder.parents) if os.path.exists(place))  # Path raises on long names


def _base(chosen: Profile) -> list[Check]:
    """Whether the base can be had: it is here, or the Hub gives it; a token's value is never shown."""
    if is_here(chosen.base):
        return [Check("base", True, f"{chosen.base.title} is here")]
    found = [_token(chosen)] if chosen.base.gated else []
    otherwise = f", or use the profile {chosen.base.fallback}" if chosen.base.fallback else ""
    if is_offline():
        fix = f"unset HF_HUB_OFFLINE, or put the model's folder into base__source{otherwise}"
        return [*found, Check("base", False, f"{chosen.base.title} is not here, and HF_HUB_OFFLINE is set", fix)]
    problem = _asked_in_time(chosen)
    seen = f"{chosen.base.title} can be downloaded" if problem is None else f"{chosen.base.title} cannot be had"
    return [*found, Check("base", problem is None, seen, f"{problem}{otherwise}" if problem else "")]


def _asked_in_time(chosen: Profile) -> str | None:
    """What the Hub says of access, or that it says nothing; a daemon asks, for which the process does not wait."""
    said: list[str | None] = []
    asking = Thread(target=lambda: said.append(access_problem(chosen.base)), daemon=True)
    asking.start()
    asking.join(PATIENCE)
    if not said:
        return f"the Hub does not answer within {PATIENCE:g} s: check the network, or give a local folder"
    return said[0]


def _token(chosen: Profile) -> Check:
    there = has_token()
    fix = f"accept the licence at huggingface.co/{chosen.base.source} and set the secret HF_TOKEN"
    return Check("token", there, f"{'found' if there else 'none'}; {chosen.base.title} is gated", fix)


def _ipywidgets() -> Check:
    there = importlib.util.find_spec("ipywidgets") is not None
    return Check("ipywidgets", there, "installed" if there else "missing", "pip install ipywidgets (for boxes)")
