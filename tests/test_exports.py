"""What leaves the kit, read back by other programs: plain PEFT and transformers, the GGUF reader, Ollama's template."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import lora_kit as lk
from lora_kit.base import ASSETS, load_tokenizer
from lora_kit.data import encode_batch
from lora_kit.errors import KitError
from lora_kit.extras import gguf, stage
from lora_kit.extras.ollama import modelfile

from .models import SHORT, llama, save_small_llama

IDS = torch.tensor([[1, 5, 6, 7, 8, 9, 40, 77]])


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(IDS).logits.double()


def merged(done: lk.Run) -> Path:
    return lk.merge(done)


def test_an_exported_adapter_loads_in_plain_peft(done: lk.Run, tmp_path: Path) -> None:
    with zipfile.ZipFile(lk.export(done)) as archive:
        archive.extractall(tmp_path)
    script = f"""
import sys
sys.modules["lora_kit"] = None  # cannot be imported
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
base = AutoModelForCausalLM.from_pretrained({str(ASSETS / "tiny-chat")!r})
model = PeftModel.from_pretrained(base, {str(tmp_path)!r})
print(model.peft_config["default"].r, AutoTokenizer.from_pretrained({str(tmp_path)!r}).bos_token)
model = AutoModelForCausalLM.from_pretrained({str(merged(done))!r})
ids = AutoTokenizer.from_pretrained({str(merged(done))!r})("[INST] Hello [/INST]", return_tensors="pt").input_ids
print(model(ids).logits.shape[-1])
"""
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert out == [str(done.profile.lora.r), "<s>", "4096"]
    card = (tmp_path / "README.md").read_text()
    assert "library_name: peft" in card and "2,642 rows to learn" in card and "not enough evidence" in card


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_an_f16_gguf_is_the_model_to_rounding(tmp_path: Path, kv_heads: int) -> None:
    model = save_small_llama(tmp_path, config=llama(4096, 64, 128, 2, 4, kv_heads))
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "tiny-chat")
    gguf.write_gguf(model, tokenizer, tmp_path / "m.gguf", name="small")
    there = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.float32)
    ours = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    torch.testing.assert_close(logits(there), logits(ours), rtol=0, atol=1e-5)


def test_a_q8_0_gguf_is_within_its_own_error(done: lk.Run) -> None:
    path = lk.export(done, "gguf-q8_0")
    there = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    ours = AutoModelForCausalLM.from_pretrained(merged(done), dtype=torch.float32)
    name = "model.layers.0.mlp.up_proj.weight"
    weight, stored = ours.state_dict()[name], there.state_dict()[name]
    step = weight.unflatten(1, (-1, gguf.BLOCK)).abs().amax(-1, keepdim=True) / 127
    assert (
        (weight - stored).unflatten(1, (-1, gguf.BLOCK)).abs() <= 0.57 * step
    ).all()  # half a step, and the scale in 16 bits
    assert (logits(there) - logits(ours)).norm() < 0.02 * logits(ours).norm()
    assert path.stat().st_size < 0.6 * sum(file.stat().st_size for file in merged(done).glob("*.safetensors"))


def test_the_gguf_holds_the_tokenizer_and_the_merged_model(done: lk.Run) -> None:
    path = lk.export(done, "gguf")
    there = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    ours = AutoModelForCausalLM.from_pretrained(merged(done), dtype=torch.float32)
    torch.testing.assert_close(logits(there), logits(ours), rtol=0, atol=1e-4)
    tokenizer, theirs = (
        load_tokenizer(done.profile.base),
        AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name),
    )
    rows = [json.loads(line) for line in (ASSETS / "handbook" / "test.jsonl").read_text().splitlines()]
    texts = [row["messages"][-1]["content"] for row in rows[:100]] + ["Straße, naïve 漢字 🙂", "a  b   c", "1,234.5%"]
    for text in texts:
        expected = tokenizer(text, add_special_tokens=False).input_ids
        assert theirs(text, add_special_tokens=False).input_ids == expected
    assert (theirs.bos_token_id, theirs.eos_token_id) == (tokenizer.bos_token_id, tokenizer.eos_token_id)


def test_a_full_disk_leaves_no_half_gguf(done: lk.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **more: object) -> None:
        Path(args[2]).write_bytes(b"half")  # type: ignore[arg-type]
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(stage, "write_gguf", full)
    before = set((done.path / "exports").rglob("*"))
    with pytest.raises(KitError, match="No space left on device"):
        lk.export(done, "gguf-q8_0")
    assert set((done.path / "exports").rglob("*")) <= before


def test_a_model_that_gguf_s_llama_does_not_cover_is_refused(tmp_path: Path) -> None:
    model = save_small_llama(tmp_path)
    config = json.loads((model / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "yarn", "rope_theta": 1e4}
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(KitError, match="rotary embedding is scaled"):
        gguf.write_gguf(model, AutoTokenizer.from_pretrained(ASSETS / "tiny-chat"), tmp_path / "m.gguf", name="x")


def test_without_the_gguf_package_the_way_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(KitError, match="pip install gguf"):
        gguf._library()


def rendered(text: str, messages: list[dict[str, str]], system: str | None) -> str:
    """The Llama 2 template of a Modelfile, run by hand: the few of Go's forms that it uses."""
    out, seen = "", ([{"role": "system", "content": system}] if system else []) + messages
    for number, message in enumerate(seen):
        if message["role"] == "user":
            told = f"<<SYS>>\n{system}\n<</SYS>>\n\n" if number <= 1 and system else ""
            out += ("<s>" if number > 1 else "") + f"[INST] {told}{message['content']} [/INST]"
        elif message["role"] == "assistant":
            out += f" {message['content']} </s>"
    return out


def test_an_ollama_folder_is_whole_and_its_template_is_the_training_s(done: lk.Run) -> None:
    folder = lk.export(done, "ollama")
    told = (folder / "Modelfile").read_text()
    assert {path.name for path in folder.iterdir()} == {"Modelfile", "model.gguf", "README.md"}
    assert told.startswith("FROM ./model.gguf\n") and "PARAMETER num_ctx 512" in told
    assert 'SYSTEM """You answer questions from the Tarnwick staff handbook."""' in told
    assert "certificate: certified" in (folder / "README.md").read_text()


def test_the_tags_of_llama_2_stand_in_the_template_in_meta_s_order() -> None:
    told = modelfile("m.gguf", llama2=True, system="S", context=4096)
    template = told.split('"""')[1]
    text = re.sub(r"{{[^}]*}}", "|", template)
    assert re.sub(r"[|\s]+", " ", text).strip() == "<s> [INST] <<SYS>> <</SYS>> [/INST] </s>"
    assert "<<SYS>>\n{{ $.System }}\n<</SYS>>\n\n" in template and "{{ .Content }} [/INST]" in template


def test_a_conversation_in_the_template_has_the_ids_of_the_training(done: lk.Run) -> None:
    tokenizer = load_tokenizer(done.profile.base)
    chat = [
        {"role": "user", "content": "Where is the canteen?"},
        {"role": "assistant", "content": "In the east wing."},
        {"role": "user", "content": "When does it open?"},
        {"role": "assistant", "content": "At eight."},
    ]
    for system in (None, "Be brief."):
        text = rendered(modelfile("m", llama2=True, system=system, context=1), chat, system)
        before = [{"role": "system", "content": system}] if system else []
        expected = encode_batch([before + chat], tokenizer)[0].input_ids
        ids: list[int] = []
        for number, part in enumerate(text.split("<s>")):  # llama.cpp reads tags as ids and puts BOS first
            words = part.removesuffix("</s>")
            ids += [tokenizer.bos_token_id, *tokenizer(words, add_special_tokens=False).input_ids]
            ids += [tokenizer.eos_token_id]
            assert number < 2
        assert ids == expected


def test_an_unknown_format_lists_them(done: lk.Run) -> None:
    with pytest.raises(KitError, match="adapter-zip, gguf, gguf-q8_0, ollama"):
        lk.export(done, "onnx")


def test_only_the_adapters_own_files_leave_the_house(done: lk.Run) -> None:
    secret = lk.trained_adapter(done) / ".env"
    secret.write_text("HF_TOKEN=hf_leak")
    try:
        with zipfile.ZipFile(lk.export(done, "adapter-zip")) as archive:
            assert ".env" not in archive.namelist() and "adapter_model.safetensors" in archive.namelist()
    finally:
        secret.unlink()


def test_a_card_is_never_that_of_another_adapter(done: lk.Run, tmp_path: Path) -> None:
    told = SHORT | {"training__seed": 7}
    other = lk.Run("tiny-cpu", root=tmp_path, name="short", source=done.pack(tmp_path / "run.zip"), **told)
    lk.make(other, until="training")
    with zipfile.ZipFile(lk.export(other, "adapter-zip")) as archive:
        assert "Report card" not in archive.read("README.md").decode()
    with zipfile.ZipFile(lk.export(done, "adapter-zip")) as archive:
        assert "Report card" in archive.read("README.md").decode()


def test_an_edited_modelfile_is_kept_beside(done: lk.Run) -> None:
    folder = lk.export(done, "ollama")
    (folder / "Modelfile").write_text("FROM mine\n")
    (folder / "notes.txt").write_text("mine")
    lk.export(done, "ollama")
    assert (folder / "Modelfile.before").read_text() == "FROM mine\n" and (folder / "notes.txt").read_text() == "mine"
    assert "TEMPLATE" in (folder / "Modelfile").read_text()


def test_a_folder_in_the_place_of_a_file_is_one_sentence(done: lk.Run) -> None:
    path = lk.export(done, "adapter-zip")
    path.unlink()
    path.mkdir()
    try:
        with pytest.raises(lk.KitError, match=r"cannot write .*zip: Is a directory"):
            lk.export(done, "adapter-zip")
        assert not list(path.parent.glob(".*.partial"))
    finally:
        path.rmdir()
