"""Notebook 03: plan, batches, loss, the loop."""

from .batches import Row, all_steps, for_measuring, rows_of
from .guards import check_given, loss_ends
from .loop import fit
from .loss import row_losses
from .planning import Plan, plan
from .processes import first_goes_first, world
from .recipe import Recipe, recipe
from .stage import adapter_stage, read_log, train, train_inputs, trained_adapter, trained_adapters

__all__ = [
    "Plan",
    "Recipe",
    "Row",
    "adapter_stage",
    "all_steps",
    "check_given",
    "first_goes_first",
    "fit",
    "for_measuring",
    "loss_ends",
    "plan",
    "read_log",
    "recipe",
    "row_losses",
    "rows_of",
    "train",
    "train_inputs",
    "trained_adapter",
    "trained_adapters",
    "world",
]
