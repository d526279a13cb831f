"""safetensors files, tensor by tensor: `safetensors.save_file` would hold a whole shard in memory.

A file is 8 bytes of length, a JSON header {name: {dtype, shape, data_offsets}}, and the tensors' bytes. A merged shard
has the header of the base's shard, byte by byte: only the bytes of adapted tensors differ.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

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

    def rewrite(self, target: Path, values: Iterable[tuple[Place, torch.Tensor | None]]) -> None:
        """Write the same file with other values, given in the file's order; None keeps a tensor's bytes."""
        with self.path.open("rb", buffering=0) as source, target.open("wb", buffering=0) as out:
            _copy(source, out, 0, self.begin)
            for place, tensor in values:
                if tensor is None:
                    _copy(source, out, self.begin + place.start, place.end - place.start)
                else:
                    _write(out, _bytes(tensor))


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


def _copy(source: FileIO, out: FileIO, start: int, count: int) -> None:
    """Bytes of one file to the end of another, inside the kernel where it can."""
    while count:
        moved = _in_kernel(source, out, start, count)
        if not moved:
            source.seek(start)
            moved = _write(out, memoryview(source.read(min(PIECE, count))))
        start, count = start + moved, count - moved


def _in_kernel(source: FileIO, out: FileIO, start: int, count: int) -> int:
    """Bytes that sendfile moved; none where the system has no such call for files."""
    try:
        return os.sendfile(out.fileno(), source.fileno(), start, min(PIECE, count))
    except (AttributeError, OSError) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise
        return 0


def _write(out: FileIO, data: memoryview) -> int:
    """Write all of it: one call moves 2 GiB at most."""
    done = 0
    while done < len(data):
        done += out.write(data[done : done + PIECE]) or 0
    return done


def sync(path: Path) -> None:
    """Wait until a file's bytes are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _bytes(tensor: torch.Tensor) -> memoryview:
    import torch

    return memoryview(tensor.contiguous().view(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]  # a buffer
