"""Notebook 03: plan, batches, loss, the loop."""

from .batches import Row, for_measuring
from .guards import loss_ends
from .loss import row_losses
from .planning import Plan, plan
from .processes import first_goes_first, world
from .stage import adapter_stage, read_log, train, train_inputs, trained_adapter, trained_adapters

__all__ = [
    "Plan",
    "Row",
    "adapter_stage",
    "first_goes_first",
    "for_measuring",
    "loss_ends",
    "plan",
    "read_log",
    "row_losses",
    "train",
    "train_inputs",
    "trained_adapter",
    "trained_adapters",
    "world",
]
