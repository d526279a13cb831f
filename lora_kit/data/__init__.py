"""Notebook 02: any dataset -> conversations -> ids and labels -> Arrow, with a report and a proof."""

from .encoding import (
    IGNORE,
    TAGS,
    Encoded,
    common_start,
    encode,
    encode_batch,
    encode_prompt,
    last_answer,
    run_start,
    speaks_llama2,
    tags_in,
)
from .leaks import near_duplicates
from .proof import INVARIANTS, verify
from .questions import question_files, read_questions
from .reading import Conversation, read_conversations
from .report import Report, row_html, row_text, row_tokens
from .stage import Prepared, data_inputs, load_prepared, prepare
from .survey import some

__all__ = [
    "IGNORE",
    "INVARIANTS",
    "TAGS",
    "Conversation",
    "Encoded",
    "Prepared",
    "Report",
    "common_start",
    "data_inputs",
    "encode",
    "encode_batch",
    "encode_prompt",
    "last_answer",
    "load_prepared",
    "near_duplicates",
    "prepare",
    "question_files",
    "read_conversations",
    "read_questions",
    "row_html",
    "row_text",
    "row_tokens",
    "run_start",
    "some",
    "speaks_llama2",
    "tags_in",
    "verify",
]
