"""The proof's eye for text: what a row must decode to, held against what it decodes to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .encoding import Message, speaks_llama2
from .reading import Conversation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def compare(whole: str, learned: list[str], row: Conversation, tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """The invariants that a row breaks, by its decoded text and the decoded runs of learned tokens."""
    wanted, answers = expected(row.messages, tokenizer)
    eos = str(tokenizer.eos_token)
    said = [_spaced(text.strip().removesuffix(eos)).strip() for text in learned]
    if _spaced(whole) == _spaced(wanted):  # the text is right, so what is wrong is where learning begins and ends
        given = [m["content"] for m in row.messages if m["role"] == "assistant"]
        apart = [n for n, text in enumerate(learned) if text == eos]  # learned, but not the token before it
        if len(said) > len(answers) == len(said) - len(apart):
            learned, said = ([x for n, x in enumerate(xs) if n not in apart] for xs in (learned, said))
            return _misplaced([_spaced(text) for text in learned], said, answers, given) or {"whole"}
        return _misplaced([_spaced(text) for text in learned], said, answers, given)
    wrong = {"format"} if len(said) != len(answers) or said == answers else set()
    for text, answer in zip(said, answers, strict=False):
        if text != answer:
            wrong.add("whole" if answer.startswith(text) else "answer")
    return wrong


def _misplaced(learned: list[str], said: list[str], answers: list[str], given: list[str]) -> set[str]:
    """Which invariant a wrong mask breaks; `given` are the answers with the white space around them."""
    if len(said) < len(answers):
        return {"prompt"}
    if len(said) > len(answers):
        return {"answer"} if all(any(s in a for a in answers) for s in said) else {"prompt"}
    wrong = set()
    for text, found, answer, raw in zip(learned, said, answers, given, strict=True):
        if found != answer:
            wrong.add("whole" if answer.startswith(found) else "answer" if answer.endswith(found) else "prompt")
        elif _line_ends(text) > _line_ends(raw):  # one of the prompt's is learned
            wrong.add("prompt")
    return wrong


def _line_ends(text: str) -> int:
    """Line ends before the first word."""
    return text[: len(text) - len(text.lstrip())].count("\n")


def expected(messages: list[Message], tokenizer: PreTrainedTokenizerBase) -> tuple[str, list[str]]:
    """What a row must decode to, and its answers; written anew here, so that an encoder's mistake is not repeated."""
    answers = [_spaced(m["content"].strip()).strip() for m in messages if m["role"] == "assistant"]
    if not speaks_llama2(tokenizer):
        return str(tokenizer.apply_chat_template(messages, tokenize=False)), answers
    texts = [message["content"] for message in messages]
    if messages[0]["role"] == "system":
        texts = [f"<<SYS>>\n{texts[0]}\n<</SYS>>\n\n{texts[1]}", *texts[2:]]
    texts = [text.strip() for text in texts]
    bos, eos = tokenizer.bos_token, tokenizer.eos_token
    turns = zip(texts[::2], texts[1::2], strict=True)
    return "".join(f"{bos} [INST] {asked} [/INST] {answer} {eos}" for asked, answer in turns), answers


def _spaced(text: str) -> str:
    return text.replace("\u2581", " ")  # sentencepiece's own mark for a space
