"""A Llama of Llama-2-7B's exact shape with random weights, in float16 and four shards: python tools/random_llama.py FOLDER

13.5 GB on disk, one tensor in memory at a time. For benches of what only size shows; its answers mean nothing.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

SHARDS = 4
SHAPE: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "dtype": "float16",
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def tensors(config: dict[str, Any]) -> dict[str, list[int]]:
    """Names and shapes, in the order of the layers."""
    dim, mlp, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    found = {"model.embed_tokens.weight": [vocabulary, dim]}
    for number in range(config["num_hidden_layers"]):
        before = f"model.layers.{number}."
        found |= {f"{before}self_attn.{name}_proj.weight": [dim, dim] for name in "qkvo"}
        found |= {f"{before}mlp.{name}_proj.weight": [mlp, dim] for name in ("gate", "up")}
        found |= {f"{before}mlp.down_proj.weight": [dim, mlp]}
        found |= {f"{before}{name}_layernorm.weight": [dim] for name in ("input", "post_attention")}
    return found | {"model.norm.weight": [dim], "lm_head.weight": [vocabulary, dim]}


def write(folder: Path, config: dict[str, Any]) -> None:
    """Write configuration, shards and index."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    names, generator = list(tensors(config).items()), torch.Generator().manual_seed(0)
    index: dict[str, str] = {}
    for shard in range(SHARDS):
        file = f"model-{shard + 1:05d}-of-{SHARDS:05d}.safetensors"
        part = names[shard * len(names) // SHARDS : (shard + 1) * len(names) // SHARDS]
        header, offset = {"__metadata__": {"format": "pt"}}, 0
        for name, shape in part:
            size = 2 * torch.Size(shape).numel()
            header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [offset, offset + size]}
            offset, index[name] = offset + size, file
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with (folder / file).open("wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            for _, shape in part:
                values = torch.randn(shape, generator=generator).mul_(0.02) if len(shape) > 1 else torch.ones(shape)
                out.write(memoryview(values.half().numpy()).cast("B"))
    total = sum(2 * torch.Size(shape).numel() for _, shape in names)
    told = {"metadata": {"total_size": total}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(told))
    (folder / "config.json").write_text(json.dumps(config, indent=2))  # last: without it nothing takes this for a model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=SHAPE["num_hidden_layers"])
    options = parser.parse_args()
    if not (options.folder / "config.json").exists():
        shutil.rmtree(options.folder, ignore_errors=True)
        write(options.folder, SHAPE | {"num_hidden_layers": options.layers})


if __name__ == "__main__":
    main()
