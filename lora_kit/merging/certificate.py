"""The certificate of a merge: every tensor, the model on held-out prompts, and where both came from.

An honest W + BA differs from the trained model (dequantize(NF4(W)) + BA) as much as a wrong merge does. So what is
judged is the merge against the adapter on the same form of base; the gap of the quantization is reported beside it.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..base import file_identity
from ..manifests import file_hash
from ..progress import Progress
from .comparing import Difference, Outputs, Rows, difference, right_merge, rounding_noise
from .deltas import Change, adapter_deltas
from .layerwise import Source, unchanged
from .shards import DTYPES, Weights
from .tensors import check_tensors

ONTO = {"original": "W + BA", "dequantized": "dequantize(4 bits of W) + BA"}
Certificate = dict[str, Any]


def certify(
    base: Path,
    adapter: Path,
    merged: Path,
    rows: Rows,
    *,
    round_trip: Change | None = None,
    onto: str = "original",
    device: str = "cpu",
    expected: dict[str, str] | None = None,
) -> Certificate:
    """Judge a merged folder; "problems" says what is wrong, and is empty for a merge that can be trusted.

    Args:
        base: the folder merged onto.
        adapter: the adapter's folder.
        merged: the folder to be judged.
        rows: held-out prompts with the trained model's greedy answers; none leaves the models uncompared.
        round_trip: base tensor to what the training saw of it; None where nothing was quantized.
        onto: "original" or "dequantized".
        device: where the models are run, a layer at a time.
        expected: SHA-256 by file name ("adapter_model.safetensors", and the base's files) as the manifests have them.
    """
    change = round_trip if onto == "dequantized" else None
    problems = _other_hashes(base, adapter, expected or {})
    tensors = check_tensors(base, adapter, merged, change)
    problems += tensors.pop("problems")
    found: Certificate = {"onto": onto, "sum": ONTO[onto], "tensors": tensors, "answers": None, "gap": None}
    if rows.ids and not problems:
        made, yardstick, gap = compare(base, adapter, merged, rows, round_trip, change, device)
        problems += right_merge(made, yardstick)
        found["answers"] = _figures(made, rows) | {"yardstick": _figures(yardstick, rows)}
        found["gap"] = _figures(gap, rows)
    return found | {
        "adapter_sha256": file_hash(adapter / "adapter_model.safetensors"),
        "verdict": "refused" if problems else "certified",
        "problems": problems,
    }


def compare(
    base: Path,
    adapter: Path,
    merged: Path,
    rows: Rows,
    round_trip: Change | None,
    change: Change | None,
    device: str,
) -> tuple[Difference, Difference, Difference]:
    """The merge against the adapter on the same base, that against a rounding by chance, and the merge against the
    trained model; one layer of one model is in memory at a time."""
    deltas, stored, ready = adapter_deltas(adapter), Weights(base), Weights(merged)
    before, trained = change or unchanged, round_trip or unchanged
    dtype = DTYPES[stored.found[next(iter(deltas))][1].dtype]
    sources = {
        "adapter": Source(stored, before, deltas),
        "merged": Source(ready),
        "chance": Source(stored, rounding_noise(deltas, dtype, before)),
    }
    if trained is not before:
        sources["trained"] = Source(stored, trained, deltas)
    layers = 1 + max(int(name.split(".")[2]) for name in stored.found if name.startswith("model.layers."))
    with Progress("comparing", layers * len(sources)) as progress:
        done = iter(range(1, layers * len(sources) + 1))
        out = {
            name: Outputs(source, rows, device, lambda: progress.update(next(done))) for name, source in sources.items()
        }
    answers = rows.answers
    made = difference(out["adapter"], out["merged"], answers)
    gap = difference(out["trained"], out["merged"], answers) if "trained" in out else made
    return made, difference(out["adapter"], out["chance"], answers), gap


def table(certificate: Certificate) -> str:
    """The certificate as lines to read."""
    tensors, answers, gap = (certificate[name] for name in ("tensors", "answers", "gap"))
    lines = [f"certificate: {certificate['verdict']}   {certificate['sum']}"]
    if certificate["problems"]:
        shown = certificate["problems"][:5]
        return "\n".join([*lines, *(f"  WRONG        {problem}" for problem in shown)])
    lines.append(
        f"  tensors      {tensors['adapted']} of {tensors['tensors']} adapted, each within one rounding of PEFT's own; "
        f"{100 * tensors['lost_in_rounding']:.2g} % of the update lost in it"
    )
    if answers:
        lines += [
            f"  same base    {answers['prompts']} answers, {answers['held_out']} of them to held-out questions, "
            f"{answers['tokens']:,} tokens: KL "
            f"{answers['kl']:.1e} (chance in rounding: {answers['yardstick']['kl']:.1e}), "
            f"top-1 {100 * answers['top1']:.1f} %",
            f"  trained      the model in training against this one: KL {gap['kl']:.1e}, perplexity of its answers "
            f"{gap['perplexity'][0]:.3f} and {gap['perplexity'][1]:.3f}, same greedy answer {gap['same_answers']} of "
            f"{gap['prompts']}",
        ]
    else:
        lines.append("  answers      not compared")
    return "\n".join(lines)


def _figures(found: Difference, rows: Rows) -> dict[str, Any]:
    figures = asdict(found)
    same, figures["tokens"] = figures.pop("same"), len(rows.answers)
    figures["perplexity"] = [math.exp(min(loss, 700.0)) for loss in figures.pop("loss")]
    ends = [0]
    for row, start in zip(rows.ids, rows.starts, strict=True):
        ends.append(ends[-1] + len(row) - start)
    figures["prompts"], figures["held_out"] = len(rows.ids), rows.held_out
    figures["same_answers"] = sum(all(same[a:b]) for a, b in pairwise(ends))
    return figures


def _other_hashes(base: Path, adapter: Path, expected: dict[str, str]) -> list[str]:
    places = {name: (adapter if name.startswith("adapter_") else base) / name for name in expected}
    return [
        f"{name} is not the file that the manifest names"
        for name, path in places.items()
        if not path.is_file() or file_identity(path) != expected[name]
    ]
