"""Where a dataset lies: an embedded one, a file, a folder of files, or a dataset of the Hub."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import KitError
from .files import READERS, ending, reader_of

ASSETS = Path(__file__).parents[1] / "assets"
EMBEDDED = ("handbook", "triage")
HELD_OUT_NAMES = ("test", "validation", "valid", "dev", "eval")
SHOWN = 200  # characters of a name that an error shows


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


def dataset_files(source: str) -> Files:
    """The files behind the name of a dataset.

    Args:
        source: an embedded dataset, a file, a folder, or `owner/name` of the Hub, which is downloaded once.

    Raises:
        KitError: there is no such dataset, folder or file, or nothing in it can be read.
    """
    if path := _place(source):
        if path.is_dir():
            return _in_folder(path, source)
        reader_of(path)
        return Files([path])
    if re.fullmatch(r"[\w.-]+/[\w.-]+", source) and "." not in Path(source).suffix:
        return _from_hub(source)
    raise KitError(
        f"data={source[:SHOWN]!r} is neither a file, a folder, a Hub dataset (owner/name) "
        f"nor one of the embedded datasets {', '.join(EMBEDDED)}"
    )


def _place(source: str) -> Path | None:
    """The file or folder that is meant, if there is one."""
    try:
        path = ASSETS / source if source in EMBEDDED else Path(source).expanduser()
        return path if path.is_dir() or path.is_file() else None
    except (OSError, RuntimeError, ValueError):  # no such home, a name too long, a NUL in it
        return None


def _in_folder(folder: Path, source: str) -> Files:
    card = folder / "dataset.json"
    files = [path for path in sorted(folder.iterdir()) if ending(path) in READERS and path != card]
    test = [path for path in files if _is_called(path, HELD_OUT_NAMES)]
    train = [path for path in files if _is_called(path, ("train",))] or [path for path in files if path not in test]
    if not train:
        raise KitError(f"data={source!r} is a folder without a file to learn from ({', '.join(READERS)})")
    read = {*train, *test, card}
    skipped = [path for path in sorted(folder.iterdir()) if path not in read and not path.name.startswith(".")]
    return Files(train, test, card if card.is_file() else None, skipped)


def _is_called(path: Path, names: tuple[str, ...]) -> bool:
    """Whether one of the names is a word of the file's name, as in test.csv and faq-test.csv."""
    return re.search(rf"(^|[^a-z])({'|'.join(names)})([^a-z]|$)", path.name.lower()) is not None


def _from_hub(source: str) -> Files:
    from datasets import DatasetDict, load_dataset

    try:
        found = load_dataset(source)
    except Exception as error:  # the library's own errors are many; all of them mean that it cannot be had
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise KitError(f"the Hub dataset {source!r} cannot be had: {reason}. Give a file instead") from error
    splits = dict(found) if isinstance(found, DatasetDict) else {"train": found}
    if "train" not in splits:
        raise KitError(f"the Hub dataset {source!r} has the splits {', '.join(splits)} and none called train")
    paths = {name: [Path(file["filename"]) for file in split.cache_files] for name, split in splits.items()}
    return Files(paths["train"], next((paths[name] for name in HELD_OUT_NAMES if name in paths), []))
