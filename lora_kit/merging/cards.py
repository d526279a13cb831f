"""The model card of an adapter or a merged model: where it comes from, what was measured, how to load it."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data import data_inputs, load_prepared
from ..manifests import read_manifest
from ..training import adapter_stage, train_inputs
from .certificate import Certificate, table

if TYPE_CHECKING:
    from ..profiles import Base
    from ..runs import Run

    Lines = list[str]

NOTICE = (
    "Llama 2 is licensed under the LLAMA 2 Community License, "
    "Copyright (c) Meta Platforms, Inc. All Rights Reserved.\n"
)  # section 1.b.iii asks for exactly this line beside every copy
PROJECT = "https://github.com/wambugu71/Fine-tuning-meta-llma2-7b-chat-using-LoRa"
LICENCES = {  # of the base, and of what is made from it
    "llama2": "The base is under the [LLAMA 2 Community License](https://ai.meta.com/llama/license/), and so is what "
    "is made from it: pass the licence on, keep the file NOTICE, follow the Acceptable Use Policy.",
    "apache-2.0": "The base is under the Apache License 2.0, and so is what is made from it.",
    "mit": "The base is under the MIT License, and so is what is made from it.",
}
USE = {
    "adapter": """```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained("{base}")
model = PeftModel.from_pretrained(base, "FOLDER OR HUB ID OF THIS ADAPTER")
```""",
    "merged": """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("FOLDER OR HUB ID OF THIS MODEL")
```""",
}


def model_card(run: Run, kind: str, certificate: Certificate | None = None, report: str | None = None) -> str:
    """README.md of an "adapter" or a "merged" model, in the Hub's form.

    Args:
        run: its stages supply the figures; what is not measured yet is left out.
        kind: "adapter" or "merged".
        certificate: of the merge.
        report: the report card in Markdown.
    """
    base, name = run.profile.base, adapter_stage(run).rpartition("/")[2]
    lines = ["---", front_matter(base, kind), "---", "", f"# {_plain(f'{base.title}, {name}')}", ""]
    lines += [_what(run, kind), "", "## Data", "", *_data(run), ""]
    if report:
        lines += ["## Report card", "", report, ""]
    if certificate:
        lines += ["## Certificate of the merge", "", "```", table(certificate), "```", ""]
    page = _page(base)
    lines += ["## Use", "", USE[kind].format(base=base.source if page else "FOLDER OF THE BASE"), "", "## Licence", ""]
    named = f"[see its page]({page})" if page else base.licence
    same = f"The licence of the base holds for what is made from it too: {named}."
    return "\n".join([*lines, LICENCES.get(base.licence, same), ""])


def front_matter(base: Base, kind: str) -> str:
    """What the Hub reads of a card, in YAML; it refuses a licence that is not on its list and a base that it lacks.

    Args:
        base: the base model; a licence that this page does not name is "other" with the base's own page.
        kind: "adapter" or "merged".
    """
    from huggingface_hub import ModelCardData

    page = _page(base)
    data: dict[str, Any] = {"license": base.licence}
    if base.licence not in LICENCES:
        name = re.sub(r"[^a-z0-9.]+", "-", base.licence.lower()).strip("-.")
        data = {"license": "other", "license_name": name, "license_link": page} if page else {"license": "unknown"}
    if page:
        data |= {"base_model": base.source, "base_model_relation": "adapter" if kind == "adapter" else "finetune"}
    library = "peft" if kind == "adapter" else "transformers"
    tags = ["lora", "lora_kit"]
    return ModelCardData(library_name=library, pipeline_tag="text-generation", tags=tags, **data).to_yaml()


def _page(base: Base) -> str | None:
    """The base's page on the Hub; a folder has none."""
    on_hub = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", base.source) and not Path(base.source).is_dir()
    return f"https://huggingface.co/{base.source}" if on_hub else None


def card_texts(
    run: Run, kind: str, certificate: Certificate | None = None, report: str | None = None
) -> dict[str, str]:
    """The files that go with every copy of a model: its card, and Llama 2's notice where it is asked for."""
    texts = {"README.md": model_card(run, kind, certificate, report)}
    return texts | ({"NOTICE": NOTICE} if run.profile.base.licence == "llama2" else {})


def _what(run: Run, kind: str) -> str:
    lora, kind_of_base = run.profile.lora, run.profile.quantization.kind
    scaled = ", rsLoRA" if lora.use_rslora else ""
    made = "A LoRA adapter for" if kind == "adapter" else "A LoRA adapter merged into"
    return (
        f"{made} {_plain(run.profile.base.title)}: r = {lora.r}, lora_alpha = {lora.lora_alpha}{scaled} on "
        f"{', '.join(lora.target_modules)}; base in {kind_of_base} while training{_training(run)}, "
        f"seed {run.profile.training.seed}. Made with [lora_kit]({PROJECT})."
    )


def _training(run: Run) -> str:
    """What "auto" became in the training that is there."""
    folder = run.find(adapter_stage(run), train_inputs(run))
    figures = read_manifest(folder)["figures"] if folder else {}
    told = {"steps": "{} steps", "epochs": "{} epochs", "learning_rate": "learning rate {:g}"}
    return "".join(f", {text.format(figures[name])}" for name, text in told.items() if name in figures)


def _data(run: Run) -> Lines:
    folder = run.find("data", data_inputs(run))
    if not folder:
        return ["not at hand when this card was written"]
    return [f"- {_plain(line)}" for line in load_prepared(folder).report.for_others()]


def _plain(text: str) -> str:
    """Text that stays text in Markdown."""
    return re.sub(r"([\\`*_\[\]|~#])", r"\\\1", html.escape(" ".join(text.split()), quote=False))
