"""Write the figures of the READMEs and of docs/ from the last benches: python tools/update_readme.py

Each benchmarks/results/<name>.json becomes what stands between the marks of that name, in the README, a page of docs or
benchmarks/README.md, and a line of the README's summary. The demo's also becomes docs/before_after.png.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from lora_kit.course.drawings import lora_to_scale, whole_way
from lora_kit.evaluation.card import HEADLINE, METRICS, headline
from lora_kit.plots import MODELS, before_after, paper, png, title
from lora_kit.training.recipe import rate_for

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KITS = {"bare": "a bare loop", "trainer": "Trainer", "trl": "TRL"}
WIDTHS = {"smollm2": 576, "tiny": 192}
MEANINGS = {metric.name: metric.meaning for metric in METRICS}
ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], texts: int = 1) -> str:
    """A table in Markdown; the first columns are texts, the others numbers."""
    lines = [f"| {' | '.join(row)} |" for row in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * texts + "--:|" * (len(head) - texts), *lines[1:]])


def made(record: dict[str, Any], bench: str) -> str:
    return f"`make {bench}` on {record['date']}, {record['machine']}"


def growth_curves(figures: dict[str, dict[Any, dict[str, float]]]) -> Figure:
    """Tokens a second of training, as one thing grows at a time.

    Args:
        figures: what grows -> its values -> {"tokens_per_second": ...}.
    """
    with paper(3.0, "Training speed in tokens a second, as one thing grows at a time.") as figure:
        plots = figure.subplots(1, len(figures), squeeze=False)[0]
        for axes, (name, measured) in zip(plots, figures.items(), strict=True):
            speeds = [row["tokens_per_second"] for row in measured.values()]
            axes.plot(range(len(speeds)), speeds, "o-", color=MODELS["adapter"], lw=2, ms=5)
            axes.set_xticks(range(len(speeds)), [str(value) for value in measured])
            axes.set(xlabel=name, ylim=(0, 1.1 * max(speeds)))
            axes.yaxis.set_major_formatter("{x:,.0f}")
            axes.grid(axis="y")
        plots[0].set_ylabel("tokens a second")
        title(plots[0], "Training speed")
    return figure


def demo(record: dict[str, Any]) -> str:
    rows = []
    for name in HEADLINE:
        models = record["figures"][name]
        n = record["seeds"][0]["figures"][name]["n"]
        cells = (f"{m['median']:.1%} ({m['worst']:.1%})" for m in models.values())
        rows.append([MEANINGS[name], str(n), *cells])
    seconds = sorted(result["seconds"] for result in record["seeds"])
    first = record["seeds"][0]["verdict"]
    reasons = first["reasons"]
    why = f"all {len(reasons)} rules are kept" if first["decision"] == "ship" else "; ".join(reasons)
    return table(["metric", "questions", "base", "adapter", "merged"], rows) + (
        f"\n\nHeld-out questions, greedy answers; the median of {len(seconds)} seeds, the worst in brackets; "
        f"{made(record, 'bench-demo')}, {seconds[0]} to {seconds[-1]} s a seed."
        f"\n\nThe card's own verdict on seed 0: **{first['decision']}** ({why})."
    )


def recipe(record: dict[str, Any]) -> str:
    """One table a base: facts by learning rate and layers, then by steps, epochs and rank; the seeds' spread."""
    parts = []
    for base in dict.fromkeys(point["base"] for point in record["points"]):
        points = [point for point in record["points"] if point["base"] == base]
        machines = sorted({point["machine"] for point in points})
        parts_of = [f"1/{share}" for share in sorted({point["share"] for point in points})]
        of = "the whole handbook" if parts_of == ["1/1"] else f"{' and '.join(parts_of)} of the handbook"
        rows = []
        for row in sorted(points, key=recipe_order):
            note = ", the default recipe" if row.get("default") else ""
            note += f", seed {row['seed']}" if row["seed"] else ""
            note += f", 1/{row['share']} of the handbook" if len(parts_of) > 1 and row["share"] > 1 else ""
            note += f", 1/{row['general']} of the general rows" if row.get("general", 1) > 1 else ""
            note += f", {row['machine']}" if len(machines) > 1 else ""
            told = [row["targets"] + note, str(row["r"]), f"{row['rate']:.2g}", str(row["steps"]), str(row["epochs"])]
            rows.append([*told, *(recipe_cell(row[name], name) for name in RECIPE)])
        parts.append(table([f"{base}: adapters on", "r", "learning rate", "steps", "epochs", *RECIPE.values()], rows))
        parts.append(f"{len(points)} training{'s' * (len(points) > 1)} on {of}, {', '.join(machines)}.")
    parts.append(f"`make bench-recipe`, {record['date']}; the adapter on the quantized base, held-out questions.")
    return "\n\n".join(parts)


RECIPE = {
    "facts": "facts right",
    "declined": "declined",
    "wrongly_declined": "wrongly",
    "style": "style",
    "agreement": "kept",
    "kl": "KL",
}


SAME = ("base", "share", "general", "machine", "steps", "epochs", "r")  # of the points of one curve


def recipe_cell(value: float | None, name: str) -> str:
    return "not measured" if value is None else f"{value:.3f}" if name == "kl" else f"{value:.1%}"


def recipe_order(point: dict[str, Any]) -> tuple[Any, ...]:
    return point["targets"], point["steps"], point["epochs"], point["r"], point["rate"], point["seed"]


def recipe_curves(record: dict[str, Any]) -> Figure:
    """Held-out facts and what is kept, by learning rate, of all linear layers and of q and v."""
    sweeps: dict[tuple[Any, ...], list[dict[str, Any]]] = {}  # points that differ in their rate and layers alone
    for point in record["points"]:
        if not point["seed"] and not point.get("default"):
            sweeps.setdefault(tuple(point[name] for name in SAME), []).append(point)
    largest = sorted(sweeps.values(), key=len)
    chosen = {points[0]["base"]: points for points in largest if len({point["rate"] for point in points}) > 2}
    with paper(3.2, "Held-out facts answered and what is kept of the base, by learning rate and layers.") as figure:
        plots = figure.subplots(1, len(chosen), squeeze=False)[0]
        for axes, (base, points) in zip(plots, chosen.items(), strict=True):
            for targets, colour in (("all linear", MODELS["adapter"]), ("q and v", MODELS["merged"])):
                line = sorted((p for p in points if p["targets"] == targets), key=lambda p: p["rate"])
                rates = [p["rate"] for p in line]
                axes.plot(rates, [p["facts"] for p in line], "o-", color=colour, label=f"facts, {targets}")
                axes.plot(rates, [p["agreement"] for p in line], "s:", color=colour, ms=4, label=f"kept, {targets}")
            axes.axvline(rate_for(WIDTHS[base]), color="#999999", lw=1, label="the default rate")
            share = points[0]["share"]
            part = "the whole handbook" if share == 1 else f"1/{share} of the handbook"
            axes.set(xscale="log", ylim=(-0.02, 1.04), xlabel=f"learning rate ({base}, {part})")
            axes.set_xticks(sorted({p["rate"] for p in points}))
            axes.xaxis.set_major_formatter("{x:.2g}")
            axes.tick_params(axis="x", labelsize=7)
            axes.xaxis.set_minor_formatter("")
            axes.grid(axis="y")
        figure.legend(*plots[0].get_legend_handles_labels(), loc="outside upper center", ncols=5, fontsize=8)
    return figure


def data(record: dict[str, Any]) -> str:
    ours, theirs = record["figures"]["rows_per_second"].values()
    most = record["figures"]["growth"][-1]
    return (
        f"{ours['median']:,.0f} rows a second ({ours['least']:,.0f} to {ours['most']:,.0f}), TRL's SFTTrainer "
        f"{theirs['median']:,.0f} ({theirs['least']:,.0f} to {theirs['most']:,.0f}) on the same rows. {most['rows']:,} "
        f"rows ({most['megabytes']:,} MB) take {most['seconds'] / 60:.1f} minutes and {most['peak_mib']:,.0f} MiB of memory "
        f"above the imports, a second prepare {most['again']:.1f} s. {made(record, 'bench-data')}."
    )


def verdicts(record: dict[str, Any]) -> str:
    kinds: dict[str, list[dict[str, int]]] = {}
    for name, found in record["figures"].items():
        kinds.setdefault(name.partition(",")[0], []).append(found)
    said = ("ship", "don't ship", "not enough evidence")
    rows = [
        [kind, *(str(sum(found.get(word, 0) for found in seeds)) for word in said)] for kind, seeds in kinds.items()
    ]
    rates = ", ".join(f"{name} {rate:.1%}" for name, rate in record["rates"].items())
    return table(["adapters", *said], rows) + (
        f"\n\n{rates}. Three seeds of each kind, {record['draws']} draws of questions a seed from their stored answers; "
        f"{made(record, 'bench-verdict')}."
    )


def generate(record: dict[str, Any]) -> str:
    rows = [
        [name, spread(row, ".1f"), f"{record['ratios'][name]:.2f}x", str(record["differing"][name])]
        for name, row in record["figures"].items()
    ]
    return table(["", "seconds", "lora_kit is faster by", "answers that differ"], rows) + (
        f"\n\n{record['questions']} questions to the embedded model in NF4 with an adapter, greedy, median of 5 rounds in "
        f"turn (least to most); {made(record, 'bench-generate')}."
    )


def load(record: dict[str, Any]) -> str:
    rows = []
    for name, by_loops in record["figures"].items():
        cells = (f"{median(values):,.0f} ({values[0]:,.0f} to {values[-1]:,.0f})" for values in by_loops.values())
        rows.append([name, *cells])
    rounds, ours = len(by_loops["0 beside"]), record["ratios"]["lora_kit's choice"]
    shares = ", ".join(f"{1 / share['below_fair']:.0%} {beside}" for beside, share in ours.items())
    return table(["tokens a second", "alone", "1 busy program beside", "2 beside"], rows) + (
        f"\n\nShort trainings of the embedded model, median of {rounds} rounds in turn (least to most). A fair share of the "
        "cores is the speed of all threads alone, two thirds and half of it; lora_kit's choice reaches of that "
        f"{shares}. {made(record, 'bench-load')}."
    )


def notebooks(record: dict[str, Any]) -> str:
    rows = [
        [name.replace("_", " ").removeprefix("solutions/"), str(taken["seconds"]), f"{taken['peak_mib']:,} MiB"]
        for name, taken in record["figures"].items()
    ]
    course = sum(taken["seconds"] for name, taken in record["figures"].items() if re.match("0[1-5]", name))
    return table(["notebook", "seconds on two CPU cores", "memory of its kernel"], rows) + (
        f"\n\nOn the embedded model. 00 alone from nothing; 01 to 05 from nothing one after the other, {course} s in "
        f"all; solutions after them. {made(record, 'run-notebooks')}."
    )


def phrasings(record: dict[str, Any]) -> str:
    titles = {"tiny": "tiny-chat", "smollm2": "SmolLM2-135M-Instruct"}
    rows = []
    for base, ways in record["figures"].items():
        for way, found in ways.items():
            worst = min(seed["learned_exact"] for seed in found["seeds"])
            shares = [f"{found[name]:.0%}" for name in ("learned_exact", "wrongly_declined", "declined")]
            rows.append([titles[base], way, f"{shares[0]} ({worst:.0%})", *shares[1:]])
    seeds = len(found["seeds"])
    answered = ["people's questions answered exactly", "declined wrongly", "declined rightly"]
    return table(["base", "wordings of a fact in training", *answered], rows, texts=2) + (
        f"\n\nThe handbook's 64 facts, with 64 questions to decline and 120 general ones beside; 192 "
        f"questions that people wrote, asked of the adapter; the median of {seeds} seeds, the worst in brackets; "
        f"`make bench-phrasings` on {record['date']}."
    )


def faq(record: dict[str, Any]) -> str:
    (found,) = record["figures"].values()
    card, verdict = found["card"], found["verdict"]
    models = ("base", "adapter", "merged")
    rows = [
        [f"`{name}`", str(metric["n"]), *(f"{metric[model]:.1%}" for model in models)] for name, metric in card.items()
    ]
    reasons = "; ".join(verdict["reasons"]) if verdict["decision"] != "ship" else "all rules are kept"
    return table(["SmolLM2, 200 facts, each asked once", "questions", *models], rows) + (
        f"\n\nThe card's verdict: {verdict['decision']} ({reasons}). Of {found['asked']} questions that people wrote and no "
        f"training saw, the adapter answers {found['people_exact']:.1%} exactly and declines "
        f"{found['people_wrongly_declined']:.1%}. {found['seconds'] / 60:.0f} minutes up to the merged model "
        f"({found['machine']}); `make bench-faq` on {record['date']}."
    )


def train(record: dict[str, Any]) -> str:
    figures = record["figures"]
    cases, kits, first = list(figures), list(next(iter(figures.values()))), next(iter(figures.values()))
    speeds = [[kit, *(spread(figures[case][kit]["tokens_per_second"], ",.0f") for case in cases)] for kit in kits]
    memory = ", ".join(f"{kit} {first[kit]['peak_mib']['median']:,.0f}" for kit in kits)
    losses = ", ".join(f"{kit} {spread(first[kit]['loss'], '.2f')}" for kit in kits)
    ratios = [[kit, *(f"{record['ratios'][f'{case}, against {kit}']:.2f}" for case in cases)] for kit in kits[1:]]
    ideal = ", ".join(
        f"{v:.2f} ({name.split(', share')[0]})" for name, v in record["ratios"].items() if "ideal" in name
    )
    tables = [table(["useful tokens a second", *cases], speeds), table(["lora_kit against", *cases], ratios)]
    return "\n\n".join(tables) + (
        f"\n\nShare of the ideal gain of a shared prefix, (prefix + row) / row, over the bare loop: {ideal}. "
        f"{first['lora_kit']['outside']['median']:.1%} of lora_kit's time is outside of forward, backward and optimizer. "
        f"Without a prefix in NF4, peak MiB above the start: {memory}; loss on held-out rows: {losses}. The embedded "
        f"model, one epoch over {record['rows']} rows, median of {record['rounds']} rounds and seeds (least to most); "
        f"{made(record, 'bench-train')}."
    )


def merge(record: dict[str, Any]) -> str:
    rows = [
        [kit, spread(row["seconds"], ".1f"), spread(row["peak_mib"], ",.0f")] for kit, row in record["figures"].items()
    ]
    tensors = record["once"]["tensors"]
    return table(["", "seconds", "peak memory, MiB"], rows) + (
        f"\n\nLlama-2-7B's exact shape with random weights, 13.5 GB in float16, adapter on q and v, files "
        f"synced; median of {record['rounds']} rounds in turn (least to most); memory of the whole process. The certificate, "
        f"every tensor: {tensors['seconds']:.0f} s and {tensors['peak_mib']:,.0f} MiB. "
        f"{made(record, 'bench-merge')}."
    )


def latency(record: dict[str, Any]) -> str:
    rows = [
        [name, f"{row['mean']:.1f}", "{:.1f} to {:.1f}".format(*row["interval"])]
        for name, row in record["figures"].items()
    ]
    pairs = "; ".join(
        f"{name} {row['mean']:.3f} " + "({:.3f} to {:.3f})".format(*row["interval"])
        for name, row in record["ratios"].items()
    )
    return table(["", "tokens a second", "95 % interval"], rows) + (
        f"\n\nPair by pair: {pairs}. The embedded model, one prompt at a time, {record['rounds']} rounds "
        f"in turn; {made(record, 'bench-latency')}."
    )


def gpu(record: dict[str, Any]) -> str:
    """The table of benchmarks/README.md: what each kit takes, the plan against the card, a step's time."""
    parts = {name: part for name, part in record["parts"].items() if "found" in part}
    trained = [name.split(", ")[1:] for name in parts if name.startswith("train, ")]
    blocks = []
    for targets in dict.fromkeys(told[1] for told in trained):
        cases = list(dict.fromkeys(told[2] for told in trained if told[1] == targets))
        rows = []
        for kit in dict.fromkeys(told[0] for told in trained if told[1] == targets):
            cells = [_gpu_cell(parts.get(f"train, {kit}, {targets}, {case}")) for case in cases]
            rows.append([kit, *cells, str(parts.get(f"longest, {kit}, {targets}", {}).get("found", "not run"))])
        blocks.append(table([f"{targets}: seconds per million learned tokens (peak GiB)", *cases, "longest"], rows))
    for name in (name for name in parts if name.startswith("profile, ")):
        blocks.append(_gpu_profile(name.removeprefix("profile, "), parts[name]["found"]))
    if "plan" in parts:
        plan = parts["plan"]["found"]
        bytes_off = f"{plan['least_off']:+.1%} to {plan['most_off']:+.1%}"
        seconds_off = f"{plan['seconds_said'] / plan['seconds_taken'] - 1:+.1%}"
        settings = f"{len(plan['settings'])} settings"
        blocks.append(f"The plan's bytes against the card's over {settings}: {bytes_off}; its seconds {seconds_off}.")
    tests = parts.get("tests", {}).get("found", {})
    runs = {
        f"{part['gpu']}, driver {part['driver']}, {part['date']}, commit {part['commit']} ("
        + ", ".join(f"{library} {text}" for library, text in part["versions"].items() if text)
        + ")": None
        for part in parts.values()
    }
    about = [
        f"Tests that need a card: {', '.join(f'{n} {word}' for word, n in tests.items()) or 'not run'}.",
        f"This was NOT a T4 but, with its memory capped to {record['cap_gib']} GiB: {'; '.join(runs)}.",
        *(f"Note: {note}." for note in dict.fromkeys(part["note"] for part in parts.values() if "note" in part)),
        f"Not run: {'; '.join(_gathered(record['not_run'])) or 'nothing'}.",
    ]
    return "\n\n".join([*blocks, "\n".join(about)])


def _gathered(parts: list[str]) -> list[str]:
    """Names of parts, those of one kind and choice of layers as one."""
    found: dict[str, list[str]] = {}
    for part in parts:
        kind, *told = part.split(", ")
        name = f"{kind}, {told[1]}" if len(told) > 1 else part
        found.setdefault(name, []).append(" ".join([told[0], *told[2:]]) if len(told) > 1 else "")
    return [f"{name}: {', '.join(rest)}" if any(rest) else name for name, rest in found.items()]


def _gpu_cell(part: dict[str, Any] | None) -> str:
    if part is None:
        return "not run"
    found = part["found"]
    return f"{found['seconds_per_million']['learned']:,.0f} ({found['allocated_gib']:.1f})" if found else "does not fit"


def _gpu_profile(targets: str, found: dict[str, Any]) -> str:
    """A step by kind of work, here and at the same share of a T4's peaks."""
    there = found["t4_milliseconds"] or {}
    rows = [
        [kind, f"{value:,.1f}", format(there[kind], ",.0f") if kind in there else "–"]
        for kind, value in found["milliseconds"].items()
    ]
    seconds = sum(there.values()) / 1000
    return table([f"of lora_kit's step of 4,096 tokens, {targets}", "ms", "projected to a T4, ms"], rows) + (
        "\n\nThe projection takes the same share of a T4's 65 TFLOP/s (attention, matrix products) and 320 GB/s (all else) as "
        f"was reached of this card's peaks: {seconds:.1f} s for a step of 4,096 tokens, {4096 / max(seconds, 1e-9):,.0f} tokens a "
        "second. It was not measured on a T4. The notebook that this project grew from took 4.57 s for 4 rows on one."
    )


def spread(figure: dict[str, float], form: str) -> str:
    return f"{figure['median']:{form}} ({figure['least']:{form}} to {figure['most']:{form}})"


def _rows(name: str) -> str:
    return "the handbook" if name == "handbook" else f"rows of {name} tokens"


def _beside(parts: dict[str, Any], targets: str, rows: str) -> str:
    """How much longer other kits take for a learned token, where they were measured."""
    took = {
        name: parts[key]["seconds_per_million"]["learned"]
        for kit, name in (("lora_kit", ""), *KITS.items())
        if (key := f"train, {kit}, {targets}, {rows}") in parts
    }
    ours = took.pop("")
    return ", ".join(f"{seconds / ours:.2f}x {name}" for name, seconds in took.items())


def measured(records: dict[str, dict[str, Any]]) -> str:
    """The summary of the README: a line for each comparison."""
    train, merge, gpu = (records[name] for name in ("train", "merge", "gpu"))
    rates, rows = records["verdict"]["rates"], records["data"]["figures"]["rows_per_second"]
    speed = {
        case: ", ".join(f"{train['ratios'][f'{case}, NF4, against {kit}']:.2f}x {name}" for kit, name in KITS.items())
        for case in ("no prefix", "prefix")
    }
    took = {
        kit: f"{row['seconds']['median']:.0f} s, {row['peak_mib']['median']:,.0f} MiB"
        for kit, row in merge["figures"].items()
    }
    parts = {name: part["found"] for name, part in gpu["parts"].items() if part.get("found")}
    large = [
        f"{targets}, {_rows(rows)} {times}"
        for targets in ("all linear", "q and v")
        for rows in ("handbook", "512")
        if (times := _beside(parts, targets, rows))
    ]
    ours, theirs = (row["median"] for row in rows.values())
    adapter = records["latency"]["ratios"]["adapter against base"]["mean"]
    pipeline = records["generate"]["ratios"]["pipeline loop"]
    lines = [
        (
            "training speed, embedded model in NF4",
            f"{speed['no prefix']}; rows with a shared prefix {speed['prefix']}",
            "train",
        ),
        ("training speed, 7B in NF4 on an H200 held to a T4's memory", "; ".join(large), "gpu"),
        ("merging at Llama-2-7B's size", f"{took['lora_kit']}; PEFT {took['peft']}", "merge"),
        ("answers per second", f"{pipeline:.1f}x a loop over `pipeline`", "generate"),
        ("a separate adapter", f"answers at {adapter:.0%} of the merged model's speed", "latency"),
        ("preparing data, rows per second", f"{ours:,.0f}; TRL {theirs:,.0f}", "data"),
        ("the verdict", ", ".join(f"{name} {rate:.1%}" for name, rate in rates.items()), "verdict"),
    ]
    rows = [[what, found, f"`make bench-{name}`"] for what, found, name in lines]
    return table(["what", "lora_kit, and others", "command"], rows, texts=3)


IN_DATA: dict[str, Callable[[dict[str, Any]], str]] = {"phrasings": phrasings, "faq": faq}
IN_BENCHES: dict[str, Callable[[dict[str, Any]], str]] = {
    "data": data,
    "train": train,
    "merge": merge,
    "latency": latency,
    "verdict": verdicts,
    "generate": generate,
    "load": load,
    "gpu": gpu,
    "recipe": recipe,
}


def write_block(page: str, name: str, text: str) -> str:
    """The page with `text` between its marks of that name."""
    block = f"<!-- {name}:start -->\n{text}\n<!-- {name}:end -->"
    return re.sub(rf"<!-- {name}:start -->.*?<!-- {name}:end -->", lambda _: block, page, flags=re.S)


def write_page(page: Path, texts: dict[str, str]) -> None:
    """The page with each text between its marks."""
    written = page.read_text(encoding="utf-8")
    for name, text in texts.items():
        written = write_block(written, name, text)
    page.write_text(written, encoding="utf-8")


def main() -> None:
    records = {path.stem: json.loads(path.read_text()) for path in RESULTS.glob("*.json")}
    write_page(ROOT / "README.md", {"demo": demo(records["demo"]), "measured": measured(records)})
    write_page(ROOT / "docs" / "data.md", {name: block(records[name]) for name, block in IN_DATA.items()})
    write_page(ROOT / "benchmarks" / "README.md", {name: block(records[name]) for name, block in IN_BENCHES.items()})
    write_page(ROOT / "notebooks" / "README.md", {"notebooks": notebooks(records["notebooks"])})
    first = records["demo"]["seeds"][0]
    pictures = {
        "recipe": recipe_curves(records["recipe"]),
        "whole_way": whole_way(),
        "lora": lora_to_scale(),
        "training_growth": growth_curves(records["growth"]["figures"]),
        "before_after": before_after(headline(first["figures"])),
    }
    for name, picture in pictures.items():
        (ROOT / "docs" / f"{name}.png").write_bytes(png(picture))


if __name__ == "__main__":
    main()
