"""Notebook 02: any dataset -> conversations -> ids and labels -> Arrow, with a report."""

from .encoding import IGNORE, Encoded, encode, encode_prompt
from .reading import Conversation, read_conversations
from .stage import Prepared, data_inputs, load_prepared, prepare

__all__ = [
    "IGNORE",
    "Conversation",
    "Encoded",
    "Prepared",
    "data_inputs",
    "encode",
    "encode_prompt",
    "load_prepared",
    "prepare",
    "read_conversations",
]
