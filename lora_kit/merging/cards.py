"""The model card of an adapter or a merged model: where it comes from, what was measured, how to load it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ..adapter_files import read_adapter
from ..config import Base
from ..data.prepare import data_inputs
from ..data.prepared import load_prepared
from ..files import read_manifest
from ..runs import Run
from ..templates import render
from ..training.train import adapter_stage, train_inputs
from .certificate import Certificate, table

META = "Meta Platforms, Inc. All Rights Reserved.\n"
NOTICES = {  # licence -> the line that must go with every copy (section 1.b.iii)
    "llama2": f"Llama 2 is licensed under the LLAMA 2 Community License, Copyright (c) {META}",
    "llama3.2": f"Llama 3.2 is licensed under the Llama 3.2 Community License, Copyright © {META}",
}
PROJECT = "https://github.com/wambugu71/Fine-tuning-meta-llma2-7b-chat-using-LoRa"
LICENCES = ("llama2", "llama3.2", "apache-2.0", "mit")  # that the Hub knows by name


def card_texts(
    run: Run, kind: str, certificate: Certificate | None = None, report: str | None = None
) -> dict[str, str]:
    """The files that go with every copy of a model: README.md in the Hub's form, and Llama's NOTICE where it is due.

    What is not made yet is left out. `kind` is "adapter" or "merged", `report` the report card in Markdown.
    """
    from markupsafe import Markup

    profile, page = run.profile, _page(run.profile.base)
    folder, training = run.find("data", data_inputs(run)), run.find(adapter_stage(run), train_inputs(run))
    data, targets = load_prepared(folder) if folder else None, [*profile.lora.target_modules]
    if training:  # a profile may say "all-linear"
        targets = sorted({name.rpartition(".")[2] for name in read_adapter(training / "adapter").modules})
    card = render(
        "model_card.md",
        kind=kind,
        front_matter=Markup(front_matter(profile.base, kind)),
        profile=profile,
        base=profile.base,
        title=profile.base.public_title,
        adapter=Path(adapter_stage(run)).name,
        targets=targets,
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


def front_matter(base: Base, kind: str) -> str:
    """What the Hub reads of a card, in YAML; it refuses a licence that is not on its list and a base that it lacks.

    Another licence is "other", with a link to the base's page.
    """
    from huggingface_hub import ModelCardData

    page, data = _page(base), dict[str, Any](license=base.licence)
    if base.licence not in LICENCES:
        name = re.sub(r"[^a-z0-9.]+", "-", base.licence.lower()).strip("-.")
        data = {"license": "other", "license_name": name, "license_link": page} if page else {"license": "unknown"}
    library, relation = ("peft", "adapter") if kind == "adapter" else ("transformers", "finetune")
    if page:
        data |= {"base_model": base.source, "base_model_relation": relation}
    tags = ["lora", "lora_kit"]
    return ModelCardData(library_name=library, pipeline_tag="text-generation", tags=tags, **data).to_yaml()


def _page(base: Base) -> str | None:
    """The base's page on the Hub; a folder has none."""
    on_hub = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", base.source) and not Path(base.source).is_dir()
    return f"https://huggingface.co/{base.source}" if on_hub else None
