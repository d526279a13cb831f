"""Pushing to the Hub, against a small HTTP server that answers as the Hub does."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import huggingface_hub.constants
import pytest

import lora_kit as lk
from lora_kit.errors import KitError

TOKEN = "hf_thisIsAPlantedTokenThatNobodyMaySee"


class Hub(ThreadingHTTPServer):
    """Takes repositories, files as large ones (LFS) and commits; keeps what it was given."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: list[dict[str, Any]] = []
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
            self.server.repositories.append(json.loads(body))
            self.answer({"url": f"{place}/me/faq", "name": "me/faq"})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
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


def is_private(hub: Hub) -> bool:
    """What was asked for, in the words of older and newer versions of the library."""
    asked = hub.repositories[0]
    return asked.get("visibility") == "private" or asked.get("private") is True


def test_the_adapter_alone_is_pushed_with_its_card(done: lk.Run, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    page = lk.push(done, "me/faq")
    assert page.endswith("/me/faq/commit/1") and is_private(hub)
    adapter = lk.trained_adapter(done)
    assert hub.files["adapter_model.safetensors"] == (adapter / "adapter_model.safetensors").read_bytes()
    assert {"adapter_config.json", "tokenizer.json", "README.md"} <= hub.files.keys()
    assert not any(name.startswith("model") for name in hub.files)
    card = hub.files["README.md"].decode()
    assert card.startswith("---\nlicense: mit\n") and "rows to learn" in card and "not enough evidence" in card
    assert TOKEN not in capsys.readouterr().out and not any(TOKEN.encode() in data for data in hub.files.values())


def test_the_merged_model_is_pushed_when_told_with_its_certificate(done: lk.Run, hub: Hub) -> None:
    folder = lk.merge(done)
    lk.push(done, "me/faq", what="merged", private=False)
    assert hub.files["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert json.loads(hub.files["certificate.json"])["verdict"] == "certified"
    assert "certificate: certified" in hub.files["README.md"].decode() and not is_private(hub)


@pytest.mark.parametrize(("status", "way_out"), [(401, "HF_TOKEN"), (403, "HF_TOKEN"), (500, "again later")])
def test_a_refusal_is_one_sentence_without_the_token(
    done: lk.Run, hub: Hub, status: int, way_out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.status = status
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the library waits between its tries
    with pytest.raises(KitError, match=rf"did not take 'me/faq' .*{status}.*{way_out}") as refused:
        lk.push(done, "me/faq")
    assert TOKEN not in str(refused.value) and refused.value.__cause__ is None


def test_wrong_names_are_said_before_anything_is_sent(done: lk.Run) -> None:
    with pytest.raises(KitError, match="give owner/name"):
        lk.push(done, "faq")
    with pytest.raises(KitError, match="adapter, merged"):
        lk.push(done, "me/faq", what="everything")


def test_llama_2_s_notice_goes_with_every_export(done: lk.Run, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    import zipfile
    from dataclasses import replace

    from lora_kit.merging import NOTICE

    monkeypatch.setattr(done, "profile", replace(done.profile, base=replace(done.profile.base, licence="llama2")))
    lk.push(done, "me/faq")
    assert hub.files["NOTICE"].decode() == NOTICE and "license: llama2" in hub.files["README.md"].decode()
    with zipfile.ZipFile(lk.export(done)) as archive:
        assert archive.read("NOTICE").decode() == NOTICE
    assert (lk.export(done, "ollama") / "NOTICE").read_text() == NOTICE


def test_a_hub_that_cannot_be_reached_is_one_sentence(done: lk.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(KitError, match=r"did not take 'me/faq' .*check the network"):
        lk.push(done, "me/faq")
    with pytest.raises(KitError, match="None is no name of a repository"):
        lk.push(done, None)  # type: ignore[arg-type]
