"""Notebook 02: any dataset -> conversations -> ids and labels -> Arrow, with a report and a proof."""

from .checks import INVARIANTS, verify
from .conversations import TAGS, Conversation, read_conversations, some, tags_in
from .encoding import (
    IGNORE,
    Encoded,
    common_start,
    encode,
    encode_batch,
    encode_prompt,
    last_answer,
    run_start,
    speaks_llama2,
)
from .prepare import Prepared, data_inputs, load_prepared, prepare, question_files, read_questions
from .report import Report, row_html, row_text, row_tokens
from .splits import near_duplicates

__all__ = ["IGNORE", "INVARIANTS", "TAGS", "Conversation", "Encoded", "Prepared", "Report", "common_start"]
__all__ += ["data_inputs", "encode", "encode_batch", "encode_prompt", "last_answer", "load_prepared"]
__all__ += ["near_duplicates", "prepare", "question_files", "read_conversations", "read_questions", "row_html"]
__all__ += ["row_text", "row_tokens", "run_start", "some", "speaks_llama2", "tags_in", "verify"]
