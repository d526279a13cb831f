"""Presets and overrides: what fits is converted, what does not is refused with the right ones listed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from lora_kit.config import ALL_LINEAR, settings
from lora_kit.errors import KitError
from lora_kit.presets import LLAMA2_MIRROR, PROFILES, profile

POSITIVE = st.integers(min_value=1, max_value=10**9)
SHARES = st.floats(min_value=0, max_value=1, exclude_max=True)
WORDS = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=12)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "lora__r": POSITIVE,
    "lora__lora_dropout": SHARES,
    "lora__target_modules": st.lists(WORDS, min_size=1, max_size=4).map(tuple),
    "lora__use_rslora": st.booleans(),
    "training__epochs": st.integers(min_value=1, max_value=1000),
    "training__learning_rate": st.floats(min_value=1e-9, max_value=10),
    "training__warmup": SHARES,
    "training__seed": st.integers(min_value=0, max_value=2**32 - 1),
    "evaluation__limit": st.none() | POSITIVE,
    "quantization__kind": st.sampled_from(["nf4", "none"]),
    "data__source": WORDS,
}


def as_typed(value: Any) -> str:
    """What a person would type on a command line."""
    return ",".join(value) if isinstance(value, tuple) else str(value)


@hypothesis_settings(deadline=None)  # a busy machine is no failure
@given(st.sampled_from(list(PROFILES)), st.fixed_dictionaries({}, optional=VALUES))
def test_overrides_change_what_they_name_and_nothing_else(name: str, overrides: dict[str, Any]) -> None:
    chosen = profile(name, **overrides)
    assert settings(chosen) == settings(PROFILES[name]) | overrides
    assert chosen.name == name
    assert profile(name, **settings(chosen)) == chosen  # a manifest's settings make the same profile again
    assert profile(name, **{key: as_typed(value) for key, value in overrides.items()}) == chosen


@hypothesis_settings(deadline=None)
@given(st.sampled_from(list(settings(PROFILES["tiny-cpu"]))), st.none() | st.floats() | st.integers() | st.text())
def test_any_value_is_taken_with_the_right_type_or_refused(key: str, value: Any) -> None:
    preset = settings(PROFILES["llama2-7b-t4"])[key]
    try:
        found = settings(profile("llama2-7b-t4", **{key: value}))[key]
    except KitError as error:
        assert key.split("__")[1] in str(error)
    else:
        right: Any = (int, float) if preset == "auto" else type(preset)
        right = (int, str) if key == "data__rewordings" else right
        assert found is None or preset is None or isinstance(found, right) or found == "auto"


def test_every_preset_can_run() -> None:
    names = "tiny-cpu smollm2-cpu smollm2-t4 tinyllama-t4 llama2-7b-t4 llama2-7b-2xt4 "
    names += "llama3.2-3b-t4 qwen3-4b-t4 mistral-7b-t4"
    assert {*names.split()} == PROFILES.keys()
    assert all(name == preset.name for name, preset in PROFILES.items())
    assert all(profile(name, **settings(preset)) == preset for name, preset in PROFILES.items())
    assert all(preset.base.fallback in (None, *PROFILES) for preset in PROFILES.values())


def test_presets_cannot_be_changed_by_accident() -> None:
    with pytest.raises(AttributeError):
        PROFILES["tiny-cpu"].lora.r = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        PROFILES["mine"] = PROFILES["tiny-cpu"]  # type: ignore[index]


def test_an_unknown_profile_lists_the_right_ones() -> None:
    with pytest.raises(KitError) as caught:
        profile("llama3")
    assert all(name in str(caught.value) for name in ("'llama3'", *PROFILES))


@pytest.mark.parametrize("key", ["lora__rank", "lora", "r", "lora__", "__r", "name", "training__lr"])
def test_an_unknown_setting_lists_the_right_ones(key: str) -> None:
    wrong = {key: 1}
    if key == "name":  # an argument of `profile` itself
        with pytest.raises(TypeError):
            profile("tiny-cpu", **wrong)
        return
    with pytest.raises(KitError) as caught:
        profile("tiny-cpu", **wrong)
    assert all(name in str(caught.value) for name in (repr(key), *settings(PROFILES["tiny-cpu"])))


@pytest.mark.parametrize(
    ("key", "typed", "value"),
    [
        ("lora__r", "32", 32),
        ("lora__use_rslora", "true", True),
        ("lora__use_rslora", "0", False),
        ("lora__target_modules", "q_proj, v_proj,", ("q_proj", "v_proj")),
        ("lora__target_modules", ["q_proj"], ("q_proj",)),
        ("training__learning_rate", "2e-4", 2e-4),
        ("training__learning_rate", 1, 1.0),
        ("training__learning_rate", "auto", "auto"),
        ("training__epochs", "7", 7),
        ("evaluation__limit", "50", 50),
        ("evaluation__limit", "none", None),
        ("base__revision", "None", None),
        ("base__revision", "main", "main"),
        ("quantization__kind", "none", "none"),
    ],
)
def test_text_from_a_command_line_is_converted(key: str, typed: Any, value: Any) -> None:
    found = settings(profile("tiny-cpu", **{key: typed}))[key]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lora__r", 0),
        ("training__checkpoint_layers", -1),
        ("lora__r", "many"),
        ("lora__r", 8.5),
        ("lora__r", True),
        ("lora__r", None),
        ("lora__lora_dropout", 1),
        ("lora__target_modules", ""),
        ("lora__target_modules", " , "),
        ("lora__target_modules", 5),
        ("lora__use_rslora", "perhaps"),
        ("training__epochs", -1),
        ("training__epochs", 2.5),
        ("training__epochs", "soon"),
        ("training__learning_rate", "fast"),
        ("training__learning_rate", "nan"),
        ("training__learning_rate", "inf"),
        ("training__weight_decay", -0.1),
        ("training__max_grad_norm", 0),
        ("training__warmup", 1.0),
        ("training__seed", -1),
        ("evaluation__limit", 0),
        ("data__source", None),
        ("quantization__kind", "int3"),
        ("quantization__compute_dtype", "fp16"),
    ],
)
def test_a_bad_value_is_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises(KitError, match=key):
        profile("tiny-cpu", **{key: value})


def test_another_base_keeps_nothing_of_the_presets() -> None:
    mine = profile("llama2-7b-t4", base__source="me/my-llama").base
    assert (mine.title, mine.revision, mine.gated, mine.kaggle, mine.fallback) == (
        "me/my-llama",
        None,
        False,
        None,
        None,
    )
    assert profile("llama2-7b-t4", base__source="NousResearch/Llama-2-7b-chat-hf").base == LLAMA2_MIRROR
    assert profile("tiny-cpu", base__source="./Llama-2-7b-chat-hf", base__title="mine").base.licence == "llama2"


@pytest.mark.parametrize(
    ("wrong", "right"), [("lora_r", "lora__r"), ("r", "lora__r"), ("data__column", "data__columns"), ("xyzzy", None)]
)
def test_a_wrong_setting_hints_at_the_right_one(wrong: str, right: str | None) -> None:
    with pytest.raises(KitError) as caught:
        profile("tiny-cpu", **{wrong: 3})
    hint = f" (did you mean {right!r}?)" if right else ""
    assert str(caught.value).startswith(f"there is no setting {wrong!r}{hint}; the settings are ")


def test_all_linear_is_every_linear_layer() -> None:
    assert profile("llama2-7b-t4", lora__target_modules="all-linear").lora.target_modules == ALL_LINEAR


def test_another_base_does_not_get_the_recipe_of_the_embedded_one() -> None:
    other = profile("tiny-cpu", base__source="owner/model")
    assert (other.training.learning_rate, other.training.epochs, other.data.max_length) == ("auto", "auto", 1024)
    assert profile("tiny-cpu", base__source="owner/model", training__epochs=2).training.epochs == 2
    assert profile("tiny-cpu", base__source="tiny-chat").training.epochs == 7


def test_names_of_columns_may_contain_commas_where_they_are_given_one_by_one() -> None:
    chosen = profile("tiny-cpu", data__columns=("Frage (kurz, klar)", "Antwort"))
    assert chosen.data.columns == ("Frage (kurz, klar)", "Antwort")
