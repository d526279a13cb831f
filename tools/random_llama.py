"""A Llama of Llama-2-7B's exact shape with random weights: python tools/random_llama.py FOLDER [--nf4]

13.5 GB on disk in float16 and four shards, one tensor in memory at a time; or 3.9 GB in NF4 with double quantization,
as `save_pretrained` of a model in 4 bits writes it. On a card where there is one. For benches of what only size shows;
its answers mean nothing.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

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
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "num_hidden_layers": 2,
}


def tensors(config: dict[str, Any]) -> dict[str, list[int]]:
    """Names and shapes, in the order of the layers."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**config))
    return {name: list(weight.shape) for name, weight in model.state_dict().items()}


def values(shapes: dict[str, list[int]]) -> Iterator[torch.Tensor]:
    """Float16 weights of these shapes, one after the other, the same every time on the same kind of device."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"  # one CPU thread takes minutes at 7B's shape
    generator = torch.Generator(device).manual_seed(0)
    for shape in shapes.values():
        if len(shape) > 1:
            yield torch.randn(shape, generator=generator, device=device).mul_(0.02).half()
        else:
            yield torch.ones(shape, dtype=torch.float16, device=device)


def write(folder: Path, config: dict[str, Any]) -> None:
    """Write configuration, shards and index in float16."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    shapes = tensors(config)
    names, made = list(shapes.items()), values(shapes)
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
            for _ in part:
                out.write(memoryview(next(made).cpu().numpy()).cast("B"))
    total = sum(2 * torch.Size(shape).numel() for _, shape in names)
    told = {"metadata": {"total_size": total}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(told))
    (folder / "config.json").write_text(json.dumps(config, indent=2))  # last: without it nothing takes this for a model


def write_nf4(folder: Path, config: dict[str, Any]) -> None:
    """Write configuration and one file in NF4: what every kit loads without quantizing first."""
    from bitsandbytes.functional import quantize_4bit
    from safetensors.torch import save_file
    from transformers import BitsAndBytesConfig

    folder.mkdir(parents=True, exist_ok=True)
    shapes = tensors(config)
    kept: dict[str, torch.Tensor] = {}
    for name, value in zip(shapes, values(shapes), strict=True):
        if not name.endswith("_proj.weight"):
            kept[name] = value.cpu()
            continue
        packed, state = quantize_4bit(value, quant_type="nf4", compress_statistics=True)
        kept |= {name: packed.cpu()}
        kept |= {f"{name}.{part}": stored.cpu() for part, stored in state.as_dict(packed=True).items()}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    stored_as = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype="float16",
    )
    told = config | {"quantization_config": stored_as.to_dict()}
    (folder / "config.json").write_text(json.dumps(told, indent=2))  # last, as above


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=SHAPE["num_hidden_layers"])
    parser.add_argument("--nf4", action="store_true", help="in 4 bits instead of float16")
    parser.add_argument("--small", action="store_true", help="two layers of 64 dimensions, to try things out")
    options = parser.parse_args()
    if not (options.folder / "config.json").exists():
        shutil.rmtree(options.folder, ignore_errors=True)
        config = SHAPE | (SMALL if options.small else {"num_hidden_layers": options.layers})
        (write_nf4 if options.nf4 else write)(options.folder, config)


if __name__ == "__main__":
    main()
