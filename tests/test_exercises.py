"""The exercises: each solution passes, each usual mistake is named, and nothing ever raises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lora_kit.notebook import exercises, solved
from lora_kit.notebook.exercises import EXERCISES

Wrong = tuple[str, Callable[..., Any], str]
WRONG: tuple[Wrong, ...] = (
    ("quantized_bytes", lambda weights, block, scale_bytes: weights * 4 + weights / block * scale_bytes, "must be 36"),
    ("quantized_bytes", lambda weights, block, scale_bytes: weights * 0.5, "must be 36, not 32"),
    ("quantized_bytes", lambda weights, block, scale_bytes: weights * 0.5 + scale_bytes, "seven billion"),
    ("quantized_bytes", lambda weights, block, scale_bytes: "36", "must return a number; it returns a str"),
    ("llama2_prompt", lambda system, question: f"<s>[INST] {system} {question} [/INST]", "<<SYS>> is missing"),
    ("llama2_prompt", lambda system, question: f"<s>[INST] <<SYS>>{system}<</SYS>>{question}[/INST]", "then must come"),
    (
        "llama2_prompt",
        lambda system, question: solved.llama2_prompt(system, question) + " ",
        "after [/INST] it must end",
    ),
    ("lora_forward", lambda x, w, a, b, alpha: x @ w.T + alpha * (x @ a.T @ b.T), "with alpha 16 and r 2"),
    ("lora_forward", lambda x, w, a, b, alpha: x @ w.T, "with alpha 16 and r 2, the output is off by"),
    ("lora_forward", lambda x, w, a, b, alpha: (x @ w.T).T, "must have the shape (5, 4), not (4, 5)"),
    ("lora_forward", lambda x, w, a, b, alpha: x @ w, "it raises RuntimeError"),
    ("merged_weight", lambda w, a, b, alpha: w + b @ a, "with alpha 16 and r 2, the weight is off by"),
    ("merged_weight", lambda w, a, b, alpha: w.add_(alpha / len(a) * (b @ a)), "changes W in place"),
    ("merged_weight", lambda w, a, b, alpha: w + a @ b, "it raises RuntimeError"),
    ("token_f1", lambda answer, reference: float(answer == reference), "('At six', 'at six'), F1 must be 1, not 0"),
    (
        "token_f1",
        lambda answer, reference: (
            len(set(answer.lower().split()) & set(reference.lower().split())) / max(1, len(set(answer.lower().split())))
        ),
        "F1 must be 0.666667, not 0.5",
    ),
    ("token_f1", lambda answer, reference: 1 / 0, "it raises ZeroDivisionError"),
    ("token_f1", lambda answer, reference: exit(), "it raises SystemExit"),
    ("rounded_block", lambda weights, levels: solved.rounded_block(weights / 2, levels), "is off by"),
    ("rounded_block", lambda weights, levels: weights, "for [0.2, -2.0, 1.4, 0.1], the result is off by"),
    (
        "rounded_block",
        lambda weights, levels: (
            levels[(weights[:, None] / weights.abs().max() - levels).abs().argmin(dim=1)] * weights.abs().max() + 0 / 1
            if weights.any()
            else weights / weights.abs().max()
        ),
        "a block of zeros has no largest weight",
    ),
    ("answer_labels", lambda ids, start: ids, "at place 0 must stand -100, not 1: it is only read"),
    ("answer_labels", lambda ids, start: [-100] * start + ids[start:-1] + [-100], "the end token is learned"),
    ("answer_labels", lambda ids, start: ids[start:], "labels are as many as ids: 5, not 2"),
    ("answer_labels", lambda ids, start: [-100] * (start + 1) + ids[start + 1 :], "at place 3 must stand 29962"),
    ("trained_parameters", lambda r, shapes: sum(r * rows * columns for rows, columns in shapes), "must be 65536"),
    ("trained_parameters", lambda r, shapes: sum(2 * r * rows for rows, _ in shapes), "r 16 on 64 such"),
    ("unmerged_weight", lambda merged, a, b, alpha: merged - b @ a, "the base's weight is off by"),
    ("unmerged_weight", lambda merged, a, b, alpha: merged + alpha / len(a) * (b @ a), "the base's weight is off by"),
    ("bootstrap_interval", lambda values, draws: (0.9, 0.9), "the share itself, 0.9, must lie inside"),
    ("bootstrap_interval", lambda values, draws: (0.0, 1.0), "near 0.84 to 0.955, not 0.000 to 1.000"),
    ("bootstrap_interval", lambda values, draws: 0.9, "it must return two numbers"),
    ("bootstrap_interval", lambda values, draws: (0.84, 0.955), "the share itself, 0.5, must lie inside"),
    (
        "token_f1",
        lambda answer, reference: (
            solved.token_f1(answer, reference)
            if "gate" not in answer
            else solved.token_f1(" ".join(set(answer.split())), " ".join(set(reference.split())))
        ),
        "F1 must be 0.666667, not 0.5",
    ),
)


def named(name: str, wrong: Callable[..., Any]) -> Callable[..., Any]:
    def solution(*given: Any) -> Any:
        return wrong(*given)

    solution.__name__ = name
    return solution


@pytest.mark.parametrize("name", EXERCISES)
def test_the_solution_passes_and_can_be_read(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    exercises.check(getattr(solved, name))
    exercises.solution(name)
    out = capsys.readouterr().out
    assert out.startswith(f"{name}: ok\ndef {name}(") and "return" in out


@pytest.mark.parametrize(("name", "wrong", "said"), WRONG)
def test_a_usual_mistake_is_named(
    name: str, wrong: Callable[..., Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    exercises.check(named(name, wrong))
    out = capsys.readouterr().out
    assert out.startswith(f"{name}: not yet. ") and said in out and f"exercises.hint({name!r})" in out


@pytest.mark.parametrize("name", EXERCISES)
@pytest.mark.parametrize("nothing", [None, ...])
def test_an_empty_cell_is_not_a_mistake(name: str, nothing: Any, capsys: pytest.CaptureFixture[str]) -> None:
    exercises.check(named(name, lambda *_: nothing))
    assert "it returns nothing yet" in capsys.readouterr().out


def test_hints_come_step_by_step_and_wrong_names_list_the_right_ones(capsys: pytest.CaptureFixture[str]) -> None:
    exercises.hint("token_f1")
    first = capsys.readouterr().out
    exercises.hint("token_f1", 3)
    last = capsys.readouterr().out
    assert first.count("\n") == 2 and "hint('token_f1', 2)" in first and last.count("\n") == 3
    exercises.hint("tokens")
    exercises.solution("tokens")
    exercises.check(len)
    out = capsys.readouterr().out
    assert out.count("quantized_bytes, llama2_prompt") == 3
