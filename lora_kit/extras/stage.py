"""Taking it home: an adapter zip that plain PEFT loads, a GGUF file, a folder for Ollama."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from ..base import load_tokenizer, locate
from ..data import data_inputs, load_prepared, speaks_llama2
from ..disk import check_writable, disk_errors, whole_file
from ..errors import KitError
from ..evaluation import evaluation_inputs, markdown_card
from ..manifests import check_files, shown
from ..merging import card_texts, check_room, merge_inputs, size
from ..training import trained_adapter
from .gguf import write_gguf
from .ollama import modelfile

if TYPE_CHECKING:
    from ..runs import Run

FORMATS = {
    "adapter-zip": "the adapter with tokenizer and card, a few MiB, for PEFT and vLLM",
    "gguf": "the merged model as one F16 file for llama.cpp",
    "gguf-q8_0": "the same with 8 bits a weight, half the size",
    "ollama": "a folder with GGUF and Modelfile, for `ollama create`",
}
EXPORTS = "exports"  # below the run folder
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "chat_template.jinja")


def export(run: Run, kind: str = "adapter-zip") -> Path:
    """Write the result in a form that other programs load, and return its path.

    Args:
        run: its adapter is trained; all formats but "adapter-zip" need the merged model too.
        kind: "adapter-zip", "gguf", "gguf-q8_0" or "ollama".

    Raises:
        KitError: an unknown format, a stage that is missing, no room on the disk.
    """
    if kind not in FORMATS:
        raise KitError(f"there is no export {kind!r}; lora_kit exports {', '.join(FORMATS)}")
    adapter, place = trained_adapter(run), run.path / EXPORTS
    name = f"{run.path.name}-{adapter.parent.name}"
    check_writable(place)
    if kind == "adapter-zip":
        return _adapter_zip(run, adapter, place / f"{adapter.parent.name}-adapter.zip")
    merged = run.need("merged", merge_inputs(run), made_by="lk.merge(run)")
    if kind == "ollama":
        return _ollama(run, merged, place / f"{name}-ollama", name)
    bits = "Q8_0" if kind == "gguf-q8_0" else "F16"
    target = place / f"{name}-{bits}.gguf"
    _gguf(run, merged, target, bits, name)
    print(f"GGUF: {_mib(target)} in {shown(target)}\n  llama-cli -m {quote(shown(target))} -cnv")
    return target


def adapter_files(run: Run, adapter: Path) -> tuple[list[Path], dict[str, str]]:
    """What goes with an adapter: files that are there, and texts that are made (card, notice)."""
    base = locate(run.profile.base)
    files = [adapter / name for name in ADAPTER]  # these alone: what else lies there may be private
    files += [base / name for name in TOKENIZER if (base / name).is_file()]
    return files, card_texts(run, "adapter", report=report_of(run))


def report_of(run: Run) -> str | None:
    """The report card of this adapter with these settings in Markdown, once it is made."""
    try:
        folder = run.find("evaluation", evaluation_inputs(run))
    except KitError:  # the merge or the data are not at hand: no card of theirs either
        return None
    return markdown_card(json.loads((check_files(folder) / "report_card.json").read_text())) if folder else None


def merged_texts(run: Run, merged: Path) -> dict[str, str]:
    """Card and notice of a merged model, with the report card where there is one."""
    return card_texts(run, "merged", json.loads((merged / "certificate.json").read_text()), report_of(run))


def _adapter_zip(run: Run, adapter: Path, target: Path) -> Path:
    files, texts = adapter_files(run, adapter)
    with whole_file(target) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(file, file.name)
        for name, text in texts.items():
            archive.writestr(name, text)
    print(f"adapter: {_mib(target)} in {shown(target)}")
    return target


def _gguf(run: Run, merged: Path, target: Path, bits: str, name: str) -> None:
    """Written under another name first, so that a file that broke off is no model."""
    check_room(target.parent, size(merged) if bits == "F16" else size(merged) * 17 // 32)
    with whole_file(target) as partial:
        write_gguf(merged, load_tokenizer(run.profile.base), partial, kind=bits, name=name)


def _ollama(run: Run, merged: Path, target: Path, name: str) -> Path:
    with disk_errors(target):
        target.mkdir(exist_ok=True)
        _gguf(run, merged, target / "model.gguf", "F16", name)
        for file, text in merged_texts(run, merged).items():
            (target / file).write_text(text)
        system = load_prepared(run.need("data", data_inputs(run), made_by="lk.prepare(run)")).card.get("system")
        told = modelfile(
            "model.gguf",
            llama2=speaks_llama2(load_tokenizer(run.profile.base)),
            system=system,
            context=json.loads((merged / "config.json").read_text())["max_position_embeddings"],
        )
        _keep_edited(target / "Modelfile", told)
        (target / "Modelfile").write_text(told)
    print(
        f"Ollama: {_mib(target / 'model.gguf')} in {shown(target)}\n"
        f"  ollama create {quote(name)} -f {quote(shown(target / 'Modelfile'))}    # -q q4_K_M quantizes on import\n"
        f"  ollama run {quote(name)}"
    )
    return target


def _keep_edited(path: Path, text: str) -> None:
    """A file of ours that somebody has changed is set aside, not written over."""
    if path.is_file() and path.read_text() != text:
        path.replace(path.with_name(f"{path.name}.before"))
        print(f"{shown(path)} was another one: kept as {path.name}.before")


def _mib(path: Path) -> str:
    return f"{path.stat().st_size / 2**20:,.1f} MiB"
