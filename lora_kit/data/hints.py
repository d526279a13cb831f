"""What a person can do about a first row that nothing fits: one line to go on."""

from __future__ import annotations

import re

from .cells import TURN_KEYS, Row, by_plain_name, parsed


def way_out(row: Row) -> str:
    """The line that helps, by what the row looks like."""
    names, known = [str(name) for name in row], by_plain_name(row)
    nested = [name for name, value in row.items() if isinstance(parsed(value), dict | list)]
    texts = [str(name) for name, value in row.items() if isinstance(value, str)]
    turns = next((keys for keys in TURN_KEYS if {*keys} <= known.keys()), None)
    if {"message_id", "parent_id"} <= known.keys():
        return "It is a tree with one message a row: write each way from the root to an answer as one row of turns"
    if {"chosen", "rejected"} <= known.keys():
        better = "chosen" if "prompt" not in known or nested else "prompt,chosen"
        return f"It holds pairs of a better and a worse answer; the better ones are learned with data__columns={better}"
    if turns:
        group = next((name for name in names if "id" in name.lower()), "CONVERSATION")
        return (
            "It holds one turn a row. Group it: rows = [{'messages': [{'role': r, 'content': c} for r, c in "
            f"zip(d[{known[turns[0]]!r}], d[{known[turns[1]]!r}])]}} for _, d in df.groupby({group!r}, sort=False)], "
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
