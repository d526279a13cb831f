"""The model card of an adapter or a merged model: where it comes from, what was measured, how to load it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.prepare import data_inputs, load_prepared
from ..files import read_manifest
from ..templates import render
from ..training.train import adapter_stage, train_inputs
from .certificate import Certificate, table

if TYPE_CHECKING:
    from ..config import Base
    from ..runs import Run

NOTICES = {  # licence -> the line that it asks for beside every copy (section 1.b.iii)
    "llama2": "Llama 2 is licensed under the LLAMA 2 Community License, "
    "Copyright (c) Meta Platforms, Inc. All Rights Reserved.\n",
    "llama3.2": "Llama 3.2 is licensed under the Llama 3.2 Community License, "
    "Copyright © Meta Platforms, Inc. All Rights Reserved.\n",
}
PROJECT = "https://github.com/wambugu71/Fine-tuning-meta-llma2-7b-chat-using-LoRa"
LICENCES = ("llama2", "llama3.2", "apache-2.0", "mit")  # that the Hub and the template of the card know by name


def card_texts(
    run: Run, kind: str, certificate: Certificate | None = None, report: str | None = None
) -> dict[str, str]:
    """The files that go with every copy of a model: README.md in the Hub's form, and Llama's NOTICE where it is due.

    Args:
        run: its stages supply the figures; what is not measured yet is left out.
        kind: "adapter" or "merged".
        certificate: of the merge.
        report: the report card in Markdown.
    """
    from markupsafe import Markup

    profile, page = run.profile, _page(run.profile.base)
    folder, training = run.find("data", data_inputs(run)), run.find(adapter_stage(run), train_inputs(run))
    data = load_prepared(folder) if folder else None
    card = render(
        "model_card.md",
        kind=kind,
        front_matter=Markup(front_matter(profile.base, kind)),
        base=profile.base,
        adapter=Path(adapter_stage(run)).name,
        lora=profile.lora,
        untested=profile.base.untested,
        targets=_targets(training) if training else profile.lora.target_modules,
        quantization=profile.quantization.kind,
        seed=profile.training.seed,
        training=read_manifest(training)["figures"] if training else None,
        project=Markup(PROJECT),
        data=data.report.for_others() if data else [],
        system=data.card.get("system") if data else None,
        report=Markup(report or ""),
        certificate=Markup(table(certificate) if certificate else ""),
        source=Markup(profile.base.source) if page else "FOLDER OF THE BASE",
        page=page and Markup(page),
    )
    notice = NOTICES.get(profile.base.licence)
    return {"README.md": card} | ({"NOTICE": notice} if notice else {})


def _targets(training: Path) -> list[str]:
    """The names of the layers that the trained adapter is on."""
    names: list[str] = json.loads((training / "adapter" / "adapter_config.json").read_text())["target_modules"]
    return names


def front_matter(base: Base, kind: str) -> str:
    """What the Hub reads of a card, in YAML; it refuses a licence that is not on its list and a base that it lacks.

    Args:
        base: the base model; a licence that this page does not name is "other" with the base's own page.
        kind: "adapter" or "merged".
    """
    from huggingface_hub import ModelCardData

    page, data = _page(base), dict[str, Any](license=base.licence)
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
