"""GGUF files, read back by transformers with the gguf reader, against the model that they were written from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from gguf import GGUFReader
from safetensors.torch import load_file, save_file
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import lora_kit as lk
from lora_kit.base import ASSETS, load_tokenizer
from lora_kit.errors import KitError
from lora_kit.gguf import write_gguf
from lora_kit.llama_cpp import Post, ask, llama_cpp

from .data.test_templates import PIECES, TEMPLATES, tokenizer_of
from .models import llama, save_small_llama
from .test_families import KINDS, save_family

CHATML = TEMPLATES["SmolLM2, Qwen2.5"]
TEXTS = ["How many owls?", "Nine owls, (grey) öß 1234\n\n\n don't", "Tools: <s> 9 days.</s>"]
IDS = torch.tensor([[1, 5, 6, 7, 8, 9, 40, 77]])
TOKENIZER = AutoTokenizer.from_pretrained(ASSETS / "tiny-chat")


def load(path: Path) -> PreTrainedModel:
    where = {"gguf_file": path.name} if path.is_file() else {}
    return AutoModelForCausalLM.from_pretrained(path.parent if where else path, dtype=torch.float32, **where)


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(IDS).logits.double()


def ids_of(texts: list[str], post: Post) -> list[list[int]]:
    """The texts as llama.cpp encodes them, with nothing added."""
    return [post("/tokenize", content=text, add_special=False, parse_special=True)["tokens"] for text in texts]


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_an_f16_gguf_is_the_model_to_rounding(tmp_path: Path, kv_heads: int) -> None:
    model = save_small_llama(tmp_path, config=llama(4096, 64, 128, 2, 4, kv_heads))
    write_gguf(model, TOKENIZER, tmp_path / "m.gguf", name="small")
    torch.testing.assert_close(logits(load(tmp_path / "m.gguf")), logits(load(model)), rtol=0, atol=1e-5)


def test_the_frequencies_that_old_checkpoints_store_are_passed_over(tmp_path: Path) -> None:
    model = save_small_llama(tmp_path, config=llama(4096, 64, 128, 2, 4, 4))
    write_gguf(model, TOKENIZER, tmp_path / "new.gguf", name="small")
    old = load_file(model / "model.safetensors")
    old["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    save_file(old, model / "model.safetensors", metadata={"format": "pt"})
    write_gguf(model, TOKENIZER, tmp_path / "old.gguf", name="small")
    assert (tmp_path / "old.gguf").read_bytes() == (tmp_path / "new.gguf").read_bytes()


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


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "'yarn'"),
        ({"model_type": "gemma3_text"}, "gemma3_text.*llama, qwen2"),
        ({"model_type": "mistral", "sliding_window": 8}, "window"),
        ({"model_type": "smollm3", "no_rope_layer_interval": 2}, "every fourth"),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(
    tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    model = save_small_llama(tmp_path)
    config = json.loads((model / "config.json").read_text()) | changes
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(KitError, match=reason):
        write_gguf(model, TOKENIZER, tmp_path / "m.gguf", name="x")


def test_a_tokenizer_whose_pieces_nobody_knows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KitError, match="cuts text by"):
        write_gguf(save_small_llama(tmp_path), tokenizer_of(CHATML, pieces=r"\s+|\S+"), tmp_path / "m.gguf", name="x")


@pytest.mark.parametrize("family", [name for name in KINDS if "window" not in name and name != "gemma3"])
def test_llama_cpp_gives_the_same_ids_and_answers_for_every_family(tmp_path: Path, family: str) -> None:
    pytest.importorskip("xllamacpp", reason="llama.cpp is not installed: pip install xllamacpp")
    tokenizer = tokenizer_of(CHATML)
    model = save_family(tmp_path / "model", family, vocab_size=len(tokenizer) + 3, no_rope_layer_interval=4)
    write_gguf(model, tokenizer, tmp_path / "m.gguf", name="x")
    prompts = [tokenizer(text, add_special_tokens=False).input_ids for text in TEXTS]
    with llama_cpp(tmp_path / "m.gguf", 512) as post:
        assert ids_of(TEXTS, post) == prompts
        answers = ask(post, [{"prompt": prompt} for prompt in prompts], 8)
    ours = load(model)
    for prompt, answer in zip(prompts, answers, strict=True):
        with torch.inference_mode():
            likely = ours(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]  # (answer, vocab)
        lost = likely.amax(-1) - likely[range(len(answer)), answer]
        assert answer and lost.max() < 0.05  # float16's rounding decides between equals


@pytest.mark.parametrize("cuts", ["SentencePiece", "GPT-2", "SmolLM2", "Qwen2.5"])
def test_llama_cpp_cuts_text_as_the_tokenizer_does(tmp_path: Path, cuts: str) -> None:
    pytest.importorskip("xllamacpp", reason="llama.cpp is not installed: pip install xllamacpp")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    ways = {
        "GPT-2": byte_level,
        "SmolLM2": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level]),
    }
    tokenizer = TOKENIZER if cuts == "SentencePiece" else tokenizer_of(CHATML, PIECES.replace("{1,3}", ""))
    if cuts in ways:
        tokenizer.backend_tokenizer.pre_tokenizer = ways[cuts]
    model = save_family(tmp_path / "model", "llama", vocab_size=len(tokenizer))
    write_gguf(model, tokenizer, tmp_path / "m.gguf", name="x")
    texts = TEXTS[:2] if cuts == "SentencePiece" else TEXTS  # there llama.cpp puts a space behind a special token
    texts = [*texts, "a  b\n\n  c\t9.75 €\r\n", "'Tis 12345 o'clock; she'll"]
    ids = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    with llama_cpp(tmp_path / "m.gguf", 512) as post:
        assert ids_of(texts, post) == ids
