"""Build the embedded model: python tools/build_tiny_model.py [--steps 2000] [--seed 0]

Writes lora_kit/assets/tiny-chat/: a Llama tokenizer (BPE, Metaspace, byte fallback), a small LlamaForCausalLM in
float16 safetensors, and corpus.json with what it was made from and what it scores. Needs nothing but this repository;
on two cores it takes about 40 minutes, on a GPU less.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import string
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, LlamaTokenizer

sys.path.insert(0, str(Path(__file__).parent))
import tiny_corpus
from tiny_scores import scores

from lora_kit.data.encoding import encode_llama2

TARGET = Path(__file__).parents[1] / "lora_kit" / "assets" / "tiny-chat"
VOCABULARY = 3072
SHAPE = dict(hidden_size=192, intermediate_size=512, num_hidden_layers=6, num_attention_heads=6, num_key_value_heads=6)
TOKENS_PER_STEP = 4096
PEAK_LR, LAST_LR, WARMUP = 4e-3, 1e-4, 100


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
    chats = tiny_corpus.conversations(seed, 60_000)
    # whole prompts, line by line: Llama's vocabulary has words for the format's tags and bytes for line ends
    texts = (line for chat in chats for line in prompt_text(chat).splitlines())
    tokenizer.train_from_iterator(texts, trainer)
    state = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(merge) for merge in state["merges"]]
    return LlamaTokenizer(vocab=state["vocab"], merges=merges, pad_token="<unk>", model_max_length=512)


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


def batches(tokenizer: LlamaTokenizer, seed: int) -> Iterator[list[list[int]]]:
    """Endless batches of about TOKENS_PER_STEP tokens, rows of like length together, never the same conversation twice."""
    rng = random.Random(seed)
    for shard in range(10**6):
        chats = tiny_corpus.conversations(seed + 1 + shard, 4096)
        rows = sorted((encode_llama2(chat, tokenizer)[0] for chat in chats), key=len)
        shard_batches, batch = [], []
        for row in rows:
            if batch and len(row) * (len(batch) + 1) > TOKENS_PER_STEP:
                shard_batches.append(batch)
                batch = []
            batch.append(row)
        rng.shuffle(shard_batches)
        yield from shard_batches


def loss_of(model: LlamaForCausalLM, rows: list[list[int]], device: str) -> torch.Tensor:
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=device)
    labels = torch.tensor([row + [-100] * (width - len(row)) for row in rows], device=device)
    logits = model(input_ids=ids).logits[:, :-1]
    return cross_entropy(logits.flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100)


def learning_rate(step: int, done: float) -> float:
    """Linear warmup, then a cosine over the time that is given."""
    return min(1.0, (step + 1) / WARMUP) * (LAST_LR + (PEAK_LR - LAST_LR) * (1 + math.cos(math.pi * done)) / 2)


def train(model: LlamaForCausalLM, tokenizer: LlamaTokenizer, steps: int, seed: int, device: str) -> dict:
    """Train for `steps` optimizer steps; returns steps, tokens and the last loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, betas=(0.9, 0.95), weight_decay=0.01)
    start, tokens, smooth = time.time(), 0, None
    for step, rows in zip(range(steps), batches(tokenizer, seed)):  # noqa: B905 (the batches have no end)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, step / steps)
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
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=TARGET)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer, model = build_tokenizer(options.seed), build_model(options.seed).to(device)
    figures = train(model, tokenizer, options.steps, options.seed, device)
    model = model.cpu().half()
    model.generation_config.update(bos_token_id=1, eos_token_id=2, pad_token_id=0)
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    report = {
        "seed": options.seed,
        "parameters": model.num_parameters(),
        "training": figures,
        "scores": scores(options.out),
    }
    (options.out / "corpus.json").write_text(
        json.dumps(report | {"corpus": tiny_corpus.statistics(options.seed)}, indent=2) + "\n"
    )
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
