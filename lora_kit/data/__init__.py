"""Notebook 02: any dataset -> conversations -> ids and labels -> Arrow, with a report and a proof."""

from .encoding import IGNORE, Encoded, encode, encode_batch, encode_prompt, speaks_llama2
from .proof import INVARIANTS, verify
from .reading import Conversation, read_conversations
from .report import Report
from .stage import Prepared, data_inputs, load_prepared, prepare
from .survey import some

__all__ = [
    "IGNORE",
    "INVARIANTS",
    "Conversation",
    "Encoded",
    "Prepared",
    "Report",
    "data_inputs",
    "encode",
    "encode_batch",
    "encode_prompt",
    "load_prepared",
    "prepare",
    "read_conversations",
    "some",
    "speaks_llama2",
    "verify",
]
