"""Notebook 03: plan, batches, loss, the loop."""

from .batches import Row, all_steps, for_measuring, rows_of
from .loop import fit
from .loss import row_losses
from .optim import main_process_first
from .plan import Plan, plan
from .recipe import Recipe, recipe
from .stage import adapter_stage, loss_ends, read_log, train_inputs, trained_adapter, trained_adapters
from .train import train

__all__ = [
    "Plan",
    "Recipe",
    "Row",
    "adapter_stage",
    "all_steps",
    "fit",
    "for_measuring",
    "loss_ends",
    "main_process_first",
    "plan",
    "read_log",
    "recipe",
    "row_losses",
    "rows_of",
    "train",
    "train_inputs",
    "trained_adapter",
    "trained_adapters",
]
