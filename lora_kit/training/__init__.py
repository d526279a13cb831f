"""Notebook 03: plan, batches, loss, the loop."""

from .guards import loss_ends
from .planning import Plan, plan
from .processes import first_goes_first, world
from .stage import adapter_stage, read_log, train, train_inputs, trained_adapter, trained_adapters

__all__ = [
    "Plan",
    "adapter_stage",
    "first_goes_first",
    "loss_ends",
    "plan",
    "read_log",
    "train",
    "train_inputs",
    "trained_adapter",
    "trained_adapters",
    "world",
]
