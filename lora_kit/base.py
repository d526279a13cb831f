"""The base model's files: embedded, a folder, a Kaggle mount or the Hub. Whatever it was, it ends as a local folder.

Safe by default: safetensors only, no remote code, a pinned revision; access is tested before anything is downloaded.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config import Base
from .errors import KitError
from .families import check_family
from .files import file_hash, shown

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

ASSETS = Path(__file__).parent / "assets"
KAGGLE_INPUT = Path("/kaggle/input")
WANTED = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model"]
IGNORED = ["consolidated*", "original/*"]  # the same weights again, as Mistral and Meta put beside
INDEX = "model.safetensors.index.json"  # of a model in several files: which holds which tensor
BESIDE = (".json", ".model", ".jinja")  # tokenizer, configuration, chat template
LICENCES = ("LICENSE*", "NOTICE*", "USE_POLICY*")
BIG = 100 * 2**20  # bytes: larger files are known by their size and samples, as hashing them whole takes minutes
SAMPLES, SAMPLE = 64, 2**16  # places and bytes
DATE = datetime.date(2024, 7, 26)  # which Llama 3.2's own template falls back to
TODAY = re.compile(r"strftime_now\(\s*(['\"])(.*?)\1\s*\)")  # how a template asks for the date


def locate(base: Base) -> Path:
    """The local folder of the base model, downloaded if need be.

    Raises:
        KitError: no family that was tested, no safetensors, no access (the message says how to get it), no network, or
            the download broke off.
    """
    folder = _local(base) or _cached(base)
    if folder is None:
        if problem := access_problem(base):
            raise KitError(problem)
        try:
            folder = _snapshot(base)
        except Exception as error:  # the network, the Hub, the disk: the library has many names for it
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise KitError(f"the download of {base.source} broke off ({reason}): call it again to go on") from error
    return check_family(folder, base)


def load_tokenizer(base: Base) -> PreTrainedTokenizerBase:
    """The base model's own tokenizer, with `<unk>` as padding where it has none."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(locate(base))
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
    files = sorted(path for path in locate(base).iterdir() if path.suffix in (".safetensors", *BESIDE))
    return {
        "source": base.source,
        "revision": base.revision,
        "files": {path.name: file_identity(path) for path in files},
    }


def file_identity(path: Path) -> str:
    """SHA-256 of a file; of a big one, over its size, its first MiB and samples that are evenly spaced."""
    size = path.stat().st_size
    if size < BIG:
        return file_hash(path)
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(2**20))
        for number in range(SAMPLES):
            file.seek(number * (size - SAMPLE) // (SAMPLES - 1))
            digest.update(file.read(SAMPLE))
    return f"sampled {digest.hexdigest()}"


def is_here(base: Base) -> bool:
    """Whether the base is on this machine, and neither network nor access is needed."""
    return bool(_local(base) or _cached(base))


def _local(base: Base) -> Path | None:
    """The embedded model, a folder, or a model that is attached to the Kaggle kernel."""
    if (ASSETS / base.source / "config.json").is_file():
        return ASSETS / base.source
    if Path(base.source).is_dir():
        return Path(base.source)
    if base.kaggle is None:
        return None
    owner, model, framework, variation, version = base.kaggle.split("/")
    tail = Path(model, framework.lower(), variation, version)
    places = (KAGGLE_INPUT / "models" / owner / tail, KAGGLE_INPUT / tail)  # the new layout, and the old one
    return next((place for place in places if (place / "config.json").is_file()), None)


def _snapshot(base: Base, **options: Any) -> Path:
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(
            base.source, revision=base.revision, allow_patterns=WANTED, ignore_patterns=IGNORED, **options
        )
    )


def _cached(base: Base) -> Path | None:
    """The base in the Hub's cache, which needs neither access nor network."""
    try:
        return _snapshot(base, local_files_only=True)
    except Exception:  # not in the cache: the library has several names for that
        return None


def access_problem(base: Base) -> str | None:
    """Why the base cannot be had here, with the way out; None when it can."""
    if is_here(base):
        return None
    name, page = base.source, f"https://huggingface.co/{base.source}"
    if is_offline():
        return f"{name} is not here, and HF_HUB_OFFLINE is set: unset it, or put the model's folder into base__source"
    take_secret()
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        HfApi().auth_check(name)
    except GatedRepoError as error:
        if getattr(error.response, "status_code", None) == 401:
            return f"{name} is gated and no token is set: accept the licence on {page} and set the secret HF_TOKEN"
        return f"{name} is gated and this token has no access: ask for it on {page} with the token's account"
    except RepositoryNotFoundError:
        return f"there is no model {name!r} on the Hub, or it is private: check the name on {page}"
    except Exception as error:  # no network, a proxy, the Hub is down: the library has many names for it
        reason = type(error).__name__
        return f"the Hub cannot be reached for {name} ({reason}): check the network or give a local folder"
    return None


def is_offline() -> bool:
    """Whether the Hub's library is forbidden to use the network."""
    values = (os.environ.get(name, "").upper() for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return any(value in ("1", "ON", "YES", "TRUE") for value in values)


def has_token() -> bool:
    """Whether a token of the Hub is set: variable, login, a secret of Kaggle or Colab. Its value stays where it is."""
    take_secret()
    from huggingface_hub import get_token

    try:
        return bool(get_token())
    except Exception:  # Colab's secrets do not answer outside its page, with errors of their own
        return False


def take_secret() -> None:
    """Give Kaggle's secret HF_TOKEN to the Hub's library (Colab's it reads itself): no prompt, nothing shown.

    A kernel that was just pushed has no secret attached: then the run goes on without.
    """
    if os.environ.get("HF_TOKEN") or "KAGGLE_KERNEL_RUN_TYPE" not in os.environ:
        return
    try:
        from kaggle_secrets import UserSecretsClient

        os.environ["HF_TOKEN"] = UserSecretsClient().get_secret("HF_TOKEN")
    except Exception:  # none attached, no internet, not in a kernel: Kaggle has its own names for it
        return


class Weights(Mapping[str, "torch.Tensor"]):
    """The tensors of a model folder by name; each is mapped from its file when it is asked for, and read when used.

    Raises:
        KitError: a file is truncated or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.files: dict[str, Path] = {}  # by the name of the tensor
        for path in sorted(set(folder.glob("*.safetensors")) - set(folder.glob(IGNORED[0]))):
            with _safe_open(path) as file:
                self.files |= dict.fromkeys(file.keys(), path)

    def __getitem__(self, name: str) -> torch.Tensor:
        with _safe_open(self.files[name]) as file:
            tensor: torch.Tensor = file.get_tensor(name)
            return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)


def companions(folder: Path) -> list[Path]:
    """What lies beside a model's weights and belongs to it: configuration, tokenizer, chat template, licences."""
    found = [file for file in folder.iterdir() if file.suffix in BESIDE and file.name not in (INDEX, "corpus.json")]
    return sorted({*found, *(file for pattern in LICENCES for file in folder.glob(pattern))})


@contextmanager
def _safe_open(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise KitError(f"{shown(path)} is damaged ({error}): fetch or make it again") from error
