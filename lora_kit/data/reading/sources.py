"""Where a dataset lies: an embedded one, a file, a folder of files, or owner/name of the Hub."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...config import Data
from ...errors import KitError
from ...files import file_hash
from .readers import ADVICE, READERS, BadRow, Notes, Raw, ending_of, reader_of

ASSETS = Path(__file__).parents[2] / "assets"
EMBEDDED = ("handbook", "triage")
HELD_OUT_NAMES = ("test", "validation", "valid", "val", "dev", "eval")
ABOUT = [  # files without rows
    f"{name}.json" for name in "dataset_info dataset_infos dataset_dict state dataset-metadata metadata config".split()
]


@dataclass(frozen=True)
class Files:
    """The files of a dataset: rows to learn from, rows held out, and how declines and style are recognised."""

    train: list[Path]
    test: list[Path] = field(default_factory=list)
    card: Path | None = None
    skipped: list[Path] = field(default_factory=list)  # what else lies in the folder

    def all(self) -> list[Path]:
        """Every file, for hashing."""
        return [*self.train, *self.test, *([self.card] if self.card else [])]


def file_hashes(paths: Sequence[Path]) -> dict[str, str]:
    """Each file's hash by its place in the folder that all are in: train/rows.jsonl is not test/rows.jsonl."""
    places = [Path(os.path.abspath(path)) for path in paths]
    shared = os.path.commonpath([place.parent for place in places])
    try:
        return {place.relative_to(shared).as_posix(): file_hash(place) for place in places}
    except OSError as error:  # no permission, or open in a spreadsheet program that locks it
        raise KitError(f"{error.filename} cannot be read ({error.strerror}): close it in other programs") from error


def name_of(source: str) -> str:
    """What a dataset is called, also as a folder of the run: "faq" for faq.jsonl, for .faq.jsonl, and for "." in it."""
    return Path(os.path.abspath(source)).stem.lstrip(".") or "data"


def dataset_files(data: Data) -> Files:
    """The files behind `data.source`, downloaded where they are the Hub's; KitError where none can be read."""
    source = data.source
    path = ASSETS / source if source in EMBEDDED else Path(os.path.expanduser(source))
    if data.config and os.path.exists(path):
        raise KitError(f"data__config={data.config!r} is for a dataset of the Hub; {source!r:.200} is a file or folder")
    if os.path.isdir(path):  # unlike Path's, these take any text
        return _in_folder(path, data)
    if os.path.isfile(path):
        if data.split and ending_of(path) not in (".json", ".jsonl"):
            raise KitError(f"data__split={data.split!r} is for a folder, a JSON file of lists, or a dataset of the Hub")
        reader_of(path)
        return Files([path])
    if re.fullmatch(r"\w[\w.-]*/[\w.-]+", source) and ending_of(Path(source)) not in {*READERS, *ADVICE}:
        return _from_hub(data)
    raise KitError(
        f"data={source!r:.200} is neither a file, a folder, a Hub dataset (owner/name) "
        f"nor one of the embedded datasets {', '.join(EMBEDDED)}"
    )


def _in_folder(folder: Path, data: Data) -> Files:
    """The files of a folder and of the folders in it, as `save_to_disk` and the Hub lay them out."""
    found = sorted(path for depth in range(3) for path in folder.glob("*/" * depth + "*") if path.is_file())
    names = {path: path.relative_to(folder).as_posix().lower() for path in found}

    def is_called(path: Path, *words: str) -> bool:  # a word of its own in the path, as in faq-test.csv or test/a.csv
        return bool(re.search(rf"(^|[^a-z])({'|'.join(map(re.escape, words))})([^a-z]|$)", names[path]))

    card, hidden = folder / "dataset.json", re.compile(r"(^|/)\.")
    visible = [path for path in found if path.name not in ABOUT and not hidden.search(names[path])]
    files = [path for path in visible if ending_of(path) in READERS and path != card]
    called = [path for path in files if is_called(path, data.split or "train")]
    test = [path for path in files if is_called(path, *HELD_OUT_NAMES) and path not in called]
    train = called or ([path for path in files if path not in test] if data.split is None else [])
    if not train:
        listed = ", ".join(path.name for path in files)
        wanted = f"called {data.split} ({listed})" if data.split else f"to learn from ({', '.join(READERS)})"
        raise KitError(f"data={data.source!r} is a folder without a file {wanted}")
    skipped = [path for path in visible if path not in {*train, *test, card}]
    return Files(train, test, card if card.is_file() else None, skipped)


def _from_hub(data: Data) -> Files:
    from datasets import DatasetDict, load_dataset

    try:
        found = load_dataset(*filter(None, (data.source, data.config)))
    except Exception as error:  # the library raises errors of many kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        way_out = "Choose one with data__config=NAME" if "config" in reason.lower() else "Give a file instead"
        raise KitError(f"the Hub dataset {data.source!r} cannot be had: {reason}. {way_out}") from error
    splits = dict(found) if isinstance(found, DatasetDict) else {"train": found}
    wanted = data.split or "train"
    if wanted not in splits:
        names, example = ", ".join(splits), next(iter(splits))
        raise KitError(f"{data.source!r} has the splits {names} and none called {wanted}: set data__split={example}")
    paths = {name: [Path(file["filename"]) for file in split.cache_files] for name, split in splits.items()}
    held_out = next((paths[name] for name in HELD_OUT_NAMES if name in paths and name != wanted), [])
    return Files(paths[wanted], held_out)


def raw_rows(path: Path, data: Data, notes: Notes) -> Iterator[Raw]:
    """Every row of a file with its place ("faq.csv row 7", as a spreadsheet or an editor counts it)."""
    for number, row in reader_of(path)(path, data, notes):
        place = f"{path.name} row {number}"
        yield BadRow(place, row.problem) if isinstance(row, BadRow) else (place, row)
