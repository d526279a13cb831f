"""What a finished stage says of itself: inputs, versions, time, figures, and a hash of every file it wrote."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import time
from pathlib import Path
from typing import Any, NoReturn

from .errors import KitError

LIBRARIES = ("lora-kit", "torch", "transformers", "peft", "bitsandbytes", "datasets", "accelerate")
FIELDS = {"fingerprint", "inputs", "figures", "seconds", "finished", "versions", "files"}


def fingerprint(inputs: Any) -> str:
    """SHA-256 of any JSON-like value, independent of key order."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def version(library: str) -> str:
    """The installed version of a library, or "missing"."""
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


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
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2, default=str) + "\n")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished stage.

    Raises:
        KitError: it is missing or damaged; the message says which folder to delete.
    """
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text())
    except (FileNotFoundError, ValueError) as error:
        _damaged(path, error)
    if not isinstance(manifest, dict) or not manifest.keys() >= FIELDS:
        _damaged(path)
    return manifest


def check_files(folder: Path) -> Path:
    """Return `folder` when every file of the stage is still what its manifest says.

    Raises:
        KitError: a file is missing or its hash differs.
    """
    for name, expected in read_manifest(folder)["files"].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != expected["bytes"] or file_hash(path) != expected["sha256"]:
            raise KitError(f"{shown(path)} is missing or damaged: delete the folder {shown(folder)} and make it again")
    return folder


def shown(path: Path) -> str:
    """A path as a person would type it from here."""
    try:
        near = os.path.relpath(path)
    except ValueError:  # another drive on Windows
        return str(path)
    return str(path) if near.startswith(os.path.join("..", "..", "..")) else near


def _damaged(path: Path, error: Exception | None = None) -> NoReturn:
    raise KitError(f"{shown(path)} is damaged: delete the folder {shown(path.parent)} and make it again") from error
