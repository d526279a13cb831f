"""Rows that were made to never end are read in a moment: a hundred thousand characters, at most seconds."""

from __future__ import annotations

import contextlib
import gzip
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lora_kit.config import Data
from lora_kit.data.findings import odd_in
from lora_kit.data.reading.cells import text_format
from lora_kit.data.reading.conversations import Conversation
from lora_kit.data.reading.sources import raw_rows
from lora_kit.data.reading.turns import without_ends
from lora_kit.errors import KitError
from lora_kit.presets import profile

MANY = 100_000  # characters
BLANKS = " " * MANY
PIECES = (
    "eyJ- eyJ-a eyJaaaaaaaaaa.eyJ a+ a:// password passwort: hf_ sk- sk-ant- ghp_ github_pat_ AKIA AIza xoxb- glpat- "
    "key: api_key= {{a {{ [A_ <A_ â€ Ã -----BEGIN Â access-token: \\ ( (( [INST] [/INST] <<SYS>> <s> </s> "
    "<|im_end|> ### USER:"
).split()
TEXTS = {
    "system": f"<s>[INST] <<SYS>>{BLANKS}x [/INST] a </s>",
    "blanks": f"a <{BLANKS}b",
    "blanks first": f"{BLANKS}<s>{BLANKS}b",
    **{piece: piece * (MANY // len(piece)) for piece in PIECES},
    **{f"{piece} and blanks": f"{piece}{BLANKS}{piece}" for piece in PIECES},
}


def taken_apart(text: str) -> None:
    with contextlib.suppress(KitError):
        (text_format(text) or str)(text)


@pytest.mark.parametrize(
    "reader",
    [without_ends, taken_apart, lambda text: odd_in(Conversation([{"role": "user", "content": text}]))],
    ids=["ends", "turns", "secrets"],
)
def test_no_text_is_read_without_end(reader: Callable[[str], object]) -> None:
    slow = {}
    for name, text in TEXTS.items():
        start = time.process_time()
        reader(text)
        if (took := time.process_time() - start) > 2:
            slow[name] = took
    assert not slow


def test_a_packed_file_that_would_become_gigabytes_is_refused(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "bomb.json.gz", "wb", compresslevel=1) as file:
        for _ in range(40):
            file.write(bytes(2**23))
    with pytest.raises(KitError, match=r"bomb\.json\.gz becomes 0\.25 GiB or more"):
        list(raw_rows(tmp_path / "bomb.json.gz", Data(), {}))


def test_passes_without_end_are_refused() -> None:
    with pytest.raises(KitError, match="training__epochs=200000 must be a whole number from 1 to 1,000"):
        profile("tiny-cpu", training__epochs=200_000)
