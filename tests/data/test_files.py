"""Rows out of files of any kind: the same rows from each, and a file or row that cannot be read is named."""

from __future__ import annotations

import csv
import gzip
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lora_kit.config import Data
from lora_kit.data.reading import sources
from lora_kit.data.reading.conversations import Conversation
from lora_kit.data.reading.readers import BadRow
from lora_kit.data.splits import usable_rows
from lora_kit.errors import KitError

ROWS = [{"question": "Who?", "answer": "Wren."}, {"question": "Wo, dann?", "answer": 'Höhle\n"7" 🐦'}]
TEXTS = ("faq.jsonl", "faq.json", "faq.JSON", "faq.csv", "semicolons.csv", "faq.tsv")
KINDS_OF_FILE = (*TEXTS, *(f"{name}.gz" for name in TEXTS), "faq.parquet", "faq.arrow")
TABLES = tuple(name for name in KINDS_OF_FILE if "sv" in name)  # whose heading is row 1
GOOD = b'{"question": "a", "answer": "b"}'


def raw_rows(path: Path, **settings: Any) -> Iterator[Any]:
    return sources.raw_rows(path, Data(**settings), {})


def read_conversations(source: str | Path, **settings: Any) -> list[Conversation]:
    """The rows to learn from, as the data stage reads them."""
    data = Data(source=str(source), **settings)
    return usable_rows(sources.dataset_files(data).train, data, "the data").rows


def first(name: str) -> int:
    """The number of a file's first row, as an editor or a spreadsheet counts."""
    return 2 if name in TABLES else 1


def write(path: Path, rows: list[Any]) -> Path:
    """Rows as a file of the kind that its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.name.lower()
    if name.endswith((".parquet", ".arrow")):
        return write_arrow(path, pa.Table.from_pylist(rows))
    content = as_table(name, rows) if ".csv" in name or ".tsv" in name else as_json(name, rows)
    path.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
    return path


def write_arrow(path: Path, table: pa.Table) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table)
    return path


def as_table(name: str, rows: list[Any]) -> str:
    text = io.StringIO(newline="")
    delimiter = "\t" if ".tsv" in name else ";" if "semicolons" in name else ","
    table = csv.DictWriter(text, rows[0], delimiter=delimiter)
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def as_json(name: str, rows: list[Any]) -> str:
    return json.dumps(rows) if ".json" in name and ".jsonl" not in name else "\n".join(map(json.dumps, rows)) + "\n"


@pytest.mark.parametrize("name", KINDS_OF_FILE)
def test_every_kind_of_file_gives_the_same_rows_with_their_places(tmp_path: Path, name: str) -> None:
    found = list(raw_rows(write(tmp_path / name, ROWS)))
    assert found == [(f"{name} row {first(name)}", ROWS[0]), (f"{name} row {first(name) + 1}", ROWS[1])]


@pytest.mark.parametrize("name", ["faq.parquet", "faq.arrow"])
def test_rows_of_later_batches_are_counted_on(tmp_path: Path, name: str) -> None:
    rows = [{"question": f"{n}?", "answer": "a"} for n in range(2500)]
    found = list(raw_rows(write(tmp_path / name, rows)))
    assert found[-1] == (f"{name} row 2500", rows[-1]) and len(found) == 2500


@pytest.mark.parametrize("name", [name for name in TEXTS if name != "faq.JSON"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_a_byte_order_mark_and_other_line_ends_do_no_harm(
    tmp_path: Path, name: str, bom: bytes, newline: bytes
) -> None:
    path = write(tmp_path / name, [ROWS[0], {"question": "Where?", "answer": "Here."}])
    lines = path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", newline)
    path.write_bytes(bom + lines)
    assert [row for _, row in raw_rows(path)] == [ROWS[0], {"question": "Where?", "answer": "Here."}]


def test_blank_lines_are_left_out_and_rows_counted_as_an_editor_does(tmp_path: Path) -> None:
    path = tmp_path / "faq.jsonl"
    path.write_bytes(b"\n" + GOOD + b"\n\n  \t\n" + GOOD)
    assert [place for place, _ in raw_rows(path)] == ["faq.jsonl row 2", "faq.jsonl row 5"]


@pytest.mark.parametrize("name", KINDS_OF_FILE)
def test_a_million_letters_and_nul_are_a_text_like_any_other(tmp_path: Path, name: str) -> None:
    row = {"question": "x" * 1_000_000, "answer": "a\0b"}
    assert list(raw_rows(write(tmp_path / name, [row]))) == [(f"{name} row {first(name)}", row)]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"question": ', "is not JSON: Expecting value"),
        (GOOD[:-1], "is not JSON: Expecting ',' delimiter"),
        (GOOD + GOOD, "is not JSON: Extra data"),
        (b"\0", "is not JSON"),
        (b'{"question": ' + b"[" * 200_000, "is not JSON: maximum recursion depth"),
        (b"9" * 5000, "is not JSON: Exceeds the limit"),
    ],
)
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_bad_line_is_the_only_bad_row(tmp_path: Path, line: bytes, said: str, ending: str) -> None:
    path = tmp_path / f"faq.jsonl{ending}"
    content = GOOD + b"\n" + line + b"\n" + GOOD
    path.write_bytes(gzip.compress(content) if ending else content)
    before, bad, after = raw_rows(path)
    assert isinstance(bad, BadRow) and bad.row == f"faq.jsonl{ending} row 2" and bad.problem.startswith(said)
    assert (before, after) == tuple((f"faq.jsonl{ending} row {n}", json.loads(GOOD)) for n in (1, 3))


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_long_row_of_a_table_is_bad_and_a_short_one_lacks_values(tmp_path: Path, delimiter: str) -> None:
    path = tmp_path / "faq.csv"
    path.write_text("question,answer\na,b,c\na\na,b\n".replace(",", delimiter))
    bad = BadRow("faq.csv row 2", f"has more than the header's 2 fields: put a text that holds {delimiter!r} in quotes")
    short, whole = ({"question": "a", "answer": answer} for answer in (None, "b"))
    assert list(raw_rows(path)) == [bad, ("faq.csv row 3", short), ("faq.csv row 4", whole)]


@pytest.mark.parametrize("head", ["sep=;\n", "sep=;\r\n", ""])
@pytest.mark.parametrize("delimiter", [";", "|"])
def test_the_delimiter_is_said_by_the_first_line_or_found(tmp_path: Path, head: str, delimiter: str) -> None:
    path = tmp_path / "faq.csv"
    path.write_text(head.replace(";", delimiter) + "question,answer\nWho?,Wren.\n".replace(",", delimiter))
    assert [row["answer"] for _, row in raw_rows(path)] == ["Wren."]


@pytest.mark.parametrize("document", [ROWS, {"data": ROWS}])
def test_a_split_of_a_folder_names_files_and_no_list(tmp_path: Path, document: Any) -> None:
    (tmp_path / "train.json").write_text(json.dumps(document))
    assert [row for _, row in raw_rows(tmp_path / "train.json", source=str(tmp_path), split="train")] == ROWS


@pytest.mark.parametrize("backslash", ["\\", "\\\\"])
def test_a_quote_behind_a_backslash_costs_no_other_backslash(tmp_path: Path, backslash: str) -> None:
    text = 'question,answer\n"Say \\"a\\" or \\"b\\", so","C:\\new\\logs"\n'
    text = text.replace("C:\\new\\logs", f"C:{backslash}new{backslash}logs")  # written twice where it escapes itself
    (tmp_path / "faq.csv").write_text(text)
    ((_, row),) = raw_rows(tmp_path / "faq.csv")
    assert row == {"question": 'Say "a" or "b", so', "answer": "C:\\new\\logs"}


def test_the_mark_of_utf_8_counts_more_than_the_encoding_that_is_named(tmp_path: Path) -> None:
    (tmp_path / "faq.csv").write_text("Frage,Antwort\nWo?,Höhle\n", encoding="utf-8-sig")
    assert [row for _, row in raw_rows(tmp_path / "faq.csv", encoding="cp1252")] == [
        {"Frage": "Wo?", "Antwort": "Höhle"}
    ]


@pytest.mark.parametrize(
    ("document", "split", "found"),
    [
        ({"train": ROWS, "test": ROWS[:1]}, "train", ROWS),
        (
            {"train": ROWS, "test": ROWS[:1]},
            "trian",
            "no list called trian; its lists are train, test: set data__split=train",
        ),
        ({"data": ROWS}, "train", "set data__split=data"),
        (ROWS, "train", "leave data__split out"),
    ],
)
def test_a_list_of_a_file_is_chosen_and_an_unknown_one_refused(
    tmp_path: Path, document: Any, split: str, found: Any
) -> None:
    path, notes = tmp_path / "faq.json", dict[str, list[str]]()
    path.write_text(json.dumps(document))
    if isinstance(found, str):
        with pytest.raises(KitError, match=found):
            list(raw_rows(path, source=str(path), split=split))
    else:
        assert [row for _, row in sources.raw_rows(path, Data(source=str(path), split=split), notes)] == found
        assert notes == {"lists of the file that are not read: test": ["faq.json"]}


def test_a_column_that_stands_there_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "faq.csv").write_text("question,answer,answer\na,b,c\n")
    with pytest.raises(KitError, match=r"faq\.csv has more than one column called answer: rename or delete one"):
        list(raw_rows(tmp_path / "faq.csv"))


LONG = b"question,answer\n" + b"abcdef,b\n" * 3000
GZ = gzip.compress(GOOD * 1000)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("faq.json", b"[{", "faq.json is not JSON"),
        ("faq.json", b"", "faq.json is not JSON"),
        ("faq.json", b'{"messages": []}', "faq.json must hold a list of rows; it holds a dict"),
        ("faq.json", b"[" + b"9" * 5000 + b"]", "faq.json is not JSON"),
        ("faq.json", b"[" * 200_000, "faq.json is not JSON"),
        ("faq.csv", b"question,answer\n\xe9,b\n", "in row 2 near"),
        pytest.param("faq.csv", LONG + b"\xe9,b\n", "data__encoding=cp1252", id="far into a table"),
        ("faq.jsonl", b'{"question": "\xc3\xe6\xb0\xfc"}', "data__encoding=gbk"),
        ("faq.csv", b'question,answer\n"a"b,c\n', "faq.csv is not a readable table"),
        ("faq.jsonl.gz", GOOD, "faq.jsonl.gz is not a whole gzip file: Not a gzipped file"),
        ("faq.jsonl.gz", GZ[:-12], "faq.jsonl.gz is not a whole gzip file: Compressed file ended"),
        ("faq.csv.gz", GZ[:-8] + b"\0" * 8, "faq.csv.gz is not a whole gzip file: CRC check failed"),
        ("faq.jsonl.gz", GZ[:10] + b"\xff" * 30 + GZ[40:], "faq.jsonl.gz is not a whole gzip file"),
        ("faq.parquet", b"", "faq.parquet is not a readable .parquet file"),
        ("faq.parquet", b"PAR1 hello", "faq.parquet is not a readable .parquet file"),
        ("faq.arrow", b"", "faq.arrow is not a readable .arrow file"),
        ("faq.arrow", b"hello, world", "faq.arrow is not a readable .arrow file"),
        ("faq.txt", b"hello", "has the ending '.txt': write one row per line as JSON"),
        ("faq.xlsx", b"hello", "save it as 'CSV UTF-8'"),
        ("faq.zip", b"hello", "unpack it first"),
        ("faq", b"hello", "has the ending '': lora_kit reads .jsonl, .ndjson, .json, .csv, .tsv, .parquet, .arrow"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(KitError) as caught:
        list(raw_rows(tmp_path / name))
    assert said in str(caught.value)


@pytest.mark.parametrize("name", KINDS_OF_FILE)
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(KitError, match=rf"^{name} cannot be read: .*No such file"):
        list(raw_rows(tmp_path / name))


@pytest.mark.parametrize("name", ["faq.parquet", "faq.arrow"])
@pytest.mark.parametrize("kind", [pa.timestamp("us"), pa.timestamp("us", "Nowhere/None")], ids=str)
def test_a_date_that_python_cannot_hold_is_read_or_explained(tmp_path: Path, name: str, kind: pa.DataType) -> None:
    path = write_arrow(tmp_path / name, pa.table({"question": ["a"], "answer": ["b"], "at": pa.array([2**62], kind)}))
    try:
        assert [row["question"] for _, row in raw_rows(path)] == ["a"]
    except KitError as error:
        assert name in str(error)


def test_a_damaged_arrow_file_is_an_error_and_never_a_crash_of_python(tmp_path: Path) -> None:
    path = write(tmp_path / "faq.arrow", [{"question": "x" * 12345, "answer": "b"}])
    before, offsets, text = path.read_bytes().rpartition((0).to_bytes(4, "little") + (12345).to_bytes(4, "little"))
    path.write_bytes(before + offsets[:4] + (2**30).to_bytes(4, "little") + text)
    code = f"from pathlib import Path; from tests.data.test_files import raw_rows; list(raw_rows(Path({str(path)!r})))"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 1  # not a signal's
    assert "KitError: faq.arrow is not a readable .arrow file" in done.stderr


def test_the_content_says_whether_a_file_is_a_list_or_a_row_a_line(tmp_path: Path) -> None:
    (tmp_path / "faq.jsonl").write_bytes(b"[" + GOOD + b",\n" + GOOD + b"]")
    (tmp_path / "faq.json").write_bytes(GOOD + b"\n" + GOOD)
    for name in ("faq.jsonl", "faq.json"):
        assert [row for _, row in raw_rows(tmp_path / name)] == [json.loads(GOOD)] * 2


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "cp1252"])
@pytest.mark.parametrize("name", ["faq.csv", "faq.jsonl"])
def test_other_encodings_are_known_by_their_mark_or_named(tmp_path: Path, name: str, encoding: str) -> None:
    path = write(tmp_path / name, [{"question": "Où?", "answer": "Höhle"}])
    text = path.read_text().replace("\\u00f9", "ù").replace("\\u00f6", "ö")
    path.write_bytes(text.encode(encoding))
    settings = {"encoding": encoding} if encoding == "cp1252" else {}
    assert [row for _, row in raw_rows(path, **settings)] == [{"question": "Où?", "answer": "Höhle"}]
    with pytest.raises(KitError, match="data__encoding='klingon'"):
        path.write_bytes(b"x")
        list(raw_rows(path, encoding="klingon"))
