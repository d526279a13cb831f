"""WHERE it runs: platform, run folders, GPUs, number type. What may be wrong with a machine is in checkup.py.

GPUs are counted without starting CUDA (`device_count` asks the driver), because afterwards none can be hidden.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from .config import Profile
from .errors import KitError
from .files import version
from .presets import profile

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
VISIBLE = "CUDA_VISIBLE_DEVICES"
HIDDEN = "LORA_KIT_HIDDEN_GPUS"  # set beside VISIBLE when the kit set it: how many GPUs there are
LOWEST = (7, 5)  # the T4; torch is no longer built for what came before (P100: 6.0)
_print_once = functools.cache(print)  # each text, however often a run is made
WAY_OUT = "choose a T4 in Runtime > Change runtime type (Kaggle: Settings > Accelerator), or the profile tiny-cpu"


@dataclass(frozen=True)
class Gpu:
    """The GPU that is used."""

    name: str
    capability: tuple[int, int]
    gib: float

    @property
    def level(self) -> str:
        return "compute capability {}.{}".format(*self.capability)

    def __str__(self) -> str:
        return f"{self.name}, {self.gib:.1f} GiB, {self.level}"


def platform() -> str:
    """Return "kaggle", "colab" or "local"; Kaggle comes first, because its image is built on Colab's."""
    if "KAGGLE_KERNEL_RUN_TYPE" in os.environ:
        return "kaggle"
    return "colab" if "google.colab" in sys.modules else "local"


def choose_profile(name: str | None) -> tuple[str, str]:
    """The profile's name and why it was taken: asked for, LORA_KIT_PROFILE, or what the machine can do."""
    if name:
        return name, "asked for"
    if wanted := os.environ.get("LORA_KIT_PROFILE"):
        return wanted, "LORA_KIT_PROFILE"
    return ("llama2-7b-t4", "a GPU is here") if gpu_count() else ("tiny-cpu", "no GPU is here")


def default_root() -> Path:
    """Where run folders live: LORA_KIT_RUNS, else Kaggle's kept folder, else `runs/` of the checkout or of here."""
    if wanted := os.environ.get("LORA_KIT_RUNS"):
        return Path(wanted)
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


def has_token() -> bool:
    """Whether a token of the Hub is set: variable, login, a secret of Kaggle or Colab. Its value stays where it is."""
    take_secret()
    from huggingface_hub import get_token

    try:
        return bool(get_token())
    except Exception:  # Colab's secrets do not answer outside its page, with errors of their own
        return False


def without_token(text: str) -> str:
    """A text of the Hub or of a server between without the token, which it may repeat."""
    from huggingface_hub import get_token

    with contextlib.suppress(Exception):  # as above
        text = text.replace(get_token() or "\0", "***")
    return text


def take_secret() -> None:
    """Give Kaggle's secret HF_TOKEN to the Hub's library (Colab's it reads itself): no prompt, nothing shown."""
    if os.environ.get("HF_TOKEN") or "KAGGLE_KERNEL_RUN_TYPE" not in os.environ:
        return
    try:
        from kaggle_secrets import UserSecretsClient

        os.environ["HF_TOKEN"] = UserSecretsClient().get_secret("HF_TOKEN")
    except Exception:  # none attached, as after a push, or no internet: the run goes on without
        return


def gpu_count() -> int:
    """Visible GPUs; 0 without torch."""
    try:
        import torch
    except ImportError:
        return 0
    return torch.cuda.device_count()


def gpu() -> Gpu | None:
    """The first visible GPU that torch can use. Starts CUDA: call `set_visible_gpus` before."""
    if not gpu_count():
        return None
    import torch

    if not torch.cuda.is_available():  # the driver is too old for this torch
        return None
    found = torch.cuda.get_device_properties(0)
    return Gpu(found.name, torch.cuda.get_device_capability(0), found.total_memory / 2**30)


def set_visible_gpus(profile: Profile) -> int:
    """Hide all but the first GPU from what runs in one process, and return how many GPUs there are.

    A visible second card is not idle: libraries split a model or a batch over it without being asked.
    """
    several = profile.processes > 1 or int(os.environ.get("WORLD_SIZE", "1")) > 1  # as accelerate says
    if hidden := os.environ.get(HIDDEN):  # by an earlier run
        if several:  # its processes start CUDA themselves, so they see what is shown again
            del os.environ[HIDDEN], os.environ[VISIBLE]
        return int(hidden)
    count = gpu_count()
    if count < 2 or several or VISIBLE in os.environ:
        return count
    import torch

    if torch.cuda.is_initialized():
        _print_once(f"{count} GPUs are visible and CUDA runs already: restart the kernel to hide all but the first")
    else:
        os.environ.update({VISIBLE: "0", HIDDEN: str(count)})
        _print_once(f"{count} GPUs are here and {profile.name} uses the first ({VISIBLE}=0)")
    return count


def gpu_problem(profile: Profile, count: int) -> str | None:
    """Why the profile cannot run on the GPUs of this machine, with the way out; None when it can."""
    if profile.device != "cuda":
        return None
    found = gpu()
    if found is None:
        return f"profile {profile.name!r} needs a CUDA GPU and there is none: {WAY_OUT}"
    if found.capability < LOWEST:
        return f"torch is no longer built for {found.name} with {found.level}, below 7.5 (T4): {WAY_OUT}"
    if count < profile.processes:
        return f"profile {profile.name!r} needs {profile.processes} GPUs and {count} is here: use llama2-7b-t4"
    return None


def prepare_process(profile: Profile) -> str:
    """Show CUDA the GPUs that the profile uses, and say what it runs on ("Tesla T4, float16"), or why it cannot run."""
    # on CPUs with AVX512-BF16 it recommends a package that downloads code, which nothing here needs
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    if problem := gpu_problem(profile, set_visible_gpus(profile)):
        raise KitError(problem)
    found = gpu() if profile.device == "cuda" else None
    return f"{found.name if found else 'CPU'}, {compute_dtype(profile)[0]}"


def compute_dtype(profile: Profile) -> tuple[str, str]:
    """The number type of the arithmetic and why; `torch.cuda.is_bf16_supported()` also says yes on a T4."""
    if profile.quantization.compute_dtype != "auto":
        return profile.quantization.compute_dtype, "set in quantization__compute_dtype"
    found = gpu() if profile.device == "cuda" else None
    if found is None:
        return "float32", "a CPU has no fast half precision"
    if found.capability >= (8, 0):
        return "bfloat16", f"{found.level} has bfloat16 in hardware"
    return "float16", f"{found.level} only emulates bfloat16"


def memory() -> tuple[float, float]:
    """GiB of RAM, free and in total."""
    import psutil

    found = psutil.virtual_memory()
    return found.available / 2**30, found.total / 2**30


def memory_gib() -> float:
    """Memory in use, in GiB: the most that tensors took on the card, or of the process on a CPU."""
    import psutil
    import torch

    used = torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else psutil.Process().memory_info().rss
    return float(used) / 2**30


def environment_report() -> str:
    """Platform, Python, CPU, memory, GPU, number type and versions, in a few lines."""
    name, reason = choose_profile(None)
    chosen = profile(name)
    count = set_visible_gpus(chosen)
    (free, total), dtype = memory(), compute_dtype(chosen)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    lines = {
        "platform": f"{platform()}, Python {sys.version.split()[0]}",
        "cpu": f"{cores} cores, {free:.1f} of {total:.1f} GiB RAM free",
        "gpu": f"{gpu() or 'none'}" + (f" (the first of {count})" if count > 1 else ""),
        "profile": f"{name} ({reason})",
        "dtype": f"{dtype[0]}: {dtype[1]}",
        "versions": ", ".join(f"{library} {version(library)}" for library in LIBRARIES),
    }
    return "\n".join(f"{key:<9} {text}" for key, text in lines.items())
