"""Taking it home: an adapter zip that plain PEFT loads, a GGUF file, a folder for Ollama, a page on the Hub."""

from __future__ import annotations

import re
import unicodedata
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from .base import ASSETS, load_tokenizer, locate, read_config
from .data.chat_template import chat_format, speaks_llama2, stop_id
from .data.prepare import data_inputs
from .data.prepared import load_prepared
from .errors import KitError
from .evaluation.evaluate import evaluation_inputs
from .evaluation.report import markdown_card
from .files import check_files, disk_errors, quoted, read_json, read_manifest, reading, shown, whole_file
from .gguf import write_gguf
from .llama_cpp import check_gguf, reference
from .machine import take_secret, without_token
from .merging.cards import card_texts
from .merging.merge import check_room, merge_inputs, size
from .model_files import companions
from .templates import one_line
from .training.train import trained_adapter

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from .runs import Run

FORMATS = ("adapter-zip", "gguf", "gguf-q8_0", "ollama")
VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that its --max-lora-rank takes
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


def export(run: Run, kind: str = "adapter-zip", *, check: bool = False) -> Path:
    """Write the result in a form that other programs load, and return its path.

    Args:
        run: its adapter is trained; all formats but "adapter-zip" need the merged model too.
        kind: "adapter-zip", the adapter with tokenizer and card for PEFT and vLLM, a few MiB; "gguf", the merged model
            as one F16 file for llama.cpp; "gguf-q8_0", the same in 8 bits, half the size; or "ollama", a folder with
            GGUF and Modelfile for `ollama create`.
        check: llama.cpp (`pip install xllamacpp`) answers held-out questions from the GGUF before it takes its name:
            a file whose prompts have other ids than in training, or whose greedy answers are not those of the merged
            model as it is stored, but for ties, is refused. What merging itself changed is in the certificate.

    Raises:
        KitError: an unknown format, a stage that is missing, a base that it does not cover, no room on the disk; a
            check that fails, or that is not possible here.
    """
    check_format(kind, check)
    adapter, place = trained_adapter(run), run.path / "exports"
    name = f"{run.path.name}-{adapter.parent.name}"
    if kind == "adapter-zip":
        target = place / f"{adapter.parent.name}-adapter.zip"
        with whole_file(target) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
            for file, content in adapter_files(run).items():
                archive.writestr(file, content)
        rank = next((size for size in VLLM_RANKS if size >= run.profile.lora.r), run.profile.lora.r)
        base, served = run.profile.base.source, f"--lora-modules {plain_name(adapter.parent.name)}=FOLDER"
        hint = f"vllm serve {quoted([base])} --enable-lora --max-lora-rank {rank} {served}"
        if (ASSETS / base).is_dir():  # embedded: no other program knows it by its name
            hint = "PeftModel.from_pretrained(model, FOLDER)"
    elif kind == "ollama":
        target, model = place / f"{name}-ollama", plain_name(name)
        _write_ollama(run, _merged(run), target, name, check)
        hint = f"ollama create {model} -f {quoted([shown(target / 'Modelfile')])}\n  ollama run {model}"
    else:
        bits = "Q8_0" if kind == "gguf-q8_0" else "F16"
        target = place / f"{name}-{bits}.gguf"
        _write_gguf(run, _merged(run), target, bits, name, check)
        hint = f"llama-cli -m {quoted([shown(target)])} -cnv"
    mib = sum(file.stat().st_size for file in [target, *target.glob("*")]) / 2**20
    print(f"{kind}: {mib:,.1f} MiB in {shown(target)}\n  {hint}")
    return target


def check_format(kind: str, check: bool = False) -> None:
    """Raise KitError where there is no such export, or none that could be checked."""
    if kind not in FORMATS:
        smaller = "llama.cpp makes other sizes of a gguf: llama-quantize MODEL.gguf SMALL.gguf Q4_K_M"
        raise KitError(f"there is no export {kind!r}; lora_kit exports {', '.join(FORMATS)}. {smaller}")
    if check and kind == "adapter-zip":
        raise KitError("check=True asks a GGUF file with llama.cpp: export gguf, gguf-q8_0 or ollama")
    needed = ["gguf"] * (kind != "adapter-zip") + ["xllamacpp"] * check  # the second is llama.cpp, which is asked
    if missing := [name for name in needed if find_spec(name) is None]:
        raise KitError(f"{kind} needs packages that are not installed: pip install {' '.join(missing)}")


def plain_name(name: str) -> str:
    """A name as Ollama and vLLM take it: small letters, digits, dots, dashes, underscores."""
    ascii_only = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9._-]+", "-", ascii_only).strip("-._") or "model"


def push(run: Run, repository: str, *, what: str = "adapter", private: bool = True) -> str:
    """Push to the Hub and return the page's address; needs a token that may write, and never shows it.

    Args:
        run: its adapter is trained.
        repository: "owner/name".
        what: "adapter", a few MiB; or "merged", the whole model with its certificate.
        private: a new repository is seen by its owner alone.

    Raises:
        KitError: a wrong name, a stage that is missing, or the Hub refuses.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(repository)):
        raise KitError(f"{repository!r} is no name of a repository: give owner/name")
    if what not in ("adapter", "merged"):
        raise KitError(f"what={what!r} cannot be pushed; there are adapter, merged")
    from huggingface_hub import CommitOperationAdd, HfApi

    contents = adapter_files(run) if what == "adapter" else merged_files(run)
    operations = [CommitOperationAdd(name, content) for name, content in contents.items()]
    take_secret()
    try:
        api = HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        page = str(api.create_commit(repository, operations, commit_message="lora_kit").commit_url)
    except Exception as error:  # the errors of the library and of the HTTP client under it are many
        # not "from error": the library's own error may quote the request
        raise KitError(f"the Hub did not take {repository!r} {_reason(error)}") from None
    print(f"pushed: {page}")
    return page


def _reason(error: Exception) -> str:
    """Name and status of an error of the Hub, and what helps: its own words where a name or the card breaks a rule."""
    from huggingface_hub.errors import BadRequestError, HFValidationError

    name, status = type(error).__name__, getattr(getattr(error, "response", None), "status_code", None)
    if type(error) is ValueError or isinstance(error, BadRequestError | HFValidationError):
        way_out = without_token(one_line(getattr(error, "server_message", None) or error))
    elif status in (401, 403, 404):
        way_out = "set HF_TOKEN to a token that may write there"
    else:
        way_out = "try again later" if status else "check the network, HF_HUB_OFFLINE and HF_TOKEN"
    return f"({name}, {status}): {way_out}" if status else f"({name}): {way_out}"


def adapter_files(run: Run) -> dict[str, bytes]:
    """The files of an adapter by name: its own and no others, the tokenizer, card and notice."""
    adapter, base = trained_adapter(run), locate(run.profile.base)
    files = [*(adapter / name for name in ADAPTER), *(file for file in companions(base) if file.name in TOKENIZER)]
    texts = card_texts(run, "adapter", report=_report_of(run))
    return {file.name: file.read_bytes() for file in files} | {name: text.encode() for name, text in texts.items()}


def merged_files(run: Run) -> dict[str, Path | bytes]:
    """The files of the merged model by name: what was certified and no others, the card with its figures, notice."""
    merged = _merged(run)
    texts = {name: text.encode() for name, text in _merged_texts(run, merged).items()}
    return {name: merged / name for name in read_manifest(merged)["files"]} | texts


def _merged(run: Run) -> Path:
    return run.need("merged", merge_inputs(run), made_by="lk.merge(run)")


def _merged_texts(run: Run, merged: Path) -> dict[str, str]:
    return card_texts(run, "merged", read_json(merged / "certificate.json"), _report_of(run))


def _report_of(run: Run) -> str | None:
    """The report card of this adapter with these settings in Markdown, once it is made."""
    try:
        folder = run.find("evaluation", evaluation_inputs(run))
    except KitError:  # the merge or the data are not there: no card of theirs either
        return None
    if folder is None:
        return None
    card = read_json(check_files(folder) / "report_card.json")
    with reading(folder):
        return markdown_card(card)


def _write_gguf(run: Run, merged: Path, target: Path, bits: str, name: str, check: bool) -> None:
    if check:
        reference(run, merged)  # what cannot be checked here is refused before it is written
    with whole_file(target) as partial:  # a file that broke off is no model
        check_room(target.parent, size(merged) if bits == "F16" else size(merged) * 17 // 32)
        write_gguf(merged, load_tokenizer(run.profile.base), partial, kind=bits, name=name)
        if check:
            check_gguf(run, partial, merged, bits)


def _write_ollama(run: Run, merged: Path, target: Path, name: str, check: bool) -> None:
    data = load_prepared(run.need("data", data_inputs(run), made_by="lk.prepare(run)"))
    context = read_config(merged)["max_position_embeddings"]
    text = modelfile("model.gguf", load_tokenizer(run.profile.base), data.card.get("system"), context)
    with disk_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        _write_gguf(run, merged, target / "model.gguf", "F16", name, check)
        path = target / "Modelfile"
        if path.is_file() and path.read_text(encoding="utf-8", errors="replace") != text:  # somebody has edited it
            path.replace(target / "Modelfile.before")
            print(f"{shown(path)} was another one: kept as Modelfile.before")
        for file, content in {**_merged_texts(run, merged), "Modelfile": text}.items():
            (target / file).write_text(content, encoding="utf-8")


def modelfile(weights: str, tokenizer: PreTrainedTokenizerBase, system: str | None, context: int) -> str:
    """What `ollama create NAME -f Modelfile` reads: weights, prompt template, system text, tokens of context.

    Ollama knows most chat templates by itself, from the GGUF; Llama 2's and TinyLlama's are written down.
    """
    stop, lines = str(tokenizer.convert_ids_to_tokens(stop_id(tokenizer))), [f"FROM ./{weights}"]
    if speaks_llama2(tokenizer):
        lines += [f'TEMPLATE """{LLAMA2}"""', 'PARAMETER stop "[INST]"']
    elif "<|assistant|>" in str(tokenizer.chat_template) and stop == "</s>":
        lines.append(f'TEMPLATE """{ZEPHYR}"""')
    if system := system or chat_format(tokenizer).system:
        lines.append('SYSTEM """' + system.replace('"""', "'''") + '"""')
    lines += [f"PARAMETER num_ctx {context}", "PARAMETER temperature 0", f'PARAMETER stop "{stop}"', ""]
    return "\n".join(lines)
