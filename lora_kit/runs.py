"""The run folder: a profile and a place, where every finished stage leaves a folder with a manifest.

    runs/tiny-cpu/data/  training/handbook/  merged/  evaluation/

A stage is written into a hidden temporary folder and renamed when complete, so a folder with a manifest is whole.
Changed inputs are written beside (`merged-3f2a91`), never over.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
import time
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from platform import node
from typing import Any

from .base import access_problem
from .config import Profile, settings
from .errors import KitError
from .files import (
    absolute,
    check_files,
    check_writable,
    disk_errors,
    fingerprint,
    read_manifest,
    shown,
    whole_file,
    write_manifest,
)
from .machine import choose_profile, default_root, prepare_process, scratch_root
from .packing import unpack
from .presets import profile

SCRATCH = "merged"  # large, and made again from the rest
LEFT_OUT = (SCRATCH, "exports")  # of a packed run


class Run:
    """A profile and a folder; every stage takes one.

    Args:
        profile: "tiny-cpu", "llama2-7b-t4", ...; by default LORA_KIT_PROFILE, else what the machine can do.
        data: an embedded dataset, your own file or folder, a Hub id (short for `data__source=`); or rows as a
            `datasets.Dataset` or `DatasetDict`, a pandas `DataFrame` or a list of dicts, which are written below `root`
            first, so that a run can be repeated.
        name: the folder's name; by default the profile's, with a short hash when settings differ from the preset.
        root: where run folders live; by default LORA_KIT_RUNS, else the platform's place.
        source: a packed run (`run.pack()`) to unpack into the folder first.
        overrides: single settings, as in `lora__r=32`.
    """

    def __init__(
        self,
        profile: str | None = None,
        *,
        data: Any = None,
        name: str | None = None,
        root: str | os.PathLike[str] | None = None,
        source: str | os.PathLike[str] | None = None,
        **overrides: Any,
    ) -> None:
        place = absolute(root or default_root())
        if data is not None:
            overrides["data__source"] = as_source(data, place)
        if name is not None and (Path(name).name != name or name in (".", "..")):
            raise KitError(f"name={name!r} must be the name of a folder, without a path; root= says where it lies")
        self.profile, self.reason = _choose(profile, overrides)  # why this profile
        machine = prepare_process(self.profile)
        name = name or _folder_name(self.profile)
        self.path, self.scratch = place / name, scratch_root(place) / name
        if not self.path.is_dir():  # a finished run can be read where nothing can be written
            check_writable(self.path)
        if source is not None:
            unpack(absolute(source), self.path)
        print(f"{self.profile.name} ({self.reason}): {self.profile.base.title}, {machine}, folder {shown(self.path)}")

    def __repr__(self) -> str:
        return f"Run({self.profile.name!r}, path={str(self.path)!r})"

    def place(self, stage: str) -> Path:
        """The folder that a stage's folder lies in: the run's, but for merged weights on Kaggle its scratch folder."""
        return self.scratch if stage.startswith(SCRATCH) else self.path

    def find(self, stage: str, inputs: dict[str, Any]) -> Path | None:
        """The finished folder of `stage` that was made from exactly these inputs, or None."""
        wanted = fingerprint(inputs)
        name, place = glob.escape(stage), self.place(stage)
        manifests = sorted(place.glob(f"{name}/manifest.json")) + sorted(place.glob(f"{name}-*/manifest.json"))
        return next((m.parent for m in manifests if read_manifest(m.parent)["fingerprint"] == wanted), None)

    def need(self, stage: str, inputs: dict[str, Any], *, made_by: str) -> Path:
        """Like `find`, every file checked against its hash; a KitError names the call that makes what is missing."""
        folder = self.find(stage, inputs)
        if folder is None:
            missing = shown(self.place(stage) / stage)
            raise KitError(f"{missing} is not made yet for these settings: run {made_by} first")
        return check_files(folder)

    @contextmanager
    def writing(self, stage: str, inputs: dict[str, Any]) -> Iterator[Stage]:
        """Write a stage: a hidden folder that takes its name and manifest only when the block ends well."""
        from filelock import FileLock, Timeout

        target, start = self._target(stage, inputs), time.monotonic()
        lock = target.with_name(f".{target.name}.lock")
        partial = target.with_name(f".{target.name}.{node()}.partial")  # a shared disk has no locks between machines
        with disk_errors(partial), ExitStack() as held:
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                held.enter_context(FileLock(lock, timeout=0))
            except Timeout as error:
                way_out = "wait for it, or take another folder with lk.Run(name=...)"
                raise KitError(f"{shown(target)} is being written by another process: {way_out}") from error
            shutil.rmtree(partial, ignore_errors=True)  # what a process that was killed has left
            held.callback(shutil.rmtree, partial, ignore_errors=True)  # what broke off may be large and is of no use
            partial.mkdir()
            work = Stage(partial, target)
            try:
                yield work
                write_manifest(partial, inputs, work.figures, time.monotonic() - start)
            except FileNotFoundError as error:
                if partial.exists():
                    raise
                raise KitError(
                    f"{shown(partial.parent)} was deleted while it was written into: call it again"
                ) from error
            if target.exists():  # another machine was faster
                work.target = self.find(stage, inputs) or self._target(stage, inputs)
            if not work.target.exists():
                partial.rename(work.target)
        if work.target != (plain := self.place(stage) / stage):
            print(f"{shown(plain)} was made from other inputs and stays; {work.target.name} is beside it")

    def pack(self, target: str | os.PathLike[str] | None = None) -> Path:
        """Zip what cannot be made again in seconds (data, adapters, manifests, answers), not the merged weights."""
        name = f"{self.path.name}.zip"
        path = absolute(target or self.path.with_name(name))
        path = path / name if path.is_dir() else path
        with (
            whole_file(path) as partial,
            zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive,  # also of 1970
        ):
            for file in sorted(self.path.rglob("*")):
                inside = file.relative_to(self.path)
                is_hidden = any(part.startswith(".") for part in inside.parts)  # half written
                if file.is_file() and file != path and not is_hidden and not inside.parts[0].startswith(LEFT_OUT):
                    with suppress(FileNotFoundError):  # a training has deleted an old checkpoint
                        archive.write(file, inside)
        return path

    def _target(self, stage: str, inputs: dict[str, Any]) -> Path:
        plain = self.place(stage) / stage
        if not plain.exists():
            return plain
        beside = plain.with_name(f"{plain.name}-{fingerprint(inputs)[:6]}")
        shutil.rmtree(beside, ignore_errors=True)  # no manifest with these inputs is in it, or `find` had found it
        return beside


@dataclass
class Stage:
    """A stage while it is written: `folder` to write into, `target` where it will be, `figures` for the manifest."""

    folder: Path
    target: Path
    figures: dict[str, Any] = field(default_factory=dict)


def _choose(name: str | None, overrides: dict[str, Any]) -> tuple[Profile, str]:
    """The profile and why; its fallback where a gated base that nobody named cannot be had."""
    chosen, reason = choose_profile(name)
    wanted = profile(chosen, **overrides)
    is_named = name or os.environ.get("LORA_KIT_PROFILE") or "base__source" in overrides
    problem = None if is_named or wanted.base.fallback is None else access_problem(wanted.base)
    if problem is None:
        return wanted, reason
    print(f"{problem}. Going on with {wanted.base.fallback}; name the profile {chosen} to insist on it")
    return profile(str(wanted.base.fallback), **overrides), f"{wanted.base.title} cannot be had here"


def as_source(data: Any, root: Path) -> str:
    """The path or name of a dataset; rows given as objects become files, in a folder named by their contents."""
    if isinstance(data, str | os.PathLike):
        return os.fspath(data)
    is_several = type(data).__name__ == "DatasetDict"  # its splits become the files of a folder
    texts: Any = {name: _as_lines(rows) for name, rows in data.items()} if is_several else _as_lines(data)
    place = root / "inputs" / fingerprint(texts)[:12] / "rows"
    source = place if is_several else place.with_suffix(".jsonl")
    files = {place / f"{name}.jsonl": text for name, text in texts.items()} if is_several else {source: texts}
    for path, text in files.items():
        with whole_file(path) as partial:
            partial.write_text(text, encoding="utf-8")
    return str(source)


def _as_lines(data: Any) -> str:
    """Rows as JSON, one a line; dates and the like in the library's own way."""
    kind = type(data).__name__
    is_rows = isinstance(data, list) and all(isinstance(row, dict) for row in data)
    if not (is_rows or kind in ("Dataset", "DataFrame")) or not len(data):
        readable = "a file, a folder, a name, a Dataset or DatasetDict, a DataFrame or a list of dicts"
        raise KitError(f"data={kind} cannot be read: give {readable}")
    try:
        if is_rows:
            return "".join(json.dumps(row, default=_plain) + "\n" for row in data)
        table = data if kind == "DataFrame" else data.to_pandas()
        return str(table.to_json(orient="records", lines=True, date_format="iso"))
    except (TypeError, ValueError, RecursionError) as error:
        raise KitError(f"the rows given as data cannot be written as JSON: {error}") from error


def _plain(value: Any) -> Any:
    """A numpy value as Python's own."""
    if not hasattr(value, "tolist"):
        raise TypeError(f"they contain a {type(value).__name__}")
    return value.tolist()


def _folder_name(chosen: Profile) -> str:
    """The profile's name, with a hash of the settings that data and training follow from, where these are changed."""
    changed = dict(settings(chosen).items() - settings(profile(chosen.name)).items())
    changed = {name: value for name, value in changed.items() if not name.startswith(("merge__", "evaluation__"))}
    if os.path.exists(str(changed.get("data__source"))):
        changed["data__source"] = str(absolute(changed["data__source"]))  # however it is written
    return f"{chosen.name}-{fingerprint(changed)[:6]}" if changed else chosen.name
