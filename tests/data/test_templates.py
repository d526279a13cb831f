"""Chat templates of every kind by one rule, each written small with what is special in the published one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

import lora_kit as lk
from lora_kit.base import SIZES, load_tokenizer, without_clock
from lora_kit.config import Base, Data
from lora_kit.data.chat_template import chat_format, one_per_answer, prompt_text, stop_id
from lora_kit.data.checks import verify
from lora_kit.data.encoding import IGNORE, LengthFilter, encode, encode_prompt
from lora_kit.data.reading.conversations import Conversation
from lora_kit.data.reading.turns import tags_in
from lora_kit.errors import KitError

from .test_encoding import TINY

CHATML = "<|im_start|>{role}\n{content}<|im_end|>\n"
DEFAULT = "You are Qwen."


def jinja(turn: str, start: str = "", system: str = "", prompt: str = "") -> str:
    """A template: what stands first, each turn with {role} and {content}, and the generation prompt."""
    parts = turn.replace("{role}", "{{ message.role }}").replace("{content}", "{{ message.content }}")
    return (
        f"{start}{system}{{% for message in messages %}}{parts}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{prompt}{{% endif %}}"
    )


TEMPLATES = {
    "SmolLM2, Qwen2.5": jinja(
        CHATML,
        system="{% if messages[0].role != 'system' %}<|im_start|>system\n" + DEFAULT + "<|im_end|>\n{% endif %}",
        prompt="<|im_start|>assistant\n",
    ),
    "Llama 3.2": jinja(
        "<|start_header_id|>{role}<|end_header_id|>\n\n{{ message.content | trim }}<|eot_id|>",
        start="{{ bos_token }}",
        system="Today: {{ strftime_now('%d %b %Y') if strftime_now is defined else 'never' }}\n",
        prompt="<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    # thoughts stand in the last answer only, so that a later prompt does not begin with an earlier row
    "Qwen3": (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n"
        "{% if message.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
        "{{ message.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
        "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
    ),
    # the system text stands in the last question
    "Mistral Nemo": (
        "{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}[INST]"
        "{% if loop.last and messages[0].role == 'system' %}{{ messages[0].content }}\n\n{% endif %}"
        "{{ message.content }}[/INST]{% elif message.role == 'assistant' %} {{ message.content }}</s>{% endif %}"
        "{% endfor %}"
    ),
    "Gemma": (
        "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}"
        "{% endif %}{% for message in messages %}<start_of_turn>"
        "{{ 'model' if message.role == 'assistant' else 'user' }}\n{{ message.content | trim }}<end_of_turn>\n"
        "{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    ),
}
SPECIAL = (
    *("<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "[INST]", "[/INST]"),
    *("<start_of_turn>", "<end_of_turn>", "<s>", "</s>"),
)
STOPS = dict(zip(TEMPLATES, ("<|im_end|>", "<|eot_id|>", "<|im_end|>", "</s>", "<end_of_turn>"), strict=True))
WORDS = ["Who are you? I am Wren.\n\n", "How many owls?\n", "  Nine owls, one of them grey.", "Tools: 9 days."]
PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def tokenizer_of(template: str, pieces: str = PIECES) -> PreTrainedTokenizerBase:
    """A small byte-level BPE, cut into pieces first as Llama 3's and Qwen's are."""
    raw = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(pieces), "isolated")
    raw.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    raw.train_from_iterator(WORDS * 5, trainer)
    raw.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL])
    found = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>")
    found.chat_template = without_clock(template)
    return found


GOLDEN = json.loads(Path(__file__).with_name("golden_templates.json").read_text())
FORMS = {name: tokenizer_of(template) for name, template in TEMPLATES.items()}
each_form = pytest.mark.parametrize("name", FORMS)
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
texts = texts | st.lists(st.sampled_from(["a", " ", "\n", "(", "9", "ö"]), min_size=1, max_size=8).map("".join)
texts = texts.filter(lambda text: bool(text.strip()) and not tags_in(text))  # tags are refused, by a test of their own


def chat(*turns: str, system: str | None = None) -> Conversation:
    before = [{"role": "system", "content": system}] if system else []
    messages = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(turns)]
    return Conversation([*before, *messages], "row 1")


def learned(row: Conversation, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Every run of learned ids."""
    runs: list[list[int]] = [[]]
    for label in encode(row, tokenizer).labels:
        if label == IGNORE:
            runs += [[]] if runs[-1] else []
        else:
            runs[-1].append(label)
    return [run for run in runs if run]


@each_form
@given(turns=st.lists(texts, min_size=2, max_size=4).map(lambda t: t[: len(t) // 2 * 2]), system=st.none() | texts)
@settings(max_examples=60, deadline=None)
def test_training_and_use_have_one_prompt_and_the_stop_is_learned(
    name: str, turns: list[str], system: str | None
) -> None:
    tokenizer = FORMS[name]
    for row in one_per_answer([chat(*turns, system=system)], tokenizer):
        encoded, prompt = encode(row, tokenizer), encode_prompt(row.messages[:-1], tokenizer)
        assert encoded.input_ids[: len(prompt)] == prompt
        assert encoded.labels[len(prompt) :] == encoded.input_ids[len(prompt) :]
        assert encoded.labels[len(prompt) - 1] == IGNORE
        run = learned(row, tokenizer)[-1]
        assert run[-1] == stop_id(tokenizer) == tokenizer.convert_tokens_to_ids(STOPS[name])
        assert tokenizer.decode(run[:-1]).strip() == row.messages[-1]["content"].strip()
        proofs = verify([row], [encoded], tokenizer)
        assert not [str(proof) for proof in proofs.values() if proof.broken]


@each_form
def test_every_answer_of_a_conversation_is_learned_once(name: str) -> None:
    tokenizer, row = FORMS[name], chat("Who?", "Wren.", "Where?", "In room 7.", system="Be brief.")
    rows = one_per_answer([row], tokenizer)
    assert len(rows) == (2 if name in ("Qwen3", "Mistral Nemo") else 1)
    said = [tokenizer.decode(run[:-1]).strip() for each in rows for run in learned(each, tokenizer)]
    assert said == ["Wren.", "In room 7."]


def test_rows_are_the_templates_own_text() -> None:
    for name in ("SmolLM2, Qwen2.5", "Llama 3.2"):
        row = chat("Who?", "Wren.", "Where?", "In room 7.", system="Be brief.")
        whole = FORMS[name].apply_chat_template(row.messages, tokenize=False)
        assert FORMS[name].decode(encode(row, FORMS[name]).input_ids) == whole.removesuffix("\n")


@each_form
def test_ids_and_labels_are_what_they_were(name: str) -> None:
    """On every stack: a library that cuts or renders otherwise is found here, and not by a model that learns less."""
    row = chat("Who are you?", "I am Wren.", "Wie viele Käuze?\n", "Nine owls (9).", system="Be brief.")
    found = [list(encode(each, FORMS[name])) for each in one_per_answer([row], FORMS[name])]
    assert found == GOLDEN[name]


def test_the_system_text_that_a_template_adds_or_refuses_is_known() -> None:
    found = {
        name: (chat_format(tokenizer).system, chat_format(tokenizer).folds_system) for name, tokenizer in FORMS.items()
    }
    assert found == dict.fromkeys(FORMS, ("", False)) | {"SmolLM2, Qwen2.5": (DEFAULT, False), "Gemma": ("", True)}
    prompt = FORMS["Gemma"].decode(encode_prompt(chat("Who?", system="Be brief.").messages, FORMS["Gemma"]))
    assert prompt == "<s><start_of_turn>user\nBe brief.\n\nWho?<end_of_turn>\n<start_of_turn>model\n"


def test_a_template_with_a_clock_has_one_date(tmp_path: Path) -> None:
    AutoTokenizer.from_pretrained(TINY).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text((TINY / "config.json").read_text())
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "chat_template.jinja").write_text(TEMPLATES["Llama 3.2"])
    text = load_tokenizer(Base(source=str(tmp_path))).apply_chat_template(chat("Who?").messages, tokenize=False)
    assert "Today: 26 Jul 2024\n" in text


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (jinja(CHATML, prompt="<|im_start|>assistant\n<think>\n"), "thought"),
        ("{{ raise_exception('no chat here') }}", "no chat here"),
        ("{{ messages.nothing.here }}", "refuses"),
        (jinja("{content}\n", prompt=">"), "special token"),
        ("{{ messages | length }}</s>", "no question"),
    ],
)
def test_a_template_that_cannot_be_trained_says_why(template: str, reason: str) -> None:
    with pytest.raises(KitError, match=reason):
        encode(chat("Who?", "Wren."), tokenizer_of(template))


def test_a_tokenizer_that_joins_question_and_answer_is_refused() -> None:
    template = jinja("{role}:\n\n{content}<|im_end|>", prompt="assistant:\n\n")
    joins = tokenizer_of(template, pieces=r"\s+(?!\S)|\s+|\S+")  # "\n\n" at the end, "\n" and "\n" before a word
    with pytest.raises(KitError, match="joins"):
        encode(chat("Who?", "Wren."), joins)
    assert encode(chat("Who?", "Wren."), tokenizer_of(template))


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% set it = namespace(x='aaaaaaaaaaaaaaaaaaaa') %}{% for a in range(60) %}{% set it.x = it.x ~ it.x %}"
        "{% endfor %}{{ it.x }}",
        "{{ 'x' * 20000000000 }}",
        "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the limit of memory")
def test_a_template_that_loops_or_grows_is_refused(template: str) -> None:
    from resource import RLIMIT_AS, getrlimit

    trace, limits = sys.gettrace(), getrlimit(RLIMIT_AS)
    with pytest.raises(KitError, match="chat template refuses"):
        prompt_text([{"role": "user", "content": "Who?"}], tokenizer_of(template))
    assert sys.gettrace() is trace and getrlimit(RLIMIT_AS) == limits


@each_form
def test_a_chat_of_a_thousand_turns_is_no_loop(name: str) -> None:
    asked = chat(*["word"] * 999).messages
    assert prompt_text(asked, FORMS[name]).count("word") == 999


def test_a_special_token_of_the_template_inside_a_text_is_seen() -> None:
    template = jinja("<|turn|>{role}\n{content}<|im_end|>", prompt="<|turn|>assistant\n")
    tokenizer = tokenizer_of(template)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    rows = [chat("Who?", "Wren."), chat("Who? <|turn|>assistant\nme", "Wren.")]
    proofs = verify(rows, [encode(row, tokenizer) for row in rows], tokenizer)
    assert proofs["tags"].broken == ["row 1"] and not proofs["format"].broken


def test_the_report_names_the_system_text_that_the_template_adds(tmp_path: Path) -> None:
    rows = [{"question": f"Who is {n}?", "answer": f"Wren {n}."} for n in range(30)]
    FORMS["SmolLM2, Qwen2.5"].save_pretrained(tmp_path / "base")
    config = dict.fromkeys(SIZES, 8192) | {"model_type": "qwen2"}
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    (tmp_path / "base" / "model.safetensors").touch()
    data = lk.prepare(lk.Run("tiny-cpu", root=tmp_path, data=rows, base__source=str(tmp_path / "base")))
    assert [f["count"] for f in data.report.data["findings"] if DEFAULT in f["text"]] == [30]


def test_long_chats_of_a_template_that_rewrites_turns_are_cut_by_turns() -> None:
    tokenizer, row = FORMS["Qwen3"], chat("Who?", "Wren.", "Where?", "In room 7.")
    longest = len(encode(chat("Where?", "In room 7."), tokenizer).input_ids)
    lengths = LengthFilter(Data(max_length=longest, too_long="shorten"), tokenizer)
    found = [pair[0].messages for pair in lengths.encode(one_per_answer([row], tokenizer))]
    assert [messages[-1]["content"] for messages in found] == ["Wren.", "In room 7."]
    assert [len(messages) for messages in found] == [2, 2]
