"""Notebook 04: the streaming merge, its certificate, the model card."""

from ..base import Weights
from .cards import NOTICE, card_texts
from .certificate import certify, check_tensors
from .merge import adapter_deltas, check_room, merge, merge_folder, merge_inputs, size

__all__ = [
    "NOTICE",
    "Weights",
    "adapter_deltas",
    "card_texts",
    "certify",
    "check_room",
    "check_tensors",
    "merge",
    "merge_folder",
    "merge_inputs",
    "size",
]
