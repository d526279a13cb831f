"""The base model: where its files come from (they end as a local folder), its tokenizer, its family.

Safe by default: safetensors only, no remote code, a pinned revision; access is tested before anything is downloaded.
tests/test_families.py tests every family, and every training its own base (training/loss.py).
"""

from __future__ import annotations

import datetime
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config import Base
from .errors import KitError
from .files import file_identity, read_json, shown
from .machine import has_token, take_secret, without_token
from .model_files import BESIDE, IGNORED, INDEX

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ASSETS = Path(__file__).parent / "assets"
KAGGLE_INPUT = Path("/kaggle/input")
WANTED = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model"]
DATE = datetime.date(2024, 7, 26)  # which Llama 3.2's own template falls back to
TODAY = re.compile(r"strftime_now\(\s*(['\"])(.*?)\1\s*\)")  # today's date in a template


@dataclass(frozen=True)
class Family:
    """One `model_type` of transformers."""

    models: str  # published models of it
    gguf: str | None = None  # its name in llama.cpp
    rope_in_halves: bool = True  # llama.cpp turns halves there, as transformers does; False: neighbours
    overflows_float16: bool = False  # activations beyond 65,504


FAMILIES = {
    "llama": Family("Llama 2 and 3.x, SmolLM2, TinyLlama", "llama", rope_in_halves=False),
    "qwen2": Family("Qwen2.5", "qwen2"),
    "qwen3": Family("Qwen3", "qwen3"),
    "mistral": Family("Mistral 7B v0.3", "llama", rope_in_halves=False),
    "smollm3": Family("SmolLM3", "smollm3", rope_in_halves=False),
    "granite": Family("Granite 3.x", "granite", rope_in_halves=False),
    "olmo2": Family("OLMo 2", "olmo2"),
    "phi3": Family("Phi-4-mini, Phi-3", "phi3"),
    "gemma3_text": Family("Gemma 3 (text)", overflows_float16=True),
}
REFUSED = {  # that no setting opens
    "gemma2": "it caps the attention's logits, which the fast attention cannot",
    "gemma3": "its checkpoint contains a vision model too: take a text-only one, as gemma-3-1b-it",
    "gemma4": "its checkpoint contains a vision model too",
    "qwen3_5": "some of its layers are recurrent: rows that share a prefix would see each other",
    "qwen3_next": "some of its layers are recurrent: rows that share a prefix would see each other",
}
SIZES = "hidden_size intermediate_size max_position_embeddings num_attention_heads num_hidden_layers vocab_size".split()
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")  # settings that a mixture of experts has


def locate(base: Base) -> Path:
    """The local folder of the base model, downloaded if need be; KitError says how to get one that cannot be had."""
    folder = local_folder(base)
    if folder is None:
        if problem := access_problem(base):
            raise KitError(problem)
        try:
            folder = _snapshot(base)
        except Exception as error:  # the network, the Hub, the disk: the library has many names for it
            broke = f"the download of {base.source} broke off ({_reason(error)}): call it again to go on"
            raise KitError(broke) from None  # the error itself may quote the request, with its token
    return check_family(folder, base)


def load_tokenizer(base: Base) -> PreTrainedTokenizerBase:
    """The base model's own tokenizer, with `<unk>` as padding where it has none."""
    from transformers import AutoTokenizer

    folder = locate(base)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # each kind of tokenizer has names of its own for what is missing or damaged
        broken = f"the tokenizer in {shown(folder)} cannot be loaded ({_reason(error)}): fetch it again"
        raise KitError(broken) from error
    if isinstance(tokenizer.chat_template, str):
        tokenizer.chat_template = without_clock(tokenizer.chat_template)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    return tokenizer


def without_clock(template: str) -> str:
    """A template that writes today's date writes DATE: rows and answers of another day are the same."""
    return TODAY.sub(lambda found: repr(DATE.strftime(found[2])), template)


def identity(base: Base) -> dict[str, Any]:
    """What tells this base from another one: source, revision, and its files."""
    paths = sorted(path for path in locate(base).iterdir() if path.suffix in (".safetensors", *BESIDE))
    files = {path.name: file_identity(path) for path in paths}
    return {"source": base.source, "revision": base.revision, "files": files}


def local_folder(base: Base) -> Path | None:
    """Where the base is on this machine, if it is: embedded, a folder, attached in Kaggle, or in the Hub's cache."""
    folders = [ASSETS / base.source]
    if base.kaggle is not None:
        owner, model, framework, variation, version = base.kaggle.split("/")
        tail = Path(model, framework.lower(), variation, version)
        folders += [KAGGLE_INPUT / "models" / owner / tail, KAGGLE_INPUT / tail]  # the new layout, and the old one
    for folder in folders:
        if (folder / "config.json").is_file():
            return folder
    if Path(base.source).is_dir():
        return Path(base.source)
    try:
        folder = _snapshot(base, local_files_only=True)
    except Exception:  # not in the cache: the library has several names for that
        return None
    index = folder / INDEX  # a download may have broken off, or only fetched the tokenizer
    files = set(read_json(index)["weight_map"].values()) if index.is_file() else {"model.safetensors"}
    return folder if all((folder / name).is_file() for name in ("config.json", *files)) else None


def _snapshot(base: Base, **options: Any) -> Path:
    from huggingface_hub import snapshot_download

    options |= {"revision": base.revision, "allow_patterns": WANTED, "ignore_patterns": IGNORED}
    return Path(snapshot_download(base.source, **options))


def access_problem(base: Base) -> str | None:
    """Why the base cannot be had here, with the way out; None when it can."""
    if local_folder(base):
        return None
    name, page = base.source, f"https://huggingface.co/{base.source}"
    take_secret()
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        HfApi().auth_check(name)
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status == 401 and has_token():
            return f"the Hub does not take your token for {name}: it has expired or is mistyped, set another HF_TOKEN"
        if not isinstance(error, (GatedRepoError, RepositoryNotFoundError)):  # no network, or the Hub is down
            return f"the Hub cannot be reached for {name} ({_reason(error)}): check the network or give a local folder"
        if not isinstance(error, GatedRepoError):
            return f"there is no model {name!r} on the Hub, or it is private: check the name on {page}"
        if status == 401:
            return f"{name} is gated and no token is set: accept the licence on {page} and set the secret HF_TOKEN"
        return f"{name} is gated and this token has no access: ask for it on {page} with the token's account"
    return None


def _reason(error: Exception) -> str:
    return without_token(f"{type(error).__name__}: {error}".splitlines()[0])[:300]


def check_family(folder: Path, base: Base) -> Path:
    """Return `folder` when it contains safetensors of a family that was tested, or that the user wants to try."""
    config = read_config(folder)
    kind = config["model_type"]
    reason = REFUSED.get(kind) or ("it is a mixture of experts" if any(config.get(name) for name in EXPERTS) else None)
    tested = "; ".join(f"{name} ({family.models})" for name, family in FAMILIES.items())
    if reason is None and kind not in FAMILIES and not base.untested:
        reason = "it was not tested; base__untested=true tries it"
    if reason:
        raise KitError(f"{folder} contains a {kind!r} model: {reason}. Tested families: {tested}")
    sizes = SIZES if kind in FAMILIES else ()  # others have names of their own for them
    if wrong := [name for name in sizes if type(config.get(name)) is not int or config[name] < 1]:
        raise KitError(f"{folder / 'config.json'} has {wrong[0]}={config.get(wrong[0])!r:.80}: fetch the base again")
    if not any(folder.glob("*.safetensors")):
        raise KitError(f"{folder} has no *.safetensors file; other weight formats are not loaded, for safety")
    if (folder / "adapter_config.json").exists():
        raise KitError(f"{folder} also holds an adapter, which would be loaded with the base: move one of the two")
    if (folder / INDEX).is_file():  # which may lead elsewhere
        index = read_json(folder / INDEX)
        shards = index.get("weight_map") if isinstance(index, dict) else None
        beside = {path.name for path in folder.glob("*.safetensors")}
        if not isinstance(shards, dict) or not {*map(str, shards.values())} <= beside:
            raise KitError(f"{shown(folder / INDEX)} names files that are not beside it: fetch the base again")
    return folder


def read_config(folder: Path) -> dict[str, Any]:
    """The model's config.json; KitError where it is none."""
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config["model_type"].lower()
        for rope in ("rope_parameters", "rope_scaling"):
            (config.get(rope) or {}).keys()
        return config
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise KitError(f"{folder} has no readable config.json: give the folder of a chat model") from error


def check_numbers(config: dict[str, Any], dtype: str, max_length: int) -> None:
    """Raise KitError where a base would compute nonsense in this dtype, or with rows of so many tokens."""
    kind, rope = config["model_type"], config.get("rope_parameters") or config.get("rope_scaling") or {}
    if dtype == "float16" and kind in FAMILIES and FAMILIES[kind].overflows_float16:
        way_out = "set quantization__compute_dtype=float32 (slower), or take another base"
        raise KitError(f"a {kind!r} model overflows in float16, the T4's dtype: {way_out}")
    if (rope.get("rope_type") or rope.get("type")) == "longrope":
        most = rope.get("original_max_position_embeddings") or config.get("original_max_position_embeddings") or 4096
        if max_length > most:
            raise KitError(f"this base changes its rotary embedding beyond {most} tokens: set data__max_length={most}")
