"""Taking it home: an adapter zip that plain PEFT loads, a GGUF file, a folder for Ollama."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from ..base import load_tokenizer, locate
from ..data.encoding import speaks_llama2
from ..data.prepare import data_inputs, load_prepared
from ..errors import KitError
from ..evaluation.evaluate import evaluation_inputs
from ..evaluation.report import markdown_card
from ..files import check_files, check_writable, disk_errors, shown, whole_file
from ..merging.cards import card_texts
from ..merging.merge import check_room, merge_inputs, size
from ..training.train import trained_adapter
from .gguf import write_gguf

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..runs import Run

FORMATS = {
    "adapter-zip": "the adapter with tokenizer and card, a few MiB, for PEFT and vLLM",
    "gguf": "the merged model as one F16 file for llama.cpp",
    "gguf-q8_0": "the same with 8 bits per weight, half the size",
    "ollama": "a folder with GGUF and Modelfile, for `ollama create`",
}
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "chat_template.jinja")
LLAMA2 = """{{- range $i, $_ := .Messages }}
{{- if eq .Role "user" }}{{ if gt $i 1 }}<s>{{ end }}[INST] {{ if and (le $i 1) $.System }}<<SYS>>
{{ $.System }}
<</SYS>>

{{ end }}{{ .Content }} [/INST]{{ else if eq .Role "assistant" }} {{ .Content }} </s>{{ end }}
{{- end }}"""
ZEPHYR = """{{- range .Messages }}<|{{ .Role }}|>
{{ .Content }}</s>
{{ end }}<|assistant|>
"""


def export(run: Run, kind: str = "adapter-zip") -> Path:
    """Write the result in a form that other programs load, and return its path.

    Args:
        run: its adapter is trained; all formats but "adapter-zip" need the merged model too.
        kind: "adapter-zip", "gguf", "gguf-q8_0" or "ollama".

    Raises:
        KitError: an unknown format, a stage that is missing, a base that it does not cover, no room on the disk.
    """
    if kind not in FORMATS:
        raise KitError(f"there is no export {kind!r}; lora_kit exports {', '.join(FORMATS)}")
    adapter, place = trained_adapter(run), run.path / "exports"
    name = f"{run.path.name}-{adapter.parent.name}"
    check_writable(place)
    if kind == "adapter-zip":
        target, hint = place / f"{adapter.parent.name}-adapter.zip", ""
        _write_zip(target, *adapter_files(run, adapter))
    elif kind == "ollama":
        target = place / f"{name}-ollama"
        _write_ollama(run, target, name)
        hint = f"\n  ollama create {quote(name)} -f {quote(shown(target / 'Modelfile'))}\n  ollama run {quote(name)}"
    else:
        bits = "Q8_0" if kind == "gguf-q8_0" else "F16"
        target = place / f"{name}-{bits}.gguf"
        _write_gguf(run, _merged(run), target, bits, name)
        hint = f"\n  llama-cli -m {quote(shown(target))} -cnv"
    mib = sum(file.stat().st_size for file in [target, *target.glob("*")]) / 2**20
    print(f"{kind}: {mib:,.1f} MiB in {shown(target)}{hint}")
    return target


def adapter_files(run: Run, adapter: Path) -> tuple[list[Path], dict[str, str]]:
    """What goes with an adapter: files that are there, and texts that are made (card, notice)."""
    base = locate(run.profile.base)
    files = [adapter / name for name in ADAPTER]  # these alone: what else lies there may be private
    files += [base / name for name in TOKENIZER if (base / name).is_file()]
    return files, card_texts(run, "adapter", report=_report_of(run))


def merged_folder(run: Run) -> tuple[Path, dict[str, str]]:
    """The merged model, and its card with certificate and report card, and notice."""
    merged = _merged(run)
    certificate = json.loads((merged / "certificate.json").read_text())
    return merged, card_texts(run, "merged", certificate, _report_of(run))


def _merged(run: Run) -> Path:
    return run.need("merged", merge_inputs(run), made_by="lk.merge(run)")


def _report_of(run: Run) -> str | None:
    """The report card of this adapter with these settings in Markdown, once it is made."""
    try:
        folder = run.find("evaluation", evaluation_inputs(run))
    except KitError:  # the merge or the data are not at hand: no card of theirs either
        return None
    return markdown_card(json.loads((check_files(folder) / "report_card.json").read_text())) if folder else None


def _write_zip(target: Path, files: list[Path], texts: dict[str, str]) -> None:
    with whole_file(target) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(file, file.name)
        for name, text in texts.items():
            archive.writestr(name, text)


def _write_gguf(run: Run, merged: Path, target: Path, bits: str, name: str) -> None:
    check_room(target.parent, size(merged) if bits == "F16" else size(merged) * 17 // 32)
    with whole_file(target) as partial:  # a file that broke off is no model
        write_gguf(merged, load_tokenizer(run.profile.base), partial, kind=bits, name=name)


def _write_ollama(run: Run, target: Path, name: str) -> None:
    merged, texts = merged_folder(run)
    data = load_prepared(run.need("data", data_inputs(run), made_by="lk.prepare(run)"))
    context = json.loads((merged / "config.json").read_text())["max_position_embeddings"]
    text = modelfile("model.gguf", load_tokenizer(run.profile.base), data.card.get("system"), context)
    with disk_errors(target):
        target.mkdir(exist_ok=True)
        _write_gguf(run, merged, target / "model.gguf", "F16", name)
        path = target / "Modelfile"
        if path.is_file() and path.read_text() != text:  # somebody has edited it
            path.replace(target / "Modelfile.before")
            print(f"{shown(path)} was another one: kept as Modelfile.before")
        for file, content in {**texts, "Modelfile": text}.items():
            (target / file).write_text(content)


def modelfile(weights: str, tokenizer: PreTrainedTokenizerBase, system: str | None, context: int) -> str:
    """What `ollama create NAME -f Modelfile` reads: weights, the form of the prompts, system text, tokens of context.

    Raises:
        KitError: the prompts are neither Llama 2's nor Zephyr's, as TinyLlama's are.
    """
    llama2 = speaks_llama2(tokenizer)
    if not llama2 and "<|assistant|>" not in str(tokenizer.chat_template):
        raise KitError("there is no Ollama template for the prompts of this base: export 'gguf', write a Modelfile")
    lines = [f"FROM ./{weights}", f'TEMPLATE """{LLAMA2 if llama2 else ZEPHYR}"""']
    if system:
        lines.append('SYSTEM """' + system.replace('"""', "'''") + '"""')
    lines += [f"PARAMETER num_ctx {context}", "PARAMETER temperature 0", 'PARAMETER stop "</s>"']
    return "\n".join([*lines, *(['PARAMETER stop "[INST]"'] if llama2 else []), ""])
