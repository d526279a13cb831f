"""The command line: a mistake is one line and status 2, never a traceback; `runs` shows what there is."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

import lora_kit as lk
from lora_kit import machine
from lora_kit.__main__ import COMMANDS, main, parser
from lora_kit.checkup import Checkup
from lora_kit.runs import Run

TINY = ["--profile", "tiny-cpu"]
MISTAKES = {
    "unknown profile": (["plan", "--profile", "huge"], "there is no profile 'huge'; the profiles are tiny-cpu"),
    "unknown setting": (["train", *TINY, "--set", "lora__rank=4"], "there is no setting 'lora__rank'"),
    "no value": (["train", *TINY, "--set", "lora__r"], "'lora__r' is no setting with a value: write NAME=VALUE"),
    "wrong type": (["train", *TINY, "--set", "lora__r=many"], "lora__r='many' must be"),
    "wrong value": (["train", *TINY, "--set", "lora__r=0"], "lora__r='0' must be a whole number above 0"),
    "no such data": (
        ["prepare", *TINY, "--data", "gone.jsonl"],
        "data='gone.jsonl' is neither a file, a folder, a Hub",
    ),
    "no GPU": (["train", "--profile", "tinyllama-t4"], "needs a CUDA GPU and there is none"),
    "two GPUs": (["plan", "--profile", "llama2-7b-2xt4"], "needs a CUDA GPU and there is none"),
    "unknown export": (["export", *TINY, "--to", "onnx"], "there is no export 'onnx'; lora_kit exports adapter-zip"),
    "check of a zip": (["export", *TINY, "--check"], "export gguf, gguf-q8_0 or ollama"),
    "another GGUF": (["export", *TINY, "--to", "gguf-q4_k_m"], "llama-quantize MODEL.gguf SMALL.gguf Q4_K_M"),
    "unknown profile for the doctor": (["doctor", "--profile", "huge"], "there is no profile 'huge'"),
}


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_run_root: Path) -> None:
    monkeypatch.setattr(machine, "gpu_count", lambda: 0)
    monkeypatch.setattr(machine, "gpu", lambda: None)


@pytest.mark.parametrize(("arguments", "said"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_line_and_status_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith("error: ")
    assert stderr.count("\n") == 1
    assert said in stderr


@pytest.mark.parametrize(
    ("arguments", "stage"),
    [
        (["export"], "training"),
        (["export", "--to", "ollama"], "merged"),
        (["chat", "hi"], "training"),
        (["evaluate"], "merged"),
    ],
)
def test_a_command_makes_what_is_missing(arguments: list[str], stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    monkeypatch.setattr(lk, "make", lambda run, until: called.append(until))
    monkeypatch.setattr(lk, arguments[0], lambda *_, **__: called.append(arguments[0]))
    assert main([arguments[0], *TINY, *arguments[1:]]) == 0
    assert called == [stage, arguments[0]]


def test_a_bad_row_of_a_users_file_is_one_line_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faq = tmp_path / "faq.jsonl"
    faq.write_text('{"question": "Who?"}\n')
    assert main(["prepare", *TINY, "--data", str(faq)]) == 2
    assert capsys.readouterr().err.startswith("error: faq.jsonl row 1: none of the known shapes")


@pytest.mark.parametrize("arguments", [[], ["fly"], ["train", "--fast"], ["runs", "--set", "lora__r=4"]])
def test_what_the_command_line_does_not_know_is_status_2_with_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert "usage: lora_kit" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["chat", "hi", "--temperature", "5"], "temperature=5"),
        (["evaluate", "--questions", "nothing.csv"], "nothing.csv"),
        (["prepare", "--set", "data=faq.csv"], "--data"),
        (["prepare", "--data", ""], "--data is empty"),
    ],
)
def test_a_mistake_in_an_option_is_said_before_anything_is_made(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lk, "make", lambda *_: pytest.fail("made"))
    assert main([arguments[0], *TINY, *arguments[1:]]) == 2
    assert said in capsys.readouterr().err


def test_a_stop_by_hand_is_status_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stop(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setitem(COMMANDS, "runs", stop)
    assert main(["runs"]) == 130
    assert "finished stages are kept" in capsys.readouterr().err


def test_every_command_has_a_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert len(COMMANDS) == 10 and all(f"{name} {function.__doc__}" in shown for name, function in COMMANDS.items())


@pytest.mark.parametrize("command", ["demo", "evaluate"])
def test_a_card_ends_with_the_command_that_talks_to_its_run(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_kit.__main__.open_run", lambda *_: None)
    monkeypatch.setattr(lk, "make", lambda *_: None)
    monkeypatch.setattr(lk, "evaluate", lambda _, questions: None)
    named = [*(["--profile", "tiny-cpu"] if command == "evaluate" else []), "--name", "my run"]
    assert main([command, *named, "--set", "lora__r=4", "--set", "base__title=A B"]) == 0
    said = shlex.split(capsys.readouterr().out.partition("python -m lora_kit ")[2])
    given = parser().parse_args(said)
    assert (given.command, given.profile, given.name) == ("chat", "tiny-cpu", "my run")
    assert given.set == ["lora__r=4", "base__title=A B"]


def test_runs_lists_folders_with_a_finished_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "elsewhere"
    assert main(["runs", "--root", str(root)]) == 0
    assert capsys.readouterr().out.startswith("no runs in ")
    for name in ("first", "second", "empty"):
        run = Run("tiny-cpu", name=name, root=root)
        if name != "empty":
            with run.writing("data", {}) as stage:
                (stage.folder / "rows.bin").write_bytes(bytes(3 * 2**20))
    capsys.readouterr()
    assert main(["runs", "--root", str(root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["3.0", "MiB"], ["3.0", "MiB"]]
    assert [Path(line.split()[3]).name for line in lines] == ["first", "second"]
    assert all(line.split()[2] == time.strftime("%Y-%m-%d") and line.endswith("(data)") for line in lines)
    command = [sys.executable, "-m", "lora_kit", "runs", "--root", str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as unread:
        assert unread.stdout and unread.stderr
        unread.stdout.close()  # as `head` does when it has enough
        assert unread.stderr.read() == "" and unread.wait() == 0


def test_preparing_twice_reports_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faq = tmp_path / "faq.csv"
    faq.write_text("question,answer\n" + "".join(f"Who is number {n}?,Wren {n}.\n" for n in range(30)))
    arguments = ["prepare", *TINY, "--data", str(faq), "--name", "mine"]
    assert main(arguments) == 0
    assert "rows to learn" in capsys.readouterr().out
    assert main(arguments) == 0
    again = capsys.readouterr().out
    assert "rows to learn" in again and "mine/data" in again and "writing" not in again


def test_runs_are_listed_and_one_is_deleted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "data").mkdir(parents=True)
        (tmp_path / name / "data" / "manifest.json").write_text("{}")
    assert main(["runs", "--root", str(tmp_path), "--delete", "on"]) == 2
    assert "there is no run 'on'; there are one, two" in capsys.readouterr().err
    assert main(["runs", "--root", str(tmp_path), "--delete", "one"]) == 0
    assert not (tmp_path / "one").exists() and (tmp_path / "two" / "data" / "manifest.json").is_file()


def test_of_a_link_only_the_link_is_deleted(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    (theirs / "data").mkdir(parents=True)
    (theirs / "data" / "manifest.json").write_text("{}")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "one").symlink_to(theirs)
    assert main(["runs", "--root", str(tmp_path / "root"), "--delete", "one"]) == 0
    assert not (tmp_path / "root" / "one").exists() and (theirs / "data" / "manifest.json").exists()


def test_what_a_run_has_on_kaggle_s_scratch_disk_is_listed_and_deleted_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "KAGGLE_RUNS", tmp_path / "kept")
    monkeypatch.setattr(machine, "KAGGLE_SCRATCH", tmp_path / "scratch")
    for place in ("kept/one/data/manifest.json", "scratch/one/merged/model.safetensors"):
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).write_bytes(b"x" * 2**20)
    assert main(["runs", "--root", str(tmp_path / "kept")]) == 0
    assert "2.0 MiB" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    assert main(["runs", "--root", "kept", "--delete", "one"]) == 0  # as people type it
    assert not (tmp_path / "kept" / "one").exists() and not (tmp_path / "scratch" / "one").exists()


def test_of_the_doctor_s_json_nothing_else_is_a_part(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def talkative(name: str | None) -> Checkup:
        print("2 GPUs are here")
        return Checkup([])

    monkeypatch.setattr("lora_kit.doctor", talkative)
    assert main(["doctor", "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out) == [] and "2 GPUs are here" in told.err


def test_the_doctor_speaks_to_programs_too(capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["doctor", "--profile", "tiny-cpu", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert all(set(check) == {"name", "ok", "evidence", "fix"} for check in found)
    assert status == (0 if all(check["ok"] for check in found) else 1)


def test_threads_spin_little_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for own, wanted in (("", "3000"), ("7", "7")):
        monkeypatch.setenv("GOMP_SPINCOUNT", own)
        if not own:
            monkeypatch.delenv("GOMP_SPINCOUNT")
        assert main(["runs", "--root", str(tmp_path)]) == 0
        assert os.environ["GOMP_SPINCOUNT"] == wanted
