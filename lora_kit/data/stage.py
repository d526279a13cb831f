"""Notebook 02 in one call: any dataset -> conversations -> ids and labels -> Arrow, with a report that can refuse."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base import identity, load_tokenizer
from ..errors import KitError
from ..manifests import check_files, file_hash, read_manifest, shown
from .encoding import IGNORE, encode
from .reading import Conversation, dataset_files, read_conversations

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from ..runs import Run

HOW_TO_MEASURE = "ask each fact in several wordings, and some can be held out to measure what is learned"
HELD_OUT = 0.1  # share of a user's rows kept for the report card, when the dataset has no test split


@dataclass(frozen=True)
class Prepared:
    """What training and evaluation need: encoded rows, held-out questions, and how answers are judged."""

    folder: Path
    train: Dataset  # columns input_ids and labels
    test: list[dict[str, Any]]  # kind, messages, accepted
    card: dict[str, Any]  # the dataset's own decline patterns and style
    figures: dict[str, Any]


def prepare(run: Run) -> Prepared:
    """Read, check, encode and store the run's dataset, or load what is stored from the same inputs.

    Raises:
        KitError: with file and row, where a row cannot be read, encoded or learned from.
    """
    inputs = data_inputs(run)
    folder = run.find("data", inputs)
    if folder is None:
        with run.writing("data", inputs) as stage:
            stage.figures |= _write(run, stage.folder)
            folder = stage.target
    prepared = load_prepared(folder)
    print(f"data: {report(prepared.figures)}. In {shown(folder)}")
    return prepared


def data_inputs(run: Run) -> dict[str, Any]:
    """What the data stage is made from; its fingerprint decides whether it is made again."""
    files = dataset_files(run.profile.data.source)
    return {
        "files": {name: file_hash(path) for name, path in files.items()},
        "max_length": run.profile.data.max_length,
        "base": identity(run.profile.base),
    }


def load_prepared(folder: Path) -> Prepared:
    """Load a finished data stage, every file checked against its hash."""
    from datasets import load_from_disk

    check_files(folder)
    test = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
    card = json.loads((folder / "dataset.json").read_text())
    train = load_from_disk(str(folder / "train"))
    return Prepared(folder, train, test, card, read_manifest(folder)["figures"])


def report(figures: dict[str, Any]) -> str:
    """The figures of a data stage as one line."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in figures["test_kinds"].items())
    learned = figures["learned_tokens"] / figures["tokens"]
    return (
        f"{figures['train_rows']:,} rows to learn ({figures['tokens']:,} tokens, longest {figures['longest']}, "
        f"{learned:.0%} of them learned), {figures['test_rows']} questions held out ({kinds or HOW_TO_MEASURE})"
    )


def _write(run: Run, folder: Path) -> dict[str, Any]:
    from datasets import Dataset

    files = dataset_files(run.profile.data.source)
    train, test = _split(files)
    tokenizer, longest = load_tokenizer(run.profile.base), run.profile.data.max_length
    encoded = _encode_rows(train, tokenizer, longest)
    _encode_rows(test, tokenizer, longest)  # refuses now what could not be asked later
    with _quiet():
        Dataset.from_dict(encoded).save_to_disk(str(folder / "train"))
    rows = [{"kind": c.kind, "messages": c.messages, "accepted": c.accepted} for c in test]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    card = {"name": Path(run.profile.data.source).stem} | (_card(files["card"]) if "card" in files else {})
    (folder / "dataset.json").write_text(json.dumps(card, indent=2) + "\n")
    return _figures(encoded, test)


def _card(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise KitError(f"{path} must hold one JSON object, as the embedded datasets have it: {error}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars of datasets for work that takes a second."""
    from datasets.utils import logging

    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()


def _split(files: dict[str, Path]) -> tuple[list[Conversation], list[Conversation]]:
    """The dataset's own test split, or about every tenth row whose answer is learned in other words too."""
    rows = list(read_conversations(files["train"]))
    test = list(read_conversations(files["test"])) if "test" in files else _held_out(rows)
    asked = {_question(row) for row in test}
    train = [row for row in rows if _question(row) not in asked]
    if not train:
        raise KitError(f"{files['train'].name} leaves no row to learn from after {len(test)} are held out: add rows")
    return train, test


def _held_out(rows: list[Conversation]) -> list[Conversation]:
    """Rows chosen by a hash of their question; one whose answer stands in no other question could only be guessed."""
    chosen = [zlib.crc32(_question(row).encode()) % 1000 < 1000 * HELD_OUT for row in rows]
    asked = {_question(row) for row, out in zip(rows, chosen, strict=True) if out}
    learned = {row.messages[-1]["content"] for row in rows if _question(row) not in asked}
    return [row for row, out in zip(rows, chosen, strict=True) if out and row.messages[-1]["content"] in learned]


def _question(row: Conversation) -> str:
    asked = [message["content"] for message in row.messages if message["role"] != "assistant"]
    return " ".join("\n".join(asked).lower().split())


def _encode_rows(
    rows: list[Conversation], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> dict[str, list[list[int]]]:
    encoded = []
    for row in rows:
        try:
            encoded.append(encode(row.messages, tokenizer, max_length=max_length))
        except KitError as error:
            raise KitError(f"{row.row}: {error}") from error
    return {"input_ids": [row.input_ids for row in encoded], "labels": [row.labels for row in encoded]}


def _figures(encoded: dict[str, list[list[int]]], test: list[Conversation]) -> dict[str, Any]:
    lengths = [len(row) for row in encoded["input_ids"]]
    kinds = sorted({row.kind for row in test})
    return {
        "train_rows": len(lengths),
        "tokens": sum(lengths),
        "learned_tokens": sum(label != IGNORE for row in encoded["labels"] for label in row),
        "longest": max(lengths),
        "test_rows": len(test),
        "test_kinds": {kind: sum(row.kind == kind for row in test) for kind in kinds},
    }
