"""What a person can do about a first row that nothing fits: one line to go on."""

from __future__ import annotations

import re
from typing import Any

from .cells import parsed
from .turns import TURN_KEYS


def way_out(row: dict[str, Any], plain: dict[str, str]) -> str:
    """The line that helps.

    Args:
        row: the first row of a source.
        plain: a column's name in small letters -> the column.
    """
    names, nested = [str(name) for name in row], [n for n, v in row.items() if isinstance(parsed(v), dict | list)]
    turns = next((keys for keys in (*TURN_KEYS, ("role", "message")) if {*keys} <= plain.keys()), None)
    texts = [str(name) for name, value in row.items() if isinstance(value, str)]
    if {"message_id", "parent_id"} <= plain.keys():
        return "It is a tree with one message a row: write each way from the root to an answer as one row of turns"
    if {"chosen", "rejected"} <= plain.keys():
        better = "chosen" if "prompt" not in plain or nested else "prompt,chosen"
        return f"It holds pairs of a better and a worse answer; the better ones are learned with data__columns={better}"
    if turns:
        group = next((name for name in names if "id" in name.lower()), "CONVERSATION")
        return (
            "It holds one turn a row. Group it: rows = [{'messages': [{'role': r, 'content': c} for r, c in "
            f"zip(d[{plain[turns[0]]!r}], d[{plain[turns[1]]!r}])]}} for _, d in df.groupby({group!r}, sort=False)], "
            "and lk.Run(data=rows)"
        )
    if nested:
        return (
            f"{', '.join(map(str, nested))} holds lists or objects of a form that is not known: write each row as "
            '{"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]}'
        )
    if len(names) == 1 and re.search(r"[,;\t|]", names[0]):
        return "It seems to be a table with another separator than its ending says"
    if any(len(name) > 40 or name.rstrip().endswith((".", "?", "!")) for name in names):
        return "Its first line looks like a row: give the table a line with the names of the columns, question,answer"
    if len(names) == 1:
        return "A text without a question and an answer in it is not learned here: write questions about it"
    example = ",".join(texts) if len(texts) == 2 else "QUESTION,ANSWER, with their names for the two"
    return f"Say which columns hold question and answer: data__columns={example}"
