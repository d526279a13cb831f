"""Which files are behind the name of a dataset: embedded ones, files, folders with their splits, and the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest

from lora_kit.config import Data
from lora_kit.data.reading import sources
from lora_kit.data.reading.sources import EMBEDDED, Files
from lora_kit.errors import KitError

from .test_files import KINDS_OF_FILE, ROWS, raw_rows, write


def dataset_files(source: str, **settings: str) -> Files:
    return sources.dataset_files(Data(source=source, **settings))


def test_embedded_datasets_and_files_are_found_by_name(tmp_path: Path) -> None:
    for name in EMBEDDED:
        files = dataset_files(name)
        assert [path.name for path in files.all()] == ["train.jsonl", "test.jsonl", "dataset.json"]
        assert all(path.is_file() and path.parent.name == name for path in files.all())
    for name in KINDS_OF_FILE:
        path = write(tmp_path / name, ROWS)
        assert dataset_files(str(path)) == Files([path])


@pytest.mark.parametrize(
    ("source", "name"),
    [("faq.jsonl", "faq"), (".faq.jsonl", "faq"), ("..jsonl", "data"), ("x/..", "here"), (".", "here"), ("a/b", "b")],
)
def test_an_adapter_s_folder_has_a_name_that_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, name: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert sources.name_of(source) == name
    assert sources.name_of("/") == "data"


@pytest.mark.parametrize(
    ("names", "train", "test"),
    [
        ("train.jsonl", "train.jsonl", ""),
        ("train.csv test.csv", "train.csv", "test.csv"),
        (
            "train-0.parquet train-1.parquet validation-0.parquet",
            "train-0.parquet train-1.parquet",
            "validation-0.parquet",
        ),
        ("faq.jsonl more.csv.gz eval.tsv notes.txt README.md", "faq.jsonl more.csv.gz", "eval.tsv"),
        ("b.JSON a.arrow Dev.csv valid.csv", "a.arrow b.JSON", "Dev.csv valid.csv"),
        ("devices.csv", "devices.csv", ""),  # a name that only begins like a split's
        ("faq.csv testimonials.csv", "faq.csv testimonials.csv", ""),
    ],
)
@pytest.mark.parametrize("card", [True, False])
def test_a_folder_holds_files_to_learn_files_held_out_and_a_card(
    tmp_path: Path, names: str, train: str, test: str, card: bool
) -> None:
    for name in [*names.split(), *(["dataset.json"] if card else [])]:
        (tmp_path / name).write_bytes(b"")
    wanted = Files(*([tmp_path / n for n in part.split()] for part in (train, test)))
    found = dataset_files(str(tmp_path))
    assert (found.train, found.test) == (wanted.train, wanted.test)
    assert found.card == (tmp_path / "dataset.json" if card else None)


@pytest.mark.parametrize("names", ["", "test.jsonl", "notes.txt dataset.json"])
def test_a_folder_with_nothing_to_learn_from_is_refused(tmp_path: Path, names: str) -> None:
    for name in names.split():
        (tmp_path / name).touch()
    with pytest.raises(KitError, match=r"is a folder without a file to learn from \(\.jsonl, ") as caught:
        dataset_files(str(tmp_path))
    assert repr(str(tmp_path)) in str(caught.value)


@pytest.mark.parametrize(
    "source", ["nobook", "gone.csv", "shop/gone.jsonl", "a/b/c", "x\0y", "~nobody-of-that-name/a.csv", "x" * 5000]
)
def test_what_is_not_there_names_the_ways_to_give_data(source: str) -> None:
    with pytest.raises(KitError, match=r"is neither a file, a folder, a Hub dataset .* datasets handbook, triage$"):
        dataset_files(source)


def hub(monkeypatch: pytest.MonkeyPatch, found: Any) -> list[str]:
    """Let the Hub give `found`; the list takes the names that are asked for."""
    asked: list[str] = []

    def load(*name: str) -> Any:
        asked.append(" ".join(name))
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(datasets, "load_dataset", load)
    return asked


def stored(path: Path) -> datasets.Dataset:
    return datasets.Dataset.from_file(str(write(path, ROWS)))


@pytest.mark.parametrize(
    ("splits", "test"),
    [(["train"], []), (["train", "test"], ["test"]), (["train", "validation", "extra"], ["validation"])],
)
def test_a_hub_dataset_is_downloaded_and_its_splits_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, splits: list[str], test: list[str]
) -> None:
    found = {name: stored(tmp_path / f"shop-{name}.arrow") for name in splits}
    asked = hub(monkeypatch, datasets.DatasetDict(found))
    files = dataset_files("wren/shop-faq_2")
    assert asked == ["wren/shop-faq_2"]
    assert files == Files([tmp_path / "shop-train.arrow"], [tmp_path / f"shop-{name}.arrow" for name in test])
    assert [row for _, row in raw_rows(files.train[0])] == ROWS


def test_a_hub_dataset_without_splits_is_learned_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, stored(tmp_path / "shop.arrow"))
    assert dataset_files("wren/shop") == Files([tmp_path / "shop.arrow"])


def test_a_hub_dataset_without_train_shows_its_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, datasets.DatasetDict({name: stored(tmp_path / "shop.arrow") for name in ("test", "dev")}))
    with pytest.raises(KitError, match=r"has the splits test, dev and none called train: .*data__split=test"):
        dataset_files("wren/shop")
    assert dataset_files("wren/shop", split="dev").train == [tmp_path / "shop.arrow"]


@pytest.mark.parametrize("source", ["wren/OpenHermes-2.5", "wren.co/v1.0.parquets"])
def test_a_hub_dataset_may_have_a_dot_in_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    asked = hub(monkeypatch, stored(tmp_path / "shop.arrow"))
    assert dataset_files(source).train and asked == [source]


def test_a_config_of_a_hub_dataset_can_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, ValueError("Config name is missing.\nPick one among ['main', 'extra']"))
    with pytest.raises(KitError, match=r"\['main', 'extra'\]. Choose one with data__config=NAME"):
        dataset_files("wren/shop")
    asked = hub(monkeypatch, stored(tmp_path / "shop.arrow"))
    assert dataset_files("wren/shop", config="extra").train and asked == ["wren/shop extra"]


def test_folders_of_save_to_disk_and_of_the_hub_are_read(tmp_path: Path) -> None:
    whole = datasets.Dataset.from_list(ROWS)
    whole.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=whole, test=whole).save_to_disk(tmp_path / "two")
    for split in ("train", "validation"):
        write(tmp_path / "hub" / "data" / f"{split}-00000-of-00001.parquet", ROWS)
    found = {name: dataset_files(str(tmp_path / name)) for name in ("one", "two", "hub")}
    assert {name: (len(files.train), len(files.test)) for name, files in found.items()} == {
        "one": (1, 0),
        "two": (1, 1),
        "hub": (1, 1),
    }
    assert all([row for _, row in raw_rows(files.train[0])] == ROWS for files in found.values())


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConnectionError("Couldn't reach the Hub\nat all"), "Couldn't reach the Hub at all. Give a file instead"),
        (FileNotFoundError(), "FileNotFoundError. Give a file instead"),
        (
            datasets.exceptions.DatasetNotFoundError("Dataset 'wren/shop' is gated"),
            "Dataset 'wren/shop' is gated. Give",
        ),
    ],
)
def test_a_hub_dataset_that_cannot_be_had_says_why(
    monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    hub(monkeypatch, error)
    with pytest.raises(KitError) as caught:
        dataset_files("wren/shop")
    assert str(caught.value).startswith(f"the Hub dataset 'wren/shop' cannot be had: {said}")
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("source", ["handbook", "triage", "wren/shop.csv", "wren/shop.xlsx", "./faq", "../shop/faq"])
def test_the_hub_is_asked_for_nothing_that_is_a_name_or_path_of_ours(
    monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    asked = hub(monkeypatch, ConnectionError("asked"))
    if source in EMBEDDED:
        assert dataset_files(source).train
    else:
        with pytest.raises(KitError, match="is neither"):
            dataset_files(source)
    assert asked == []


@pytest.mark.parametrize(
    "name", ["test.csv", "faq-test.csv", "val.csv", "faq_validation.csv", "TEST (2).csv", "eval.jsonl"]
)
def test_a_file_with_the_word_in_its_name_is_held_out(tmp_path: Path, name: str) -> None:
    for other in ("faq_train.csv", name, "contest.csv"):
        write(tmp_path / other, ROWS)
    assert dataset_files(str(tmp_path)).test == [tmp_path / name]
    assert dataset_files(str(tmp_path)).train == [tmp_path / "faq_train.csv"]
