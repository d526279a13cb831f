"""Notebook 04: the streaming merge, its certificate, the model card."""

from .asked import matmul_rate
from .cards import NOTICE, card_texts
from .certificate import certify
from .deltas import adapter_deltas
from .shards import Weights
from .stage import COMPARED, check_room, merge, merge_inputs, size
from .streaming import merge_folder

__all__ = [
    "COMPARED",
    "NOTICE",
    "Weights",
    "adapter_deltas",
    "card_texts",
    "certify",
    "check_room",
    "matmul_rate",
    "merge",
    "merge_folder",
    "merge_inputs",
    "size",
]
