"""The exercises: each solution passes, each usual mistake is named with its value, and nothing ever raises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lora_kit.course import exercises
from lora_kit.course.exercises import EXERCISES

Wrong = Callable[..., Any]
SOLVED = {name: exercise.solution for name, exercise in EXERCISES.items()}


def without_zero_block(weights: Any, levels: Any) -> Any:
    scale = weights.abs().max()
    return SOLVED["rounded_block"](weights, levels) if scale else weights / scale


def precision(answer: str, reference: str) -> float:
    said, wanted = set(answer.lower().split()), set(reference.lower().split())
    return len(said & wanted) / max(1, len(said))


def each_word_once(answer: str, reference: str) -> float:
    return SOLVED["token_f1"](*(" ".join(dict.fromkeys(text.split())) for text in (answer, reference)))


WRONG: tuple[tuple[str, Wrong, str], ...] = (
    ("quantized_bytes", lambda weights, block, size: weights * 4 + weights / block * size, "must be 36"),
    ("quantized_bytes", lambda weights, block, size: weights * 0.5, "must be 36, not 32"),
    ("quantized_bytes", lambda weights, block, size: weights * 0.5 + size, "must be 3.60938e+09"),
    ("quantized_bytes", lambda weights, block, size: "36", "it raises TypeError"),
    ("llama2_prompt", lambda system, question: f"<s>[INST] {system} {question} [/INST]", "after '<s>[INST] '"),
    ("llama2_prompt", lambda system, question: f"<s>[INST] <<SYS>>{system}", r"with '\nBe brief"),
    ("llama2_prompt", lambda *texts: SOLVED["llama2_prompt"](*texts) + " ", "not with ' '"),
    ("lora_forward", lambda x, w, a, b, alpha: x @ w.T + alpha * (x @ a.T @ b.T), "tensor(4, 2), 16.0) is off by"),
    ("lora_forward", lambda x, w, a, b, alpha: x @ w.T, "tensor(4, 2), 16.0) is off by"),
    ("lora_forward", lambda x, w, a, b, alpha: (x @ w.T).T, "must have the shape (5, 4), not (4, 5)"),
    ("lora_forward", lambda x, w, a, b, alpha: x @ a.T @ b.T, "zeros(4, 2), 16.0) is off by"),
    ("lora_forward", lambda x, w, a, b, alpha: x @ w, "it raises RuntimeError"),
    ("merged_weight", lambda w, a, b, alpha: w + b @ a, "is off by"),
    ("merged_weight", lambda w, a, b, alpha: w.add_(alpha / len(a) * (b @ a)), "changed in place"),
    ("merged_weight", lambda w, a, b, alpha: 1.0, "it raises AttributeError"),
    ("token_f1", lambda answer, reference: float(answer == reference), "('At six', 'at six') must be 1, not 0"),
    ("token_f1", precision, "must be 0.666667, not 0.5"),
    ("token_f1", each_word_once, "('six six six', 'six') must be 0.5, not 1"),
    ("token_f1", lambda answer, reference: 1 / 0, "it raises ZeroDivisionError"),
    ("token_f1", lambda answer, reference: exit(), "it raises SystemExit"),
    ("rounded_block", lambda weights, levels: SOLVED["rounded_block"](weights / 2, levels), "is off by"),
    ("rounded_block", without_zero_block, "rounded_block([0.0, 0.0, 0.0, 0.0], [-1.0, 0.0, 0.5, 1.0]) is off by"),
    ("answer_labels", lambda ids, start: ids, "go on with [-100, -100, -100, 29962, 2] after [], not with [1, 518"),
    ("answer_labels", lambda ids, start: [-100] * start + ids[start:-1] + [-100], "not with [-100]"),
    ("answer_labels", lambda ids, start: [-100] * start + ids[start:-1], "not with []"),
    ("trained_parameters", lambda r, shapes: sum(r * rows * columns for rows, columns in shapes), "must be 65536"),
    ("trained_parameters", lambda r, shapes: sum(2 * r * rows for rows, _ in shapes), "] * 64 + [(11008, 4096)] * 1)"),
    ("unmerged_weight", lambda merged, a, b, alpha: merged - b @ a, "is off by"),
    ("unmerged_weight", lambda merged, a, b, alpha: merged + alpha / len(a) * (b @ a), "is off by"),
    ("bootstrap_interval", lambda values, draws: (0.9, 0.9), "[1.0] * 90 + [0.0] * 10, 2000) must be near (0.8"),
    ("bootstrap_interval", lambda values, draws: (0.0, 1.0), "not (0.0, 1.0)"),
    ("bootstrap_interval", lambda values, draws: (0.84, 0.955, 0.9), "must be near"),
    ("bootstrap_interval", lambda values, draws: (0.84, 0.955), "[1.0] * 20 + [0.0] * 20, 2000) must be near"),
)


def named(name: str, function: Wrong) -> Wrong:
    def solution(*given: Any) -> Any:
        return function(*given)

    solution.__name__ = name
    return solution


@pytest.mark.parametrize("name", EXERCISES)
def test_the_solution_passes_and_can_be_read(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    function = exercises.solution(name)
    exercises.check(function)  # type: ignore[arg-type]
    out = capsys.readouterr().out
    assert out.startswith(f"def {name}(") and out.endswith(f"{name}: ok\n") and "return" in out
    assert function(*exercises.cases()[name][0]) is not None  # type: ignore[misc]


@pytest.mark.parametrize(("name", "wrong", "message"), WRONG)
def test_a_usual_mistake_is_named(name: str, wrong: Wrong, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    exercises.check(named(name, wrong))
    out = capsys.readouterr().out
    assert out.startswith(f"{name}: not yet. ") and message in out and f"exercises.hint({name!r})" in out
    assert len(out) < 400


@pytest.mark.parametrize("name", EXERCISES)
@pytest.mark.parametrize("nothing", [None, ...])
def test_an_empty_cell_is_not_a_mistake(name: str, nothing: Any, capsys: pytest.CaptureFixture[str]) -> None:
    exercises.check(named(name, lambda *_: nothing))
    assert "it returns nothing yet" in capsys.readouterr().out


def test_an_interval_of_other_draws_passes(capsys: pytest.CaptureFixture[str]) -> None:
    import random

    def bootstrap_interval(values: list[float], draws: int) -> list[float]:
        source = random.Random(1)
        means = sorted(sum(source.choices(values, k=len(values))) / len(values) for _ in range(draws))
        return [means[int(0.025 * draws)], means[int(0.975 * draws)]]

    exercises.check(bootstrap_interval)
    assert "bootstrap_interval: ok" in capsys.readouterr().out


def test_hints_come_step_by_step_and_wrong_names_list_the_right_ones(capsys: pytest.CaptureFixture[str]) -> None:
    exercises.hint("token_f1")
    first = capsys.readouterr().out
    exercises.hint("token_f1", 3)
    last = capsys.readouterr().out
    assert first.count("\n") == 2 and "hint('token_f1', 2)" in first and last.count("\n") == 3
    exercises.hint("tokens")
    assert exercises.solution("tokens") is None
    exercises.check(len)
    assert capsys.readouterr().out.count(", ".join(EXERCISES)) == 3
