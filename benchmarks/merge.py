"""Merging at Llama-2-7B size against PEFT and a plain copy: python benchmarks/merge.py   (make bench-merge)

A model of random weights (13.5 GB in float16, four shards) and a q/v adapter; every measurement in its own process, in
turn, each ending when its files are on the disk (fsync):

    lora_kit   merge_folder, tensor by tensor
    peft       from_pretrained, PeftModel, merge_and_unload, save_pretrained
    copy       the folder's bytes

Then once: the certificate, every tensor against PEFT's own. Peak: the most anonymous and shared memory of the whole
process, imports included. Needs 28 GB of disk in build/. Writes results/merge.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from record import Peak, head, store

ROOT = Path(__file__).parents[1]
BASE, ADAPTER, OUT = (ROOT / "build" / name for name in ("llama2-7b-random", "llama2-7b-adapter", "llama2-7b-merged"))
KITS = ("lora_kit", "peft", "copy")
ONCE = ("tensors",)


def make_adapter() -> None:
    """A q/v adapter that PEFT writes, on a model without weights."""
    import torch
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(BASE))
        config = LoraConfig(r=16, lora_alpha=32, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        model = get_peft_model(model, config)
    torch.manual_seed(0)
    named = {
        n.replace(".default", ""): torch.randn(p.shape) * 0.02 for n, p in model.named_parameters() if "lora_" in n
    }
    ADAPTER.mkdir(parents=True, exist_ok=True)
    save_file(named, ADAPTER / "adapter_model.safetensors", metadata={"format": "pt"})
    config.inference_mode = True
    config.save_pretrained(str(ADAPTER))


def lora_kit() -> None:
    from lora_kit.merging.merge import merge_folder

    merge_folder(BASE, ADAPTER, OUT)


def peft() -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float16, low_cpu_mem_usage=True)
    PeftModel.from_pretrained(model, ADAPTER).merge_and_unload().save_pretrained(OUT)


def copy() -> None:
    shutil.copytree(BASE, OUT, dirs_exist_ok=True)


def tensors() -> None:
    """The certificate, which reads both models once."""
    from lora_kit.merging.certificate import certify

    if problems := certify(BASE, ADAPTER, OUT)["problems"]:
        raise SystemExit(problems[0])


def measure(kit: str) -> dict[str, float]:
    """One measurement in this process."""
    start = time.perf_counter()
    with Peak() as peak:
        globals()[kit]()
        for file in OUT.glob("*.safetensors"):
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
    return {"seconds": time.perf_counter() - start, "peak_mib": peak.whole_mib}


def in_a_process(kit: str) -> dict[str, float]:
    if kit in KITS:
        shutil.rmtree(OUT, ignore_errors=True)
        OUT.mkdir(parents=True)
        os.sync()
    told = [sys.executable, __file__, "--kit", kit]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "LORA_KIT_PROGRESS": "off"}
    done = subprocess.run(told, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{kit} failed:\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(f"{kit:<10} {found['seconds']:7.1f} s {found['peak_mib']:8,.0f} MiB", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kit", choices=(*KITS, *ONCE), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.kit:
        print(json.dumps(measure(options.kit)))
        return
    commit = head()
    subprocess.run([sys.executable, ROOT / "tools" / "random_llama.py", BASE], check=True)
    make_adapter()
    found: dict[str, list[dict[str, float]]] = {kit: [] for kit in KITS}
    for number in range(options.rounds):
        for kit in KITS[number % 3 :] + KITS[: number % 3]:
            found[kit].append(in_a_process(kit))
    in_a_process("lora_kit")
    once = {kit: in_a_process(kit) for kit in ONCE}
    shutil.rmtree(OUT)
    figures = {
        kit: {
            name: {
                "median": statistics.median(one[name] for one in runs),
                "least": min(one[name] for one in runs),
                "most": max(one[name] for one in runs),
            }
            for name in runs[0]
        }
        for kit, runs in found.items()
    }
    seconds = {kit: figures[kit]["seconds"]["median"] for kit in KITS}
    ratios = {f"against {kit}": seconds[kit] / seconds["lora_kit"] for kit in KITS[1:]}
    ratios["memory against peft"] = figures["peft"]["peak_mib"]["median"] / figures["lora_kit"]["peak_mib"]["median"]
    for name, ratio in ratios.items():
        print(f"{ratio:6.2f}  {name}")
    store("merge", commit, rounds=options.rounds, figures=figures, once=once, ratios=ratios)


if __name__ == "__main__":
    main()
