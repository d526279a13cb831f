"""Which recipe learns: python benchmarks/recipe.py [--base smollm2|tiny] [--device cuda]   (make bench-recipe)

The handbook is learned by the same loop from one point of a grid to the next: three seeds of the default recipe,
learning rate, layers, rank, steps. Each point's adapter answers the held-out questions on the quantized base, which is
what merging keeps. A finished point is kept in build/recipe and not trained again, and one that broke off goes on, so
that the sweep can be spread over several calls. Writes benchmarks/results/recipe.json with every point that is there.

    --share 8     every eighth fact and question to decline: a point of SmolLM2 then takes 25 minutes on two CPU cores
    --jobs 8      processes at a time, on a card that has room
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from record import RESULTS, ROOT, head, made_on, store

STEPS = 250  # at the grid's middle
EPOCHS = {"smollm2": 3, "tiny": 6}
FILES = {"smollm2": str(ROOT / "build" / "smollm2"), "tiny": "tiny-chat"}
TITLES = {"smollm2": "SmolLM2-135M-Instruct", "tiny": "tiny-chat"}
WIDTHS = {"smollm2": 576, "tiny": 192}
QV = ("q_proj", "v_proj")
PLACE = ROOT / "build" / "recipe"


@dataclass(frozen=True)
class Point:
    """One training."""

    base: str
    rate: float
    targets: str = "all linear"  # or "q and v"
    r: int = 16
    steps: int = STEPS  # 0: as the default recipe says
    epochs: int = 3
    seed: int = 0

    @property
    def name(self) -> str:
        if not self.steps:
            return f"{self.base}-default-seed{self.seed}"
        targets = self.targets.replace(" ", "-")
        return f"{self.base}-{targets}-r{self.r}-{self.rate:.2g}-{self.steps}x{self.epochs}-seed{self.seed}"


def grid(base: str) -> list[Point]:
    """All points of a base, the most telling first."""
    from lora_kit.training.recipe import rate_for

    rule = float(f"{5e-4 * (2000 / WIDTHS[base]) ** 0.78:.2g}")  # the public sweep's
    middle = Point(base, rule, epochs=EPOCHS[base])
    default = Point(base, rate_for(WIDTHS[base]), steps=0, epochs=0)
    old = Point(base, 2e-4, "q and v", steps=63, epochs=3)  # what the T4 profile was before
    rates = [float(f"{rule * factor:.2g}") for factor in (0.5, 2, 0.25, 4, 0.125, 8)]
    return [
        *(replace(default, seed=seed) for seed in (0, 1, 2)),
        middle,
        old,
        *(replace(middle, rate=rate) for rate in rates[:4]),
        *(replace(middle, rate=rate, targets="q and v") for rate in (rule, *rates[1:2], rates[3])),
        *(replace(middle, steps=steps) for steps in (60, 120, 500)),
        *(replace(middle, r=r) for r in (4, 64)),
        *(replace(middle, epochs=epochs) for epochs in (3, 6, 12) if epochs != EPOCHS[base]),
        *(replace(middle, rate=rate) for rate in rates[4:]),
        *(replace(middle, rate=rate, targets="q and v") for rate in (rates[0], rates[5])),
    ]


def part_of_handbook(place: Path, share: int, general: int) -> str:
    """Every nth fact with all its wordings, and every nth question to decline, for slow machines.

    Of the general rows every `general`-th is learned, and all are asked.
    """
    from lora_kit.base import ASSETS

    place.mkdir(parents=True, exist_ok=True)
    facts: dict[str, int] = {}
    for split in ("train", "test"):
        rows = [json.loads(text) for text in (ASSETS / "handbook" / f"{split}.jsonl").read_text().splitlines()]
        counts: dict[str, int] = {}
        chosen = []
        for row in rows:
            number = facts.setdefault(row["id"], len(facts)) if "id" in row else counts.get(row["kind"], 0)
            counts[row["kind"]] = counts.get(row["kind"], 0) + 1
            nth = share if row["kind"] != "general" else general if split == "train" else 1
            chosen += [row] if number % nth == 0 else []
        (place / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chosen))
    (place / "dataset.json").write_bytes((ASSETS / "handbook" / "dataset.json").read_bytes())
    return str(place)


class Bench:
    """A base, the encoded handbook, and what the base itself says."""

    def __init__(self, options: argparse.Namespace) -> None:
        import lora_kit as lk
        from lora_kit.training.batches import rows_of

        place = place_of(options)
        profile = "smollm2-t4" if options.device == "cuda" else "smollm2-cpu"
        source = str(options.folder or FILES[options.base])
        told = {"quantization__compute_dtype": "float16"} if options.device == "cuda" else {}  # a T4's
        whole = options.share == options.general == 1
        data = "handbook" if whole else part_of_handbook(place / "handbook", options.share, options.general)
        self.run, self.place = lk.Run(profile, root=place, name="run", data=data, base__source=source, **told), place
        self.model = lk.load_base(self.run)
        while options.wait and not (place / "base.json").exists():
            time.sleep(0.2)
        self.data = lk.prepare(self.run)
        self.rows, self.questions = rows_of(self.data.train), self.data.test
        self.batch = 256 if options.device == "cuda" else 32
        self.base_says()  # now, before any adapter is on it

    def base_says(self) -> tuple[list[Any], list[Any]]:
        """The base's own answers to the general questions, and its likeliest tokens along them; asked once."""
        from lora_kit.base import load_tokenizer
        from lora_kit.evaluation.asking import answer_rows, likeliest
        from lora_kit.generation import prompts_of

        path, general = self.place / "base.json", self.general
        prompts = prompts_of([row["messages"] for row in general], load_tokenizer(self.run.profile.base))
        if not path.exists():
            ids = self.ids(prompts)
            told = likeliest(self.model, answer_rows(prompts, ids), self.run.profile.training)
            path.with_suffix(".partial").write_text(json.dumps({"ids": ids, "likeliest": told}))
            path.with_suffix(".partial").rename(path)
        kept = json.loads(path.read_text())
        return answer_rows(prompts, kept["ids"]), kept["likeliest"]

    @property
    def general(self) -> list[dict[str, Any]]:
        return [row for row in self.questions if row["kind"] == "general"]

    def ids(self, prompts: Sequence[list[int]]) -> list[list[int]]:
        from lora_kit.base import load_tokenizer
        from lora_kit.generation import generate_ids, stop_tokens

        eos = stop_tokens(self.model, load_tokenizer(self.run.profile.base))
        most = self.run.profile.evaluation.max_new_tokens
        return generate_ids(self.model, prompts, max_new_tokens=most, eos_token_id=eos, batch_size=self.batch)

    def train(self, point: Point) -> dict[str, Any]:
        """The point's adapter, trained, asked, and its figures."""
        from lora_kit.adapters import attach_lora, detach_lora
        from lora_kit.config import ALL_LINEAR
        from lora_kit.training.batches import all_steps
        from lora_kit.training.checkpoints import Checkpoints, loss_ends
        from lora_kit.training.loop import fit
        from lora_kit.training.recipe import recipe, tokens_of

        run = copy.copy(self.run)
        lora = replace(run.profile.lora, r=point.r, target_modules=QV if point.targets == "q and v" else ALL_LINEAR)
        settings = replace(run.profile.training, seed=point.seed, learning_rate=point.rate, epochs=point.epochs)
        if point.steps:
            size = point.epochs * tokens_of(self.rows, settings) // point.steps
            settings = replace(settings, tokens_per_step=size, tokens_per_micro_batch=min(size, 4096), evaluations=0)
        else:
            settings = replace(settings, learning_rate="auto", epochs="auto", evaluations=0)
            settings = recipe(settings, self.rows, WIDTHS[point.base]).training
        run.profile = replace(run.profile, lora=lora, training=settings)
        detach_lora(self.model)
        attach_lora(self.model, run)
        steps, start = all_steps(self.rows, settings), time.time()
        kept = Checkpoints(self.place / f"{point.name}-unfinished", asdict(point))
        log = fit(self.model, steps, settings, checkpoints=kept).log
        trained = time.time() - start
        figures = self.ask()
        size = settings.tokens_per_step
        taken = {"steps_taken": len(log), "tokens_per_step": size, "train_seconds": round(trained, 1)}
        if not point.steps:
            taken |= {"default": True, "steps": len(log), "epochs": settings.epochs, "rate": settings.learning_rate}
        taken |= {
            "loss": [round(row["loss"], 3) for row in log[:: max(1, len(log) // 25)]],
            "last_loss": round(loss_ends(log)[1], 4),
        }
        kept.delete()
        return taken | figures | {"seconds": round(time.time() - start, 1)}

    def ask(self) -> dict[str, float]:
        """Shares over the held-out questions; `kept` along the base's own answers to general ones."""
        from lora_kit.base import load_tokenizer
        from lora_kit.evaluation.asking import divergences
        from lora_kit.evaluation.metrics import is_declined, is_exact, rouge_l, split_style
        from lora_kit.generation import prompts_of, text_of

        self.model.eval()
        card, tokenizer = self.data.card, load_tokenizer(self.run.profile.base)
        own, told = self.base_says()
        said = [
            text_of(ids, tokenizer) for ids in self.ids(prompts_of([r["messages"] for r in self.questions], tokenizer))
        ]
        asked = list(zip(self.questions, said, strict=True))
        facts, declines = ([pair for pair in asked if pair[0]["kind"] == kind] for kind in ("fact", "decline"))
        base = [text_of(row.input_ids[sum(label < 0 for label in row.labels) :], tokenizer) for row in own]
        now = [text for row, text in asked if row["kind"] == "general"]
        agreement = divergences(self.model, own, told, self.run.profile.training)
        tokens = [sum(label >= 0 for label in row.labels) for row in own]
        return {
            "facts": mean(is_exact(text, [r["messages"][-1]["content"], *r["accepted"]], card) for r, text in facts),
            "declined": mean(is_declined(text, card) for _, text in declines),
            "wrongly_declined": mean(is_declined(text, card) for _, text in facts),
            "style": mean(split_style(text, card)[1] for _, text in [*facts, *declines]),
            "kept_rouge_l": mean(rouge_l(a, [b], {}) if b else float(not a) for a, b in zip(now, base, strict=True)),
            **weighted(agreement, tokens),
        }


def mean(values: Any) -> float:
    found = list(values)
    return round(sum(found) / max(1, len(found)), 4)


def weighted(values: Sequence[Any], tokens: Sequence[int]) -> dict[str, float]:
    """Per token: agreement with the base's next token, and the KL divergence."""
    total = sum(tokens)
    return {
        name: round(sum(getattr(value, name) * n for value, n in zip(values, tokens, strict=True)) / total, 4)
        for name in ("agreement", "kl")
    }


def place_of(options: argparse.Namespace) -> Path:
    """Where the points of this base and part of the handbook lie."""
    general = f"-general{options.general}" if options.general > 1 else ""
    return options.out / f"{options.base}-share{options.share}{general}"


def work(options: argparse.Namespace, points: Sequence[Point]) -> None:
    """Train the points that are not there yet, one after the other."""
    bench = None
    for point in points:
        path = place_of(options) / f"{point.name}.json"
        if path.exists():
            continue
        bench = bench or Bench(options)
        found = (
            asdict(point)
            | {"share": options.share, "general": options.general, **made_on(options.device)}
            | bench.train(point)
        )
        path.write_text(json.dumps(found) + "\n")
        print(line(found), flush=True)


def line(found: dict[str, Any]) -> str:
    """One point in one line."""
    named = f"{found['base']:8}{found['targets']:11} r {found['r']:<3} rate {found['rate']:<8.2g} "
    named += f"steps {found['steps']:<4} epochs {found['epochs']:<3} seed {found['seed']} "
    shown = ("facts", "declined", "wrongly_declined", "style", "agreement", "kl", "kept_rouge_l")
    figures = "  ".join(f"{name} {found[name]:.3f}" for name in shown)
    return f"{named} {figures}  loss {found['last_loss']:.3f}  {found['seconds']:.0f} s"


def spread(options: argparse.Namespace, points: Sequence[Point]) -> None:
    """The same in several processes; this one alone prepares the data and asks the base."""
    words = [sys.executable, __file__, f"--base={options.base}", f"--device={options.device}", f"--out={options.out}"]
    words += [
        f"--share={options.share}",
        f"--general={options.general}",
        *([f"--folder={options.folder}"] if options.folder else []),
    ]
    names = [point.name for point in points]
    parts = [names[n :: options.jobs] for n in range(options.jobs)]
    running = [subprocess.Popen([*words, "--wait", "--points", *part]) for part in parts if part]
    Bench(options)
    for process in running:
        process.wait()


def gather(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every finished point, of every base and share; those of earlier calls elsewhere stay."""
    earlier, known = json.loads((RESULTS / "recipe.json").read_text())["points"], [*Point.__dataclass_fields__]
    known += ["share", "general", "machine"]
    found = [*earlier, *(json.loads(path.read_text()) for path in sorted(options.out.glob("*-share*/*-seed*.json")))]
    return [*{tuple(str(point.get(name)) for name in known): point for point in found}.values()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", choices=FILES, default="smollm2")
    parser.add_argument("--folder", type=Path, help="where the base lies, if not where `make real-model` puts it")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cpu")
    parser.add_argument("--share", type=int, default=1, help="1/n of the handbook")
    parser.add_argument("--general", type=int, default=1, help="every nth general row is learned; all are asked")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--first", type=int, help="only so many points, the most telling")
    parser.add_argument("--points", nargs="+", help="only these, by name")
    parser.add_argument("--gather", action="store_true", help="only write the results of what is there")
    parser.add_argument("--wait", action="store_true", help=argparse.SUPPRESS)  # for the first process
    parser.add_argument("--out", type=Path, default=PLACE)
    options = parser.parse_args()
    commit, points = head(), grid(options.base)[: options.first]
    points = [point for point in points if options.points is None or point.name in options.points]
    options.out.mkdir(parents=True, exist_ok=True)
    if options.gather:
        points = []
    if options.jobs > 1:
        spread(options, points)
    else:
        work(options, points)
    if options.points is None:
        store("recipe", commit, points=gather(options))


if __name__ == "__main__":
    main()
