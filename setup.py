"""How pip installs the kit. Loose bounds on purpose: what Colab or Kaggle has loaded must not be replaced."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
HOME = "https://github.com/wambugu71/Fine-tuning-meta-llma2-7b-chat-using-LoRa"  # `make home REPOSITORY=...` moves it
VERSION = re.search(r'^__version__ = "([^"]+)"', (HERE / "lora_kit" / "__init__.py").read_text(encoding="utf-8"), re.M)
if VERSION is None:
    raise SystemExit('lora_kit/__init__.py must hold a line like __version__ = "0.1.0"')
README = HERE / "README.md"

setup(
    name="lora-kit",
    version=VERSION[1],
    description="Fine-tune a Llama chat model with LoRA on one small GPU, on your own data, and prove that it worked",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    url=HOME,
    license="MIT",
    license_files=["LICENSE", "NOTICE"],
    packages=find_packages(include=["lora_kit", "lora_kit.*"]),
    package_data={"lora_kit": ["assets/**"]},
    python_requires=">=3.11",
    install_requires=[
        "torch>=2.4",
        "transformers>=5.0,<6",
        "peft>=0.19",
        "datasets>=4.0",
        "accelerate>=1.13",
        "bitsandbytes>=0.46.1",  # transformers' own floor
        "safetensors",
        "matplotlib",
        "ipywidgets",
        "numpy",
        "jinja2",  # the report page and the cards
        "regex",  # a dataset's own patterns, with a limit of time
        "rapidfuzz",  # near-duplicates between learned and held-out questions
        "py3langid",  # answers that leave the language of their question
        "psutil",  # memory that is free, and that a training holds
        "filelock",  # one process writes a stage
    ],
    extras_require={
        "gguf": ["gguf"],  # lk.export(run, "gguf"), and Ollama
        "bench": ["trl"],  # the peer of `make bench-data`
        "browser": ["jupyterlab", "playwright"],  # `make test-browser`, with a Chromium of the machine's own
        "test": [
            "pytest",
            "pytest-xdist",  # the unit tests on two cores
            "nbval",
            "nbclient",
            "ipykernel",
            "hypothesis",
            "ruff",
            "mypy",
            "nbstripout",
            "rouge-score",
            "scipy",
            "xllamacpp",  # llama.cpp, which the GGUF files are held against
        ],
    },
    entry_points={"console_scripts": ["lora-kit = lora_kit.__main__:main"]},
)
