"""What an adapter costs when answering, and that a merged model costs nothing: python benchmarks/latency.py

The embedded model in float32, so that all have one type: base, base + adapter, merged; and apart the NF4 base, and it
with the adapter. Greedy answers of a fixed length, one prompt at a time, the kinds in turn. Tokens a second with a
bootstrap 95 % interval of the mean over the rounds. Writes results/latency.json.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from record import head, store

import lora_kit as lk
from lora_kit.base import locate
from lora_kit.evaluation.metrics import ends, resampled

TOKENS, PROMPTS = 64, 4


def speed(model: Any, prompts: list[list[int]]) -> float:
    """Tokens a second of greedy answers, each exactly TOKENS long."""
    import torch

    start = time.perf_counter()
    for prompt in prompts:
        with torch.inference_mode():
            model.generate(
                torch.tensor([prompt]), min_new_tokens=TOKENS, max_new_tokens=TOKENS, do_sample=False, pad_token_id=0
            )
    return TOKENS * len(prompts) / (time.perf_counter() - start)


def models(run: lk.Run) -> dict[str, tuple[Any, str | None]]:
    """Every kind with the adapter that is active."""
    from lora_kit.presets import profile
    from lora_kit.quantization import load_model

    plain, base = profile("tiny-cpu", quantization__kind="none"), locate(run.profile.base)
    adapter, folder = lk.trained_adapter(run), lk.merge(run)
    full = lk.load_adapter(load_model(plain, base), adapter)
    small = lk.load_adapter(load_model(run.profile, base), adapter)
    return {
        "base": (load_model(plain, base), None),
        "base + adapter": (full, "default"),
        "merged": (load_model(plain, folder), None),
        "NF4 base": (load_model(run.profile, base), None),
        "NF4 base + adapter": (small, "default"),
    }


def summary(values: list[float]) -> dict[str, Any]:
    """The mean over the rounds, and the bootstrap interval of it."""
    import numpy as np

    means = resampled(np.array(values)[:, None], np.ones(len(values)))[:, 0]
    return {"mean": sum(values) / len(values), "interval": ends(means)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    commit, run = head(), lk.Run("tiny-cpu")
    lk.make(run, until="merged")
    tokenizer = lk.load_tokenizer(run.profile.base)
    asked = ("Where is the canteen?", "When does the library open?", "Who keeps the keys?", "What is kept in store 4?")
    from lora_kit.data.encoding import encode_prompt

    prompts = [encode_prompt([{"role": "user", "content": text}], tokenizer) for text in asked[:PROMPTS]]
    kinds = list(models(run).items())
    found: dict[str, list[float]] = {name: [] for name, _ in kinds}
    for number in range(options.rounds + 1):
        for name, (model, _) in kinds[number % len(kinds) :] + kinds[: number % len(kinds)]:
            rate = speed(model, prompts)
            if number:  # the first round warms up
                found[name].append(rate)
    figures = {name: summary(values) for name, values in found.items()}
    of_pairs = {
        "merged against base": [m / b for m, b in zip(found["merged"], found["base"], strict=True)],
        "adapter against base": [a / b for a, b in zip(found["base + adapter"], found["base"], strict=True)],
        "adapter against base, NF4": [
            a / b for a, b in zip(found["NF4 base + adapter"], found["NF4 base"], strict=True)
        ],
    }
    ratios = {name: summary(values) for name, values in of_pairs.items()}
    for name, row in (figures | ratios).items():
        print(f"{name:<26} {row['mean']:9.3f}  [{row['interval'][0]:.3f}, {row['interval'][1]:.3f}]")
    store("latency", commit, rounds=options.rounds, figures=figures, ratios=ratios)


if __name__ == "__main__":
    main()
