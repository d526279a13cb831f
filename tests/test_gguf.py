"""GGUF files, read back by transformers with the gguf reader, against the model that they were written from."""

from __future__ import annotations

import json
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from gguf import GGUFReader
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import lora_kit as lk
from lora_kit.base import ASSETS, load_tokenizer
from lora_kit.errors import KitError
from lora_kit.gguf import write_gguf

from .models import llama, save_small_llama

IDS = torch.tensor([[1, 5, 6, 7, 8, 9, 40, 77]])
TOKENIZER = AutoTokenizer.from_pretrained(ASSETS / "tiny-chat")


def load(path: Path) -> PreTrainedModel:
    where = {"gguf_file": path.name} if path.is_file() else {}
    return AutoModelForCausalLM.from_pretrained(path.parent if where else path, dtype=torch.float32, **where)


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(IDS).logits.double()


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_an_f16_gguf_is_the_model_to_rounding(tmp_path: Path, kv_heads: int) -> None:
    model = save_small_llama(tmp_path, config=llama(4096, 64, 128, 2, 4, kv_heads))
    write_gguf(model, TOKENIZER, tmp_path / "m.gguf", name="small")
    torch.testing.assert_close(logits(load(tmp_path / "m.gguf")), logits(load(model)), rtol=0, atol=1e-5)


def test_a_q8_0_gguf_is_within_its_own_error(done: lk.Run) -> None:
    path, merged = lk.export(done, "gguf-q8_0"), lk.merge(done)
    there, ours = load(path), load(merged)
    name = "model.layers.0.mlp.up_proj.weight"
    weight, stored = (model.state_dict()[name].unflatten(1, (-1, 32)) for model in (ours, there))
    step = weight.abs().amax(-1, keepdim=True) / 127
    assert ((weight - stored).abs() <= 0.57 * step).all()  # half a step, and the scale in 16 bits
    assert (logits(there) - logits(ours)).norm() < 0.02 * logits(ours).norm()
    assert path.stat().st_size < 0.6 * sum(file.stat().st_size for file in merged.glob("*.safetensors"))


def test_rows_that_are_no_whole_blocks_stay_in_f16(tmp_path: Path) -> None:
    model = save_small_llama(tmp_path, config=llama(4096, 48, 96, 1, 2, 2))
    write_gguf(model, TOKENIZER, tmp_path / "m.gguf", kind="Q8_0", name="odd")
    types = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(tmp_path / "m.gguf").tensors}
    assert types["blk.0.ffn_down.weight"] == "Q8_0"  # 96 columns
    assert types["blk.0.attn_q.weight"] == "F16" and types["blk.0.attn_norm.weight"] == "F32"


def test_the_gguf_holds_the_tokenizer_and_the_merged_model(done: lk.Run) -> None:
    path = lk.export(done, "gguf")
    torch.testing.assert_close(logits(load(path)), logits(load(lk.merge(done))), rtol=0, atol=1e-4)
    ours, theirs = load_tokenizer(done.profile.base), AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    rows = [json.loads(line) for line in (ASSETS / "handbook" / "test.jsonl").read_text().splitlines()]
    texts = [row["messages"][-1]["content"] for row in rows[:100]] + ["Straße, naïve 漢字 🙂", "a  b   c", "1,234.5%"]
    for text in texts:
        expected = ours(text, add_special_tokens=False).input_ids
        assert theirs(text, add_special_tokens=False).input_ids == expected
    assert (theirs.bos_token_id, theirs.eos_token_id) == (ours.bos_token_id, ours.eos_token_id)


def test_tokens_have_the_format_s_types(tmp_path: Path) -> None:
    write_gguf(save_small_llama(tmp_path), TOKENIZER, tmp_path / "m.gguf", name="x")
    fields = GGUFReader(tmp_path / "m.gguf").fields
    types, tokens = fields["tokenizer.ggml.token_type"].contents(), fields["tokenizer.ggml.tokens"].contents()
    found = dict(zip(tokens, types, strict=True))
    assert [found[token] for token in ("a", "<unk>", "<s>", "</s>", "<0x0A>")] == [1, 2, 3, 3, 6]


def test_weights_beyond_float16_are_refused(tmp_path: Path) -> None:
    model = save_small_llama(tmp_path)
    tensors = load_file(model / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name] = tensors[name].float() + 1e5
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(KitError, match=f"{name}.*65504"):
        write_gguf(model, TOKENIZER, tmp_path / "m.gguf", name="x")


def test_what_gguf_s_llama_does_not_cover_is_refused(tmp_path: Path) -> None:
    model, other = save_small_llama(tmp_path), deepcopy(TOKENIZER)
    content = json.loads(other.backend_tokenizer.to_str())
    content["model"]["byte_fallback"] = False  # as in the byte-level tokenizers of GPT-2, SmolLM2, Llama 3
    other._tokenizer = Tokenizer.from_str(json.dumps(content))
    with pytest.raises(KitError, match="SentencePiece"):
        write_gguf(model, other, tmp_path / "m.gguf", name="x")
    config = json.loads((model / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "yarn", "rope_theta": 1e4}
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(KitError, match="'yarn'"):
        write_gguf(model, TOKENIZER, tmp_path / "m.gguf", name="x")


def test_without_the_gguf_package_the_message_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(KitError, match="pip install gguf"):
        write_gguf(tmp_path, TOKENIZER, tmp_path / "m.gguf", name="x")
