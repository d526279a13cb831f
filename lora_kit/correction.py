"""A behaviour taken away: pairs from the model's own mistakes, and the adapter trained further on them.

rows = lk.pairs(run)            # what it gets wrong of what training may ask; look at them, change them
better = lk.correct(run, rows)  # a run like this one, with the corrected adapter
lk.merge(better); lk.evaluate(better)
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from .adapters import load_adapter
from .base import load_tokenizer
from .config import settings
from .data.augmentation.own_rows import unanswerable
from .data.encoding import IGNORE, encode_prompt
from .data.prepare import prepare
from .data.prepared import Prepared
from .data.reading.conversations import Conversation, normalised
from .data.reading.turns import Message, tags_in
from .errors import KitError
from .evaluation.metrics import is_declined, is_exact
from .generation import answers
from .pipeline import make
from .quantization import load_base, release
from .runs import Run, as_source
from .training.recipe import PAIRS_RATE
from .training.train import trained_adapter

NEW = 200  # questions to decline that are made for this
AUTO = ("training__learning_rate", "training__epochs", "training__tokens_per_step")  # the first training's do not fit


def pairs(run: Run, *, limit: int | None = None) -> list[dict[str, Any]]:
    """Ask the tuned model what training may ask, and return a pair for each answer that is wrong.

    It is asked the rows that it learned, and new questions made of them, about other names and things, that it must
    decline. Where it invents, slips in style or declines what it should know, its own answer is `rejected` and the
    reference is `chosen`. Beside each invented answer stands the learned fact that it is most like, to be answered and
    not declined: without them the adapter would learn that declining is better. Held-out questions are never used.

    Args:
        run: its adapter is trained.
        limit: ask at most so many questions, evenly spaced: each takes as long as an answer.

    Returns:
        rows with prompt (messages), chosen and rejected, for `correct`; change or delete them as you like.
    """
    adapter, data = trained_adapter(run), prepare(run)
    tokenizer, card = load_tokenizer(run.profile.base), data.card
    chats = _questions(data, tokenizer)
    if not chats:
        raise KitError("no row is a single question under the system text of all: give pairs of your own to lk.correct")
    if limit is not None and limit < 1:
        raise KitError(f"limit={limit} must be above 0, or None for all questions")
    chats = chats[:: -(-len(chats) // limit)] if limit else chats
    model = load_adapter(load_base(run, whole=True), adapter)
    try:
        settings = run.profile.evaluation
        longest = max(settings.max_new_tokens, *(len(tokenizer(chat[-1]["content"]).input_ids) for chat in chats))
        answered = answers(model, tokenizer, chats, max_new_tokens=longest, batch_size=settings.batch_size)
    finally:
        release(model)
    wrong, invented = list[dict[str, Any]](), list[dict[str, Any]]()
    for chat, answer in zip(chats, answered, strict=True):
        reference = chat[-1]["content"]
        must_decline = is_declined(reference, card)
        is_right = is_declined(answer, card) if must_decline else is_exact(answer, [reference], card)
        if answer and not is_right and not tags_in(answer):  # a prompt's own tags cannot be learned from
            wrong.append({"prompt": chat[:-1], "chosen": reference, "rejected": answer})
            invented += wrong[-1:] if must_decline else []
    beside = _beside(invented, [chat for chat in chats if not is_declined(chat[-1]["content"], card)])
    counts = f"{len(wrong)} of {len(chats)} answers are wrong, {len(invented)} invented"
    print(f"pairs: {counts}; {len(beside)} facts beside")
    return [*wrong, *beside]


def correct(run: Run, pairs: Any, **overrides: Any) -> Run:
    """Train the run's adapter further on pairs of answers, and return the run that has the corrected one.

    The first adapter stays as it is; merge and evaluate the run that is returned.

    Args:
        run: its adapter is trained.
        pairs: a file, or rows as a list of dicts, a DataFrame or a Dataset, with prompt, chosen and rejected;
            or rated answers, with prompt, completion and label.
        overrides: other settings, as in `training__beta=0.05`.

    Raises:
        KitError: no trained adapter yet; with rows, pairs that cannot be used.
    """
    start, root = trained_adapter(run), run.path.parent
    if isinstance(pairs, list) and not pairs:
        raise KitError("there are no pairs to learn from: give rows with prompt, chosen and rejected")
    own = settings(run.profile) | dict.fromkeys(AUTO, "auto")
    own |= {"training__start_from": str(start), "training__pairs": as_source(pairs, root)}
    if (rate := run.profile.training.learning_rate) != "auto":  # that of a corrected run is one for pairs already
        own["training__learning_rate"] = float(rate) * (PAIRS_RATE if run.profile.training.pairs is None else 1)
    better = Run(run.profile.name, name=run.path.name, root=root, **own | overrides)
    make(better, until="training")
    return better


def _beside(invented: list[dict[str, Any]], facts: list[list[Message]]) -> list[dict[str, Any]]:
    """For each invented answer the fact that it is most like, in a wording of its own, not to be declined."""
    from rapidfuzz.process import extractOne

    wordings: dict[str, list[list[Message]]] = defaultdict(list)
    for chat in facts:
        wordings[chat[-1]["content"]].append(chat)
    found = []
    for pair in invented if wordings else ():
        answer, _, _ = extractOne(pair["rejected"], [*wordings])
        if wordings[answer]:
            found.append({"prompt": wordings[answer].pop()[:-1], "chosen": answer, "rejected": pair["chosen"]})
    return found


def _questions(data: Prepared, tokenizer: Any) -> list[list[Message]]:
    """What was learned, each question once, and new questions to decline, with their references."""
    system = [{"role": "system", "content": data.card["system"]}] if "system" in data.card else []
    held = {normalised(row["messages"][-2]["content"]) for row in data.test}
    found: dict[str, list[Message]] = {}
    for row in data.train:
        asked = [*system, {"role": "user", "content": row["asked"]}]
        prompt = row["input_ids"][: next(n for n, label in enumerate(row["labels"]) if label != IGNORE)]
        if not row["is_rehearsal"] and prompt == encode_prompt(asked, tokenizer):  # no earlier turns
            found[normalised(row["asked"])] = [*asked, {"role": "assistant", "content": row["answered"]}]
    declined = [chat for chat in found.values() if is_declined(chat[-1]["content"], data.card)]
    facts = [Conversation(chat) for chat in found.values() if chat not in declined]
    new = [row.messages for row in unanswerable(facts, len(found) + NEW, is_reworded=True) if declined]
    new = [chat for chat in new if normalised(chat[-2]["content"]) not in held | found.keys()]
    return [*found.values(), *([*chat[:-1], declined[0][-1]] for chat in new[:NEW])]
