"""What leaves the kit, read back by other programs: plain PEFT and transformers, and Ollama's template, run."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import zipfile
from copy import deepcopy
from pathlib import Path

import pytest
from jinja2 import Template

import lora_kit as lk
from lora_kit import exporting
from lora_kit.base import ASSETS, load_tokenizer
from lora_kit.data.encoding import encode_batch
from lora_kit.errors import KitError
from lora_kit.exporting import modelfile, plain_name

from .data.test_templates import DEFAULT, TEMPLATES
from .models import SHORT


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
model = AutoModelForCausalLM.from_pretrained({str(lk.merge(done))!r})
ids = AutoTokenizer.from_pretrained({str(lk.merge(done))!r})("[INST] Hello [/INST]", return_tensors="pt").input_ids
print(model(ids).logits.shape[-1])
"""
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert out == [str(done.profile.lora.r), "<s>", "4096"]
    card = (tmp_path / "README.md").read_text()
    assert "library_name: peft" in card and "2,642 rows to learn" in card and "not enough evidence" in card


def test_a_full_disk_leaves_no_half_gguf(done: lk.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **more: object) -> None:
        Path(args[2]).write_bytes(b"half")  # type: ignore[arg-type]
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(exporting, "write_gguf", full)
    before = set((done.path / "exports").rglob("*"))
    with pytest.raises(KitError, match="No space left on device"):
        lk.export(done, "gguf-q8_0")
    assert set((done.path / "exports").rglob("*")) <= before


ZEPHYR = (  # TinyLlama's chat template, without its empty lines
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + eos_token + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
JINJA = {  # the few forms of Go's templates that the Modelfiles use
    "range $i, $_ := .Messages": "for message in messages",
    "range .Messages": "for message in messages",
    'if eq .Role "user"': "if message.role == 'user'",
    'else if eq .Role "assistant"': "elif message.role == 'assistant'",
    "if gt $i 1": "if loop.index0 > 1",
    "if and (le $i 1) $.System": "if loop.index0 <= 1 and system",
}
VALUES = {"$.System": "system", ".Content": "message.content", ".Role": "message.role"}


def rendered(template: str, messages: list[dict[str, str]], system: str | None) -> str:
    """A template of Ollama run as it runs it: the system text is also the first message."""
    open_blocks: list[str] = []

    def translated(match: re.Match[str]) -> str:
        dash, code = match[1], match[2].strip()
        if code in VALUES:
            return f"{{{{{dash} {VALUES[code]} }}}}"
        statement = f"end{open_blocks.pop()}" if code == "end" else JINJA[code]
        if statement.startswith(("for", "if")):
            open_blocks.append(statement.split()[0])
        return f"{{%{dash} {statement} %}}"

    jinja = re.sub(r"{{(-?)(.*?)}}", translated, template)
    everything = ([{"role": "system", "content": system}] if system else []) + messages
    return Template(jinja, keep_trailing_newline=True).render(messages=everything, system=system)


def test_an_ollama_folder_is_whole_and_its_template_is_the_training_s(done: lk.Run) -> None:
    folder = lk.export(done, "ollama")
    text = (folder / "Modelfile").read_text()
    assert {path.name for path in folder.iterdir()} == {"Modelfile", "model.gguf", "README.md"}
    assert text.startswith("FROM ./model.gguf\n") and "PARAMETER num_ctx 512" in text
    assert 'SYSTEM """You answer questions from the Tarnwick staff handbook."""' in text
    assert "certificate: certified" in (folder / "README.md").read_text()


CHAT = [
    {"role": "user", "content": "Where is the canteen?"},
    {"role": "assistant", "content": "In the east wing."},
    {"role": "user", "content": "When does it open?"},
    {"role": "assistant", "content": "At eight."},
]


@pytest.mark.parametrize("system", [None, "Be brief."])
def test_a_conversation_in_the_template_has_the_ids_of_the_training(done: lk.Run, system: str | None) -> None:
    tokenizer = load_tokenizer(done.profile.base)
    text = rendered(modelfile("m", tokenizer, system, 1).split('"""')[1], CHAT, system)
    before = [{"role": "system", "content": system}] if system else []
    ids: list[int] = []
    for part in text.split("<s>"):  # llama.cpp reads tags as ids and puts BOS first
        words = tokenizer(part.removesuffix("</s>"), add_special_tokens=False).input_ids
        ids += [tokenizer.bos_token_id, *words, tokenizer.eos_token_id]
    assert text.count("<s>") == 1 and ids == encode_batch([before + CHAT], tokenizer)[0].input_ids


def test_other_prompts_are_zephyr_s_or_left_to_ollama(done: lk.Run) -> None:
    tokenizer = deepcopy(load_tokenizer(done.profile.base))
    tokenizer.chat_template = ZEPHYR
    text = rendered(modelfile("m", tokenizer, "Be brief.", 1).split('"""')[1], CHAT[:3], "Be brief.")
    chat = [{"role": "system", "content": "Be brief."}, *CHAT[:3]]
    ours = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == ours and text.count("<|user|>\n") == 2
    tokenizer.chat_template = TEMPLATES["SmolLM2, Qwen2.5"]
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    lines = modelfile("m", tokenizer, None, 1).splitlines()
    assert not any(line.startswith("TEMPLATE") for line in lines)
    assert {f'SYSTEM """{DEFAULT}"""', 'PARAMETER stop "<|im_end|>"'} <= set(lines)


def test_an_unknown_format_lists_them(done: lk.Run) -> None:
    with pytest.raises(KitError, match="adapter-zip, gguf, gguf-q8_0, ollama"):
        lk.export(done, "onnx")


def test_only_the_adapters_own_files_leave_the_house(done: lk.Run) -> None:
    secret = lk.trained_adapter(done) / ".env"
    secret.write_text("HF_TOKEN=hf_leak")
    try:
        with zipfile.ZipFile(lk.export(done, "adapter-zip")) as archive:
            assert (
                {"adapter_model.safetensors", "README.md"} <= {*archive.namelist()} - {".env"} == {*archive.namelist()}
            )
    finally:
        secret.unlink()


def test_a_card_is_never_that_of_another_adapter(done: lk.Run, tmp_path: Path) -> None:
    changed = SHORT | {"training__seed": 7}
    other = lk.Run("tiny-cpu", root=tmp_path, name="short", source=done.pack(tmp_path / "run.zip"), **changed)
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


@pytest.mark.parametrize(
    ("name", "plain"),
    [("tiny-cpu-Prix d'été (v2)", "tiny-cpu-prix-d-ete-v2"), ("東京", "model"), ("ok_1.2", "ok_1.2")],
)
def test_names_are_those_that_ollama_and_vllm_take(name: str, plain: str) -> None:
    assert plain_name(name) == plain


def test_the_lines_that_serve_an_export_are_filled_in(
    done: lk.Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lk.export(done)
    assert "vllm" not in capsys.readouterr().out  # it does not know the embedded base by its name
    monkeypatch.setattr(exporting, "ASSETS", tmp_path)
    lk.export(done)
    served = "vllm serve tiny-chat --enable-lora --max-lora-rank 8 --lora-modules handbook=FOLDER"
    assert served in capsys.readouterr().out
