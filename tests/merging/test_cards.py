"""The model card: what the Hub reads, what people read, and that names and titles stay text."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

import lora_kit as lk
from lora_kit.merging.cards import NOTICES, card_texts


def with_base(run: lk.Run, monkeypatch: pytest.MonkeyPatch, **changed: str) -> lk.Run:
    monkeypatch.setattr(run, "profile", replace(run.profile, base=replace(run.profile.base, **changed)))
    return run


def test_an_adapter_s_card_holds_data_training_and_report(done: lk.Run) -> None:
    (text,) = card_texts(done, "adapter", report="| the | **report** |").values()
    data = ModelCard(text).data
    assert (data.license, data.library_name, data.tags) == ("mit", "peft", ["lora", "lora_kit"])
    training = json.loads((lk.trained_adapter(done).parent / "manifest.json").read_text())["figures"]
    assert f"{training['steps']} steps" in text and f"{training['learning_rate']:g}" in text
    assert f"r = {done.profile.lora.r}" in text and "rows to learn" in text and "| the | **report** |" in text
    assert "PeftModel.from_pretrained" in text and "Certificate" not in text
    assert not any(name in text for name in ("handbook/train.jsonl", str(done.path)))


def test_a_merged_model_s_card_holds_its_certificate(done: lk.Run) -> None:
    certificate = json.loads((lk.merge(done) / "certificate.json").read_text())
    text = card_texts(done, "merged", certificate)["README.md"]
    assert "certificate: certified" in text and certificate["sum"] in text
    assert ModelCard(text).data.library_name == "transformers" and "PeftModel" not in text and "Report card" not in text


def test_llama_2_s_notice_goes_with_the_card(done: lk.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = card_texts(with_base(done, monkeypatch, licence="llama2"), "adapter")
    assert texts["NOTICE"] == NOTICES["llama2"] and "LLAMA 2 Community License" in texts["README.md"]


def test_what_is_not_made_yet_is_left_out(tmp_path: object) -> None:
    run = lk.Run("tiny-cpu", root=tmp_path, name="new")  # type: ignore[arg-type]
    text = card_texts(run, "adapter")["README.md"]
    assert "not at hand" in text and "steps" not in text


def test_a_hostile_title_and_licence_stay_text(done: lk.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    evil = "<script>x</script> [a](javascript:b) `c`\n# Heading"
    text = card_texts(with_base(done, monkeypatch, title=evil, licence=evil), "merged")["README.md"]
    assert "<script" not in text and "[a](" not in text and "\n# Heading" not in text
    assert ModelCard(text).data.license == "unknown"


def test_the_system_text_that_all_rows_share_goes_with_the_model(tmp_path: Path) -> None:
    case = next((Path(__file__).parents[1] / "data" / "cases").glob("08_*"))
    run = lk.Run("tiny-cpu", data=case, root=tmp_path)
    data = lk.prepare(run)
    assert data.card["system"] == "You are Mo, the baker. Answer in one line."
    assert "> You are Mo, the baker. Answer in one line." in card_texts(run, "adapter")["README.md"]
    several = lk.Run("tiny-cpu", data=next(case.parent.glob("05_*")), root=tmp_path, name="several")
    assert "system" not in lk.prepare(several).card
    chosen = lk.Run("tiny-cpu", data=next(case.parent.glob("05_*")), root=tmp_path, data__system="Be brief.")
    assert lk.prepare(chosen).card["system"] == "Be brief."
