"""Pushing to the Hub, against a small HTTP server that answers as the Hub does."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import yaml
from huggingface_hub import ModelCard

import lora_kit as lk
from lora_kit import exporting
from lora_kit.config import Base
from lora_kit.errors import KitError
from lora_kit.merging.cards import NOTICES, front_matter
from lora_kit.presets import PROFILES, profile

from .test_platforms import kaggle_secrets

TOKEN = "hf_thisIsAPlantedTokenThatNobodyMaySee"
# of the Hub's own list (hub-docs, docs/hub/repositories-licenses.md), those that a base of the kit may have
LICENCES = {"apache-2.0", "mit", "llama2", "llama3.2", "gemma", "unknown", "other"}


def refused(card: str) -> list[str]:
    """What the Hub says of a card's front matter: a licence of its list, or "other" with name and link; a model id."""
    found = re.match(r"---[\n\r]+([\s\S]*?)[\n\r]+---[\n\r]", card)
    data = yaml.safe_load(found[1]) if found else {}
    link, base = str(data.get("license_link")), data.get("base_model", "owner/name")
    named = re.fullmatch(r"[a-z0-9][a-z0-9.-]*", str(data.get("license_name"))) and "license_link" in data
    ok = {
        '"license" must be one of [apache-2.0, mit, ...]': data["license"] in LICENCES,
        '"license_name" and "license_link" must be set': data["license"] != "other" or named,
        '"license_link" must be an address or a file': link in ("None", "LICENSE") or link.startswith("https://"),
        f'"base_model" with value "{base}" is not valid': re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", base),
    }
    return [text for text, holds in ok.items() if not holds]


class Hub(ThreadingHTTPServer):
    """Takes repositories, files as large ones (LFS) and commits; keeps what it was given."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.is_private: bool | None = None
        self.files: dict[str, bytes] = {}
        self.large: dict[str, bytes] = {}
        self.status = 200


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *args: object) -> None: ...

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            found = b""
            while size := int(self.rfile.readline(), 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return found
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def answer(self, content: Any, status: int = 200) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_PUT(self) -> None:
        data = self.body()
        self.server.large[hashlib.sha256(data).hexdigest()] = data
        self.answer({})

    def do_GET(self) -> None:
        self.answer({"sha": "0" * 40, "id": "me/faq", "siblings": []})

    def do_POST(self) -> None:
        body, place = self.body(), f"http://127.0.0.1:{self.server.server_port}"
        if self.server.status != 200 or self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer({"error": "no"}, self.server.status if self.server.status != 200 else 401)
        elif self.path == "/api/repos/create":
            asked = json.loads(body)  # in the words of newer and older versions of the library
            self.server.is_private = asked.get("visibility") == "private" or asked.get("private") is True
            self.answer({"url": f"{place}/me/faq", "name": "me/faq"})
        elif self.path == "/api/validate-yaml":
            errors = [{"message": text} for text in refused(json.loads(body)["content"])]
            self.answer({"errors": errors, "warnings": []}, 400 if errors else 200)
        elif "/preupload/" in self.path:
            files = [
                {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular"}
                for f in json.loads(body)["files"]
            ]
            self.answer({"files": [f | {"shouldIgnore": False, "oid": None} for f in files]})
        elif self.path.endswith("/info/lfs/objects/batch"):
            asked = json.loads(body)["objects"]
            upload = {"upload": {"href": f"{place}/lfs"}}
            self.answer({"transfer": "basic", "objects": [o | {"actions": upload} for o in asked]})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.decode().splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    self.server.files[value["path"]] = base64.b64decode(value["content"])
                if line["key"] == "lfsFile":
                    self.server.files[value["path"]] = self.server.large[value["oid"]]
            self.answer({"commitUrl": f"{place}/me/faq/commit/1", "commitOid": "1" * 40, "success": True})
        else:
            self.answer({"error": self.path}, 404)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    place = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", place)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", place)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)  # the stand-in speaks LFS
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    server.shutdown()
    server.server_close()


def test_the_adapter_alone_is_pushed_with_its_card(done: lk.Run, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    page = lk.push(done, "me/faq")
    assert page.endswith("/me/faq/commit/1") and hub.is_private
    adapter = lk.trained_adapter(done)
    assert hub.files["adapter_model.safetensors"] == (adapter / "adapter_model.safetensors").read_bytes()
    assert {"adapter_config.json", "tokenizer.json", "README.md"} <= hub.files.keys()
    assert not any(name.startswith("model") for name in hub.files)
    card = hub.files["README.md"].decode()
    assert ModelCard(card).data.license == "mit" and "rows to learn" in card and "not enough evidence" in card
    assert TOKEN not in capsys.readouterr().out and not any(TOKEN.encode() in data for data in hub.files.values())


def test_the_merged_model_is_pushed_with_its_certificate(done: lk.Run, hub: Hub) -> None:
    folder = lk.merge(done)
    lk.push(done, "me/faq", what="merged", private=False)
    assert hub.files["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert json.loads(hub.files["certificate.json"])["verdict"] == "certified"
    assert "certificate: certified" in hub.files["README.md"].decode() and hub.is_private is False


def test_the_token_is_kaggle_s_secret_also_for_a_base_that_needs_none(
    done: lk.Run, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    kaggle_secrets(monkeypatch, {"HF_TOKEN": TOKEN})
    lk.push(done, "me/faq")
    assert hub.files and os.environ["HF_TOKEN"] == TOKEN


@pytest.mark.parametrize(("status", "way_out"), [(401, "HF_TOKEN"), (403, "HF_TOKEN"), (500, "again later")])
def test_a_refusal_is_one_sentence_without_the_token(
    done: lk.Run, hub: Hub, status: int, way_out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.status = status
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the library waits between its tries
    with pytest.raises(KitError, match=rf"did not take 'me/faq' .*{status}.*{way_out}") as error:
        lk.push(done, "me/faq")
    assert TOKEN not in str(error.value) and error.value.__cause__ is None


def test_wrong_names_are_refused_before_anything_is_sent(done: lk.Run) -> None:
    with pytest.raises(KitError, match="None"):
        lk.push(done, None)  # type: ignore[arg-type]
    with pytest.raises(KitError, match="give owner/name"):
        lk.push(done, "faq")
    with pytest.raises(KitError, match="adapter, merged"):
        lk.push(done, "me/faq", what="everything")


def test_llama_2_s_notice_goes_with_every_export(done: lk.Run, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(done, "profile", replace(done.profile, base=replace(done.profile.base, licence="llama2")))
    lk.push(done, "me/faq")
    assert hub.files["NOTICE"].decode() == NOTICES["llama2"] and "license: llama2" in hub.files["README.md"].decode()
    with zipfile.ZipFile(lk.export(done)) as archive:
        assert archive.read("NOTICE").decode() == NOTICES["llama2"]
    notice = lk.export(done, "ollama") / "NOTICE"
    assert notice.read_text() == NOTICES["llama2"]
    notice.unlink()  # the folder is every test's


def test_a_hub_that_cannot_be_reached_is_one_sentence(done: lk.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(KitError, match=r"did not take 'me/faq' .*check the network"):
        lk.push(done, "me/faq")


MINE = "some-lab/Tiny_Llama-0.5B"
BASES = {
    **{name: preset.base for name, preset in PROFILES.items()},
    "another of the Hub": profile("tiny-cpu", base__source=MINE).base,
    "with a licence of its own": Base(MINE, "Tiny", licence="Llama 3.2 Community License!"),
    "a folder": profile("tiny-cpu", base__source="/home/ada/models/mine").base,
    "a folder near by": profile("tiny-cpu", base__source="./models/mine").base,
    "a folder with a licence": Base("/home/ada/models/mine", "mine", licence="apache-2.0"),
}


@pytest.mark.parametrize("kind", ["adapter", "merged"])
@pytest.mark.parametrize("base", BASES.values(), ids=BASES.keys())
def test_the_hub_takes_the_card_of_every_base(base: Base, kind: str) -> None:
    text = front_matter(base, kind)
    data = yaml.safe_load(text)
    assert not refused(f"---\n{text}\n---\n")
    assert data["library_name"] == {"adapter": "peft", "merged": "transformers"}[kind]
    assert data["tags"] == ["lora", "lora_kit"] and data["pipeline_tag"] == "text-generation"
    on_hub = base.gated or base.revision is not None or base.source == MINE
    assert data.get("base_model") == (base.source if on_hub else None) and "/home/ada" not in text
    if base.source == MINE:
        assert (data["license"], data["license_link"]) == ("other", f"https://huggingface.co/{MINE}")
    else:
        assert data["license"] == ("unknown" if base.licence == "see its page" else base.licence)


def test_a_folder_that_is_named_like_a_model_of_the_hub_is_no_base_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert yaml.safe_load(front_matter(Base(MINE), "adapter"))["base_model"] == MINE
    (tmp_path / MINE).mkdir(parents=True)
    assert "base_model" not in yaml.safe_load(front_matter(Base(MINE), "adapter"))


def test_a_base_without_a_known_licence_is_pushed(done: lk.Run, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    base = replace(done.profile.base, licence="see its page")
    monkeypatch.setattr(done, "profile", replace(done.profile, base=base))
    lk.push(done, "me/faq")
    assert ModelCard(hub.files["README.md"].decode()).data.license == "unknown"


def test_a_card_or_name_that_the_hub_refuses_is_shown_with_its_reason(
    done: lk.Run, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "adapter_files", lambda run: {"README.md": b"---\nlicense: mine\n---\n"})
    with pytest.raises(KitError, match='"license" must be one of') as error:
        lk.push(done, "me/faq")
    assert "network" not in str(error.value) and not hub.files
    with pytest.raises(KitError, match="me/faq--1") as error:
        lk.push(done, "me/faq--1")
    assert "--" in str(error.value) and "network" not in str(error.value)
