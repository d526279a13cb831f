"""Notebook 04: the streaming merge, its certificate, the model card."""

from .cards import NOTICE, card_texts
from .certificate import certify
from .deltas import adapter_deltas
from .shards import Weights
from .stage import check_room, merge, merge_inputs, size
from .streaming import merge_folder

__all__ = [
    "NOTICE",
    "Weights",
    "adapter_deltas",
    "card_texts",
    "certify",
    "check_room",
    "merge",
    "merge_folder",
    "merge_inputs",
    "size",
]
