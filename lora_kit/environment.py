"""WHERE it runs: platform, profile, run folders, number type; `print(environment_report())` tells in a few lines.

Looking at the machine itself is `machine`'s part; what may be wrong with it is in `traps`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from . import machine
from .errors import KitError
from .manifests import version
from .profiles import Profile, profile

KAGGLE_RUNS, KAGGLE_SCRATCH = Path("/kaggle/working/runs"), Path("/kaggle/temp/runs")
DRIVE, DRIVE_SCRATCH = Path("/content/drive"), Path("/content/runs")
LIBRARIES = {  # the ranges that the tests run on
    "torch": ">=2.4",
    "transformers": ">=5.0,<6",
    "peft": ">=0.19",
    "datasets": ">=4.0",
    "accelerate": ">=1.13",
    "bitsandbytes": ">=0.46.1",
}


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
        return KAGGLE_RUNS
    parent = Path(__file__).resolve().parent.parent
    in_checkout = (parent / "setup.py").is_file() and (parent / "notebooks").is_dir()
    return parent / "runs" if in_checkout else Path("runs")


def scratch_root(root: Path) -> Path:
    """Where merged weights go, which can be made again: not into Kaggle's kept 20 GB, nor onto a Drive."""
    if root == KAGGLE_RUNS:
        return KAGGLE_SCRATCH
    return DRIVE_SCRATCH if root.is_relative_to(DRIVE) else root


def keep_on_drive(folder: str = "lora_kit") -> None:
    """Keep run folders on Google Drive from here on, so that they outlive the Colab machine; asks for consent.

    Args:
        folder: its name in your Drive.

    Raises:
        KitError: no name of a folder, this is not Colab, or Drive was not granted.
    """
    if not folder or ".." in Path(folder).parts or Path(folder).is_absolute():
        raise KitError(f"folder={folder!r} must be the name of a folder in your Drive")
    if platform() != "colab":
        raise KitError("Drive is Colab's: elsewhere set LORA_KIT_RUNS to a folder that stays")
    try:
        from google.colab import drive

        drive.mount(str(DRIVE))
    except Exception as error:  # refused, timed out: Colab has its own names for it
        raise KitError(f"Drive was not granted ({type(error).__name__}): runs stay on this machine") from error
    os.environ["LORA_KIT_RUNS"] = str(DRIVE / "MyDrive" / folder)
    print(f"runs are kept in Drive's folder {folder}")


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


def environment_report() -> str:
    """Platform, Python, CPU, memory, GPU, number type and versions, in a few lines."""
    name, reason = choose_profile(None)
    chosen = profile(name)
    count = machine.set_visible_gpus(chosen)
    (free, total), dtype = machine.memory(), compute_dtype(chosen)
    lines = {
        "platform": f"{platform()}, Python {python_version()}",
        "cpu": f"{machine.cores()} cores, {free:.1f} of {total:.1f} GiB RAM free",
        "gpu": f"{machine.gpu() or 'none'}" + (f" (the first of {count})" if count > 1 else ""),
        "profile": f"{name} ({reason})",
        "dtype": f"{dtype[0]}: {dtype[1]}",
        "versions": ", ".join(f"{library} {version(library)}" for library in LIBRARIES),
    }
    return "\n".join(f"{key:<9} {text}" for key, text in lines.items())


def python_version() -> str:
    """As in "3.11.7"."""
    return sys.version.split()[0]
