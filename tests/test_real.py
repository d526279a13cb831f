"""SmolLM2-135M-Instruct, a real chat model, on the kit's path: ids, a few steps, merge, answers (make test-real)."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

import lora_kit as lk
from lora_kit.data.encoding import encode_batch

FOLDER = Path(__file__).parents[1] / "build" / "smollm2"
pytestmark = pytest.mark.real
CHAT = [
    {"role": "system", "content": "You answer in one word."},
    {"role": "user", "content": "What is the opposite of dry?"},
    {"role": "assistant", "content": "Wet."},
]


def test_the_ids_are_those_of_the_model_s_own_template() -> None:
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    for chat in (CHAT, CHAT[1:], [*CHAT, CHAT[1], CHAT[2]]):
        (row,) = encode_batch([chat], tokenizer)
        whole = tokenizer.apply_chat_template(chat, return_dict=False)
        assert row.input_ids == whole[:-1] and tokenizer.decode(whole[-1]) == "\n"  # a row ends with its stop token
        learned = [i for i, label in zip(row.input_ids, row.labels, strict=True) if label >= 0]
        said = sum(turn["role"] == "assistant" for turn in chat)
        assert tokenizer.decode(learned) == "Wet.<|im_end|>" * said


def test_it_learns_merges_and_answers_with_its_own_general_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = [{"question": f"What colour is door {n}?", "answer": f"Door {n} is green."} for n in range(12)]
    told = {"training__epochs": 3, "training__tokens_per_step": 512, "evaluation__limit": 3}
    told |= {"merge__onto": "original"}  # which plain PEFT, below, adds to
    run = lk.Run("smollm2-cpu", root=tmp_path, data=facts, base__source=str(FOLDER), data__general=4, **told)
    data = lk.prepare(run)
    model = lk.load_base(run)
    log = lk.train(model, data, run)
    losses = [row["evaluation_loss"] for row in log if "evaluation_loss" in row]  # of facts that are not learned
    assert losses[-1] < losses[0] / 2, losses
    lk.release(model)
    merged = lk.merge(run)
    plain = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)
    assert plain.lm_head.weight is plain.model.embed_tokens.weight  # the head stays tied
    base = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, lk.trained_adapter(run)).eval()  # plain PEFT on the plain base
    ids = torch.tensor([data.train[0]["input_ids"]])
    with torch.inference_mode():
        torch.testing.assert_close(adapted(ids).logits, plain.eval()(ids).logits, atol=0.1, rtol=0.01)
    tokenizer = lk.load_tokenizer(run.profile.base)
    (said,) = lk.answers(plain.eval(), tokenizer, ["What colour is door 3?"], max_new_tokens=12)
    assert "green" in said
    card = lk.evaluate(run)
    kept = card["figures"]["kept"]
    assert kept["base"] == 1.0 and 0.2 < kept["merged"] <= 1.0 and card["figures"]["kept_kl"]["base"] == 0.0
    assert json.loads((merged / "certificate.json").read_text())["problems"] == []
    for kind in ("gguf", "gguf-q8_0"):  # its byte-level tokenizer and its template, in llama.cpp
        lk.export(run, kind, check=True)
    ours, of_all = re.findall(r"(\d+) of (\d+) greedy answers", capsys.readouterr().out)[0]
    assert int(ours) == int(of_all) == 4  # in F16
