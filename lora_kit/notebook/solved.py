"""The exercises of the notebooks, solved. `exercises.solution(NAME)` shows these functions as they stand here."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def quantized_bytes(weights: int, block: int, scale_bytes: float) -> float:
    return weights * 0.5 + weights / block * scale_bytes


def llama2_prompt(system: str, question: str) -> str:
    return f"<s>[INST] <<SYS>>\n{system}\n<</SYS>>\n\n{question} [/INST]"


def lora_forward(x: torch.Tensor, w: torch.Tensor, a: torch.Tensor, b: torch.Tensor, alpha: float) -> torch.Tensor:
    r = a.shape[0]
    return x @ w.T + (alpha / r) * (x @ a.T @ b.T)


def merged_weight(w: torch.Tensor, a: torch.Tensor, b: torch.Tensor, alpha: float) -> torch.Tensor:
    return w + (alpha / a.shape[0]) * (b @ a)


def token_f1(answer: str, reference: str) -> float:
    said, wanted = answer.lower().split(), reference.lower().split()
    common = sum(min(said.count(word), wanted.count(word)) for word in set(said))
    return 2 * common / (len(said) + len(wanted)) if common else 0.0


def rounded_block(weights: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    scale = weights.abs().max()
    if scale == 0:
        return weights
    nearest = (weights[:, None] / scale - levels).abs().argmin(dim=1)
    return levels[nearest] * scale


def answer_labels(ids: list[int], start: int) -> list[int]:
    return [-100] * start + ids[start:]


def trained_parameters(r: int, shapes: list[tuple[int, int]]) -> int:
    return sum(r * (rows + columns) for rows, columns in shapes)


def unmerged_weight(merged: torch.Tensor, a: torch.Tensor, b: torch.Tensor, alpha: float) -> torch.Tensor:
    return merged - (alpha / a.shape[0]) * (b @ a)


def bootstrap_interval(values: list[float], draws: int) -> tuple[float, float]:
    import numpy as np

    means = np.random.default_rng(0).choice(values, size=(draws, len(values))).mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
