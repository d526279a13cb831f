"""Notebook 04: the streaming merge, its certificate, the model card."""

from .cards import NOTICE, model_card
from .certificate import certify
from .deltas import adapter_deltas
from .shards import Weights
from .stage import check_room, merge, merge_inputs, size
from .streaming import merge_folder

__all__ = [
    "NOTICE",
    "Weights",
    "adapter_deltas",
    "certify",
    "check_room",
    "merge",
    "merge_folder",
    "merge_inputs",
    "model_card",
    "size",
]
