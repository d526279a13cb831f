"""Notebook 03: plan, batches, loss, the loop."""

from .guards import loss_ends
from .planning import Plan, plan
from .stage import adapter_stage, read_log, train, train_inputs, trained_adapter

__all__ = ["Plan", "adapter_stage", "loss_ends", "plan", "read_log", "train", "train_inputs", "trained_adapter"]
