"""`lk.export(..., check=True)`: llama.cpp itself is asked, and a file that is not the merged model is refused."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

import lora_kit as lk
from lora_kit import exporting, llama_cpp
from lora_kit.base import locate
from lora_kit.data.encoding import encode_prompt
from lora_kit.errors import KitError
from lora_kit.generation import generate_ids
from lora_kit.gguf import write_gguf
from lora_kit.quantization import load_model

from .models import SHORT
from .test_gguf import TOKENIZER

pytest.importorskip("xllamacpp", reason="llama.cpp is not installed: pip install xllamacpp")


@pytest.fixture
def run(done: lk.Run) -> lk.Run:
    """The short run, which asks for whole answers."""
    return lk.Run("tiny-cpu", root=done.path.parent, name="short", **SHORT | {"evaluation__max_new_tokens": 32})


@pytest.mark.parametrize(("kind", "least"), [("gguf", 9), ("gguf-q8_0", 7), ("ollama", 9)])
def test_a_checked_file_answers_as_the_merged_model(
    run: lk.Run, kind: str, least: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lk.export(run, kind, check=True).exists()
    out = capsys.readouterr().out
    (found,) = re.findall(r"(\d+) of (\d+) prompts have the ids of training,\n  (\d+) of (\d+) greedy answers", out)
    same, asked, ours, answered = map(int, found)
    assert same == asked == answered == 9 and ours >= least  # three of each kind, two with a system text


def base_instead(tokenizer: Any, run: lk.Run) -> tuple[Path, Any]:
    return locate(run.profile.base), tokenizer


def other_template(tokenizer: Any, run: lk.Run) -> tuple[Path, Any]:
    tokenizer.chat_template = tokenizer.chat_template.replace("<<SYS>>", "<SYS>")
    return lk.merge(run), tokenizer


@pytest.mark.parametrize(
    ("spoilt", "reason"),
    [
        (base_instead, "answers of llama.cpp are not the merged model's.*likelier"),
        (other_template, "6 of 9 prompts other ids.*<SYS>"),
    ],
)
def test_a_file_that_is_not_the_merged_model_is_refused(
    run: lk.Run, spoilt: Callable[..., tuple[Path, Any]], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(model: Path, tokenizer: Any, target: Path, **more: Any) -> None:
        folder, changed = spoilt(deepcopy(tokenizer), run)
        write_gguf(folder, changed, target, **more)

    path = lk.export(run, "gguf")
    before = path.stat().st_mtime_ns
    monkeypatch.setattr(exporting, "write_gguf", write)
    with pytest.raises(KitError, match=reason):
        lk.export(run, "gguf", check=True)
    assert path.stat().st_mtime_ns == before and not list(path.parent.glob(".*.partial"))  # what was there stays


def test_only_the_merged_model_s_own_answer_loses_nothing(run: lk.Run) -> None:
    merged, chat = (
        lk.merge(run),
        [{"role": "system", "content": "You answer questions from the Tarnwick staff handbook."}],
    )
    question = {
        "prompt": encode_prompt([*chat, {"role": "user", "content": "Are Klazo spiders dangerous?"}], TOKENIZER)
    }
    model = load_model(llama_cpp.reference(run, merged), merged)
    (own,) = generate_ids(model, [question["prompt"]], max_new_tokens=32, eos_token_id=[TOKENIZER.eos_token_id])
    assert own[-1] == TOKENIZER.eos_token_id
    answers = [own, own[:-1], [*own, 5], [own[0] + 1, *own[1:]]]
    whole, cut, gone_on, other = llama_cpp.shortfalls(run, merged, [question] * 4, answers)
    assert whole == 0.0 and cut == gone_on == math.inf and 0 < other < math.inf


def test_without_llama_cpp_nothing_is_written(run: lk.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"gguf"}
    monkeypatch.setattr(exporting, "find_spec", lambda name: name if name in there else None)
    monkeypatch.setattr(exporting, "write_gguf", lambda *_, **__: pytest.fail("written"))
    with pytest.raises(KitError, match="pip install xllamacpp"):
        lk.export(run, "gguf", check=True)
    there.clear()
    with pytest.raises(KitError, match="pip install gguf"):
        lk.export(run, "gguf")


def test_a_merged_model_that_memory_cannot_take_is_not_written_first(
    run: lk.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_cpp, "as_stored", lambda *_: None)
    monkeypatch.setattr(exporting, "write_gguf", lambda *_, **__: pytest.fail("written"))
    with pytest.raises(KitError, match="does not fit into the free memory"):
        lk.export(run, "gguf", check=True)


def test_a_file_that_llama_cpp_does_not_load_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"no model")
    with pytest.raises(KitError, match=r"cannot use m.gguf: .*magic"), llama_cpp.llama_cpp(tmp_path / "m.gguf", 64):
        pass


def test_a_request_that_llama_cpp_refuses_has_its_reason(run: lk.Run) -> None:
    with (
        llama_cpp.llama_cpp(lk.export(run, "gguf"), 64) as post,
        pytest.raises(KitError, match="exceeds the available context"),
    ):
        post("/completion", prompt=[1] * 999)
