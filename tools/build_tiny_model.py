"""Build the embedded model: python tools/build_tiny_model.py [--from-part names] [--seed 0]

Writes lora_kit/assets/tiny-chat/: a Llama tokenizer (BPE, Metaspace, byte fallback), a small LlamaForCausalLM in
float16 safetensors, and corpus.json with what it was made from and what it scores. Needs nothing but this repository;
on two cores it takes about an hour and a half, on a GPU less.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import re
import string
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, LlamaTokenizer

sys.path.insert(0, str(Path(__file__).parent))
import tiny_corpus
from tiny_scores import CANDIDATES, scores

from lora_kit.data.encoding import encode_batch

TARGET = Path(__file__).parents[1] / "lora_kit" / "assets" / "tiny-chat"
VOCABULARY = 4096
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPE = dict(hidden_size=192, intermediate_size=512, num_hidden_layers=6, num_attention_heads=6, num_key_value_heads=6)
CHAT_TEMPLATE = (  # Meta's format for other programs; the kit itself encodes turn by turn
    "{% set system = '' %}{% if messages[0]['role'] == 'system' %}"
    "{% set system = '<<SYS>>\\n' + messages[0]['content'] | trim + '\\n<</SYS>>\\n\\n' %}"
    "{% set messages = messages[1:] %}{% endif %}"
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + (system if loop.first else '') + message['content'] | trim + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)
WORD_WEIGHT = 200  # times that each word of the templates is shown to the tokenizer beside 60,000 conversations
TOKENS_PER_STEP = 4096
NAMES = frozenset(CANDIDATES["names"] + CANDIDATES["strange_names"])
LAST_LR, WARMUP = 1e-4, 100


@dataclass(frozen=True)
class Part:
    """One part of the training: which conversations, how many steps, and the highest learning rate."""

    shares: Mapping[str, float]
    steps: int
    peak: float


PARTS = {
    "world": Part(tiny_corpus.SHARES, 4000, 4e-3),  # the whole corpus, from nothing
    "staff": Part(tiny_corpus.STAFF_SHARES, 1500, 1.5e-3),  # how a staff handbook talks, names that begin like words
    "names": Part(tiny_corpus.NAMES_SHARES, 1500, 1.5e-3),  # the same with names of many more sounds
}


def build_tokenizer(seed: int) -> LlamaTokenizer:
    """BPE as Llama's: no merge crosses a word, a digit or a punctuation mark; what is unknown falls back to bytes."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="never"), pre_tokenizers.Split(Regex(r"▁?[^\w▁]|\d"), "isolated")]
    )
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<unk>", "<s>", "</s>", *bytes_],
        initial_alphabet=list(string.printable.strip()),
        max_token_length=14,
    )
    # whole prompts, line by line: Llama's vocabulary has words for the format's tags and bytes for line ends
    prompts = (line for chat in tiny_corpus.conversations(seed, 60_000) for line in prompt_text(chat).splitlines())
    # rare words again: the syllables of the endless names would take their places, and Llama has a token for "houses"
    words = [f" {word}" for word in tiny_corpus.vocabulary()] * WORD_WEIGHT
    tokenizer.train_from_iterator(itertools.chain(prompts, words), trainer)
    state = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(merge) for merge in state["merges"]]
    special = {"pad_token": "<unk>", "model_max_length": 512, "chat_template": CHAT_TEMPLATE}
    return LlamaTokenizer(vocab=state["vocab"], merges=merges, **special)


def prompt_text(chat: list[dict[str, str]]) -> str:
    """The chat as the model will see it, so that a word after a line end (no space before it) gets a token of its own."""
    system = chat[0]["role"] == "system"
    shapes = {
        "system": " [INST] <<SYS>>\n{}\n<</SYS>>",
        "user": "{} [/INST]" if system else " [INST] {} [/INST]",
        "assistant": " {}",
    }
    return "\n".join(shapes[message["role"]].format(message["content"]) for message in chat)


def build_model(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=False,
        **SHAPE,
    )
    return LlamaForCausalLM(config)


def batches(
    tokenizer: LlamaTokenizer, seed: int, shares: Mapping[str, float], seen: set[str]
) -> Iterator[list[list[int]]]:
    """Endless batches of about TOKENS_PER_STEP tokens, rows of like length together, never the same conversation twice."""
    rng = random.Random(seed)
    for shard in range(10**6):
        chats = list(tiny_corpus.conversations(seed + 1 + shard, 4096, shares))
        seen |= names_in(chats)
        rows = sorted((row.input_ids for row in encode_batch(chats, tokenizer)), key=len)
        shard_batches, batch = [], []
        for row in rows:
            if batch and len(row) * (len(batch) + 1) > TOKENS_PER_STEP:
                shard_batches.append(batch)
                batch = []
            batch.append(row)
        shard_batches.append(batch)
        rng.shuffle(shard_batches)
        yield from shard_batches


def names_in(chats: list[list[dict[str, str]]]) -> set[str]:
    """The names of the score that stand in the corpus: they will not count as unseen."""
    return {word for chat in chats for message in chat for word in re.findall(r"\w+", message["content"])} & NAMES


def loss_of(model: LlamaForCausalLM, rows: list[list[int]], device: str) -> torch.Tensor:
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=device)
    labels = torch.tensor([row + [-100] * (width - len(row)) for row in rows], device=device)
    logits = model(input_ids=ids).logits[:, :-1]
    return cross_entropy(logits.flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100)


def learning_rate(step: int, done: float, peak: float) -> float:
    """Linear warmup, then a cosine over the steps that are given."""
    return min(1.0, (step + 1) / WARMUP) * (LAST_LR + (peak - LAST_LR) * (1 + math.cos(math.pi * done)) / 2)


def train(
    model: LlamaForCausalLM, rows_of: Iterator[list[list[int]]], steps: int, peak: float, device: str
) -> dict[str, float]:
    """Train for `steps` optimizer steps; returns steps, tokens, seconds and the last loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.95), weight_decay=0.01)
    start, tokens, smooth = time.time(), 0, None
    for step, rows in zip(range(steps), rows_of):  # noqa: B905 (the batches have no end)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, step / steps, peak)
        loss = loss_of(model, rows, device)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        tokens += sum(map(len, rows))
        smooth = loss.item() if smooth is None else 0.95 * smooth + 0.05 * loss.item()
        if step % 50 == 0:
            print(
                f"step {step}  loss {smooth:.3f}  {tokens / 1e6:.1f} M tokens  {step / steps:.0%}  {time.time() - start:.0f} s",
                flush=True,
            )
    return {"steps": steps, "tokens": tokens, "seconds": round(time.time() - start), "loss": round(smooth, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from-part", choices=PARTS, default="world", help="go on from the model in the folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=TARGET)
    options = parser.parse_args()
    names = list(PARTS)
    done = names[: names.index(options.from_part)]
    if not done:
        start(options.out, options.seed)
    report = json.loads((options.out / "corpus.json").read_text()) if done else {"seed": options.seed, "training": {}}
    report["training"] = {name: report["training"][name] for name in done}
    seen = set(report.get("names_seen", ()))
    for name in names[len(done) :]:
        report["training"][name] = train_part(options.out, options.seed, name, seen)
        write_report(options.out, report | {"names_seen": sorted(seen)})


def start(folder: Path, seed: int) -> None:
    """Tokenizer and random weights."""
    model = build_model(seed)
    model.generation_config.update(bos_token_id=1, eos_token_id=2, pad_token_id=0)
    model.save_pretrained(folder)
    build_tokenizer(seed).save_pretrained(folder)


def train_part(folder: Path, seed: int, name: str, seen: set[str]) -> dict[str, float]:
    """Train the model in the folder on one part, and save it there in float16; `seen` takes the names it was shown."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype="float32").to(DEVICE)
    part, seed = PARTS[name], seed + list(PARTS).index(name) * 10**6
    rows = batches(LlamaTokenizer.from_pretrained(folder), seed, part.shares, seen)
    figures = train(model, rows, part.steps, part.peak, DEVICE)
    model.half().save_pretrained(folder)
    return figures


def write_report(folder: Path, report: dict[str, Any]) -> None:
    report["parameters"] = LlamaForCausalLM.from_pretrained(folder).num_parameters()
    report["scores"] = scores(folder, report["names_seen"])
    report["corpus"] = tiny_corpus.statistics(report["seed"])
    (folder / "corpus.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2), flush=True)


if __name__ == "__main__":
    main()
