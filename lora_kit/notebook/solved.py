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
