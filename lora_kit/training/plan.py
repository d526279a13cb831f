"""What training will cost, measured before the first step: bytes and minutes from a few probed micro-batches."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import TYPE_CHECKING

from ..adapters import is_fresh, trainable
from ..base import load_tokenizer
from ..config import Training
from ..data.reading.conversations import plural
from ..data.splits import pick, with_general
from ..distributed import is_spread
from ..errors import KitError
from ..generation import generate_ids, prompts_of
from ..quantization import parameter_counts
from .batches import Batch, split_batches, split_validation
from .checkpoints import TrainerState
from .forward import training_mode
from .loop import backward
from .loss import learned_tokens, loss_sum
from .recipe import check_given, recipe, training_rows

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from ..data.prepared import Prepared
    from ..runs import Run

PROBES, PROBE_SECONDS = 12, 6.0  # micro-batches that are timed, spread over the training
USABLE = 0.92  # of a card's memory: the rest is CUDA's own and what lies between the tensors
TIMED_TOKENS = 8  # of a batch of answers
LOADS, MODELS = 2, 3  # base and merged load; three models answer
PASSES = 4  # over the base's files: a merge reads, writes, reads both again, each in about the time of a load
GIB, MIB = 2**30, 2**20


@dataclass(frozen=True)
class Plan:
    """Steps, tokens, bytes and minutes of a training."""

    steps: int
    tokens: int  # that the model computes, shared prefixes once, padding included
    weight_bytes: int
    adapter_bytes: int  # float32 weights, gradients, optimizer
    activation_bytes: int  # of the largest micro-batch; on a card its peak, logits included
    layers: int  # computed twice
    layers_in_all: int
    card_bytes: int | None  # free on the card before the weights; None on a CPU
    stage_minutes: dict[str, float]  # load, train, answers, merge

    @property
    def minutes(self) -> float:
        """Of the training alone."""
        return self.stage_minutes["train"]

    @property
    def bytes(self) -> int:
        """All of it at its peak."""
        return self.weight_bytes + self.adapter_bytes + self.activation_bytes

    @property
    def fits(self) -> bool:
        """Whether it fits the card; always true on a CPU."""
        return self.card_bytes is None or self.bytes <= USABLE * self.card_bytes

    def __str__(self) -> str:
        stages = ", ".join(f"{stage} {minutes:.1f}" for stage, minutes in self.stage_minutes.items())
        lines = [
            f"plan: {self.steps:,} steps over {self.tokens:,} tokens, about {self.minutes:.1f} minutes",
            f"  minutes up to the report card: {stages}; about {sum(self.stage_minutes.values()):.1f} in all",
            f"  memory: weights {self.weight_bytes / MIB:,.1f} MiB, adapter, gradients and optimizer "
            f"{self.adapter_bytes / MIB:,.1f} MiB, activations {self.activation_bytes / MIB:,.1f} MiB (measured)",
            f"  {self.layers} of {self.layers_in_all} layers computed twice to save memory",
        ]
        if self.card_bytes is not None:
            way_out = "" if self.fits else ": lower training__tokens_per_micro_batch or data__max_length"
            room = f"{self.bytes / GIB:.1f} of the card's {self.card_bytes / GIB:.1f} GiB"
            lines.append(f"  {'fits' if self.fits else 'does not fit'}, {room}{way_out}")
        return "\n".join(lines)


def plan(model: PreTrainedModel, data: Prepared, run: Run) -> Plan:
    """Print and return what training this adapter on this data will take, and the minutes up to the report card.

    Args:
        model: the base with a fresh adapter; the probe changes neither weights nor random state.
        data: from `prepare`.

    Raises:
        KitError: the model has no adapter of these settings, or a trained one; the data was prepared for another run;
            there is no memory for a single row.
    """
    check_given(model, data, run)
    if not is_fresh(model, run.profile.lora):
        raise KitError("a plan needs the base with a fresh adapter: model = lk.attach_lora(lk.load_base(run), run)")
    rows, _ = split_validation(training_rows(model, data, run), run.profile.training)
    chosen = recipe(run.profile.training, rows, model.config.hidden_size)
    batches, settings = chosen.batches, chosen.training
    layers = layers_to_recompute(model, batches, settings)
    tokens = sum(batch.tokens for batch in batches)
    weight_bytes, adapter_bytes = fixed_bytes(model, settings)
    result = Plan(
        steps=len(chosen.steps),
        tokens=tokens,
        weight_bytes=weight_bytes,
        adapter_bytes=adapter_bytes,
        activation_bytes=measured_bytes(model, largest(batches), layers)[1],
        layers=layers,
        layers_in_all=len(model.model.layers),
        card_bytes=card_bytes(model),
        stage_minutes=_stage_minutes(model, data, run, probe(model, batches, layers) * tokens),
    )
    base = f"{run.profile.base.title}, profile {run.profile.name} ({run.reason})"
    work = f"{plural(len(rows), 'row')}, {plural(result.steps, 'step')}, about {result.minutes:.1f} minutes"
    print(f"to train: {base}; {work}\n{chosen}\n{result}")
    return result


def layers_to_recompute(model: PreTrainedModel, batches: Sequence[Batch], settings: Training) -> int:
    """How many layers are computed twice: what the profile says; else none on a CPU, and on a card as few as fit.

    The largest micro-batch is measured with all but the last computed twice, and with one fewer: every further layer
    that is kept takes the difference.
    """
    most, card = len(model.model.layers) - 1, card_bytes(model)
    if isinstance(settings.checkpoint_layers, int):
        return min(settings.checkpoint_layers, most)
    if card is None or most == 0:
        return 0
    batch = largest(batches)
    kept, peak = measured_bytes(model, batch, most)
    per_layer = measured_bytes(model, batch, most - 1)[0] - kept
    room = USABLE * card - sum(fixed_bytes(model, settings)) - peak
    return min(most, max(0, most - int(room // per_layer)))


def largest(batches: Sequence[Batch]) -> Batch:
    """The micro-batch that takes the most memory, for layers and logits; rehearsal has the base's logits too."""
    return max(batches, key=lambda batch: batch.tokens + learned_tokens(batch) * (1 + (batch.kind == "rehearsal")))


def measured_bytes(model: PreTrainedModel, batch: Batch, layers: int) -> tuple[int, int]:
    """Bytes that a micro-batch keeps for its backward pass, and on a card its peak; nothing is left changed.

    Kept is what autograd saves: storages, each once, without the model's own. Where a card has no memory for the batch,
    half of its rows are measured and count twice.
    """
    import torch

    on_card = model.device.type == "cuda"
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    saved: dict[int, torch.Tensor] = {}  # holds the tensors, so that no address is used twice

    def save(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    for weight in trainable(model).values():
        weight.grad = torch.zeros_like(weight)  # gradients count with the adapter
    before = torch.cuda.memory_allocated() if on_card else 0
    try:
        with torch.random.fork_rng(), training_mode(model, layers):
            if on_card:
                torch.cuda.reset_peak_memory_stats()
            with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
                loss = loss_sum(model, batch)
            kept = sum(tensor.untyped_storage().nbytes() for place, tensor in saved.items() if place not in own)
            saved.clear()
            loss.backward()
        return kept, torch.cuda.max_memory_allocated() - before if on_card else kept
    except torch.OutOfMemoryError:
        if len(batch.rows) == 1 or is_spread(model):  # all processes must measure the same
            way_out = "lower data__max_length, or training__tokens_per_micro_batch"
            raise KitError(f"there is no memory for {plural(len(batch.rows), 'row')} at a time: {way_out}") from None
    finally:
        saved.clear()
        model.zero_grad()
    torch.cuda.empty_cache()
    kept, peak = measured_bytes(model, next(split_batches([batch], 2)), layers)
    return 2 * kept, 2 * peak


def fixed_bytes(model: PreTrainedModel, settings: Training) -> tuple[int, int]:
    """Bytes that are always there: the frozen weights; the adapter with its gradients and the optimizer's numbers."""
    counts = parameter_counts(model)
    adapter = counts["trainable"]["bytes"]
    optimizer = 2 * adapter if settings.optimizer == "adamw" else adapter // 2
    return sum(part["bytes"] for part in counts.values()) - adapter, 2 * adapter + optimizer


def card_bytes(model: PreTrainedModel) -> int | None:
    """Memory that the model and its training may fill on its card; None on a CPU."""
    import torch

    if model.device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(model.device)
    share = getattr(torch.cuda, "get_per_process_memory_fraction", lambda device: 1.0)(model.device)  # newer torch
    return int(min(free + torch.cuda.memory_reserved(model.device), share * total))


def probe(model: PreTrainedModel, batches: Sequence[Batch], layers: int) -> float:
    """Seconds per token of forward and backward, the optimizer's small share left out; nothing is left changed."""
    import torch

    chosen = batches[:: max(1, len(batches) // PROBES)][:PROBES]
    times, start = list[float](), time.perf_counter()
    scaler, state = torch.amp.GradScaler(model.device.type, enabled=False), TrainerState()
    with torch.random.fork_rng(), training_mode(model, layers):
        for batch in [chosen[0], *chosen]:  # the first one warms up and is not counted
            begun = time.perf_counter()
            backward(model, [batch], 1, scaler, state)
            times.append((time.perf_counter() - begun) / batch.tokens)
            if len(times) > 2 and (is_spread(model) or time.perf_counter() - start > PROBE_SECONDS):  # all the same
                break
    model.zero_grad()
    return median(times[1:])


def _stage_minutes(model: PreTrainedModel, data: Prepared, run: Run, training_seconds: float) -> dict[str, float]:
    """Minutes by stage; a batch of answers is timed. The base may use the full length, the others the references'."""
    settings, tokenizer = run.profile.evaluation, load_tokenizer(run.profile.base)
    chats = [row["messages"] for row in pick(with_general(data.test), settings.limit)]
    references = [len(tokenizer(chat[-1]["content"]).input_ids) for chat in chats]
    prompts = prompts_of(chats[: settings.batch_size], tokenizer)
    begun = time.perf_counter()
    generate_ids(model, prompts, max_new_tokens=TIMED_TOKENS, eos_token_id=[])  # no row may end early
    token_seconds = (time.perf_counter() - begun) / TIMED_TOKENS
    longest = max(settings.max_new_tokens, *references)
    num_batches, load = -(-len(chats) // settings.batch_size), float(getattr(model, "loading_seconds", 0.0))
    seconds = {
        "load": LOADS * load,
        "train": training_seconds,
        "answers": num_batches * token_seconds * (longest + (MODELS - 1) * mean(references)),
        "merge": PASSES * load,
    }
    return {stage: value / 60 for stage, value in seconds.items()}
