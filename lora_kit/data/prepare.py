"""Notebook 02 in one call: any dataset -> conversations -> ids and labels -> Arrow, with a report and a proof.

read -> split -> encode -> leave out what is held out -> verify -> train.arrow, test.jsonl, report.json
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base import identity, load_tokenizer, locate, read_config
from ..config import Data
from ..errors import KitError
from ..files import file_hash, shown, write_json, write_lines
from ..progress import Progress
from .augmentation.base_answers import BaseAnswers, in_own_words, rehearsals
from .augmentation.own_rows import kit_rows, resolve_auto
from .augmentation.rewording import reword
from .chat_template import one_per_answer
from .checks import require, verify
from .encoding import BATCH, Encoded, LengthFilter, Pair, last_answer
from .findings import Facts
from .prepared import Prepared, load_prepared, read_card, train_schema
from .reading.conversations import Conversation, Read, plural
from .reading.sources import dataset_files, file_hashes, name_of
from .report import make_report
from .splits import Split, check_told_apart, each_once, split, taught, usable_rows, with_answers

if TYPE_CHECKING:
    from ..runs import Run

FORM = 4  # of what is stored; data of an older form is prepared anew
FIGURES = ("train_rows", "tokens", "learned_tokens", "longest", "test_rows", "test_kinds")


def prepare(run: Run) -> Prepared:
    """Read, check, encode, prove and store the run's dataset, or load what is stored from the same inputs.

    Raises:
        KitError: with file and row, where a row cannot be read, encoded or learned from.
    """
    inputs = data_inputs(run)
    folder = found = run.find("data", inputs)
    if folder is None:
        with run.writing("data", inputs) as stage:
            stage.figures |= _write(run, stage.folder)
            folder = stage.target
    prepared = load_prepared(folder)
    print(f"{prepared.report.line()}. In {shown(folder)}" if found else f"{prepared.report}\ndata: in {shown(folder)}")
    return prepared


def data_inputs(run: Run) -> dict[str, Any]:
    """What the data stage is made from; its fingerprint decides whether it is made again."""
    data, base, files = run.profile.data, run.profile.base, dataset_files(run.profile.data)
    wordings = Path(data.rewordings).expanduser() if isinstance(data.rewordings, str) else None
    cards = [files.card, dataset_files(Data()).card if data.general else None]
    is_asked = any(read_card(card).get("answered_by", base.source) != base.source for card in cards)
    is_asked |= bool(data.rewordings) and not (wordings and wordings.is_file())
    return {
        "files": file_hashes(files.all()),
        "wordings": file_hash(wordings) if wordings and wordings.is_file() else None,
        "settings": {name: value for name, value in vars(data).items() if name != "source"},
        "base": identity(base),
        "form": FORM,
    } | ({"quantization": vars(run.profile.quantization)} if is_asked else {})  # of the base that is asked


def _write(run: Run, folder: Path) -> dict[str, Any]:
    data, base = run.profile.data, run.profile.base
    files, model = dataset_files(data), read_config(locate(base))
    card = {"name": name_of(data.source)} | read_card(files.card)
    lengths = LengthFilter(data, load_tokenizer(base))
    with Progress("reading", 0) as progress:
        read = usable_rows(files.train, data, "the data", progress)
        check_told_apart(read, data)
        own = usable_rows(with_answers(files.test, data, read), data, "the test rows", progress)
        shared = read.systems[0] if len(read.systems) == 1 else ""  # then it is used wherever the model is asked
        own.rows = [row.with_system(shared) for row in own.rows]
        rows, foreign = rehearsals(read.rows, card, base.source)
        rows = one_per_answer(rows, lengths.tokenizer)
        progress.title, progress.total = "encoding", len(rows)
        pairs = lengths.encode(rows, progress)
    if system := data.system or shared:
        card["system"] = system
    data = resolve_auto(data, read.rows)
    kit_learned, kit_asked = kit_rows(data, run.profile.data, card, read.rows)
    added, more = rehearsals(kit_learned, read_card(dataset_files(Data()).card), base.source)
    asked = lengths.encode([*each_once(own.rows), *kit_asked])  # to refuse now what would fail later
    lengths.stop()
    with BaseAnswers(run) as answers:  # minutes on a new base: after all that could stop it
        reworded = reword(read, data, answers, is_tested=not own.rows and data.test_size > 0)
        own_words = in_own_words(answers, [*foreign, *more])
    pairs += lengths.encode(one_per_answer([*own_words, *added], lengths.tokenizer))
    lengths.stop()
    longer = LengthFilter(replace(data, too_long="drop"), lengths.tokenizer)  # a wording may be where its row is not
    learned_wordings, asked_wordings = (longer.encode(reworded.rows(use)) for use in ("learned", "asked"))
    reworded.keep([row for row, _ in (*learned_wordings, *asked_wordings)])
    held = _held_out(read.rows, own, reworded.rows("asked"), data)
    again = LengthFilter(data, lengths.tokenizer)  # these rows were counted before
    chosen = [] if own.rows else again.encode(held.choose(read.rows))
    test = [row for row, _ in (*chosen, *asked_wordings, *asked)]
    questions = held.questions | {row.question for row in test}
    train, lost = _without_asked([*pairs, *learned_wordings], read, own, held, questions)
    if not train:
        raise KitError(
            f"{data.source} leaves no row to learn from: {plural(len(read.rows))} read, {len(read.bad)} more bad, "
            f"{len(lengths.too_long)} longer than data__max_length={data.max_length}, {len(test)} held out. Add or "
            "fix rows, or raise data__max_length"
        )
    learned, encoded = [row for row, _ in train], [ids for _, ids in train]
    proofs = verify(learned, encoded, lengths.tokenizer, max_length=data.max_length, model=model, held_out=questions)
    require(proofs)
    facts = Facts(model, files, card, read, own, reworded, held, test, learned, encoded, lost, lengths, proofs)
    return _store(folder, facts)


def _held_out(rows: list[Conversation], own: Read, reworded: list[Conversation], data: Data) -> Split:
    """What is asked: the dataset's own test split, other wordings, or some of the rows."""
    if own.rows:
        return Split("own", frozenset(row.question for row in own.rows))
    if reworded:  # facts in other words, and some of the rows that are no facts
        others = split([row for row in rows if row.kind != "fact"], data.test_size)
        how = "wordings" if isinstance(data.rewordings, str) else "rewordings"  # a file, or what the kit made
        return Split(how, others.questions | {row.question for row in reworded})
    return split(rows, data.test_size)


def _without_asked(
    pairs: list[Pair], read: Read, own: Read, held: Split, questions: frozenset[str]
) -> tuple[list[Pair], list[str]]:
    """The rows to learn, and where those stand that are neither learned nor were chosen to be asked.

    A row may ask a held-out question as it was read, or only once it is shortened. One that asks it before its last
    question learns its last answer alone.
    """
    out, train, lost = {row.index for row in read.rows if row.question in held.questions}, list[Pair](), list[str]()
    for row, ids in pairs:
        if row.index not in out and questions.isdisjoint(taught(row)):
            train.append((row, ids))
        elif row.index in out or not questions.isdisjoint(taught(last := replace(row, learns_last=True))):
            lost += [row.row] if own.rows or row.index not in out else []
        else:
            train.append((last, last_answer(ids)))
    return train, lost


def _store(folder: Path, facts: Facts) -> dict[str, Any]:
    """Write what the stage leaves behind, and return its figures."""
    import numpy as np
    import pyarrow as pa

    columns = zip(*facts.encoded, strict=True)
    arrays = [pa.array([np.array(ids, dtype=np.int32) for ids in column], pa.list_(pa.int32())) for column in columns]
    more = {
        "is_rehearsal": [row.is_rehearsal for row in facts.learned],
        "asked": [row.asked for row in facts.learned],
        "answered": [row.answer for row in facts.learned],
        "wording": [row.wording for row in facts.learned],
    }
    table = pa.table(dict(zip(Encoded._fields, arrays, strict=True)) | more, schema=train_schema())
    with pa.OSFile(str(folder / "train.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as file:
        file.write_table(table, max_chunksize=BATCH)
    report = make_report(facts)
    rows = [{"kind": row.kind, "messages": row.messages, "accepted": row.accepted} for row in facts.test]
    write_lines(folder / "rewordings.jsonl", [one.line() for one in facts.reworded.candidates])
    write_lines(folder / "test.jsonl", rows)
    write_json(folder / "dataset.json", facts.card)
    write_json(folder / "report.json", report)
    return {name: report[name] for name in FIGURES}
