"""What the machine says of itself, and which GPUs this process may see. Every fact is one small function.

GPUs are counted without starting CUDA (`device_count` asks the driver's tool), because afterwards none can be hidden.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from .profiles import Profile

VISIBLE = "CUDA_VISIBLE_DEVICES"
HID = "LORA_KIT_HID_GPUS"  # set beside VISIBLE when it was us: how many GPUs there are in truth
LOWEST = (7, 5)  # the T4; torch is no longer built for what came before (P100: 6.0)
WAY_OUT = (
    "choose Runtime > Change runtime type > T4 GPU in Colab (Settings > Accelerator in Kaggle), "
    "or use the profile tiny-cpu"
)


@dataclass(frozen=True)
class Gpu:
    """The GPU that is used."""

    name: str
    capability: tuple[int, int]
    gib: float

    @property
    def level(self) -> str:
        """The compute capability as people write it."""
        return "compute capability {}.{}".format(*self.capability)

    def __str__(self) -> str:
        return f"{self.name}, {self.gib:.1f} GiB, {self.level}"


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

    if not torch.cuda.is_available():  # a card whose driver is too old for this torch
        return None
    found = torch.cuda.get_device_properties(0)
    return Gpu(found.name, torch.cuda.get_device_capability(0), found.total_memory / 2**30)


def cuda_started() -> bool:
    """Whether CUDA runs already in this process: what is visible now stays visible."""
    torch = sys.modules.get("torch")
    return bool(torch and torch.cuda.is_initialized())


def memory() -> tuple[float, float]:
    """GiB of RAM, free and in all; 0 and 0 when nobody can say."""
    try:
        import psutil
    except ImportError:
        return 0.0, 0.0
    seen = psutil.virtual_memory()
    return seen.available / 2**30, seen.total / 2**30


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_flags() -> set[str]:
    """What the CPU can do, in Linux's words; empty elsewhere."""
    info = Path("/proc/cpuinfo")
    return set(info.read_text().split()) if info.is_file() else set()


def set_visible_gpus(profile: Profile) -> int:
    """Hide all but the first GPU from a profile with one process, and return how many GPUs there are.

    A visible second card is not idle: libraries split a model or a batch over it without being asked.
    """
    if os.environ.get(HID, "").isdigit():  # hidden by an earlier run
        count = int(os.environ[HID])
        if profile.processes > 1:  # its processes start CUDA themselves, so they see what is shown again
            os.environ.pop(HID)
            os.environ.pop(VISIBLE, None)
        return count
    count = gpu_count()
    if count < 2 or profile.processes > 1 or VISIBLE in os.environ:
        return count
    if cuda_started():
        _say_once(f"{count} GPUs are visible and CUDA runs already: restart the kernel to hide all but the first")
    else:
        os.environ.update({VISIBLE: "0", HID: str(count)})
        _say_once(f"{count} GPUs are here and {profile.name} uses the first ({VISIBLE}=0)")
    return count


def gpu_problem(profile: Profile, count: int) -> str | None:
    """Why the profile cannot run on the GPUs of this machine, with the way out; None when it can."""
    if profile.device != "cuda":
        return None
    found = gpu()
    if found is None:
        return f"profile {profile.name!r} needs a CUDA GPU and there is none: {WAY_OUT}"
    if found.capability < LOWEST:
        return (
            f"profile {profile.name!r} needs compute capability 7.5 (T4) or above and {found.name} has {found.level}, "
            f"for which torch is no longer built: {WAY_OUT}"
        )
    if count < profile.processes:
        return f"profile {profile.name!r} needs {profile.processes} GPUs and {count} is here: use llama2-7b-t4"
    return None


@functools.cache
def _say_once(text: str) -> None:
    print(text)


def memory_gib() -> float:
    """Memory in use, in GiB: the most that tensors took on the card, or what the process holds on a CPU."""
    import psutil
    import torch

    used = torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else psutil.Process().memory_info().rss
    return float(used) / 2**30


def hush_bitsandbytes() -> None:
    """On a CPU it reports an optional kernel package as missing; the built-in code is what we want."""
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def torch_cuda() -> str:
    """The CUDA version that torch was built with, as in "128"; empty for a CPU build."""
    import torch

    return (torch.version.cuda or "").replace(".", "")


def bitsandbytes_builds() -> set[str]:
    """What the installed bitsandbytes has a file for: "cpu", and CUDA versions; it is not imported for that."""
    found = importlib.util.find_spec("bitsandbytes")
    folders = list(found.submodule_search_locations or []) if found else []
    files = [path.stem for folder in folders for path in Path(folder).glob("libbitsandbytes_c*")]
    return {name.removeprefix("libbitsandbytes_").removeprefix("cuda").partition("_")[0] for name in files}
