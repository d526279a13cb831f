"""WHERE it runs: platform, GPU, number type, libraries and known traps.

    print(environment_report())        a few lines on the machine
    print(report(doctor()))            what is in order, and how to mend what is not

Looking at the machine itself is `machine`'s part; here it is judged.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from . import machine
from .errors import KitError
from .manifests import shown, version
from .profiles import Profile, profile

LIBRARIES = {  # the ranges that the tests run on
    "torch": ">=2.4",
    "transformers": ">=5.0,<6",
    "peft": ">=0.19",
    "datasets": ">=4.0",
    "accelerate": ">=1.13",
    "bitsandbytes": ">=0.46.1",
}
NEEDS = {"tiny-cpu": (0.5, 1.0), "tinyllama-t4": (4.0, 4.0)}  # GiB of free disk and of free RAM
NEEDS_7B = (15.0, 6.0)  # the merged model takes 12.6 GiB of disk and is written piece by piece
RESTART = "then restart the kernel"


@dataclass(frozen=True)
class Check:
    """One finding of the doctor: what was looked at, what was seen, and the way out when it is not in order."""

    name: str
    ok: bool
    evidence: str
    fix: str


def platform() -> str:
    """Return "kaggle", "colab" or "local"; Kaggle is asked first, because its image is built on Colab's."""
    if "KAGGLE_KERNEL_RUN_TYPE" in os.environ:
        return "kaggle"
    ipython = sys.modules.get("IPython")  # never loaded by us: a script has no shell to ask
    shell = str(ipython.get_ipython()) if ipython else ""
    return "colab" if "google.colab" in sys.modules or "google.colab" in shell else "local"


def choose_profile(name: str | None) -> tuple[str, str]:
    """The profile's name and why it was taken: asked for, LORA_KIT_PROFILE, or what the machine can do."""
    if name:
        return name, "asked for"
    if wished := os.environ.get("LORA_KIT_PROFILE"):
        return wished, "LORA_KIT_PROFILE"
    return ("llama2-7b-t4", "a GPU is here") if machine.gpu_count() else ("tiny-cpu", "no GPU is here")


def default_root() -> Path:
    """Where run folders live: LORA_KIT_RUNS, else Kaggle's kept folder, else `runs/` of the checkout or of here."""
    if wished := os.environ.get("LORA_KIT_RUNS"):
        return Path(wished)
    if platform() == "kaggle":
        return Path("/kaggle/working/runs")
    parent = Path(__file__).resolve().parent.parent
    in_checkout = (parent / "setup.py").is_file() and (parent / "notebooks").is_dir()
    return parent / "runs" if in_checkout else Path("runs")


def prepare_process(profile: Profile) -> str:
    """Show CUDA the GPUs that the profile uses, and say in a phrase what it runs on ("Tesla T4, float16").

    Raises:
        KitError: the profile needs a GPU, and there is none, too old a one, or too few.
    """
    machine.hush_bitsandbytes()
    count = machine.set_visible_gpus(profile)
    if problem := machine.gpu_problem(profile, count):
        raise KitError(problem)
    gpu = machine.gpu() if profile.device == "cuda" else None
    return f"{gpu.name if gpu else 'CPU'}, {compute_dtype(profile)[0]}"


def compute_dtype(profile: Profile) -> tuple[str, str]:
    """The number type of the arithmetic and the reason for it.

    `torch.cuda.is_bf16_supported()` is not asked: it says yes on a T4, which only emulates bfloat16, slowly.
    """
    if profile.quantization.compute_dtype != "auto":
        return profile.quantization.compute_dtype, "set in quantization__compute_dtype"
    gpu = machine.gpu() if profile.device == "cuda" else None
    if gpu is None:
        return "float32", "a CPU has no fast half precision"
    if gpu.capability >= (8, 0):
        return "bfloat16", f"{gpu.level} has bfloat16 in hardware"
    return "float16", f"{gpu.level} only emulates bfloat16"


def doctor(profile_name: str | None = None) -> list[Check]:
    """Look at everything that a run needs: seconds, no download; extra GPUs are hidden as a run would hide them.

    Args:
        profile_name: the profile to check for; by default the one that `lk.Run()` would take.

    Raises:
        KitError: there is no such profile.
    """
    chosen = profile(choose_profile(profile_name)[0])
    count = machine.set_visible_gpus(chosen)
    libraries = [_library(name, wanted) for name, wanted in LIBRARIES.items()]
    hardware = [_gpu(chosen, count), _bf16(chosen), _several_gpus(chosen, count), _avx512(), _ram(chosen)]
    place = [_disk(chosen), _write_access()]
    return [_python(), *libraries, _torchao(), *hardware, *place, *_token(chosen), _ipywidgets()]


def report(checks: list[Check]) -> str:
    """The findings as a plain table, each way out below its line, the count at the end."""
    width = max((len(check.name) for check in checks), default=0)
    lines = []
    for check in checks:
        lines.append(f"{'ok' if check.ok else 'FAIL':<5} {check.name:<{width}}  {check.evidence}")
        if not check.ok:
            lines.append(f"{'':{width + 8}}-> {check.fix}")
    failed = sum(not check.ok for check in checks)
    return "\n".join([*lines, f"{failed} of {len(checks)} to mend" if failed else f"all {len(checks)} in order"])


def environment_report() -> str:
    """Platform, Python, CPU, memory, GPU, number type and versions, in a few lines."""
    name, reason = choose_profile(None)
    chosen = profile(name)
    count = machine.set_visible_gpus(chosen)
    (free, total), dtype = machine.memory(), compute_dtype(chosen)
    lines = {
        "platform": f"{platform()}, Python {_python_version()}",
        "cpu": f"{machine.cores()} cores, {free:.1f} of {total:.1f} GiB RAM free",
        "gpu": f"{machine.gpu() or 'none'}" + (f" (the first of {count})" if count > 1 else ""),
        "profile": f"{name} ({reason})",
        "dtype": f"{dtype[0]}: {dtype[1]}",
        "versions": ", ".join(f"{library} {version(library)}" for library in LIBRARIES),
    }
    return "\n".join(f"{key:<9} {text}" for key, text in lines.items())


def _python_version() -> str:
    return sys.version.split()[0]


def _python() -> Check:
    ok = tuple(int(part) for part in _python_version().split(".")[:2]) >= (3, 11)
    return Check("python", ok, f"{_python_version()}, wanted >=3.11", "install Python 3.11 or newer")


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
        return Check("torchao", True, "not installed, not needed", "")
    old = not _within(found, ">=0.16")
    told = ", passed over here; for PEFT alone: pip uninstall -y torchao" if old else ""
    return Check("torchao", True, f"{found}{told}", "")


def _gpu(chosen: Profile, count: int) -> Check:
    if chosen.device != "cuda":
        return Check("gpu", True, f"not needed: {chosen.name} runs on the CPU", "")
    problem = machine.gpu_problem(chosen, count)
    return Check("gpu", problem is None, str(machine.gpu() or "none"), problem or "")


def _bf16(chosen: Profile) -> Check:
    dtype, why = compute_dtype(chosen)
    return Check("bf16", True, f"{dtype} is used: {why}", "")


def _several_gpus(chosen: Profile, count: int) -> Check:
    visible = machine.gpu_count() if machine.HID not in os.environ else 1
    ok = visible < 2 or chosen.device == "cpu" or chosen.processes > 1
    fix = f"restart the kernel and call lk.Run() first, or set {machine.VISIBLE}=0 before Python starts"
    return Check("several gpus", ok, f"{count} here, {visible} visible, {chosen.processes} used at most", fix)


def _avx512() -> Check:
    seen = "present: its kernel spoils 4-bit weights; cured when a model is loaded"
    return Check("avx512-bf16", True, seen if "avx512_bf16" in machine.cpu_flags() else "absent", "")


def _ram(chosen: Profile) -> Check:
    (free, total), need = machine.memory(), NEEDS.get(chosen.name, NEEDS_7B)[1]
    fix = "close other programs and notebooks, or use a smaller profile"
    return Check("ram", free >= need, f"{free:.1f} of {total:.1f} GiB free, wanted {need:g}", fix)


def _disk(chosen: Profile) -> Check:
    root, need = default_root(), NEEDS.get(chosen.name, NEEDS_7B)[0]
    free = shutil.disk_usage(_existing(root)).free / 2**30
    fix = "free some space, or set LORA_KIT_RUNS to a folder on a larger disk"
    return Check("disk", free >= need, f"{free:.1f} GiB free at {shown(root)}, wanted {need:g}", fix)


def _write_access() -> Check:
    root = default_root()
    try:
        with tempfile.TemporaryFile(dir=_existing(root)):
            return Check("write access", True, shown(root), "")
    except OSError as error:
        return Check("write access", False, f"{shown(root)}: {error.strerror}", "set LORA_KIT_RUNS to another folder")


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    folder = folder.expanduser().resolve()
    return next(place for place in (folder, *folder.parents) if place.exists())


def _token(chosen: Profile) -> list[Check]:
    """Whether there is a token for a gated base; its value is never shown."""
    if not chosen.base.gated:
        return []
    from huggingface_hub import get_token

    there = bool(os.environ.get("HF_TOKEN") or get_token())
    fix = f"accept the licence at huggingface.co/{chosen.base.source} and set HF_TOKEN"
    fix += f", or use the profile {chosen.base.fallback}" if chosen.base.fallback else ""
    return [Check("token", there, f"{'found' if there else 'none'}; {chosen.base.title} is gated", fix)]


def _ipywidgets() -> Check:
    there = importlib.util.find_spec("ipywidgets") is not None
    return Check("ipywidgets", there, "installed" if there else "missing", "pip install ipywidgets (for live panels)")
