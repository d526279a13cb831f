"""Where the base model comes from: every place, every reason why it cannot be had, and no download then."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

from lora_kit import base as base_module
from lora_kit.base import ASSETS, access_problem, check_llama, identity, load_tokenizer, locate
from lora_kit.errors import KitError
from lora_kit.profiles import LLAMA2, Base

PAGE = f"https://huggingface.co/{LLAMA2.source}"


def llama(folder: Path, kind: str = "llama", weights: str = "model.safetensors") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    (folder / weights).write_bytes(b"0")
    return folder


class Hub:
    """A Hub that answers `auth_check` with `error` and counts what is downloaded."""

    def __init__(self, error: Exception | None, folder: Path, cached: bool = False) -> None:
        self.error, self.folder, self.cached = error, folder, cached
        self.downloads: list[dict[str, Any]] = []

    def auth_check(self, *_: Any, **__: Any) -> None:
        if self.error:
            raise self.error

    def snapshot_download(self, source: str, *, local_files_only: bool = False, **options: Any) -> str:
        if local_files_only and not self.cached:
            raise LocalEntryNotFoundError("not in the cache")
        if not local_files_only:
            self.downloads.append({"source": source, **options})
        return str(llama(self.folder))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Hub]:
    """Put a Hub of the test's own in the place of the real one."""

    def replace_hub(error: Exception | None = None, cached: bool = False, offline: bool = False) -> Hub:
        fake = Hub(error, tmp_path / "cache", cached)
        monkeypatch.setattr("huggingface_hub.HfApi.auth_check", fake.auth_check)
        monkeypatch.setattr("huggingface_hub.snapshot_download", fake.snapshot_download)
        monkeypatch.setenv("HF_HUB_OFFLINE", "1" if offline else "0")
        return fake

    return replace_hub


def refusal(kind: type[Exception], status: int) -> Exception:
    response: Any = SimpleNamespace(status_code=status, headers={}, request=None)
    return kind("refused", response=response)  # type: ignore[call-arg]


REFUSALS = [
    (refusal(GatedRepoError, 401), "no token is set: accept the licence on"),
    (refusal(GatedRepoError, 403), "this token has no access: ask for it on"),
    (refusal(RepositoryNotFoundError, 404), "there is no model"),
    (ConnectionError("no route"), r"cannot be reached .*\(ConnectionError\): check the network or give a local folder"),
]
each_refusal = pytest.mark.parametrize(("error", "said"), REFUSALS, ids=["no token", "no grant", "missing", "offline"])


def test_the_embedded_model_is_found_and_identified() -> None:
    assert locate(Base()) == ASSETS / "tiny-chat"
    assert access_problem(Base()) is None
    known = identity(Base())
    assert known["source"] == "tiny-chat"
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= known["files"].keys()


def test_the_embedded_tokenizer_pads_with_unk() -> None:
    tokenizer = load_tokenizer(Base())
    assert (tokenizer.pad_token, tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (
        "<unk>",
        0,
        1,
        2,
    )


def test_a_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    assert locate(Base(source=str(llama(tmp_path / "mine")))) == tmp_path / "mine"


def test_other_weights_are_another_identity(tmp_path: Path) -> None:
    base = Base(source=str(llama(tmp_path)))
    before = identity(base)
    (tmp_path / "model.safetensors").write_bytes(b"1")
    assert identity(base) != before


@pytest.mark.parametrize(
    "place", ["models/metaresearch/llama-2/pytorch/7b-chat-hf/1", "llama-2/pytorch/7b-chat-hf/1"], ids=["new", "old"]
)
def test_a_model_attached_in_kaggle_is_found_without_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: Callable[..., Hub], place: str
) -> None:
    fake = hub(refusal(GatedRepoError, 401))
    monkeypatch.setattr(base_module, "KAGGLE_INPUT", tmp_path / "input")
    attached = llama(tmp_path / "input" / place)
    assert locate(LLAMA2) == attached
    assert access_problem(LLAMA2) is None
    assert fake.downloads == []


def test_another_architecture_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(KitError, match=r"holds a 'mistral' model; lora_kit fine-tunes Llama"):
        locate(Base(source=str(llama(tmp_path, kind="mistral"))))


def test_weights_that_can_run_code_are_refused(tmp_path: Path) -> None:
    with pytest.raises(KitError, match=r"has no \*\.safetensors file"):
        locate(Base(source=str(llama(tmp_path, weights="pytorch_model.bin"))))


@pytest.mark.parametrize("text", [None, "", "{", "[]", "null", "3", "{}", b"\xff\xfe"])
def test_a_damaged_config_is_refused(tmp_path: Path, text: str | bytes | None) -> None:
    config = llama(tmp_path) / "config.json"
    config.unlink()
    if text is not None:
        config.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(KitError, match=r"has no readable config\.json: give the folder of a Llama model"):
        check_llama(tmp_path)


@each_refusal
def test_no_access_says_why_and_the_way_out(hub: Callable[..., Hub], error: Exception, said: str) -> None:
    hub(error)
    with pytest.raises(KitError, match=said) as caught:
        locate(LLAMA2)
    assert LLAMA2.source in str(caught.value)
    assert isinstance(error, ConnectionError) or PAGE in str(caught.value)
    assert access_problem(LLAMA2) == str(caught.value)


@each_refusal
def test_nothing_is_downloaded_without_access(hub: Callable[..., Hub], error: Exception, said: str) -> None:
    fake = hub(error)
    with pytest.raises(KitError):
        locate(LLAMA2)
    assert fake.downloads == []


def test_with_access_the_pinned_revision_is_downloaded_without_other_weight_formats(hub: Callable[..., Hub]) -> None:
    fake = hub()
    assert locate(LLAMA2) == fake.folder
    (download,) = fake.downloads
    assert (download["source"], download["revision"]) == (LLAMA2.source, LLAMA2.revision)
    assert not [pattern for pattern in download["allow_patterns"] if "bin" in pattern or "pth" in pattern]


def test_what_the_cache_holds_needs_no_access(hub: Callable[..., Hub]) -> None:
    fake = hub(ConnectionError(), cached=True, offline=True)
    assert locate(LLAMA2) == fake.folder
    assert fake.downloads == []


def test_offline_mode_forbids_the_download(hub: Callable[..., Hub]) -> None:
    fake = hub(offline=True)
    with pytest.raises(KitError, match=r"is not in the cache and HF_HUB_OFFLINE forbids the download"):
        locate(LLAMA2)
    assert fake.downloads == []


def test_a_download_that_breaks_off_is_one_sentence(hub: Callable[..., Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    fake = hub()

    def broken(*_: Any, local_files_only: bool = False, **__: Any) -> NoReturn:
        raise ConnectionError("reset")

    monkeypatch.setattr("huggingface_hub.snapshot_download", broken)
    with pytest.raises(
        KitError, match=r"broke off \(ConnectionError: reset\): run it again, it goes on where it stopped"
    ):
        locate(LLAMA2)
    assert fake.downloads == []


@pytest.mark.parametrize("handle", ["llama", "a/b/c/d", "a/b/c/d/e/f"])
def test_a_wrong_kaggle_handle_is_refused(handle: str) -> None:
    with pytest.raises(KitError, match=rf"base__kaggle='{handle}' must be owner/model/framework/variation/version"):
        access_problem(replace(LLAMA2, kaggle=handle))
