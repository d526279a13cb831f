"""What is odd in the data and should be known before training, each with its count and rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from .reading import Reader
from .sources import Files
from .survey import SHOWN, Rows, Survey, answer_hash, good_rows, phrasings, repeats, some

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from ..profiles import Profile
    from .holding import HeldOut
    from .writing import Encoder, Fitter

COMMON, COMMON_SHARE = 20, 0.05  # questions with one answer, and their share of all rows: more is no fact in wordings


@dataclass(frozen=True)
class Finding:
    """One thing worth knowing: its name, what is the case and what to do, and the rows."""

    name: str
    text: str
    count: int = 0
    rows: str = ""

    def __str__(self) -> str:
        return self.text + (f" ({self.rows})" if self.rows else "")

    def as_data(self) -> dict[str, Any]:
        return asdict(self)


def findings(
    profile: Profile, reader: Reader, files: Files, found: Survey, held: HeldOut, encoder: Encoder
) -> list[Finding]:
    """Everything that is odd, the gravest first."""
    return [
        *_dropped(found, encoder.fitter),
        *_left_out(files, reader, held),
        *_in_test_rows(files, held),
        *_repeated(found, reader, files.train),
        *_leaked(held),
        *_never_learned(found, held),
        *_common(found),
        *_characters(found, reader),
        *_secret(found),
        *_system(found),
        *_context(profile, encoder),
    ]


def _left_out(files: Files, reader: Reader, held: HeldOut) -> list[Finding]:
    """What stands in the data and is not learned: files, columns, rows that ask held-out questions."""
    said = []
    if files.skipped:
        names = ", ".join(path.name for path in files.skipped)
        said.append(Finding("files", f"not read, no rows in this form or a folder: {names}", len(files.skipped)))
    if reader.unused:
        text = f"columns that are not read: {', '.join(reader.unused)}"
        said.append(Finding("columns", text, len(reader.unused)))
    if held.lost.count:
        text = f"{some(held.lost.count)} with a held-out question: not learned"
        said.append(Finding("held out", text, held.lost.count, str(held.lost)))
    if files.test and not held.test and not held.own.refused:
        names = ", ".join(path.name for path in files.test)
        said.append(Finding("held out", f"no row in {names}: nothing is held out, nothing will be measured"))
    return said


def _in_test_rows(files: Files, held: HeldOut) -> list[Finding]:
    """The same for the dataset's own test split, which is asked and not learned."""
    said = [Finding("bad test rows", f"{some(r.count)} to ask left out: {r}", r.count) for r in held.own.bad.values()]
    if held.own_reader.unused:
        text = f"columns of the test rows that are not read: {', '.join(held.own_reader.unused)}"
        said.append(Finding("test columns", text, len(held.own_reader.unused)))
    _, torn = repeats(held.own)
    if len(torn):
        text = f"{some(len(torn))} to ask with another answer than before: each of the answers will count as right"
        said.append(Finding("test answers", text, len(torn), _places(torn, held.own, held.own_reader, files.test)))
    return [*said, *_characters(held.own, held.own_reader), *_secret(held.own)]


def _dropped(found: Survey, fitter: Fitter) -> list[Finding]:
    bad = [Finding("bad rows", f"{some(r.count)} left out: {r}", r.count) for r in found.bad.values()]
    long, short = fitter.too_long, fitter.shortened
    if long.count:
        bad.append(Finding("too long", f"{some(long.count)} left out: longer than max_length", long.count, str(long)))
    if short.count:
        bad.append(Finding("shortened", f"{some(short.count)} without the oldest turns", short.count, str(short)))
    return bad


def _repeated(found: Survey, reader: Reader, files: list[Path]) -> list[Finding]:
    again, torn = repeats(found)
    said = []
    if len(again):
        text = f"{some(len(again))} said before: what stands there is learned twice as hard"
        said.append(Finding("duplicates", text, len(again), _places(again, found, reader, files)))
    if len(torn):
        count = len({found.questions[row] for row in torn})
        text = f"{some(count, 'question')} with more than one answer: the model will waver between them"
        said.append(Finding("contradictions", text, count, _places(torn, found, reader, files)))
    return said


def _places(rows: np.ndarray, found: Survey, reader: Reader, files: list[Path]) -> str:
    """Where some rows of the survey stand; the first ones are read again for it."""
    wanted = {found.places[row] for row in rows[:SHOWN]}
    read = islice(good_rows(reader.rows(files, only=wanted)), len(wanted))
    return str(Rows(len(rows), [row.row for row in read]))


def _leaked(held: HeldOut) -> list[Finding]:
    if not held.leaks.count:
        return []
    least = "" if held.all_compared else "at least "
    text = f"{least}{some(held.leaks.count)} to learn nearly equal to a held-out one: the report card will flatter"
    return [Finding("near duplicates", text, held.leaks.count, str(held.leaks))]


def _never_learned(found: Survey, held: HeldOut) -> list[Finding]:
    """A test split of the dataset's own may ask what no row teaches."""
    if held.how != "own":
        return []
    learned = {*found.answers}
    facts = [row for row in held.test if row.kind == "fact"]
    count = sum(not learned & {answer_hash(answer) for answer in (row.answer, *row.accepted)} for row in facts)
    if not count:
        return []
    text = f"{count:,} of {some(len(facts), 'held-out fact')} with an answer that no row to learn gives: not learned"
    return [Finding("answers", text, count)]


def common(counts: dict[int, int], rows: int) -> set[int]:
    """Answers that so many questions share that they are labels or stock phrases, not facts in several wordings."""
    return {answer for answer, count in counts.items() if count > max(COMMON, COMMON_SHARE * rows)}


def _common(found: Survey) -> list[Finding]:
    answers = Counter(found.answers)
    if found.count < 10:
        return []
    share = answers.most_common(1)[0][1] / found.count
    if share >= 0.5:
        text = f"{share:.0%} of all rows have the same answer: the model may say nothing else"
        return [Finding("one answer", text)]
    often = common(phrasings(found), found.count)
    if not often:
        return []
    text = (
        f"{some(len(often), 'answer')} shared by more than {COMMON_SHARE:.0%} of the rows each, as labels and stock "
        "phrases are: held-out questions with them measure judgement, not facts learned"
    )
    return [Finding("common answers", text, len(often))]


def _characters(found: Survey, reader: Reader) -> list[Finding]:
    said = []
    if found.odd.count:
        text = f"{some(found.odd.count)} with NUL or �, the trace of a wrong encoding: learned as they are"
        said.append(Finding("characters", text, found.odd.count, str(found.odd)))
    if reader.spaced:
        rows = Rows(len(reader.spaced), [*reader.spaced.values()][:SHOWN])
        text = f"{some(rows.count)} with tags of the prompt format: kept as plain text, spaced apart"
        said.append(Finding("tags", text, rows.count, str(rows)))
    return said


def _secret(found: Survey) -> list[Finding]:
    return [
        Finding(
            "secret",
            f"{some(rows.count)} that may hold a secret ({name}): a model may repeat it to anyone",
            rows.count,
            str(rows),
        )
        for name, rows in found.secrets.items()
    ]


def _system(found: Survey) -> list[Finding]:
    share = found.system_characters / max(found.characters, 1)
    if share < 0.5:
        return []
    return [Finding("system prompt", f"the system prompt is {share:.0%} of all text: a shorter one trains faster")]


def _context(profile: Profile, encoder: Encoder) -> list[Finding]:
    most = encoder.model.get("max_position_embeddings")
    if not most or profile.data.max_length <= most:
        return []
    return [
        Finding("context", f"max_length={profile.data.max_length} is more than the model's context of {most} tokens")
    ]
