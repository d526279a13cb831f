"""The run folder: whole stages or none, the same work never twice, damage and full disks said in one sentence."""

from __future__ import annotations

import errno
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import zipfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn

import pytest

from lora_kit import machine, runs
from lora_kit.errors import KitError
from lora_kit.files import check_files, fingerprint, read_manifest, shown
from lora_kit.presets import PROFILES
from lora_kit.runs import Run

INPUTS = {"rows": 3, "seed": 0}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run("tiny-cpu", root=tmp_path)


def write(run: Run, stage: str = "data", inputs: dict[str, Any] = INPUTS, text: str = "hello") -> Path:
    with run.writing(stage, inputs) as work:
        (work.folder / "rows.txt").write_text(text)
        work.figures["rows"] = 3
    found = run.find(stage, inputs)
    assert found is not None
    return found


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_a_run_says_what_it_is_and_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run("tiny-cpu", root=tmp_path)
    line = capsys.readouterr().out
    assert all(word in line for word in ("tiny-cpu (asked for)", "tiny-chat", "CPU, float32", shown(run.path)))
    assert str(run.path) in repr(run)
    assert list(run.path.iterdir()) == []


def test_the_folder_is_the_profile_a_hash_of_what_differs_or_the_name(tmp_path: Path) -> None:
    assert Run("tiny-cpu", root=tmp_path).path == tmp_path / "tiny-cpu"
    changed = Run("tiny-cpu", root=tmp_path, lora__r=8).path.name
    assert changed.startswith("tiny-cpu-")
    assert Run("tiny-cpu", root=tmp_path, lora__r="8").path.name == changed
    preset = PROFILES["tiny-cpu"].lora.r
    assert Run("tiny-cpu", root=tmp_path, lora__r=preset).path.name == "tiny-cpu"
    assert Run("tiny-cpu", root=tmp_path, lora__r=8, name="mine").path.name == "mine"


def test_data_is_short_for_the_setting(tmp_path: Path) -> None:
    assert Run("tiny-cpu", root=tmp_path, data=Path("faq.jsonl")).profile.data.source == "faq.jsonl"


def test_a_stage_takes_its_name_only_when_complete(run: Run) -> None:
    with run.writing("data", INPUTS) as work:
        (work.folder / "rows.txt").write_text("hello")
        assert visible(run.path) == []
        assert run.find("data", INPUTS) is None
        assert work.target == run.path / "data"
    assert run.find("data", INPUTS) == run.path / "data"
    manifest = read_manifest(run.path / "data")
    assert manifest["inputs"] == INPUTS
    assert manifest["files"]["rows.txt"]["bytes"] == 5
    assert visible(run.path) == ["data"]


@pytest.mark.parametrize("error", [ValueError("bad row"), KeyboardInterrupt(), FileNotFoundError(errno.ENOENT, "gone")])
def test_a_failing_block_leaves_no_finished_folder_and_its_error_goes_on(run: Run, error: BaseException) -> None:
    with pytest.raises(type(error)), run.writing("data", INPUTS) as work:
        (work.folder / "rows.txt").write_text("half")
        raise error
    assert visible(run.path) == []
    assert run.find("data", INPUTS) is None
    assert (write(run) / "rows.txt").read_text() == "hello"  # and the next try starts clean


@pytest.mark.parametrize("inputs", [INPUTS, {"rows": 4}])
def test_a_folder_that_appears_before_the_name_is_taken_loses_nothing(run: Run, inputs: dict[str, Any]) -> None:
    """Another machine on the same shared disk was faster, with the same inputs or others."""
    there = Run("tiny-cpu", root=run.path.parent / "elsewhere")
    write(there, inputs=inputs, text="theirs")
    with run.writing("data", INPUTS) as work:
        (work.folder / "rows.txt").write_text("mine")
        shutil.copytree(there.path / "data", run.path / "data")
    found = run.need("data", INPUTS, made_by="")
    assert found == work.target and (found / "rows.txt").read_text() == ("theirs" if inputs is INPUTS else "mine")
    assert (run.path / "data/rows.txt").read_text() == "theirs"


def test_a_run_folder_that_is_deleted_meanwhile_is_said(run: Run) -> None:
    with pytest.raises(KitError, match="was deleted while"), run.writing("data", INPUTS) as work:
        shutil.rmtree(run.path)
        (work.folder / "rows.txt").write_text("hello")
    assert (write(run) / "rows.txt").read_text() == "hello"


def test_the_same_inputs_are_found_and_changed_ones_written_beside(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    first = write(run)
    other = {"rows": 4, "seed": 0}
    assert run.find("data", dict(reversed(INPUTS.items()))) == first
    assert run.find("data", other) is None
    second = write(run, inputs=other, text="more")
    assert second == run.path / f"data-{fingerprint(other)[:6]}"
    assert "stays" in capsys.readouterr().out
    with pytest.raises(ValueError), run.writing("data", {"rows": 5}):
        raise ValueError
    assert "stays" not in capsys.readouterr().out  # nothing was written beside it
    assert run.find("data", INPUTS) == first
    assert run.need("data", other, made_by="lk.prepare(run)") == second
    assert (first / "rows.txt").read_text() == "hello"


@pytest.mark.parametrize("stage", ["training/handbook", "training/faq[1]", "training/é *"])
def test_stages_of_any_name(run: Run, stage: str) -> None:
    assert write(run, stage) == run.path / stage
    assert write(run, stage, {"rows": 9}).parent == run.path / "training"


def test_what_is_not_made_yet_names_the_call_that_makes_it(run: Run) -> None:
    with pytest.raises(KitError, match=r"run lk\.prepare\(run\) first"):
        run.need("data", INPUTS, made_by="lk.prepare(run)")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"fingerprint": "x"}', "\x00\xff"])
def test_a_damaged_manifest_names_the_folder_to_delete(run: Run, text: str) -> None:
    folder = write(run)
    (folder / "manifest.json").write_text(text, encoding="latin-1")
    with pytest.raises(KitError, match=rf"delete the folder .*{folder.name} and make it again"):
        run.find("data", INPUTS)


@pytest.mark.parametrize(
    "damage", [Path.unlink, lambda p: p.write_text("jello"), lambda p: p.write_text("longer text")]
)
def test_a_damaged_file_names_the_folder_to_delete(run: Run, damage: Any) -> None:
    folder = write(run)
    damage(folder / "rows.txt")
    with pytest.raises(KitError, match=rf"rows\.txt is missing or damaged: delete the folder .*{folder.name} "):
        run.need("data", INPUTS, made_by="lk.prepare(run)")


def full(*_: Any, **__: Any) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("where", ["write_text", "rename"])
def test_a_full_disk_is_one_sentence_with_a_way_out(run: Run, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    done = write(run)
    with monkeypatch.context() as patch, pytest.raises(KitError) as caught, run.writing("merged", INPUTS) as work:
        (work.folder / "model.bin").write_bytes(b"0")
        patch.setattr(Path, where, full)
    assert all(word in str(caught.value) for word in ("No space left", "merged", "root=", "LORA_KIT_RUNS"))
    assert visible(run.path) == ["data"]
    assert check_files(done) == done


def test_a_full_disk_as_safetensors_says_it(run: Run) -> None:
    from safetensors import SafetensorError

    with pytest.raises(KitError, match="No space left"), run.writing("merged", INPUTS):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def test_a_finished_run_can_be_read_where_nothing_can_be_written(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(run)

    def refuse(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    again = Run("tiny-cpu", root=run.path.parent)
    assert again.find("data", INPUTS) == folder
    with pytest.raises(KitError, match="Read-only"):
        Run("tiny-cpu", root=run.path.parent, name="new")


def test_other_errors_of_a_library_go_on_as_they_are(run: Run) -> None:
    with pytest.raises(RuntimeError, match="os error 2"), run.writing("merged", INPUTS):
        raise RuntimeError("No such file (os error 2)")


@pytest.mark.parametrize("place", ["tiny-cpu", ""])
def test_a_folder_that_cannot_be_written(tmp_path: Path, place: str) -> None:
    root = tmp_path / "root"
    if place:
        root.mkdir()
    (root / place).touch()  # a file where a folder should be stops even an administrator
    with pytest.raises(KitError, match="LORA_KIT_RUNS"):
        Run("tiny-cpu", root=root)


def test_a_packed_run_goes_on_elsewhere_without_the_merged_weights(run: Run, tmp_path: Path) -> None:
    write(run)
    write(run, "training/handbook")
    write(run, "merged")
    with pytest.raises(ValueError), run.writing("evaluation", INPUTS):
        raise ValueError
    packed = run.pack()
    assert packed == tmp_path / "tiny-cpu.zip"
    there = Run("tiny-cpu", root=tmp_path / "there", source=packed)
    assert check_files(there.path / "training/handbook")
    assert there.find("data", INPUTS) == there.path / "data"
    assert there.find("merged", INPUTS) is None  # so that it is made again
    assert not list(there.path.glob(".*"))


def test_on_kaggle_merged_weights_lie_on_the_scratch_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its kept folder holds 20 GB, and a merged 7B model alone is 13.5."""
    kept, scratch = tmp_path / "working", tmp_path / "temp"
    monkeypatch.setattr(machine, "KAGGLE_RUNS", kept)
    monkeypatch.setattr(machine, "KAGGLE_SCRATCH", scratch)
    run = Run("tiny-cpu", root=kept)
    assert write(run, "data") == kept / "tiny-cpu" / "data"
    for stage in ("merged", "merged-dequantized"):
        assert write(run, stage) == scratch / "tiny-cpu" / stage == run.need(stage, INPUTS, made_by="lk.merge(run)")
    assert Run("tiny-cpu", root=tmp_path / "mine").scratch == tmp_path / "mine" / "tiny-cpu"  # asked for: all in there


def test_packing_into_the_run_itself_does_not_pack_the_pack(run: Run) -> None:
    write(run)
    for _ in range(2):
        with zipfile.ZipFile(run.pack(run.path / "all.zip")) as archive:
            assert sorted(archive.namelist()) == ["data/manifest.json", "data/rows.txt"]


def test_packing_into_a_folder_or_a_place_that_is_not_there_yet(run: Run, tmp_path: Path) -> None:
    write(run)
    (tmp_path / "there").mkdir()
    assert run.pack(tmp_path / "there") == tmp_path / "there" / "tiny-cpu.zip"
    assert run.pack(tmp_path / "new" / "mine.zip").is_file()


def test_packing_on_a_full_disk_leaves_the_pack_of_before(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    write(run)
    before = run.pack().read_bytes()
    monkeypatch.setattr(zipfile.ZipFile, "write", full)
    with pytest.raises(KitError, match="No space left"):
        run.pack()
    assert (run.path.parent / "tiny-cpu.zip").read_bytes() == before
    assert visible(run.path.parent) == ["tiny-cpu", "tiny-cpu.zip"] and not list(run.path.parent.glob(".*"))


def test_a_killed_packing_leaves_the_pack_of_before_and_the_next_one_clears_up(run: Run) -> None:
    write(run)
    before = run.pack().read_bytes()
    code = (
        "import os, signal, sys, zipfile, lora_kit as lk; "
        "zipfile.ZipFile.write = lambda *_: os.kill(os.getpid(), signal.SIGKILL); "
        "lk.Run('tiny-cpu', root=sys.argv[1]).pack()"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(run.path.parent)], check=False)
    assert killed.returncode == -signal.SIGKILL and len([*run.path.parent.glob(".*.partial")]) == 1
    assert run.path.with_suffix(".zip").read_bytes() == before
    run.pack()
    assert not [*run.path.parent.glob(".*.partial")]


def test_files_that_vanish_or_are_dated_1970_are_packed_as_far_as_they_go(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.utime(write(run) / "rows.txt", (0, 0))
    lost = write(run, "training/handbook") / "rows.txt"
    own = zipfile.ZipFile.write

    def vanish(archive: zipfile.ZipFile, file: Path, inside: Path) -> None:
        lost.unlink(missing_ok=True)
        own(archive, file, inside)

    monkeypatch.setattr(zipfile.ZipFile, "write", vanish)
    with zipfile.ZipFile(run.pack()) as archive:
        names = archive.namelist()
    assert "data/rows.txt" in names and "training/handbook/rows.txt" not in names


@pytest.mark.parametrize("broken", ["extractall", "rename"])
def test_what_broke_off_while_unpacking_is_made_good_by_the_next(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    write(run)
    packed, there = run.pack(), tmp_path / "there"
    own, files = Path.rename, []

    def rename(file: Path, target: Path) -> None:
        files.append(target.name)
        if len(files) > 1:
            raise KeyboardInterrupt
        own(file, target)

    def extract(archive: zipfile.ZipFile, place: Path) -> None:
        (place / "data").mkdir(parents=True)
        (place / "data/rows.txt").write_text("hel")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(zipfile.ZipFile, "extractall", extract) if broken == "extractall" else None
        patch.setattr(Path, "rename", rename)
        Run("tiny-cpu", root=there, source=packed)
    assert files[:1] in ([], ["rows.txt"])  # the manifest comes last
    assert check_files(Run("tiny-cpu", root=there, source=packed).path / "data")


def test_a_zip_that_would_become_gigabytes_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(4):
            archive.writestr(f"data/{number}", bytes(2**27))
    with pytest.raises(KitError, match=r"bomb\.zip becomes 0\.50 GiB"):
        Run("tiny-cpu", root=tmp_path / "root", source=tmp_path / "bomb.zip")
    assert visible(tmp_path / "root" / "tiny-cpu") == []


def with_password(content: bytes) -> bytes:
    return content.replace(b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01")


@pytest.mark.parametrize(
    "change",
    [
        with_password,
        lambda content: content.replace(b"hello", b"jello"),  # its checksum is another one
        lambda content: content.replace(b"\x14\x00\x00\x00\x00\x00", b"\x14\x00\x00\x00\x63\x00"),  # method 99
        lambda content: content[:40] + content[60:],
        lambda content: content[: len(content) // 2],
    ],
    ids=["password", "checksum", "method", "torn", "cut"],
)
def test_a_damaged_or_locked_zip_is_one_sentence(tmp_path: Path, change: Any) -> None:
    path = tmp_path / "run.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data/rows.txt", "hello")
    content = path.read_bytes()
    assert change(content) != content
    path.write_bytes(change(content))
    with pytest.raises(KitError, match="packed run"):
        Run("tiny-cpu", root=tmp_path / "root", source=path)
    assert visible(tmp_path / "root" / "tiny-cpu") == []


def test_unpacking_overwrites_nothing(run: Run, tmp_path: Path) -> None:
    write(run)
    packed = run.pack()
    (run.path / "data/rows.txt").write_text("mine!")
    Run("tiny-cpu", root=tmp_path, source=packed)
    assert (run.path / "data/rows.txt").read_text() == "mine!"


@pytest.mark.parametrize("name", ["../outside.txt", "/outside.txt", "data/../../outside.txt"])
def test_nothing_of_a_zip_lands_outside_the_run(tmp_path: Path, name: str) -> None:
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, "x")
    run = Run("tiny-cpu", root=tmp_path / "root", source=path)
    assert all(found.is_relative_to(run.path) for found in tmp_path.rglob("outside.txt"))
    assert not Path("/outside.txt").exists()


@pytest.mark.parametrize("text", [None, "no zip"])
def test_what_is_no_zip_is_refused(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "run.zip"
    if text:
        path.write_text(text)
    with pytest.raises(KitError, match="packed run"):
        Run("tiny-cpu", root=tmp_path / "root", source=path)


def test_a_manifest_holds_no_path_of_the_machine_and_is_plain_json(run: Run) -> None:
    manifest = json.loads((write(run) / "manifest.json").read_text())
    assert str(run.path) not in json.dumps(manifest)
    assert manifest["figures"] == {"rows": 3}
    assert "torch" in manifest["versions"]


def test_a_stage_that_another_process_writes_is_left_alone_and_a_dead_one_s_is_cleared(run: Run) -> None:
    code = "import filelock, sys; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print(flush=True); input()"
    command = [sys.executable, "-c", code, str(run.path / ".data.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout and other.stdout.readline()
        left = run.path / f".data.{platform.node()}.partial"
        left.mkdir()
        with pytest.raises(KitError, match="another process"):
            write(run)
        assert left.exists() and not (run.path / "data").exists()
        other.kill()
    (left / "half").touch()
    assert sorted(path.name for path in write(run).iterdir()) == ["manifest.json", "rows.txt"]
    assert not left.exists()


def test_of_two_machines_on_one_disk_the_faster_one_s_stage_stays(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("filelock.FileLock", lambda *_, **__: nullcontext())  # a Drive has no locks between machines
    with run.writing("data", INPUTS) as work:
        (work.folder / "rows.txt").write_text("slower")
        with monkeypatch.context() as patch:
            patch.setattr(runs, "node", lambda: "elsewhere")
            faster = write(run)
    assert work.target == faster == run.need("data", INPUTS, made_by="lk.prepare(run)")
    assert (faster / "rows.txt").read_text() == "hello" and not [*run.path.glob(".*.partial")]


@pytest.mark.parametrize("name", ["../out", "a/b", "..", "."])
def test_a_name_is_no_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(KitError, match="must be the name of a folder"):
        Run("tiny-cpu", root=tmp_path, name=name)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc")
def test_a_place_where_no_folder_can_be_made_is_refused() -> None:
    with pytest.raises(KitError, match=r"cannot write .*/proc/nowhere/.*[Cc]hoose another place with lk\.Run\("):
        Run("tiny-cpu", root="/proc/nowhere")


def test_settings_of_merge_and_evaluation_and_how_a_path_is_written_make_no_other_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("faq.jsonl").write_text('{"question": "Who?", "answer": "Mina."}')
    plain = Run("tiny-cpu", root=tmp_path, data="faq.jsonl").path
    assert Run("tiny-cpu", root=tmp_path, data=tmp_path / "faq.jsonl", merge__onto="dequantized").path == plain
    assert Run("tiny-cpu", root=tmp_path, data="./faq.jsonl", evaluation__max_new_tokens=30).path == plain
    assert Run("tiny-cpu", root=tmp_path, data="faq.jsonl", training__seed=1).path != plain
    assert Run("tiny-cpu", root=tmp_path, merge__onto="dequantized").path.name == "tiny-cpu"
