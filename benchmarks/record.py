"""How every benchmark writes its result: benchmarks/results/<name>.json."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from lora_kit.files import LIBRARIES, version

ROOT = Path(__file__).parents[1]
RUNS = ROOT / "build" / "bench-runs"  # kept: make bench-verdict asks the adapters of make bench-demo
RESULTS = ROOT / "benchmarks" / "results"


def head() -> str:
    """The commit that is measured: ask before the work, because HEAD may move while it runs."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:  # a bare machine without git
        return ""


def made_on(device: str) -> dict[str, str]:
    """The machine and the commit of a training, as those of several machines stand side by side."""
    if device == "cpu":
        return {"machine": f"{os.cpu_count()} CPU cores", "commit": head()}
    import torch

    return {"machine": torch.cuda.get_device_name(), "commit": head()}


def profile_on(base: str, device: str) -> tuple[str, dict[str, str]]:
    """The profile of "tiny" or "smollm2" on a "cpu" or a card ("cuda"), and on a card a T4's number type."""
    if device == "cuda":
        return "smollm2-t4", {"quantization__compute_dtype": "float16"}
    return f"{base}-cpu", {}


def store(name: str, commit: str, peers: tuple[str, ...] = (), **parts: Any) -> None:
    """Write one result with date, machine, versions and commit; `ratios` are such that bigger is better for us."""
    record = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "versions": {library: version(library) for library in (*LIBRARIES, *peers)},
        "commit": commit,
        **parts,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(record, indent=2) + "\n")
    print(f"written: {path}")


class Peak:
    """The most resident memory of this process above its start, sampled every 10 ms; file pages are left out."""

    def __enter__(self) -> Peak:
        self.start, self.most, self.done = self.anonymous(), 0, threading.Event()
        self.watch = threading.Thread(target=self.sample, daemon=True)
        self.watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.watch.join()
        self.mib, self.whole_mib = (self.most - self.start) / 1024, self.most / 1024

    def sample(self) -> None:
        while not self.done.wait(0.01):
            self.most = max(self.most, self.anonymous())

    @staticmethod
    def anonymous() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssShmem")))
