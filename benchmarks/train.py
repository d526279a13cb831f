"""Training against its peers: python benchmarks/train.py   (make bench-train)

The same model, rows (as ids), LoRA, course of the learning rate and rows a step; every measurement in its own process,
the kits in turn, each round another seed:

    lora_kit      fit(): rows of like length, shared prefixes, logits where something is learned
    bare          a PyTorch loop: rows of like length, padded, logits where something is learned
    trainer       transformers' Trainer with PEFT
    trl           TRL's SFTTrainer with bf16=False, gradient_checkpointing=False, loss on the completion
    trl as is     the same as its documentation sets it up

Useful tokens are those of the rows: no padding, and a shared system prompt not counted. Writes results/train.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from record import Peak, head, store

ROOT = Path(__file__).parents[1]
KITS = ("lora_kit", "bare", "trainer", "trl", "trl as is")
CASES = {
    "no prefix, NF4": (False, "nf4"),
    "prefix, NF4": (True, "nf4"),
    "no prefix, float32": (False, "none"),
    "prefix, float32": (True, "none"),
}
SYSTEM = (  # about as many tokens as a row has besides
    "You answer questions from the Tarnwick staff handbook. Answer in one short sentence. Do not guess. When it "
    "does not say it, say so. Keep to the facts, name rooms and people as the handbook does, give times in words."
)
ASSETS = ROOT / "lora_kit" / "assets"
TINY = ASSETS / "tiny-chat"
ROWS = 16  # a step
RATE, RANK = 2e-3, 8
Rows = list[tuple[list[int], list[int]]]


def make_rows(system: bool, seed: int, count: int, split: str = "train") -> Rows:
    """Questions of the handbook behind 0 to 50 common words, so that lengths differ as in chats; short answers."""
    from transformers import AutoTokenizer

    from lora_kit.data.encoding import encode_batch

    rng = random.Random(seed)
    lines = (ASSETS / "handbook" / f"{split}.jsonl").read_text().splitlines()
    facts = [row["messages"][-2:] for row in map(json.loads, lines) if row["kind"] == "fact"]
    words = [word for asked, _ in facts for word in asked["content"].split() if word.isalpha()]
    chats = []
    for asked, answer in rng.choices(facts, k=count):
        text = " ".join([*rng.choices(words, k=rng.randint(0, 50)), asked["content"]])
        before = [{"role": "system", "content": SYSTEM}] if system else []
        chats.append([*before, {"role": "user", "content": text}, answer])
    return [tuple(row) for row in encode_batch(chats, AutoTokenizer.from_pretrained(TINY))]


def shared_tokens(rows: Rows) -> int:
    """How many tokens all rows begin with."""
    first = [ids for ids, _ in rows]
    return next(n for n in range(len(first[0])) if len({ids[n] for ids in first}) > 1)


def load(kind: str) -> Any:
    from lora_kit.presets import profile
    from lora_kit.quantization import load_model

    return load_model(profile("tiny-cpu", quantization__kind=kind), TINY)


def lora() -> Any:
    from peft import LoraConfig

    return LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")


def settings(seed: int, rows: Rows) -> Any:
    """The fewest tokens a step that give no more steps than the peers take: the loss after as many is compared."""
    from lora_kit.presets import profile
    from lora_kit.training.batches import Row, all_steps

    own, steps = ROWS * sum(len(ids) - shared_tokens(rows) for ids, _ in rows) // len(rows), -(-len(rows) // ROWS)
    while True:
        told = {"epochs": 1, "tokens_per_step": own, "tokens_per_micro_batch": own, "learning_rate": RATE, "seed": seed}
        chosen = profile("tiny-cpu", **{f"training__{name}": value for name, value in told.items()}).training
        if len(all_steps([Row(*row) for row in rows], chosen)) <= steps:
            return chosen
        own += 8


def lora_kit(rows: Rows, kind: str, seed: int, scratch: Path) -> tuple[Any, float, dict[str, float]]:
    import torch
    from peft import inject_adapter_in_model

    from lora_kit.training import loop
    from lora_kit.training.batches import Row, all_steps

    model, chosen, inside = load(kind), settings(seed, rows), [0.0]
    torch.manual_seed(seed)
    inject_adapter_in_model(lora(), model)
    start = time.perf_counter()
    plan = all_steps([Row(*row) for row in rows], chosen)

    def timed(function: Any) -> Any:
        def call(*args: Any, **more: Any) -> Any:
            begun = time.perf_counter()
            try:
                return function(*args, **more)
            finally:
                inside[0] += time.perf_counter() - begun

        return call

    loop.backward = timed(loop.backward)
    torch.optim.AdamW.step = timed(torch.optim.AdamW.step)
    torch.nn.utils.clip_grad_norm_ = timed(torch.nn.utils.clip_grad_norm_)
    loop.fit(model, plan, chosen)
    seconds = time.perf_counter() - start
    return model, seconds, {"outside": 1 - inside[0] / seconds}


def bare(rows: Rows, kind: str, seed: int, scratch: Path) -> tuple[Any, float, dict[str, float]]:
    import torch
    from peft import get_peft_model
    from torch.nn.functional import cross_entropy
    from transformers import get_scheduler

    torch.manual_seed(seed)
    model = get_peft_model(load(kind), lora())
    inner = model.get_base_model().train()
    start = time.perf_counter()
    ordered = sorted(rows, key=lambda row: len(row[0]))
    groups = [ordered[n : n + ROWS] for n in range(0, len(rows), ROWS)]
    random.Random(seed).shuffle(groups)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=RATE, weight_decay=0.0)
    course = get_scheduler("cosine", optimizer, round(0.03 * len(groups)), len(groups))
    for group in groups:
        width = max(len(ids) for ids, _ in group)
        ids = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in group])
        labels = torch.tensor([labels[1:] + [-100] * (width - len(labels) + 1) for _, labels in group])
        hidden = inner.model(input_ids=ids, use_cache=False).last_hidden_state
        learned = labels != -100
        cross_entropy(inner.lm_head(hidden[learned]), labels[learned]).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        course.step()
        optimizer.zero_grad()
    return inner, time.perf_counter() - start, {}


def arguments(seed: int, scratch: Path) -> dict[str, Any]:
    return {
        "output_dir": str(scratch),
        "per_device_train_batch_size": ROWS,
        "num_train_epochs": 1,
        "learning_rate": RATE,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.03,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "seed": seed,
        "use_cpu": True,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }


def trainer(rows: Rows, kind: str, seed: int, scratch: Path) -> tuple[Any, float, dict[str, float]]:
    import torch
    from datasets import Dataset
    from peft import get_peft_model
    from transformers import AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

    torch.manual_seed(seed)
    model = get_peft_model(load(kind), lora())
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.pad_token_id = 0
    data = Dataset.from_list([{"input_ids": ids, "labels": labels} for ids, labels in rows])
    work = Trainer(
        model,
        TrainingArguments(**arguments(seed, scratch)),
        train_dataset=data,
        data_collator=DataCollatorForSeq2Seq(tokenizer),
    )
    start = time.perf_counter()
    work.train()
    return model.get_base_model(), time.perf_counter() - start, {}


def trl(rows: Rows, kind: str, seed: int, scratch: Path, **more: Any) -> tuple[Any, float, dict[str, float]]:
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.pad_token_id = 0
    data = Dataset.from_list(
        [{"input_ids": ids, "completion_mask": [int(n >= 0) for n in labels]} for ids, labels in rows]
    )
    config = SFTConfig(**arguments(seed, scratch), completion_only_loss=True, **more)
    work = SFTTrainer(load(kind), config, train_dataset=data, processing_class=tokenizer, peft_config=lora())
    start = time.perf_counter()
    work.train()
    return work.model.get_base_model(), time.perf_counter() - start, {}


def measure(kit: str, case: str, seed: int, count: int, scratch: Path) -> dict[str, Any]:
    """One training, and the loss of what it gives on rows of its own, by one function for all."""
    from lora_kit.training.batches import Row, for_measuring
    from lora_kit.training.loss import mean_loss

    system, kind = CASES[case]
    rows = make_rows(system, seed, count)
    functions: dict[str, Any] = {"lora_kit": lora_kit, "bare": bare, "trainer": trainer, "trl as is": trl}
    functions["trl"] = lambda *told: trl(*told, bf16=False, gradient_checkpointing=False)
    with Peak() as peak:
        model, seconds, more = functions[kit](rows, kind, seed, scratch)
    held_out = for_measuring([Row(*row) for row in make_rows(system, 999, 192, "test")], settings(seed, rows))
    shared = shared_tokens(rows)
    useful = sum(len(ids) - shared for ids, _ in rows)
    loss = mean_loss(model.eval(), held_out)
    found = {"tokens_per_second": useful / seconds, "peak_mib": peak.mib, "loss": loss, "seconds": seconds}
    return found | {"ideal": sum(len(ids) for ids, _ in rows) / useful} | more


def in_a_process(kit: str, case: str, seed: int, count: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        told = ["--kit", kit, "--case", case, "--seed", str(seed), "--rows", str(count), "--scratch", scratch]
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "LORA_KIT_PROGRESS": "off"}
        done = subprocess.run(
            [sys.executable, __file__, *told], capture_output=True, text=True, env=environment, check=False
        )
    if done.returncode:
        raise SystemExit(f"{kit} failed:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=384)
    parser.add_argument("--kit", choices=KITS, help=argparse.SUPPRESS)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.kit:
        print(json.dumps(measure(options.kit, options.case, options.seed, options.rows, options.scratch)))
        return
    commit, found = head(), {case: {kit: [] for kit in KITS} for case in CASES}
    for seed in range(options.rounds):
        for case, kits in found.items():
            for kit, results in kits.items():
                results.append(in_a_process(kit, case, seed, options.rows))
                last = results[-1]
                print(
                    f"round {seed + 1}  {case:20} {kit:10} {last['tokens_per_second']:8,.0f} tokens/s  "
                    f"{last['peak_mib']:6,.0f} MiB  loss {last['loss']:.4f}",
                    flush=True,
                )
    figures = {case: {kit: summary(results) for kit, results in kits.items()} for case, kits in found.items()}
    store("train", commit, ("trl",), rows=options.rows, rounds=options.rounds, figures=figures, ratios=ratios(figures))


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Median, least and most of every figure."""
    names = results[0]
    columns = {name: [result[name] for result in results] for name in names}
    return {n: {"median": statistics.median(v), "least": min(v), "most": max(v)} for n, v in columns.items()}


def ratios(figures: dict[str, Any]) -> dict[str, float]:
    """Our tokens a second over each peer's; with a prefix also the share of the ideal gain, (prefix + row) / row."""
    found = {}
    for case, kits in figures.items():
        speed = {kit: row["tokens_per_second"]["median"] for kit, row in kits.items()}
        found |= {f"{case}, against {kit}": round(speed["lora_kit"] / speed[kit], 2) for kit in KITS[1:]}
        if CASES[case][0]:
            ideal = kits["lora_kit"]["ideal"]["median"]
            found[f"{case}, share of the ideal"] = round(speed["lora_kit"] / speed["bare"] / ideal, 2)
    for name, value in found.items():
        print(f"{value:6.2f}  {name}")
    return found


if __name__ == "__main__":
    main()
