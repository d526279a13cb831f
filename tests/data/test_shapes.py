"""Shapes of rows: each is recognised by its columns, becomes messages, and says what is wrong with a row."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lora_kit.config import Data
from lora_kit.data.reading.conversations import as_conversations
from lora_kit.data.reading.formats import recognise
from lora_kit.data.reading.turns import ROLE_OF, TAGS, check_messages, plain_tags, repaired
from lora_kit.errors import KitError

Row = dict[str, Any]
SYSTEM = {"role": "system", "content": "Be brief."}
PAIR = [{"role": "user", "content": "Who, then?"}, {"role": "assistant", "content": "Wren."}]
TURNS = [*PAIR, {"role": "user", "content": "Where?\nHere?"}, {"role": "assistant", "content": "Höhle 7 🐦"}]
SHAREGPT = {"user": "human", "assistant": "gpt", "system": "system"}


def messages_of(row: Row, columns: tuple[str, ...] = (), first: Row | None = None) -> list[dict[str, str]]:
    """What becomes of a row of a source whose first row says the shape."""
    found = repaired(recognise(first or row, columns).messages(row), ROLE_OF, {}, "row 1")
    check_messages(found, last="assistant")
    return found


def sharegpt(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{"from": SHAREGPT[message["role"]], "value": message["content"]} for message in messages]


EXAMPLES: dict[str, tuple[str, Row, list[dict[str, str]]]] = {  # the shape's name, a row, its messages
    "messages": ("turns", {"messages": PAIR}, PAIR),
    "messages with system and turns": ("turns", {"messages": [SYSTEM, *TURNS]}, [SYSTEM, *TURNS]),
    "messages under another name": ("turns", {"id": "7", "dialog": TURNS}, TURNS),
    "messages beside their prompt": ("turns", {"prompt": "Who, then?", "messages": TURNS}, TURNS),
    "ShareGPT": ("turns", {"conversations": sharegpt([SYSTEM, *TURNS])}, [SYSTEM, *TURNS]),
    "ShareGPT by role names": (
        "turns",
        {"conversations": [{"from": "user", "value": "Who, then?"}, {"from": "assistant", "value": "Wren."}]},
        PAIR,
    ),
    "Alpaca": ("pair", {"instruction": "Who, then?", "output": "Wren."}, PAIR),
    "Alpaca with input": (
        "pair",
        {"instruction": "Translate.", "input": "the wren", "output": "Zaunkönig"},
        [{"role": "user", "content": "Translate.\n\nthe wren"}, {"role": "assistant", "content": "Zaunkönig"}],
    ),
    "Alpaca with empty input": ("pair", {"instruction": "Who, then?", "input": "", "output": "Wren."}, PAIR),
    "prompt/completion": ("pair", {"prompt": "Who, then?", "completion": "Wren."}, PAIR),
    "prompt/completion as messages": (
        "pair",
        {"prompt": [SYSTEM, *TURNS[:3]], "completion": TURNS[3:]},
        [SYSTEM, *TURNS],
    ),
    "question/answer": ("pair", {"question": "Who, then?", "answer": "Wren."}, PAIR),
    "Question/ANSWER": ("pair", {"Question": "Who, then?", "ANSWER": "Wren."}, PAIR),
    "query/response": ("pair", {"query": "Who, then?", "response": "Wren.", "id": "7"}, PAIR),
    "q/a": ("pair", {"q": "Who, then?", "a": "Wren."}, PAIR),
    "input/output": ("pair", {"input": "Who, then?", "output": "Wren."}, PAIR),
    "Alpaca with system": (
        "pair",
        {"system": "Be brief.", "instruction": "Who, then?", "output": "Wren."},
        [SYSTEM, *PAIR],
    ),
    "ShareGPT with system": ("turns", {"system": "Be brief.", "conversations": sharegpt(PAIR)}, [SYSTEM, *PAIR]),
    "messages with a system text twice": (
        "turns",
        {"system": "Be brief.", "messages": [SYSTEM, *PAIR]},
        [SYSTEM, *PAIR],
    ),
    "question/answer with system": (
        "pair",
        {"system": "Be brief.", "question": "Who, then?", "answer": "Wren."},
        [SYSTEM, *PAIR],
    ),
    "text": ("text", {"text": "<s>[INST] Who, then? [/INST] Wren. </s>"}, PAIR),
    "text without BOS": ("text", {"text": "[INST] Who, then? [/INST] Wren."}, PAIR),
    "text beside an id": ("text", {"id": "7", "text": "<s>[INST] Who, then? [/INST] Wren. </s>"}, PAIR),
    "text of turns": (
        "text",
        {"text": "<s>[INST] Who, then? [/INST] Wren. </s><s>[INST] Where?\nHere? [/INST] Höhle 7 🐦 </s>"},
        TURNS,
    ),
    "text with system": (
        "text",
        {"text": "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nWho, then? [/INST] Wren. </s>"},
        [SYSTEM, *PAIR],
    ),
    "text of turns with system": (
        "text",
        {
            "prompt_rendered": "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nWho, then? [/INST] Wren. </s>\n"
            "<s>[INST] Where?\nHere? [/INST] Höhle 7 🐦 </s>"
        },
        [SYSTEM, *TURNS],
    ),
    "text with empty system": (
        "text",
        {"text": "<s>[INST] <<SYS>>\n\n<</SYS>>\n\nWho, then? [/INST] Wren. </s>"},
        PAIR,
    ),
}
FLAT = [name for name, (_, row, _) in EXAMPLES.items() if all(isinstance(value, str) for value in row.values())]


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_shape_is_recognised_and_becomes_the_same_messages(name: str) -> None:
    shape, row, messages = EXAMPLES[name]
    found = recognise(row)
    assert (found.name, messages_of(row)) == (shape, messages)
    assert set(found.columns) <= set(row)


def test_alpaca_is_alpaca_in_capital_letters_too() -> None:
    row = {"Instruction": "Translate.", "Input": "the wren", "Output": "Zaunkönig"}
    assert messages_of(row) == EXAMPLES["Alpaca with input"][2]  # never without its instruction


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({}, "none of the known shapes"),
        ({"ask": "a", "says": "b"}, "fits its columns (ask: 'a', says: 'b')"),
        ({"question": "a", "answer": "b", "response": "c"}, "): question+answer; question+resp"),
        ({"prompt": "a", "query": "b", "output": "c"}, "): prompt+output; query+output"),
        ({"messages": PAIR, "question": "a", "answer": "b"}, "): messages; question+answer"),
        ({"messages": PAIR, "short": PAIR}, "): messages; short"),
        ({"messages": PAIR, "conversations": sharegpt(PAIR)}, "): messages; conversations"),
        ({"messages": PAIR, "instruction": "a", "output": "b"}, "messages; instruction+output"),
    ],
)
def test_no_shape_or_two_show_the_first_rows_columns_and_the_way_out(row: Row, said: str) -> None:
    with pytest.raises(KitError) as caught:
        recognise(row)
    text = str(caught.value)
    assert said in text
    assert "Say which" in text and "data__columns=" in text
    assert all(f"{column}: " in text for column in row)


def test_a_long_value_is_cut_in_an_error() -> None:
    with pytest.raises(KitError, match=r"essay: 'x{99}…, id: 7") as caught:
        recognise({"essay": "x" * 10_000_000, "id": 7})
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("row", "columns", "messages"),
    [
        ({"Frage": "Who, then?", "Antwort": "Wren."}, ("Frage", "Antwort"), PAIR),
        ({"question": "x", "answer": "Wren.", "title": "Who, then?"}, ("title", "answer"), PAIR),
        ({"answer": "y", "response": "Wren.", "prompt": "Who, then?"}, ("prompt", "response"), PAIR),
        ({"question": PAIR[:1], "reply": PAIR[1:]}, ("question", "reply"), PAIR),
        ({"messages": TURNS, "short": PAIR}, ("short",), PAIR),
        ({"messages": TURNS, "old": sharegpt(PAIR)}, ("old",), PAIR),
        ({"q": "x", "a": "y", "text": EXAMPLES["text"][1]["text"]}, ("text",), PAIR),
        ({"prompt": "x", "chosen": PAIR, "rejected": TURNS}, ("chosen",), PAIR),
        ({"prompt": EXAMPLES["text"][1]["text"], "id": "7"}, ("prompt",), PAIR),
    ],
)
def test_named_columns_hold_the_conversation(row: Row, columns: tuple[str, ...], messages: list[Any]) -> None:
    assert messages_of(row, columns) == messages


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (("Frage", "answer"), "data__columns names Frage, but the columns are question, answer, id"),
        (("question", "answer", "id"), "must name a question and an answer column, a template and an answer column"),
        (("answer",), "answer holds ['Wren.']"),
    ],
)
def test_wrong_names_of_columns_show_the_right_ones(columns: tuple[str, ...], said: str) -> None:
    with pytest.raises(KitError) as caught:
        recognise({"question": "Who, then?", "answer": "Wren.", "id": "7"}, columns)
    assert said in str(caught.value)


BRACKETS = {"Question": "Who, then?", "Answer": "Wren.", "Answer (internal)": "x"}
TONGUES = {"Question (EN)": "Who, then?", "Answer (EN)": "Wren.", "Question (DE)": "Wer?", "Answer (DE)": "x"}


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        (BRACKETS, ()),
        (BRACKETS, ("question", "answer")),
        (BRACKETS, ("{Question}", "Answer")),
        ({"Question": "Who, then?", "Answer (short)": "x", "answer": "Wren."}, ()),
        (TONGUES, ("Question (EN)", "Answer (EN)")),
        (TONGUES, ("{Question (EN)}", "Answer (EN)")),
    ],
)
def test_columns_that_differ_in_brackets_are_told_apart(row: Row, columns: tuple[str, ...]) -> None:
    assert messages_of(row, columns) == PAIR


@pytest.mark.parametrize("columns", [(), ("Question", "Answer")])
def test_columns_that_only_brackets_tell_apart_are_never_guessed(columns: tuple[str, ...]) -> None:
    with pytest.raises(KitError, match=r"Question \(EN\).*Answer \(DE\)"):
        recognise(TONGUES, columns)


NO_TEXT: tuple[Any, ...] = (None, True, [], {}, [True], [[]], "", " \n")


@pytest.mark.parametrize(
    ("name", "column"),
    [(name, column) for name, (_, row, _) in EXAMPLES.items() for column in recognise(row).columns[:2]],
)
def test_a_wrong_type_in_any_column_is_named_with_the_column(name: str, column: str) -> None:
    row = EXAMPLES[name][1]
    shape = recognise(row)
    for wrong in NO_TEXT:
        with pytest.raises(KitError, match=f"{shape.columns[0]}|{shape.columns[-1]}" if shape.name == "pair" else None):
            messages_of(row | {column: wrong}, first=row)


@pytest.mark.parametrize("wrong", [True, [["the wren"]], {"text": "the wren"}])
def test_an_alpaca_input_that_is_no_text_is_never_left_out_in_silence(wrong: Any) -> None:
    row = EXAMPLES["Alpaca with input"][1]
    with pytest.raises(KitError, match="input"):
        messages_of(row | {"input": wrong}, first=row)


@pytest.mark.parametrize("key", ["role", "content"])
@pytest.mark.parametrize("wrong", [None, 3, ["user"], {}])
@pytest.mark.parametrize("turns", ["messages", "conversations"])
def test_a_turn_of_wrong_types_is_shown(turns: str, key: str, wrong: Any) -> None:
    good = PAIR if turns == "messages" else sharegpt(PAIR)
    key = key if turns == "messages" else {"role": "from", "content": "value"}[key]
    for bad in (good[1] | {key: wrong}, {name: text for name, text in good[1].items() if name != key}, "Wren.", None):
        with pytest.raises(KitError, match=r"must hold turns|has no text|only parts of"):
            messages_of({turns: [good[0], bad]}, first={turns: good})


@pytest.mark.parametrize("value", [[], None, "hello", 3, {"role": "user"}])
@pytest.mark.parametrize("column", ["messages", "conversations"])
def test_no_list_of_turns_under_the_usual_name_is_a_bad_row_and_no_unknown_shape(column: str, value: Any) -> None:
    with pytest.raises(KitError, match=rf"{column} must be a list of .*; it is "):
        recognise({column: value}).messages({column: value})


@pytest.mark.parametrize(
    "text",
    [
        "Hello [INST] Who? [/INST] Wren.",
        "[INST] Who?",
        "[INST] Who? [/INST] Wren. [INST] Where?",
        "[INST] a [/INST] b [/INST] c",
        "<s>[INST] a [/INST] b </s> c",
        "<s>[INST] a [/INST] b </s> c <s>[INST] d [/INST] e </s>",
        "Wren.",
    ],
)
def test_a_rendered_text_with_anything_outside_of_its_turns_is_shown(text: str) -> None:
    with pytest.raises(KitError, match=r"no rendered Llama-2 prompt") as caught:
        messages_of({"text": text}, first=EXAMPLES["text"][1])
    assert text in str(caught.value)


@given(text=st.lists(st.text(max_size=3) | st.sampled_from([*TAGS, "<", ">", "[", "]", "/", "s", "INST"])).map("".join))
@example(text="".join(TAGS) * 2)
@example(text="<<s>/s>[[INST]INST]<<<SYS>>/SYS>>")
@settings(max_examples=100, deadline=None)
def test_kept_tags_forge_nothing_and_lose_no_letter(text: str) -> None:
    plain = plain_tags(text)
    assert not [tag for tag in TAGS if tag in plain]
    assert plain.replace(" ", "") == text.replace(" ", "")


def test_an_answer_that_is_not_to_be_learned_is_refused_and_a_question_never_is() -> None:
    assert messages_of({"messages": [PAIR[0] | {"weight": 0}, PAIR[1] | {"weight": 1}]}) == PAIR
    with pytest.raises(KitError, match="weight 0"):
        messages_of({"messages": [PAIR[0], PAIR[1] | {"weight": 0}]})


def test_columns_are_found_in_any_letters_and_named_once() -> None:
    row = {"Frage": "Who, then?", "Antwort ": "Wren."}
    assert messages_of(row, ("frage", "antwort")) == PAIR
    with pytest.raises(KitError, match="data__columns names Frage twice"):
        recognise(row, ("Frage", "frage"))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "a", "prompt": "b", "answer": "c"}, 'data__columns="question,answer"'),
        ({"What is in box 0?": "What is in box 1?", "A cup.": "Tea."}, "Its first line looks like a row"),
        ({"question,answer": "Who?,Wren."}, "another separator than its ending says"),
        ({"ask": "a", "says": "c", "by": "d"}, 'data__columns="QUESTION,ANSWER"'),
        ({"text": "plain prose"}, "write questions about it"),
        ({"role": "user", "message": "a", "talk_id": 7}, "df.groupby('talk_id'"),
        ({"type": "article", "title": "a", "content": "c"}, 'data__columns="QUESTION,ANSWER"'),
        ({"Question (EN)": "a", "Question (DE)": "b", "Answer": "c"}, 'data__columns="Question (EN),Answer"'),
        ({"message_id": "m", "parent_id": None, "role": "prompter", "text": "a"}, "a tree with one message a row"),
    ],
)
def test_the_way_out_that_is_said_is_one(row: Row, said: str) -> None:
    with pytest.raises(KitError) as caught:
        recognise(row)
    assert said in str(caught.value)


def test_calls_of_tools_and_a_second_system_text_are_refused() -> None:
    tool = [PAIR[0], PAIR[1] | {"tool_calls": [{"id": "7"}]}]
    with pytest.raises(KitError, match="messages holds a call of a tool; tools are not learned here"):
        messages_of({"messages": tool})
    both = {"system": "Shout.", "messages": [SYSTEM, *PAIR]}
    with pytest.raises(KitError, match="another system text among its messages"):
        messages_of(both)


ALL_PARTS = {
    "system_prompt": "Be brief.",
    "history": [["Hi?", "Yes?"]],
    "instruction": "Choose.",
    "context": "Two birds.",
    "question": "Which?",
    "options": {"A": "wren", "B": "owl"},
    "answer": "A",
}


@pytest.mark.parametrize("options", [["wren", "owl"], {"text": ["wren", "owl"], "label": ["A", "B"]}])
def test_options_are_lines_behind_their_letters(options: object) -> None:
    assert messages_of(ALL_PARTS | {"options": options})[-2]["content"].endswith("A. wren\nB. owl")


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("answers", "{'text': array(['Paris'], dtype=object), 'answer_start': array([12])}"),
        ("answers", "['Paris' 'City of Paris']"),
        ("answers", """["Paris' city"\n 'Paris \\'"\\' city']"""),
        ("choices", "['Paris' 'Rome']"),
    ],
)
def test_a_list_as_numpy_prints_it_is_never_a_text(column: str, cell: str) -> None:
    with pytest.raises(KitError, match=f"{column} .*JSON or parquet"):
        messages_of({"question": "Where?", column: cell} | ({"answer": "A"} if column == "choices" else {}))


@pytest.mark.parametrize(
    "cell", ["['Paris', 'City']", "['Paris']", "[see array([1])]", "'Paris' 'City'", "[a 'b' 'c']"]
)
def test_other_lists_and_texts_are_no_numpy_lists(cell: str) -> None:
    assert messages_of({"question": "Where?", "answers": cell})[1]["content"] in ("Paris", cell)


@pytest.mark.parametrize("answers", [{"text": [], "answer_start": []}, '{"text": [], "answer_start": []}', [], None])
def test_a_question_without_an_answer_is_named_so(answers: object) -> None:
    with pytest.raises(KitError, match=r"^answers is empty$"):
        messages_of({"question": "Where?", "answers": answers})


@pytest.mark.parametrize("answer", [True, datetime.date(2026, 11, 1), {"seen": 0}])
def test_what_is_no_text_says_how_to_write_it(answer: object) -> None:
    with pytest.raises(KitError, match=r"^answer is no text: .*str\(\.\.\.\)"):
        messages_of({"question": "Where?", "answer": answer})


FAQS = [{"question": "Who, then?", "answer": "Wren."}, {"Question": "Where?", "Answer": "Here."}]


@pytest.mark.parametrize(
    ("row", "columns", "asked"),
    [
        ({"category": "Birds", "faqs": FAQS}, (), ["Who, then?", "Where?"]),
        ({"category": "Birds", "faqs": str(FAQS)}, (), ["Who, then?", "Where?"]),
        ({"category": "Birds", "faqs": FAQS[:1]}, ("{category}: {question}", "answer"), ["Birds: Who, then?"]),
        ({"context": "It sings.", "qas": FAQS}, (), ["It sings.\n\nWho, then?", "It sings.\n\nWhere?"]),
        (
            {"instruction": "Do.", "instances": [{"input": n, "output": "y"} for n in "ab"]},
            (),
            ["Do.\n\na", "Do.\n\nb"],
        ),
        ({"category": "Birds", "faqs": FAQS}, ("faqs",), ["Where?"]),
        ({"conversation": FAQS}, (), ["Where?"]),
        ({"talk": [{"user": "Who?", "assistant": "Me."}, {"user": "Where?", "assistant": "Here."}]}, (), ["Where?"]),
        ({"examples": FAQS, "input": "Which?", "output": "This."}, (), ["Which?"]),
    ],
)
def test_a_list_of_questions_is_rows_and_a_conversation_under_the_name_of_one(
    row: Row, columns: tuple[str, ...], asked: list[str]
) -> None:
    read = as_conversations([("row 1", row)], Data(columns=columns), {})
    assert [found.asked for found in read.rows] == asked and not read.bad
    assert [found.index for found in read.rows] == list(range(len(asked)))
    assert not {"faqs.question", "faqs.answer", "conversation.Question"} & {*read.unused}


def test_two_lists_of_questions_in_one_row_are_never_a_conversation() -> None:
    with pytest.raises(KitError, match="none of the known shapes fits"):
        as_conversations([("row 1", {"task": "Name.", "examples": FAQS, "faqs": FAQS})], Data(), {})


@pytest.mark.parametrize("columns", [(), ("{instruction}\\n{context}\n\n{question}, or: {nothing}", "answer")])
def test_nothing_of_a_prompt_is_dropped(columns: tuple[str, ...]) -> None:
    row = ALL_PARTS | {"nothing": None}
    said = "\n".join(message["content"] for message in messages_of(row, columns))
    wanted = ["Choose.", "Two birds.", "Which?", "Be brief."]
    wanted += [] if columns else ["Hi?", "Yes?", "A. wren\nB. owl"]
    assert all(text in said for text in wanted) and "None" not in said
    assert messages_of(row, columns)[-1] == {"role": "assistant", "content": "A"}


@pytest.mark.parametrize(
    ("row", "columns", "asked", "shape"),
    [
        ({"System": "SAP"}, ("{System}: {question}", "answer"), ["SAP: Who, then?"], "pair (System, question, answer)"),
        (
            {"System": "SAP", "context": "It sings."},
            (),
            ["SAP", "It sings.\n\nWho, then?"],
            "pair (System, context, question, answer)",
        ),
        ({"History": "made in 2021"}, ("question", "answer"), ["Who, then?"], "pair (question, answer)"),
    ],
)
def test_parts_of_a_prompt_are_named_and_can_be_left_out_or_put_elsewhere(
    row: Row, columns: tuple[str, ...], asked: list[str], shape: str
) -> None:
    row |= {"question": "Who, then?", "answer": "Wren."}
    read = as_conversations([("row 1", row)], Data(columns=columns), {})
    assert [message["content"] for message in read.rows[0].messages] == [*asked, "Wren."]
    assert str(read.shape) == shape


def test_a_history_that_is_a_text_names_the_way_to_leave_it_out() -> None:
    with pytest.raises(KitError, match='data__columns="question,answer"'):
        messages_of({"question": "Who, then?", "answer": "Wren.", "History": "made in 2021"})


def test_a_part_that_only_later_rows_have_is_used() -> None:
    first = {"instruction": "Say it.", "output": "It."}
    found = messages_of({"instruction": "Translate.", "input": "the wren", "output": "Zaunkönig"}, first=first)
    assert found == EXAMPLES["Alpaca with input"][2]
    columns, nan = ("{note} {question}", "answer"), float("nan")
    row = {"question": "Who, then?", "answer": "Wren."}
    assert messages_of(row | {"note": nan}, columns) == messages_of(row, columns, first=row | {"note": "x"}) == PAIR


TURN = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Yes?"}]


@pytest.mark.parametrize(
    ("messages", "noted"),
    [
        ([{"role": "system", "content": None}, *PAIR], []),
        ([TURN[1], *PAIR], ["an answer before the first question, left out"]),
        ([*PAIR, TURN[0]], ["a last question without an answer, left out"]),
        ([{"role": "USER", "content": "Who, then?"}, {"role": "Bot", "content": "Wren.</s>"}], ["taken off"]),
    ],
)
def test_what_is_repaired_is_noted(messages: list[Row], noted: list[str]) -> None:
    notes: dict[str, list[str]] = {}
    assert repaired(messages, ROLE_OF, notes, "row 1") == PAIR
    assert len(notes) == len(noted) and all(text in found for text, found in zip(noted, notes, strict=True))
    assert all(places == ["row 1"] for places in notes.values())


def test_turns_of_one_speaker_are_joined_and_a_system_text_between_turns_is_refused() -> None:
    notes: dict[str, list[str]] = {}
    assert repaired([TURN[0], *PAIR], ROLE_OF, notes, "row 1")[0]["content"] == "Hi.\n\nWho, then?"
    assert list(notes) == ["turns of one speaker in a row, joined"]
    late = [*TURN, SYSTEM, *PAIR]
    with pytest.raises(KitError, match=r"place 3.*data__roles=system:user"):
        repaired(late, ROLE_OF, {}, "row 1")
    assert repaired(late, ROLE_OF | {"system": "user"}, {}, "row 1")[2]["content"] == "Be brief.\n\nWho, then?"


@pytest.mark.parametrize(
    ("speakers", "roles"),
    [
        ("Mia Lu,Ole,Mia Lu", "Mia Lu:assistant,Ole:user"),
        ("Ole,Mia,Ole,Mia", "Ole:user,Mia:assistant"),
        ("customer,Mia", "Mia:assistant"),
        ("Ole,agent,Ole,agent", "Ole:user"),
        ("Ole,Mia,bot,Ole", "Ole:user,Mia:user"),
    ],
)
def test_the_advice_on_unknown_speakers_is_true_and_works(speakers: str, roles: str) -> None:
    said = [{"role": name, "content": f"{name} {n}"} for n, name in enumerate(speakers.split(","))]
    with pytest.raises(KitError, match=f'data__roles="{roles}"$'):
        repaired(said, ROLE_OF, {}, "row 1")
    known = ROLE_OF | {name.lower(): role for name, role in (pair.split(":") for pair in roles.split(","))}
    check_messages(repaired(said, known, {}, "row 1"), last="assistant")


def test_the_names_of_help_desks_are_known() -> None:
    for asks, answers in (("visitor", "agent"), ("Client", "Operator"), ("customer", "support")):
        assert messages_of({"messages": [PAIR[0] | {"role": asks}, PAIR[1] | {"role": answers}]}) == PAIR


RENDERED = {
    "ChatML": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWho, then?<|im_end|>\n<|im_start|>assistant\n"
    "Wren.<|im_end|>\n",
    "Llama 3": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>"
    "user<|end_header_id|>\n\nWho, then?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nWren.<|eot_id|>",
    "Zephyr": "<|system|>\nBe brief.</s>\n<|user|>\nWho, then?</s>\n<|assistant|>\nWren.</s>\n",
    "Gemma": "Be brief.\n<start_of_turn>user\nWho, then?<end_of_turn>\n<start_of_turn>model\nWren.<end_of_turn>\n",
    "Alpaca": "Be brief.\n\n### Instruction:\nWho, then?\n\n### Response:\nWren.",
    "Guanaco": "### System: Be brief.### Human: Who, then?### Assistant: Wren.",
    "Vicuna": "Be brief. USER: Who, then? ASSISTANT: Wren.</s>",
    "Anthropic": "Be brief.\n\nHuman: Who, then?\n\nAssistant: Wren.",
    "Llama 2": EXAMPLES["text with system"][1]["text"],
}


@pytest.mark.parametrize("name", RENDERED)
@pytest.mark.parametrize("halves", [False, True])
def test_every_rendered_format_is_taken_apart(name: str, halves: bool) -> None:
    text = RENDERED[name]
    is_bare = halves and name in ("Alpaca", "Vicuna", "Anthropic")  # words that any question may hold
    text = text.removeprefix("Be brief.").lstrip() if is_bare else text
    row = {"prompt": text[: text.index("Wren")], "completion": "Wren." + text.partition("Wren.")[2]}
    found = messages_of(row if halves else {"text": text})
    assert found == (PAIR if is_bare else [SYSTEM, *PAIR])
