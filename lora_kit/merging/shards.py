"""safetensors files, tensor by tensor: `safetensors.save_file` would hold a whole shard in memory.

A file is 8 bytes of length, a JSON header {name: {dtype, shape, data_offsets}}, and the tensors' bytes. A merged shard
has the header of the base's shard, byte by byte: only the bytes of adapted tensors differ.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from ..errors import KitError
from ..manifests import shown

if TYPE_CHECKING:
    import torch

PIECE = 16 * 2**20  # bytes in memory at a time
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}  # in which a base may be stored


class Place(NamedTuple):
    """Where a tensor lies in its file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


class Shard:
    """One safetensors file of a model.

    Raises:
        KitError: truncated or damaged.
    """

    def __init__(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        self.path = path
        try:
            with safe_open(path, framework="pt"):  # the library's own checks: length, overlaps, holes
                pass
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                header: dict[str, Any] = json.loads(file.read(length))
        except (SafetensorError, OSError, ValueError) as error:
            raise KitError(f"{shown(path)} is damaged ({error}): fetch or make it again") from error
        self.begin = 8 + length
        header.pop("__metadata__", None)
        places = [Place(n, t["dtype"], tuple(t["shape"]), *t["data_offsets"]) for n, t in header.items()]
        self.places = sorted(places, key=lambda place: place.start)  # as they lie in the file

    def tensor(self, place: Place) -> torch.Tensor:
        """One tensor, read into memory of its own.

        Raises:
            KitError: stored in a type that holds no plain weights.
        """
        import torch

        if place.dtype not in DTYPES:
            raise KitError(f"{place.name} of {shown(self.path)} is {place.dtype}; read are {', '.join(DTYPES)}")
        data = bytearray(place.end - place.start)
        with self.path.open("rb") as file:
            file.seek(self.begin + place.start)
            file.readinto(data)
        return torch.frombuffer(data, dtype=getattr(torch, DTYPES[place.dtype])).view(place.shape)

    def pieces(self, place: Place) -> Iterator[bytes]:
        """The bytes of one tensor, some at a time."""
        with self.path.open("rb") as file:
            file.seek(self.begin + place.start)
            left = place.end - place.start
            while left:
                piece = file.read(min(PIECE, left))
                left -= len(piece)
                yield piece

    def rewrite(self, target: Path, changed: Callable[[Place], torch.Tensor | None]) -> None:
        """Write the same file with some tensors changed: asked one by one, None keeps a tensor's bytes."""
        with self.path.open("rb") as source, target.open("wb") as out:
            _copy(source, out, self.begin)
            for place in self.places:
                tensor = changed(place)
                if tensor is None:
                    source.seek(self.begin + place.start)
                    _copy(source, out, place.end - place.start)
                else:
                    out.write(_bytes(tensor))
            out.flush()
            os.fsync(out.fileno())


class Weights:
    """All tensors of a model folder, by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shards = [Shard(path) for path in sorted(folder.glob("*.safetensors"))]
        self.found = {place.name: (shard, place) for shard in self.shards for place in shard.places}

    def __getitem__(self, name: str) -> torch.Tensor:
        shard, place = self.found[name]
        return shard.tensor(place)

    def __contains__(self, name: str) -> bool:
        return name in self.found


def _copy(source: BinaryIO, out: BinaryIO, count: int) -> None:
    while count:
        piece = source.read(min(PIECE, count))
        out.write(piece)
        count -= len(piece)


def _bytes(tensor: torch.Tensor) -> memoryview:
    import torch

    return memoryview(tensor.contiguous().view(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]  # a buffer
