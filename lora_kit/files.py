"""Files that can be trusted: hashes, the manifest of a finished stage, whole files, and disk errors in one sentence."""

from __future__ import annotations

import errno
import glob
import hashlib
import importlib.metadata
import json
import os
import re
import shlex
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from platform import node
from typing import Any

from .errors import KitError

BIG = 100 * 2**20  # bytes: larger files are known by their size and samples, as hashing them whole takes minutes
SAMPLES, SAMPLE = 64, 2**16  # places and bytes
LIBRARIES = ("lora-kit", "torch", "transformers", "peft", "bitsandbytes", "datasets", "accelerate")
FIELDS = {"inputs": dict, "figures": dict, "seconds": int | float, "versions": dict, "files": dict}  # of a manifest
FULL = (errno.ENOSPC, errno.EDQUOT)
DISK = (*FULL, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENAMETOOLONG)


def fingerprint(inputs: Any) -> str:
    """SHA-256 of any JSON-like value, independent of key order."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_identity(path: Path) -> str:
    """SHA-256 of a file; of a big one, over its size, its first MiB and evenly spaced samples."""
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


def version(library: str) -> str:
    """The installed version of a library, or "missing"."""
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def read_json(path: Path) -> Any:
    """What a JSON file of a run or a base holds; KitError where it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError) as error:
        raise _damaged(path) from error


def read_lines(path: Path) -> list[Any]:
    """The rows of a file with one JSON value a line; KitError where it is missing or damaged."""
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError) as error:
        raise _damaged(path) from error


def write_json(path: Path, value: Any, indent: int | None = 1) -> None:
    """Write a value as JSON, indented for people or in one line."""
    path.write_text(json.dumps(value, indent=indent, default=str) + "\n", encoding="utf-8")


def write_lines(path: Path, rows: Iterable[Any]) -> None:
    """Write rows as JSON, one a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _damaged(path: Path, folder: Path | None = None) -> KitError:
    folder = folder or path.parent
    return KitError(f"{shown(path)} is missing or damaged: delete the folder {shown(folder)} and make it again")


def write_manifest(folder: Path, inputs: dict[str, Any], figures: dict[str, Any], seconds: float) -> None:
    """Write `manifest.json` over all files of `folder`, last of all."""
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": file_hash(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    manifest = {
        "fingerprint": fingerprint(inputs),
        "inputs": inputs,
        "figures": figures,
        "seconds": round(seconds, 1),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {name: version(name) for name in LIBRARIES},
        "files": files,
    }
    write_json(folder / "manifest.json", manifest)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished stage; a KitError that says which folder to delete where it is missing or damaged."""
    path = folder / "manifest.json"
    manifest = read_json(path)
    fields = manifest if isinstance(manifest, dict) else {}
    is_whole = all(isinstance(fields.get(name), kind) for name, kind in FIELDS.items())
    if not is_whole or fields.get("fingerprint") != fingerprint(fields["inputs"]):
        raise _damaged(path)
    return manifest


def check_files(folder: Path) -> Path:
    """Return `folder` when every file of the stage is still what its manifest says; else raise KitError."""
    there = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    for name, known in read_manifest(folder)["files"].items():
        path = there.get(name)  # a name that leads elsewhere is none of them
        if path is None or known != {"bytes": path.stat().st_size, "sha256": file_hash(path)}:
            raise _damaged(path or folder / name, folder)
    return folder


def quoted(words: Sequence[str]) -> str:
    """A command line as this system's shell takes it."""
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def shown(path: Path) -> str:
    """A path as a person would type it from here."""
    try:
        near = os.path.relpath(path)
    except ValueError:  # another drive on Windows
        return str(path)
    return str(path) if near.startswith(os.path.join("..", "..", "..")) else near


def absolute(folder: str | os.PathLike[str]) -> Path:
    """The folder with ~ and links resolved; KitError where nobody has that home, or links go in a circle."""
    try:
        return Path(folder).expanduser().resolve()
    except RuntimeError as error:
        raise KitError(f"{os.fspath(folder)!r} names no folder: {error}") from error


def _cannot_write(place: Path, code: int | None) -> KitError:
    way_out = "Free some space, or choose" if code in FULL else "Choose"
    return KitError(
        f"cannot write {shown(place)}: {os.strerror(code or 0)}. {way_out} another place with "
        "lk.Run(root=...) or the variable LORA_KIT_RUNS; what was finished before is untouched"
    )


@contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Turn "disk full", "read-only" and the like into one sentence with a way out."""
    try:
        yield
    except Exception as error:
        named = re.search(r"\(os error (\d+)\)", str(error))  # safetensors has an error class of its own
        code = int(named[1]) if named else getattr(error, "errno", None)
        if code not in DISK:
            raise
        raise _cannot_write(place, code) from error


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Turn whatever is wrong with what a folder holds, which anybody may have written, into one sentence."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        if getattr(error, "errno", None):  # of the disk, not of what it holds
            raise
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        what = f"{shown(folder)} holds what this version did not write ({reason})"
        raise KitError(f"{what}: delete that folder and make it again") from error


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """A hidden file to write, which takes its name when the block ends well; what killed processes have left goes."""
    import psutil

    mine, end = f".{target.name}.{node()}.", ".partial"
    partial = target.with_name(f"{mine}{os.getpid()}{end}")
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        for left in target.parent.glob(f"{glob.escape(mine)}*{end}"):
            process = left.name[len(mine) : -len(end)]
            if process.isdigit() and not psutil.pid_exists(int(process)):
                left.unlink(missing_ok=True)
        try:
            yield partial
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)


def check_writable(folder: Path) -> None:
    """Make the folder, and raise KitError where nothing can be written into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _cannot_write(folder, error.errno) from error
