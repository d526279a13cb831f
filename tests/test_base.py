"""Where the base model comes from: every place, every reason why it cannot be had, and no download then."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from safetensors.torch import save_file

from lora_kit import base as base_module
from lora_kit import files
from lora_kit.base import ASSETS, SIZES, access_problem, identity, load_tokenizer, locate, read_config
from lora_kit.config import Base
from lora_kit.errors import KitError
from lora_kit.model_files import Weights, companions
from lora_kit.presets import LLAMA2, profile

PAGE = f"https://huggingface.co/{LLAMA2.source}"


def llama(folder: Path, kind: str = "llama", weights: str = "model.safetensors") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": kind} | dict.fromkeys(SIZES, 1)))
    (folder / weights).write_bytes(b"0")
    return folder


class Hub:
    """A Hub that answers `auth_check` with `error`, breaks off with `fault`, and counts what is downloaded."""

    def __init__(self, folder: Path, error: Exception | None, fault: Exception | None, cached: bool) -> None:
        self.folder, self.error, self.fault, self.cached = folder, error, fault, cached
        self.downloads: list[dict[str, Any]] = []

    def auth_check(self, *_: Any, **__: Any) -> None:
        if self.error:
            raise self.error

    def snapshot_download(self, source: str, *, local_files_only: bool = False, **options: Any) -> str:
        if local_files_only and not self.cached:
            raise LocalEntryNotFoundError("not in the cache")
        if self.fault:
            raise self.fault
        if not local_files_only:
            self.downloads.append({"source": source, **options})
        return str(llama(self.folder))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Hub]:
    """Put a Hub of the test's own in the place of the real one."""

    def replace_hub(error: Exception | None = None, fault: Exception | None = None, cached: bool = False) -> Hub:
        fake = Hub(tmp_path / "cache", error, fault, cached)
        monkeypatch.setattr("huggingface_hub.HfApi.auth_check", fake.auth_check)
        monkeypatch.setattr("huggingface_hub.snapshot_download", fake.snapshot_download)
        return fake

    return replace_hub


def refusal(kind: type[Exception], status: int) -> Exception:
    response: Any = SimpleNamespace(status_code=status, headers={}, request=None)
    return kind("refused", response=response)  # type: ignore[call-arg]


REFUSALS = {
    "no token": (refusal(GatedRepoError, 401), f"licence on {PAGE} .*HF_TOKEN"),
    "no grant": (refusal(GatedRepoError, 403), f"ask for it on {PAGE}"),
    "missing": (refusal(RepositoryNotFoundError, 404), f"check the name on {PAGE}"),
    "an old token": (refusal(HfHubHTTPError, 401), "does not take your token.*set another HF_TOKEN"),
    "no network": (ConnectionError("no route"), r"\(ConnectionError: no route\): check the network or give a local"),
    "offline mode": (OfflineModeIsEnabled("please unset HF_HUB_OFFLINE"), "HF_HUB_OFFLINE"),
}


def test_the_embedded_model_is_found_and_identified() -> None:
    assert locate(Base()) == ASSETS / "tiny-chat" and access_problem(Base()) is None
    known = identity(Base())
    assert known["source"] == "tiny-chat"
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= known["files"].keys()
    tokenizer = load_tokenizer(Base())
    assert (tokenizer.pad_token, tokenizer.unk_token_id, tokenizer.bos_token_id) == ("<unk>", 0, 1)


@pytest.mark.parametrize("said", ["Foo", None])
def test_code_beside_a_tokenizer_is_neither_run_nor_asked_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str | None
) -> None:
    folder, ran = Path(shutil.copytree(ASSETS / "tiny-chat", tmp_path / "base")), tmp_path / "ran"
    code = "from transformers import PreTrainedTokenizerFast\nclass T(PreTrainedTokenizerFast): pass\n"
    (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w').close()\n{code}")
    forged = {"auto_map": {"AutoTokenizer": [None, "evil.T"]}, "tokenizer_class": said}
    config = json.loads((folder / "tokenizer_config.json").read_text()) | forged
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    with contextlib.suppress(KitError):  # or another class of transformers' own reads it
        load_tokenizer(Base(source=str(folder)))
    assert not ran.exists()


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("text", ["", "[]", '{"version": 3', "\0"])
def test_a_broken_tokenizer_is_one_sentence(tmp_path: Path, name: str, text: str) -> None:
    folder = Path(shutil.copytree(ASSETS / "tiny-chat", tmp_path / "base"))
    (folder / name).write_text(text)
    with pytest.raises(KitError, match=r"tokenizer in .*base cannot be loaded"):
        load_tokenizer(Base(source=str(folder)))


def test_a_folder_is_taken_as_it_is_and_other_weights_are_another_identity(tmp_path: Path) -> None:
    base = Base(source=str(llama(tmp_path)))
    assert locate(base) == tmp_path
    before = identity(base)
    (tmp_path / "model.safetensors").write_bytes(b"1")
    assert identity(base) != before


def test_a_big_file_is_known_by_its_size_and_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "big"
    whole = files.file_identity
    monkeypatch.setattr(files, "BIG", 2**23)
    seen = set()
    for size, place in ((2**23, None), (2**23 + 1, None), (2**23, 0), (2**23, 2**23 - 1), (2**23 - 1, None)):
        data = bytearray(size)
        if place is not None:
            data[place] = 1
        path.write_bytes(data)
        seen.add(whole(path))
    assert len(seen) == 5 and sum(name.startswith("sampled ") for name in seen) == 4


@pytest.mark.parametrize("place", ["models/metaresearch/llama-2/pytorch/7b-chat-hf/1", "llama-2/pytorch/7b-chat-hf/1"])
def test_a_model_attached_in_kaggle_is_found_without_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: Callable[..., Hub], place: str
) -> None:
    fake = hub(refusal(GatedRepoError, 401))
    monkeypatch.setattr(base_module, "KAGGLE_INPUT", tmp_path / "input")
    attached = llama(tmp_path / "input" / place)
    assert locate(LLAMA2) == attached and access_problem(LLAMA2) is None and fake.downloads == []


@pytest.mark.parametrize("handle", ["llama", "a/b/c/d", "a/b/c/d/e/f"])
def test_a_wrong_kaggle_handle_is_refused(handle: str) -> None:
    with pytest.raises(KitError, match=f"base__kaggle='{handle}' must be owner/model/framework/variation/version"):
        profile("llama2-7b-t4", base__kaggle=handle)


def test_another_architecture_and_weights_that_can_run_code_are_refused(tmp_path: Path) -> None:
    with pytest.raises(KitError, match=r"'bloom'.*llama"):
        locate(Base(source=str(llama(tmp_path / "other", kind="bloom"))))
    with pytest.raises(KitError, match=r"no \*\.safetensors"):
        locate(Base(source=str(llama(tmp_path / "pickle", weights="pytorch_model.bin"))))


@pytest.mark.parametrize("text", [None, "", "{", "[]", "null", "3", "{}", b"\xff\xfe", "[" * 10**5])
def test_a_damaged_config_is_refused(tmp_path: Path, text: str | bytes | None) -> None:
    config = llama(tmp_path) / "config.json"
    config.unlink()
    if text is not None:
        config.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(KitError, match=r"config\.json: give the folder of a chat model"):
        read_config(tmp_path)
    with pytest.raises(KitError, match=r"config\.json"):
        locate(Base(source=str(tmp_path)))  # a folder is never taken for a name on the Hub


@pytest.mark.parametrize("value", [None, 0, -1, "x", [1], 2.5, True])
@pytest.mark.parametrize("name", SIZES)
def test_a_size_that_is_none_is_refused(tmp_path: Path, name: str, value: Any) -> None:
    config = llama(tmp_path) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {name: value}))
    with pytest.raises(KitError, match=f"config.json has {name}="):
        locate(Base(source=str(tmp_path)))


@pytest.mark.parametrize("why", REFUSALS)
def test_without_access_nothing_is_downloaded_and_the_way_out_is_named(
    hub: Callable[..., Hub], monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    error, way_out = REFUSALS[why]
    monkeypatch.setattr(base_module, "has_token", lambda: why == "an old token")
    fake = hub(error)
    with pytest.raises(KitError, match=way_out) as caught:
        locate(LLAMA2)
    assert LLAMA2.source in str(caught.value) and access_problem(LLAMA2) == str(caught.value)
    assert fake.downloads == []


def test_an_index_that_leads_elsewhere_and_an_adapter_beside_are_refused(tmp_path: Path) -> None:
    for name in ("../other/model.safetensors", "missing.safetensors", 3):
        folder = llama(tmp_path / "base")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"lm_head.weight": name}}))
        with pytest.raises(KitError, match="files that are not beside it"):
            locate(Base(source=str(folder)))
    (folder / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(KitError, match="files that are not beside it"):
        locate(Base(source=str(folder)))
    (llama(tmp_path / "tuned") / "adapter_config.json").write_text("{}")
    with pytest.raises(KitError, match="also holds an adapter"):
        locate(Base(source=str(tmp_path / "tuned")))


def test_with_access_the_pinned_revision_is_downloaded_without_other_weight_formats(hub: Callable[..., Hub]) -> None:
    fake = hub()
    assert locate(LLAMA2) == fake.folder
    (download,) = fake.downloads
    assert (download["source"], download["revision"]) == (LLAMA2.source, LLAMA2.revision)
    assert not [pattern for pattern in download["allow_patterns"] if "bin" in pattern or "pth" in pattern]
    assert "consolidated*" in download["ignore_patterns"]


def test_the_cache_needs_no_access(hub: Callable[..., Hub]) -> None:
    fake = hub(ConnectionError(), cached=True)
    assert locate(LLAMA2) == fake.folder and fake.downloads == []


def test_a_server_that_repeats_the_token_does_not_show_it(
    hub: Callable[..., Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub(fault=ConnectionError("no proxy for Bearer hf_secret"))
    with pytest.raises(KitError, match=r"Bearer \*\*\*") as caught:
        locate(LLAMA2)
    assert "hf_secret" not in "".join(traceback.format_exception(caught.value))


def test_only_a_model_s_own_files_go_with_it(tmp_path: Path) -> None:
    folder = llama(tmp_path / "base")
    for name in ("kaggle.json", "notes.json", "tokenizer.json", "LICENSE.txt"):
        (folder / name).write_text("{}")
    (tmp_path / "credentials").write_text("secret")
    (folder / "vocab.json").symlink_to(tmp_path / "credentials")
    (folder / "NOTICE").symlink_to(tmp_path / "credentials")
    assert [file.name for file in companions(folder)] == ["LICENSE.txt", "config.json", "tokenizer.json"]
    cached = tmp_path / "models--a--b" / "snapshots" / "1"
    cached.mkdir(parents=True)
    (cached.parents[1] / "blobs").mkdir()
    (cached.parents[1] / "blobs" / "0a").write_text("{}")
    (cached / "config.json").symlink_to("../../blobs/0a")
    assert companions(cached) == [cached / "config.json"]


def test_a_download_that_breaks_off_is_one_sentence(hub: Callable[..., Hub]) -> None:
    hub(fault=ConnectionError("reset\nby peer"))
    with pytest.raises(KitError, match=r"ConnectionError: reset\).* again to go on"):
        locate(LLAMA2)


def test_the_same_weights_in_another_format_beside_are_passed_over(tmp_path: Path) -> None:
    save_file({"model.norm.weight": torch.ones(2)}, tmp_path / "model.safetensors")
    save_file({"norm.weight": torch.ones(2)}, tmp_path / "consolidated.safetensors")
    assert [*Weights(tmp_path)] == ["model.norm.weight"]


def test_a_download_that_broke_off_is_no_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_module, "_snapshot", lambda base, **options: tmp_path)
    here = partial(base_module.local_folder, Base("owner/model", "model"))
    (tmp_path / "config.json").write_text("{}")
    assert here() is None
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": names[0], "b": names[1]}}))
    (tmp_path / names[0]).touch()
    assert here() is None
    (tmp_path / names[1]).touch()
    assert here() == tmp_path
