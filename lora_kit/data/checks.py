"""What a person should know of the data before training: findings with row numbers, what can be measured, advice."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from .reading import KINDS, Conversation, Reader
from .sources import Files
from .survey import Rows, Survey, phrasings, repeats

if TYPE_CHECKING:
    from ..profiles import Profile
    from .holding import HeldOut
    from .writing import Encoder, Fitter

FEW_PHRASINGS = 7
# held-out wordings answered exactly on tiny-cpu, by phrasings a fact in training: benchmarks/results/phrasings.json
MEASURED: dict[int, float] = {}
MANY_ANSWERS = 1000  # different answers: more than an adapter of usual rank was seen to hold word for word


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
        *_repeated(found),
        *_leaked(held.leaks),
        *_one_answer(found),
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
    if held.lost:
        text = f"{held.lost:,} rows to learn ask a held-out question and are left out"
        said.append(Finding("held out", text, held.lost))
    return said


def _dropped(found: Survey, fitter: Fitter) -> list[Finding]:
    bad = [Finding("bad rows", f"{r.count:,} rows left out: {r}", r.count) for r in found.bad.values()]
    long, short = fitter.too_long, fitter.shortened
    if long.count:
        bad.append(Finding("too long", f"{long.count:,} rows left out: longer than max_length", long.count, str(long)))
    if short.count:
        bad.append(Finding("shortened", f"{short.count:,} rows lost their oldest turns", short.count, str(short)))
    return bad


def _repeated(found: Survey) -> list[Finding]:
    count = repeats(found)
    said = []
    if count["duplicates"]:
        text = f"{count['duplicates']:,} rows repeat an earlier one: what they say is learned twice as hard"
        said.append(Finding("duplicates", text, count["duplicates"]))
    if count["contradictions"]:
        text = f"{count['contradictions']:,} questions have more than one answer: the model will waver between them"
        said.append(Finding("contradictions", text, count["contradictions"]))
    return said


def _leaked(leaks: Rows) -> list[Finding]:
    if not leaks.count:
        return []
    text = f"{leaks.count:,} rows to learn are nearly held-out ones: the report card will look better than it is"
    return [Finding("near duplicates", text, leaks.count, str(leaks))]


def _one_answer(found: Survey) -> list[Finding]:
    answers = Counter(found.answers)
    if found.count < 10 or not answers:
        return []
    share = answers.most_common(1)[0][1] / found.count
    if share < 0.5:
        return []
    return [Finding("one answer", f"{share:.0%} of all rows have the same answer: the model may say nothing else")]


def _secret(found: Survey) -> list[Finding]:
    return [
        Finding(
            "secret",
            f"{rows.count:,} rows seem to hold a {name}: a model may repeat it to anyone",
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


def measurable(test: list[Conversation], card: dict[str, Any]) -> dict[str, str]:
    """What the report card will be able to say, by figure."""
    kinds = Counter(row.kind for row in test)
    styled = kinds["fact"] + kinds["decline"] + kinds["unseen"]
    no_facts = "their answers are never learned" if kinds["unseen"] else "no fact stands there in several wordings"
    return {
        "learned": _measured(kinds["fact"], no_facts),
        "declined": _measured(kinds["decline"], "no such rows; data__declines=100 adds some"),
        "behaved": _measured(styled if card.get("style") else 0, "dataset.json names no style"),
        "kept": _measured(kinds["general"], "no such rows; data__general=100 adds some"),
    }


def _measured(count: int, otherwise: str) -> str:
    return f"measured on {count:,} held-out questions" if count else f"not measured: {otherwise}"


def advice(profile: Profile, found: Survey, encoder: Encoder) -> list[str]:
    """What a person with this data should do next."""
    said: list[str] = []
    counts = phrasings(found)
    facts = KINDS.index("fact")
    if counts and facts in found.kinds:
        said += _on_phrasings(counts)
    said += _on_length(profile, encoder)
    return said


def _on_phrasings(counts: dict[int, int]) -> list[str]:
    typical = median(counts.values())
    said = [f"{len(counts):,} different answers, each asked in {typical:g} wordings (median)"]
    if typical < FEW_PHRASINGS:
        measured = ", ".join(f"{share:.0%} with {wordings}" for wordings, share in MEASURED.items())
        said.append(
            "few wordings an answer: facts are learned by being asked in many ways"
            + (f" (measured on tiny-cpu, held-out wordings answered exactly: {measured})" if measured else "")
        )
    if len(counts) > MANY_ANSWERS and typical < FEW_PHRASINGS:
        said.append(
            f"{len(counts):,} answers in few wordings look like a reference work: looking up the passage and putting "
            "it into the prompt (retrieval) will serve better than fine-tuning; fine-tune for tone and form"
        )
    return said


def _on_length(profile: Profile, encoder: Encoder) -> list[str]:
    training = profile.training
    steps = training.epochs * -(-sum(encoder.lengths) // training.tokens_per_step)
    said = [
        f"{training.epochs} epochs at learning rate {training.learning_rate:g} are about {steps:,} optimizer steps, "
        "fewer where rows share a prefix; lk.plan counts them"
    ]
    if steps < 100:
        enough = -(-100 * training.epochs // steps)
        said.append(f"fewer than 100 steps rarely teach anything: try training__epochs={enough}")
    return said
