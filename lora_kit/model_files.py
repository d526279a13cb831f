"""The files of a model's folder: its weights, tensor by tensor, and what goes with them wherever they go."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import KitError
from .files import shown

if TYPE_CHECKING:
    import torch

IGNORED = ["consolidated*", "original/*"]  # the same weights again, as Mistral and Meta put beside
INDEX = "model.safetensors.index.json"  # of a model in several files: which holds which tensor
BESIDE = (".json", ".model", ".jinja")  # tokenizer, configuration, chat template
PUBLIC = (  # files that go with a model wherever it goes; other ones may be anybody's
    "config.json generation_config.json tokenizer.json tokenizer_config.json tokenizer.model special_tokens_map.json "
    "added_tokens.json vocab.json chat_template.json chat_template.jinja"
).split()
LICENCES = ("LICENSE*", "NOTICE*", "USE_POLICY*")


class Weights(Mapping[str, "torch.Tensor"]):
    """The tensors of a model folder by name; each is mapped from its file when accessed, and read when used."""

    def __init__(self, folder: Path) -> None:
        self.files: dict[str, Path] = {}  # by the name of the tensor
        for path in sorted(set(folder.glob("*.safetensors")) - set(folder.glob(IGNORED[0]))):
            with _safe_open(path) as file:
                self.files |= dict.fromkeys(file.keys(), path)

    def __getitem__(self, name: str) -> torch.Tensor:
        with _safe_open(self.files[name]) as file:
            return file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)


def companions(folder: Path) -> list[Path]:
    """What belongs to a model beside its weights, and is no link to elsewhere: configuration, tokenizer, licences."""
    found = {file for pattern in (*PUBLIC, *LICENCES) for file in folder.glob(pattern) if file.is_file()}
    places = (folder.resolve(), folder.resolve().parent.parent / "blobs")  # the Hub's cache holds links to these
    return sorted(file for file in found if any(file.resolve().is_relative_to(place) for place in places))


@contextmanager
def _safe_open(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise KitError(f"{shown(path)} is damaged ({error}): fetch or make it again") from error
