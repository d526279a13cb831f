"""What base, adapter and merged model answer, one model in memory at a time, and how far each moved from the base.

    answers-3f2a91/   base/  adapter/  merged/    each a stage, so that a broken-off evaluation goes on

How far is measured along the base's own answers to general questions. Whole answers are not compared: after one near
tie a long answer takes another course, which does not show that anything was forgotten.

    agreement           share of the places where both find the same token likeliest
    KL(base || model)   sum over tokens of p (log p - log q)    p the base's probability, q the model's; in nats

The merged model is loaded as it is stored where memory allows, as its users will load it, and compared with the base
that it was merged onto: else what 4 bits change would count as forgotten.

Only the TOP likeliest tokens of the base are kept; all others are lumped together as one. Lumping outcomes can only
lower a KL divergence (data processing inequality), so what is measured is a lower bound of the full one.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..adapters import load_adapter, set_adapter
from ..base import load_tokenizer, locate
from ..data.encoding import IGNORE, Encoded
from ..errors import KitError
from ..files import check_files, fingerprint, read_json, write_json
from ..generation import answers, generate_ids, stop_tokens, text_of
from ..machine import compute_dtype, memory
from ..merging.merge import size
from ..progress import Progress
from ..quantization import load_base, load_model, release
from ..training.batches import Batch, Row
from ..training.loss import learned_tokens, log_probs_of, row_logits
from ..training.train import trained_adapter
from .card import MODELS

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from ..config import Profile, Training
    from ..runs import Run

Question = dict[str, Any]  # a held-out row, with `prompt` (ids up to the answer) and `encoded` (the whole row)
Answer = dict[str, Any]  # text, ids, stopped, loss; agreement and kl of general questions
Likeliest = dict[str, list[Any]]  # of one answer: "tokens" (length, TOP), "log_probs" (length, TOP and the others')
ROOM = 0.7  # of the free memory: the rest is for what answering takes
AGAIN = 32  # questions that the base is asked a second time, in other batches
TOP = 32  # tokens per position; in JSON, 120 answers of 256 tokens are about 15 MB
NEVER = -100.0  # log-probability of what cannot happen: JSON has no infinity


class Divergence(NamedTuple):
    """How far another model is from the base along one answer of the base."""

    kl: float  # KL(base || model), nats per token
    agreement: float  # share of its places where both find the same token likeliest


ITSELF = Divergence(0.0, 1.0)  # the base


def ask_models(
    run: Run,
    questions: Sequence[Question],
    merged: Path | None,
    inputs: dict[str, Any],
    longest: int,
    given: PreTrainedModel | None = None,
) -> dict[str, Any]:
    """Each model's answers of at most `longest` tokens, each a stage made from `inputs`, and what the base adds.

    The base `given` is used and stays in memory; without one it is loaded. Without a merged model none is asked.
    """
    model, found = given, dict[str, Any]()
    unmerged = {name: value for name, value in inputs.items() if name != "merged"}
    try:
        for name in MODELS if merged else MODELS[:2]:
            made_from = inputs if name == "merged" else unmerged
            place = f"answers-{fingerprint(unmerged)[:6]}/{name}"
            if kept := kept_answers(run, place, made_from):
                found |= kept
                continue
            if name == "merged" and merged:
                if model is not None and model is not given:
                    release(model)
                stored = as_stored(run.profile, merged)
                if stored and inputs["merged"]["onto"] == "original":
                    model = load_model(stored, locate(run.profile.base))
                    rows = [row for _, row in general_rows(questions, found["base"])]
                    found["likeliest"] = likeliest(model, rows, run.profile.training)
                    release(model)
                model = load_model(stored or run.profile, merged)
            model = model or load_base(run, whole=True)
            if name == "base":
                set_adapter(model, None)
            if name == "adapter":
                load_adapter(model, trained_adapter(run))
            with run.writing(place, made_from) as stage:
                part = ask(run, model, questions, name, found, longest)
                if name == "merged":
                    part["as_stored"] = stored is not None
                write_json(stage.folder / "answers.json", part, indent=None)
            found |= part
    finally:
        if model is not None and model is not given:
            release(model)
    return found


def kept_answers(run: Run, place: str, inputs: dict[str, Any]) -> dict[str, Any] | None:
    """The answers of an earlier call; damaged ones, as a power cut leaves them, are deleted: they are asked again."""
    try:
        folder = run.find(place, inputs)
        return read_json(check_files(folder) / "answers.json") if folder else None
    except KitError as error:
        print(f"{error}: asking again")
        for folder in run.path.glob(f"{place}*"):  # also those beside, of another merge: one of them is damaged
            shutil.rmtree(folder)
        return None


def as_stored(profile: Profile, folder: Path) -> Profile | None:
    """The profile that loads a model folder as it is stored; None where that is the same, or needs too much memory."""
    import torch

    if profile.quantization.kind == "none":
        return None
    on_card = profile.device == "cuda"
    free = torch.cuda.mem_get_info()[0] if on_card else memory()[0] * 2**30
    wide = 2 if compute_dtype(profile)[0] == "float32" else 1  # float16 files become twice as large
    if wide * size(folder) > ROOM * free:
        return None
    return replace(profile, quantization=replace(profile.quantization, kind="none"))


def longest_reference(questions: Sequence[Question]) -> int:
    """Tokens of the longest reference answer, with its stop token; of general questions the base is the reference."""
    own = (row["encoded"].labels for row in questions if row["kind"] != "general")
    return max((sum(label != IGNORE for label in labels) for labels in own), default=0)


def general_rows(questions: Sequence[Question], base: Sequence[Answer]) -> list[tuple[int, Row]]:
    """The general questions by their number, each with the base's own answer."""
    general = [i for i, row in enumerate(questions) if row["kind"] == "general"]
    rows = answer_rows([questions[i]["prompt"] for i in general], [base[i]["ids"] for i in general])
    return [*zip(general, rows, strict=True)]


def ask(
    run: Run, model: PreTrainedModel, questions: Sequence[Question], name: str, found: dict[str, Any], longest: int
) -> dict[str, Any]:
    """A model's greedy answers with the loss of the references; of general ones also how far it is from the base.

    `found` has what the models before it gave. The base comes first: it adds its likeliest tokens and a second asking.
    """
    tokenizer, settings, training = load_tokenizer(run.profile.base), run.profile.evaluation, run.profile.training
    stops, prompts = stop_tokens(model, tokenizer), [row["prompt"] for row in questions]
    options: dict[str, Any] = {"max_new_tokens": longest, "batch_size": settings.batch_size}
    with Progress(f"answers of {name}", len(prompts)) as progress:
        rows = generate_ids(model, prompts, **options, eos_token_id=stops, done=progress.update)
    losses = reference_losses(model, [row["encoded"] for row in questions], training)
    answered: list[Answer] = [
        {"text": text_of(ids, tokenizer), "ids": ids, "stopped": bool(ids) and ids[-1] in stops, "loss": loss}
        | {"agreement": None, "kl": None}
        for ids, loss in zip(rows, losses, strict=True)
    ]
    general = general_rows(questions, found.get("base", answered))
    along = [row for _, row in general]
    moved = divergences(model, along, found["likeliest"], training) if found else [ITSELF] * len(along)
    for (i, _), divergence in zip(general, moved, strict=True):
        answered[i] |= divergence._asdict()
    if found:
        return {name: answered}
    again = ask_again(run, model, questions, longest)
    return {name: answered, "likeliest": likeliest(model, along, training), "again": again}


def ask_again(run: Run, model: PreTrainedModel, questions: Sequence[Question], longest: int) -> list[tuple[int, str]]:
    """Some questions a second time, in smaller batches: answers that differ are rounding, not learning.

    General ones are left out: a long answer may take another course by rounding, and there the base cannot be wrong.
    """
    judged = [i for i, row in enumerate(questions) if row["kind"] != "general"]
    chosen, settings = judged[:: max(1, len(judged) // AGAIN)][:AGAIN], run.profile.evaluation
    tokenizer, asked = load_tokenizer(run.profile.base), [questions[i]["messages"] for i in chosen]
    smaller = max(1, settings.batch_size // 4 - 1)
    texts = answers(model, tokenizer, asked, max_new_tokens=longest, batch_size=smaller)
    return list(zip(chosen, texts, strict=True))


def reference_losses(model: PreTrainedModel, encoded: Sequence[Encoded], settings: Training) -> list[float]:
    """Nats per token of each reference answer, teacher-forced."""
    rows = [Row(*row, number) for number, row in enumerate(encoded)]
    sums = log_probs_of(model, rows, settings)
    return [-total / learned_tokens(Batch([], [row])) for row, total in zip(rows, sums, strict=True)]


def answer_rows(prompts: Sequence[list[int]], answers: Sequence[list[int]]) -> list[Row]:
    """Prompts with their answers, as rows whose answers are measured."""
    pairs = enumerate(zip(prompts, answers, strict=True))
    return [Row(prompt + ids, [IGNORE] * len(prompt) + ids, number) for number, (prompt, ids) in pairs]


def likeliest(model: PreTrainedModel, rows: Sequence[Row], settings: Training) -> list[Likeliest]:
    """The base's likeliest tokens along each answer, small enough to keep while the other models are asked."""
    found: list[Likeliest] = [{} for _ in rows]
    for row, logits, _ in row_logits(model, rows, settings):
        log_probs = logits.log_softmax(-1)
        tokens = log_probs.topk(min(TOP, log_probs.shape[1])).indices
        rounded = [[round(value, 6) for value in line] for line in lumped(log_probs, tokens).tolist()]
        found[row.number] = {"tokens": tokens.tolist(), "log_probs": rounded}
    return found


def divergences(
    model: PreTrainedModel, rows: Sequence[Row], base: Sequence[Likeliest], settings: Training
) -> list[Divergence]:
    """How far the model is from the base along the base's own answers (`answer_rows`), by its `likeliest` tokens."""
    import torch

    found = [ITSELF] * len(rows)
    for row, logits, _ in row_logits(model, rows, settings):
        log_probs = logits.log_softmax(-1)
        tokens, p = (torch.tensor(base[row.number][key], device=logits.device) for key in ("tokens", "log_probs"))
        same = (log_probs.argmax(1) == tokens[:, 0]).float().mean()
        found[row.number] = Divergence(float(divergence(p, lumped(log_probs, tokens)).mean()), float(same))
    return found


def divergence(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """KL at each position in nats, from log-probabilities: (length, outcomes) twice to (length,)."""
    return (p.exp() * (p - q)).sum(1).clamp(min=0)  # rounding alone can go below 0


def lumped(log_probs: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of the given tokens, and of all others as one: (length, vocab) to (length, tokens + 1)."""
    import torch

    others = log_probs.scatter(1, tokens, -torch.inf).logsumexp(1, keepdim=True)
    return torch.cat([log_probs.gather(1, tokens), others], dim=1).clamp(min=NEVER)
