"""Colab and Kaggle with fakes: secrets without a prompt, Drive when asked for, what is staged for a push."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import nbformat
import pytest
import stage_kaggle

import lora_kit as lk
from lora_kit import hosted, machine, widgets

from .test_kaggle_metadata import FIELDS

NAMES = ("HF_TOKEN", "KAGGLE_KERNEL_RUN_TYPE", "LORA_KIT_RUNS")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that undoing also removes what the code sets
        monkeypatch.delenv(name)


def fake(monkeypatch: pytest.MonkeyPatch, name: str, **members: Any) -> None:
    module = ModuleType(name)
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, name, module)


def kaggle_secrets(monkeypatch: pytest.MonkeyPatch, secrets: dict[str, str]) -> None:
    client = SimpleNamespace(get_secret=lambda name: secrets[name])
    fake(monkeypatch, "kaggle_secrets", UserSecretsClient=lambda: client)


def test_kaggle_s_secret_is_taken_without_a_prompt_and_a_missing_one_is_no_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kaggle_secrets(monkeypatch, {"HF_TOKEN": "hf_secret"})
    machine.take_secret()
    assert "HF_TOKEN" not in os.environ  # not on Kaggle
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    machine.take_secret()
    assert os.environ["HF_TOKEN"] == "hf_secret"
    monkeypatch.delenv("HF_TOKEN")
    kaggle_secrets(monkeypatch, {})
    machine.take_secret()
    assert "HF_TOKEN" not in os.environ and capsys.readouterr().out == ""


COLAB = {  # of Colab's own package, what matters here
    "__init__.py": "",
    "_shell.py": "class Shell: ...",
    "errors.py": "class Error(Exception): ...",
    "userdata.py": """
class NotebookAccessError(Exception): ...
class SecretNotFoundError(Exception): ...
class TimeoutException(Exception): ...
def get(name):
    ANSWER
""",
}
ON_COLAB = """
import builtins, google.colab._shell
builtins.get_ipython = google.colab._shell.Shell
import lora_kit as lk
checkup = lk.doctor("llama2-7b-t4")
print(checkup)
print(lk.environment_report())
print({check.name: check.ok for check in checkup}["token"])
"""


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("return 'hf_planted_secret'", True),
        ("raise SecretNotFoundError(name)", False),
        ("raise TimeoutException(name)", False),  # what runs outside Colab's page
    ],
)
def test_colab_s_secret_is_taken_without_a_prompt_and_never_shown(tmp_path: Path, answer: str, found: bool) -> None:
    """In a process of its own, with the Hub's library as it is and a stand-in for google.colab."""
    package = tmp_path / "google" / "colab"
    package.mkdir(parents=True)
    for name, text in COLAB.items():
        (package / name).write_text(text.replace("ANSWER", answer))
    given = os.environ | {"PYTHONPATH": str(tmp_path), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", ON_COLAB], env=given, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "platform  colab" in done.stdout and "hf_planted" not in done.stdout + done.stderr
    assert done.stdout.endswith(f"{found}\n")
    assert found or "set the secret HF_TOKEN" in done.stdout


def test_drive_is_asked_for_only_on_colab_and_refusal_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(lk.KitError, match="elsewhere set LORA_KIT_RUNS"):
        lk.keep_on_drive()
    mounted: list[str] = []
    fake(monkeypatch, "google")
    fake(monkeypatch, "google.colab", drive=SimpleNamespace(mount=mounted.append))
    assert machine.platform() == "colab"
    lk.keep_on_drive("course")
    assert machine.scratch_root(machine.default_root()) == Path("/content/runs")  # a merged 7B fills a Drive
    assert mounted == ["/content/drive"] and machine.default_root() == Path("/content/drive/MyDrive/course")
    assert "Drive's folder course" in capsys.readouterr().out

    def refuse(place: str) -> None:
        raise ValueError("mount failed")

    fake(monkeypatch, "google.colab", drive=SimpleNamespace(mount=refuse))
    with pytest.raises(lk.KitError, match="Drive was not granted"):
        lk.keep_on_drive()


def test_a_file_is_asked_for_on_colab_and_found_among_kaggle_s_inputs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(lk.KitError, match="give the path"):
        lk.upload()
    fake(monkeypatch, "google")
    monkeypatch.chdir(tmp_path)
    for given, found in ({"faq.csv": b"q,a"}, True), ({}, False), ({"a.csv": b"", "b.csv": b""}, False):
        fake(monkeypatch, "google.colab", files=SimpleNamespace(upload=lambda given=given: given))
        if found:
            assert lk.upload() == tmp_path / "faq.csv"
        else:
            with pytest.raises(lk.KitError, match="choose one file"):
                lk.upload()
    monkeypatch.delitem(sys.modules, "google.colab")
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    monkeypatch.setattr(hosted, "KAGGLE_INPUT", tmp_path)
    model, mine = tmp_path / "models" / "llama", tmp_path / "my-faq"
    for folder in (model, mine):
        folder.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (model / name).write_text("{}")
    with pytest.raises(lk.KitError, match="Add Input"):
        lk.upload()
    (mine / "faq.jsonl").write_text("{}")
    assert lk.upload() == mine / "faq.jsonl"
    (mine / "more.csv").write_text("")
    with pytest.raises(lk.KitError, match=r"faq.jsonl, .*more.csv"):
        lk.upload()


def test_the_form_asks_for_a_file_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file, asked = tmp_path / "faq.jsonl", list[int]()
    file.write_text('{"question": "When?", "answer": "At six."}\n')
    monkeypatch.setattr(widgets, "upload", lambda: asked.append(1) or file)
    form = lk.settings("tiny", "upload")
    runs = [form.run(root=tmp_path) for _ in range(2)]
    assert len(asked) == 1 and {run.profile.data.source for run in runs} == {str(file)}


def test_colab_s_browser_gets_the_file_and_others_are_told_where_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    lk.download(tmp_path / "a.zip")
    assert "a.zip" in capsys.readouterr().out
    given: list[str] = []
    fake(monkeypatch, "google")
    fake(monkeypatch, "google.colab", files=SimpleNamespace(download=given.append))
    lk.download(tmp_path / "a.zip")
    assert given == [str(tmp_path / "a.zip")] and capsys.readouterr().out == ""


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stage_kaggle.stage("ada-l", "tinyllama", tmp_path_factory.mktemp("staged") / "kaggle")


def test_a_staged_kernel_is_whole(staged: Path) -> None:
    metadata = json.loads((staged / "kernel-metadata.json").read_text())
    assert {name: type(value) for name, value in metadata.items()} == FIELDS
    assert metadata["id"].startswith("ada-l/") and metadata["dataset_sources"] == ["ada-l/lora-kit-wheel"]
    assert metadata["model_sources"] == [] and metadata["machine_shape"] == "NvidiaTeslaT4"
    notebook = nbformat.read(staged / metadata["code_file"], as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert any(cell.source.startswith('BASE = "tinyllama"') for cell in code)
    assert not any(cell.outputs for cell in code)
    (wheel,) = (staged / "dataset").glob("lora_kit-*.whl")
    described = json.loads((staged / "dataset" / "dataset-metadata.json").read_text())
    assert wheel.stat().st_size > 10**6 and described["id"] == "ada-l/lora-kit-wheel"


def test_staging_again_keeps_what_a_kernel_gave_back_and_your_own_datasets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = stage_kaggle.ROOT / "kaggle-kernel-metadata.json"
    root, target = tmp_path / "root", tmp_path / "kaggle"
    (root / "notebooks").mkdir(parents=True)
    told = json.loads(real.read_text()) | {"dataset_sources": ["ada/my-faq"]}
    (root / real.name).write_text(json.dumps(told))
    source = (stage_kaggle.ROOT / "notebooks" / "00_all_in_one.ipynb").read_text()
    (root / "notebooks" / "00_all_in_one.ipynb").write_text(source.replace('BASE = \\"auto\\"', 'BASE = \\"llama-2\\"'))
    monkeypatch.setattr(stage_kaggle, "ROOT", root)
    monkeypatch.setattr(stage_kaggle, "wheel", lambda folder: None)
    (target / "output").mkdir(parents=True)
    (target / "output" / "adapter.zip").touch()
    stage_kaggle.stage("ada", "tinyllama", target)
    assert (target / "output" / "adapter.zip").exists()
    metadata = json.loads((target / "kernel-metadata.json").read_text())
    assert metadata["dataset_sources"] == ["ada/my-faq", "ada/lora-kit-wheel"]
    assert 'BASE = \\"tinyllama\\"' in (target / "00_all_in_one.ipynb").read_text()


def test_llama_2_comes_as_a_model_source_and_its_licence_is_named_first() -> None:
    metadata = stage_kaggle.kernel("ada", "auto")
    assert [source.count("/") for source in metadata["model_sources"]] == [4]
    told = stage_kaggle.told("ada", "auto", metadata)
    assert (
        told.index("licence") < told.index("kaggle datasets create") < told.index("kaggle kernels push -p build/kaggle")
    )
    assert "licence" not in stage_kaggle.told("ada", "tiny", stage_kaggle.kernel("ada", "tiny"))


@pytest.mark.parametrize(("user", "base", "said"), [("", "auto", "no Kaggle user"), ("ada", "llama3", "is not known")])
def test_a_wrong_user_or_base_is_said(tmp_path: Path, user: str, base: str, said: str) -> None:
    with pytest.raises(SystemExit, match=said):
        stage_kaggle.stage(user, base, tmp_path / "kaggle")


def test_kaggle_s_own_command_line_takes_it(staged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its checks stand before the network; a client that keeps the request takes the network's place."""
    monkeypatch.setenv("KAGGLE_USERNAME", "ada-l")
    monkeypatch.setenv("KAGGLE_KEY", "none")
    extended = pytest.importorskip("kaggle.api.kaggle_api_extended")
    kept: list[Any] = []

    class Client:
        def __enter__(self) -> SimpleNamespace:
            def save_kernel(request: Any) -> SimpleNamespace:
                kept.append(request)
                return SimpleNamespace(error=None)

            return SimpleNamespace(kernels=SimpleNamespace(kernels_api_client=SimpleNamespace(save_kernel=save_kernel)))

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(extended.KaggleApi, "build_kaggle_client", lambda self: Client())
    extended.KaggleApi().kernels_push(str(staged))
    assert kept[0].slug == json.loads((staged / "kernel-metadata.json").read_text())["id"]
