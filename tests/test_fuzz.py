"""What others may have written, mutated: every file is read or refused in one sentence, none hangs, nothing is lost.

LORA_KIT_FUZZ is the number of tries (`make test-fuzz`: 10,000), LORA_KIT_FUZZ_SEED what they begin with.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

import lora_kit as lk
from lora_kit.base import ASSETS, identity, load_tokenizer, locate
from lora_kit.config import Base
from lora_kit.data.prepared import load_prepared, read_card
from lora_kit.files import check_files, read_json, write_manifest
from lora_kit.model_files import Weights, companions
from lora_kit.quantization import load_model
from lora_kit.training.train import read_log, trained_adapters

from .models import load_small_llama, save_adapted, save_small_llama, small_profile

TRIES, SEED = int(os.environ.get("LORA_KIT_FUZZ", "300")), int(os.environ.get("LORA_KIT_FUZZ_SEED", "0"))
LIMIT = 30  # seconds of one try
DEEP = json.loads("[" * 400 + "]" * 400)
ODD = [None, True, 0, -1, 1e9, 10**30, float("nan"), float("inf"), "", "x", "../../x", "\0", "é\u2028", [], [None], {}]
ODD += [{"a": 1}, DEEP, "a" * 10_000, ["x"], "<script>", "(.*)*(.*)*x", 3.5, "\ud800"]
BYTES = [b"", b"\0", b"\xff\xfe", b"{", b"[" * 100_000, b"null", b"PK\x05\x06" + bytes(18), b"\x80\x04."]


def places(value: Any, *path: Any) -> Iterator[tuple[Any, ...]]:
    """Where every part of a document stands."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items if len(path) < 20 else ():
        yield (*path, key)
        yield from places(part, *path, key)


def mutated(content: bytes, chance: random.Random) -> bytes:
    """Another document: a part replaced, taken out or renamed; or other bytes: cut, changed, doubled, replaced."""
    with contextlib.suppress(ValueError):
        lines = [json.loads(content)] if content[:1] in b"{[" and b"\n{" not in content else None
        lines = lines or [json.loads(line) for line in content.splitlines()]
        for _ in range(chance.choice((1, 1, 1, 3)) if chance.random() < 0.8 else 0):
            row = chance.randrange(len(lines))
            if not (found := [*places(lines[row])]):
                break
            *path, last = chance.choice(found)
            place = lines[row]
            for key in path:
                place = place[key]
            way = chance.random()
            if way < 0.7:
                place[last] = chance.choice(ODD)
            elif way < 0.85 or isinstance(place, list):
                del place[last]
            else:
                place[chance.choice(("x", "", "megatron_core"))] = place.pop(last)
        else:
            changed = "".join(json.dumps(line) + "\n" for line in lines).encode()
            if json.loads(changed.splitlines()[0]) != json.loads(content.splitlines()[0] if lines[1:] else content):
                return changed
    start, size = chance.randrange(len(content) + 1), chance.choice((1, 4, 64, len(content)))
    piece = chance.choice([bytes(chance.randrange(256) for _ in range(min(size, 64))), content[:size], *BYTES])
    return content[:start] + piece + content[start + chance.choice((0, len(piece), size)) :]


def written(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run with prepared data and an adapter, the pack of it, an adapter, a card, a base."""
    place = tmp_path_factory.mktemp("samples")
    rows = [{"question": f"What is in box {n}?", "answer": f"Thing {n}."} for n in range(12)]
    (place / "faq.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = lk.Run("tiny-cpu", data=place / "faq.jsonl", root=place, name="run")
    lk.prepare(run)
    adapter = save_adapted(save_small_llama(place / "base"), place / "adapter")
    with run.writing("training/faq", {"data": {"base": identity(run.profile.base)}}) as stage:
        shutil.copytree(adapter, stage.folder / "adapter")
        log = {"step": 1, "loss": 2.0, "tokens": 9, "seconds": 0.1, "skipped": 0}
        (stage.folder / "log.jsonl").write_text(json.dumps(log) + "\n")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy2(ASSETS / "tiny-chat" / file, place / "base")
    (place / "card").mkdir()
    shutil.copy2(ASSETS / "handbook" / "dataset.json", place / "card")
    (place / "zip").mkdir()
    run.pack(place / "zip" / "run.zip")
    return {name: place / name for name in ("run", "zip", "adapter", "card", "base")}


def read_run(folder: Path) -> None:
    run = lk.Run("tiny-cpu", root=folder.parent, name=folder.name)
    trained_adapters(run)
    run.find("data", {})
    str(load_prepared(folder / "data").report)
    read_log(check_files(folder / "training" / "faq"))


def read_zip(folder: Path) -> None:
    mine = folder / "root" / "run" / "data" / "report.json"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    try:
        lk.Run("tiny-cpu", root=folder / "root", name="run", source=folder / "run.zip")
    finally:
        assert mine.read_text() == "mine"
        shutil.rmtree(folder / "root")


def read_base(folder: Path) -> None:
    base = Base(source=str(folder))
    locate(base)
    identity(base), companions(folder), [*Weights(folder)]
    load_tokenizer(base)
    load_model(small_profile(quantization__kind="none"), folder)


def test_mutated_files_are_read_or_refused(
    samples: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = load_small_llama(samples["base"], "none")
    readers: dict[str, Callable[[Path], Any]] = {
        "run": read_run,
        "zip": read_zip,
        "adapter": lambda folder: lk.load_adapter(model, folder),
        "card": lambda folder: read_card(folder / "dataset.json"),
        "base": read_base,
    }
    counts, refused, problems = Counter[str](), Counter[str](), list[str]()
    slowest, begun = 0.0, time.monotonic()

    def hang(*_: object) -> NoReturn:
        raise TimeoutError(f"over {LIMIT} s")

    monkeypatch.setattr(signal, "alarm", signal.alarm)  # put back whatever a library leaves
    before = signal.signal(signal.SIGALRM, hang)
    try:
        for number in range(TRIES):
            chance = random.Random(SEED * 1_000_003 + number)
            kind = chance.choice((*readers, "adapter", "card"))
            folder = Path(shutil.copytree(samples[kind], tmp_path / "try" / kind))
            file = chance.choice([path for path in sorted(folder.rglob("*")) if path.is_file() and path.name[0] != "."])
            file.write_bytes(mutated(file.read_bytes(), chance))
            if kind == "run" and file.name != "manifest.json" and chance.random() < 0.8:  # by somebody who knows hashes
                stage = next(parent for parent in file.parents if (parent / "manifest.json").exists())
                manifest = read_json(stage / "manifest.json")
                (stage / "manifest.json").unlink()
                write_manifest(stage, manifest["inputs"], manifest["figures"], 0.0)
            there, start = written(folder), time.monotonic()
            counts[kind] += 1
            signal.alarm(LIMIT)
            try:
                readers[kind](folder)
            except lk.KitError:
                refused[kind] += 1
            except Exception as error:
                problems.append(f"try {number}, {file.relative_to(tmp_path)}: {type(error).__name__}: {error}"[:300])
            finally:
                signal.alarm(0)
            slowest = max(slowest, time.monotonic() - start)
            if written(folder) != there or [path.name for path in tmp_path.iterdir()] != ["try"]:
                problems.append(f"try {number}, {file.relative_to(tmp_path)}: files were changed")
            shutil.rmtree(tmp_path / "try")
    finally:
        signal.signal(signal.SIGALRM, before)
    listed = ", ".join(f"{kind} {refused[kind]:,} of {count:,}" for kind, count in sorted(counts.items()))
    with capsys.disabled():
        print(f"\n{TRIES:,} tries in {time.monotonic() - begun:.0f} s, the slowest {slowest:.1f} s; refused: {listed}")
    assert not problems, f"{len(problems)}, as " + "\n".join(problems[:20])
    assert sum(refused.values()) > TRIES / 3
