"""A training may end at any moment: what was kept goes on to the same adapter, and nothing half written is read."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS

import lora_kit as lk
from lora_kit.files import file_hash, shown, write_manifest
from lora_kit.training import checkpoints
from lora_kit.training import train as stage
from lora_kit.training.batches import for_measuring, rows_of
from lora_kit.training.loss import mean_loss
from lora_kit.training.train import read_log, train_inputs

ROWS = [
    {"question": text.format(n), "answer": f"Box {n}."}
    for n in range(20)
    for text in ("What is kept in room {}?", "Room {} holds what?", "Tell me what is in room {}.")
]
SMALL = {
    "lora__r": 4,
    "lora__lora_dropout": 0.1,
    "lora__target_modules": "q_proj,v_proj",
    "training__epochs": 4,
    "training__tokens_per_step": 128,
    "training__tokens_per_micro_batch": 128,
}


def write_rows(path: Path, count: int = len(ROWS)) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS[:count]))
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    write_rows(folder / "faq.jsonl")
    return folder


def run_in(place: Path, name: str, **overrides: Any) -> lk.Run:
    return lk.Run("tiny-cpu", data=place / "faq.jsonl", root=place, name=name, **SMALL | overrides)


def train(run: lk.Run, **more: Any) -> list[dict[str, Any]]:
    return lk.train(lk.load_base(run), lk.prepare(run), run, **more)


def sha(run: lk.Run) -> str:
    return file_hash(run.path / "training" / "faq" / "adapter" / "adapter_model.safetensors")


def unfinished(run: lk.Run) -> Path:
    (found,) = (run.path / "training").glob("faq-unfinished-*")
    return found


@pytest.fixture(scope="module")
def whole(place: Path) -> str:
    run = run_in(place, "whole")
    log = train(run)
    assert [row["step"] for row in log] == list(range(1, len(log) + 1)) and len(log) > 20
    assert sum("evaluation_loss" in row for row in log) == 10 and "evaluation_loss" in log[-1]
    assert not list((run.path / "training").glob("*unfinished*"))
    return sha(run)


class Stopper:
    """Stops a training after a number of steps, as the time limit does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
        self.left = steps
        original = stage.fit

        def fit(*given: Any, **more: Any) -> Any:
            return original(*given, **more | {"should_stop": self.stop})

        monkeypatch.setattr(stage, "fit", fit)

    def stop(self) -> bool:
        self.left -= 1
        return self.left <= 0


def test_computing_layers_twice_makes_no_other_training(place: Path) -> None:
    assert train_inputs(run_in(place, "a", training__checkpoint_layers=2)) == train_inputs(run_in(place, "b"))
    assert train_inputs(run_in(place, "a", training__seed=2)) != train_inputs(run_in(place, "b"))


def test_a_stopped_training_goes_on_to_the_same_adapter(
    place: Path, whole: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_in(place, "stopped")
    with monkeypatch.context() as patch:
        Stopper(patch, 7)
        assert len(train(run)) == 7
    assert "stopped after step 7" in capsys.readouterr().out
    assert run.find("training/faq", train_inputs(run)) is None
    assert [path.name for path in unfinished(run).glob("step-*")] == ["step-00000007"]
    with monkeypatch.context() as patch:
        Stopper(patch, 5)
        assert [row["step"] for row in train(run)] == list(range(1, 13))
    log = train(run)
    assert [row["step"] for row in log] == list(range(1, len(log) + 1))
    assert sha(run) == whole
    assert not list((run.path / "training").glob("*unfinished*"))


def test_a_resumed_training_computes_with_the_threads_it_began_with(
    place: Path, whole: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, before = run_in(place, "threads"), torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "named")  # so that loading chooses none
    try:
        torch.set_num_threads(1)
        train(run, max_minutes=0.0)
        torch.set_num_threads(2)
        train(run)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    assert sha(run) == whole


def test_the_time_limit_stops_and_keeps(place: Path, whole: str) -> None:
    run = run_in(place, "limit")
    assert len(train(run, max_minutes=0.0)) == 1
    train(run)
    assert sha(run) == whole


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "terminated"])
def test_asked_to_stop_it_finishes_the_step_and_keeps(
    place: Path, whole: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    run, original = run_in(place, f"interrupted {number}"), stage.fit

    def interrupted(*given: Any, **more: Any) -> Any:
        signals = {"on_step": lambda row: os.kill(os.getpid(), number) if row["step"] == 5 else None}
        return original(*given, **more | signals)

    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(stage, "fit", interrupted)
        assert len(train(run)) in (5, 6)
    assert signal.getsignal(number) is before
    assert "stopping after this step and keeping what there is" in capsys.readouterr().out
    train(run)
    assert sha(run) == whole


def test_a_second_ctrl_c_stops_at_once_and_nothing_kept_is_lost(
    place: Path, whole: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, original = run_in(place, "twice"), stage.fit
    monkeypatch.setattr(checkpoints, "EVERY", 0.0)
    monkeypatch.setattr(checkpoints, "COST", 1e9)

    def interrupted(*given: Any, **more: Any) -> Any:
        signals = {"on_step": lambda row: os.kill(os.getpid(), signal.SIGINT) if row["step"] in (5, 7) else None}
        return original(*given, **more | signals | {"should_stop": lambda: False})  # as if the step never ended

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stage, "fit", interrupted)
        train(run)
    train(run)
    assert sha(run) == whole


def kept_training(place: Path) -> list[Any]:
    """Checkpoints after two and three steps, what they keep, and what steps it."""
    model = torch.nn.Linear(2, 2)
    parts = [model, torch.optim.AdamW(model.parameters()), torch.amp.GradScaler("cpu", enabled=False)]
    kept = checkpoints.Checkpoints(place / "kept", {})
    for steps in (2, 3):
        model.weight.data.fill_(steps)
        log = [{"step": step, "seconds": 0.1} for step in range(1, steps + 1)]
        kept.save(checkpoints.TrainerState(log=log), *parts, now=True)
    return [kept, *parts]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        KeyboardInterrupt(),
        OSError(errno.EIO, os.strerror(errno.EIO)),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("reader", ["torch.load", "pathlib.Path.read_text"])
def test_a_whole_checkpoint_that_cannot_be_read_now_is_neither_passed_over_nor_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str, error: BaseException
) -> None:
    (kept, model, *parts), other = kept_training(tmp_path), torch.nn.Linear(2, 2)

    def fails(*given: Any, **more: Any) -> Any:
        raise error

    with monkeypatch.context() as patch, pytest.raises(type(error)):
        patch.setattr(reader, fails)
        kept.load(other, *parts, 9)
    found = kept.load(other, *parts, 9)
    assert found and found.step == 3 and torch.equal(other.weight, model.weight)


def test_of_two_machines_on_one_disk_the_checkpoint_that_is_furthest_stays(tmp_path: Path) -> None:
    _kept, model, *parts = kept_training(tmp_path)
    behind = checkpoints.Checkpoints(tmp_path / "kept", {})
    model.weight.data.fill_(1)
    behind.save(checkpoints.TrainerState(log=[{"step": 1, "seconds": 0.1}]), model, *parts, now=True)
    found = behind.load(model, *parts, 9)
    assert found and found.step == 3 and torch.equal(model.weight, torch.full((2, 2), 3.0))


@pytest.mark.parametrize("damage", ["cut", "missing", "changed", "manifest", "empty folder"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    kept, model, *parts = kept_training(tmp_path)
    newest = tmp_path / "kept" / "step-00000003"
    spoil(newest, damage)
    found = kept.load(model, *parts, 9)
    assert found.step == 2 and torch.equal(model.weight, torch.full((2, 2), 2.0))
    out = capsys.readouterr().out
    assert f"the checkpoint {shown(newest)} is damaged and passed over" in out
    assert "delete" not in out and "goes on after step 2" in out


def spoil(folder: Path, damage: str) -> None:
    weights, manifest = folder / "training.pt", folder / "manifest.json"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-9])
    elif damage == "changed":
        weights.write_bytes(weights.read_bytes()[:-9] + b"x" * 9)
    elif damage == "manifest":
        manifest.write_text(manifest.read_text()[:-9])
    else:
        for path in [weights] if damage == "missing" else folder.iterdir():
            path.unlink()


FORGED = {
    "more steps than there are": {"log": [{"step": n, "seconds": 0.1} for n in range(1, 99)]},
    "no steps": {"log": []},
    "steps out of order": {"log": [{"step": 7, "seconds": 0.1}]},
    "rows of texts": {"log": ["x"]},
    "another field": {"log": [], "evil": 3},
}


@pytest.mark.parametrize("name", [*FORGED, "garbage"])
def test_a_forged_checkpoint_is_one_sentence(tmp_path: Path, name: str) -> None:
    kept, model, *parts = kept_training(tmp_path)
    newest = tmp_path / "kept" / "step-00000003"
    if name == "garbage":
        (newest / "training.pt").write_bytes(b"x" * 100)
    else:
        content = torch.load(newest / "training.pt", weights_only=True) | {"state": FORGED[name]}
        torch.save(content, newest / "training.pt")
    (newest / "manifest.json").unlink()
    write_manifest(newest, {}, {}, 0.0)
    with pytest.raises(lk.KitError, match=r"step-00000003 is no checkpoint"):
        kept.load(model, *parts, 9)


def test_a_full_disk_stops_and_leaves_the_last_checkpoint_whole(
    place: Path, whole: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_in(place, "full")
    monkeypatch.setattr(checkpoints, "EVERY", 0.0)
    monkeypatch.setattr(checkpoints, "COST", 1e9)
    original, calls = Path.write_bytes, iter(range(100))

    def full(path: Path, content: bytes) -> int:
        if path.name == "training.pt" and next(calls) == 8:
            original(path, content[:-100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(path, content)

    with monkeypatch.context() as patch, pytest.raises(lk.KitError, match="No space left on device"):
        patch.setattr(Path, "write_bytes", full)
        train(run)
    names = sorted(path.name for path in unfinished(run).iterdir())
    assert len(names) == 2 and all(name.startswith("step-") for name in names)
    train(run)
    assert sha(run) == whole


def test_other_libraries_are_refused_unless_forced(place: Path, whole: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_in(place, "libraries")
    with monkeypatch.context() as patch:
        Stopper(patch, 3)
        train(run)
    (kept,) = unfinished(run).glob("step-*")
    manifest = json.loads((kept / "manifest.json").read_text())
    manifest["versions"]["peft"] = "0.1"
    (kept / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(lk.KitError, match=r"made with peft 0\.1 \(here .*force=True"):
        train(run)
    train(run, force=True)
    assert sha(run) == whole


def test_an_unfinished_training_with_other_settings_is_said_and_left(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        Stopper(patch, 3)
        train(run_in(place, "changed"))
        kept = unfinished(run_in(place, "changed"))
        Stopper(patch, 3)
        train(run_in(place, "changed", lora__r=8))
    assert f"with other settings or data is left as it is: {shown(kept)}" in capsys.readouterr().out
    assert kept.exists()


def test_early_stopping_asks_rows_of_its_own_and_keeps_the_adapter_with_their_lowest_loss(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_in(place, "early", training__patience=1, training__learning_rate=0.5, training__evaluations=20)
    data, learned, original = lk.prepare(run), list[int](), stage.fit

    def fit(model: Any, steps: Any, *given: Any, **more: Any) -> Any:
        learned.extend(row.number for step in steps for batch in step for row in batch.rows)
        return original(model, steps, *given, **more)

    monkeypatch.setattr(stage, "fit", fit)
    log = train(run)
    losses = {row["step"]: row["evaluation_loss"] for row in log if "evaluation_loss" in row}
    assert len(losses) < 20 and log[-1]["evaluation_loss"] > min(losses.values())
    aside = sorted({*range(len(data.train))} - {*learned})
    assert aside == list(range(1, len(data.train), 20))
    assert f"{len(aside)} of {len(data.train)} rows" in capsys.readouterr().out
    model = lk.load_adapter(lk.load_base(run), lk.trained_adapter(run))
    rows = [rows_of(data.train)[number] for number in aside]
    found = mean_loss(model, for_measuring(rows, run.profile.training))
    assert found == pytest.approx(min(losses.values()), rel=1e-4)


def test_early_stopping_goes_on_to_the_same_adapter_and_is_planned(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient = {"training__patience": 9, "training__epochs": 1}
    one, other = run_in(place, "patient", **patient), run_in(place, "patient, stopped", **patient)
    log = train(one)
    with monkeypatch.context() as patch:
        Stopper(patch, 4)
        train(other)
    train(other)
    assert sha(one) == sha(other)
    plan = lk.plan(lk.attach_lora(lk.load_base(one), one), lk.prepare(one), one)
    assert plan.steps == len(log)


def test_a_training_starts_from_another_adapter(place: Path, whole: str) -> None:
    first = run_in(place, "whole")
    start = lk.trained_adapter(first)
    run = run_in(place, "further", training__start_from=str(start))
    log = train(run)
    assert log[0]["loss"] < 0.7 * read_log(start.parent)[0]["loss"]
    again = run_in(place, "further", training__start_from=str(start))
    assert again.find("training/faq", train_inputs(again)) is not None
    with pytest.raises(lk.KitError, match="was trained with lora__r=4, here 8: set the same"):
        train(run_in(place, "rank", training__start_from=str(start), lora__r=8))
    with pytest.raises(lk.KitError, match="was trained with lora__lora_alpha=32, here 8"):
        train(run_in(place, "scale", training__start_from=str(start), lora__lora_alpha=8))
    with pytest.raises(lk.KitError, match=r"training__start_from=.* is no adapter's folder"):
        train(run_in(place, "gone", training__start_from=str(place / "gone")))


KILLED = """
import sys
from pathlib import Path
from lora_kit.training import checkpoints
from lora_kit.training import train as stage
checkpoints.EVERY, checkpoints.COST = 0.0, 1e9  # a checkpoint after every step: most kills hit one
from tests.training import test_checkpoints as t
run = t.run_in(Path(sys.argv[1]), sys.argv[2])
model, data = t.lk.load_base(run), t.lk.prepare(run)
print("training", flush=True)
t.lk.train(model, data, run)
"""


def kills(place: Path, name: str, moments: Iterator[float]) -> int:
    """Train in processes of their own, each killed so many seconds after it began to train, until one ends well."""
    count = 0
    while True:
        command = [sys.executable, "-c", KILLED, str(place), name]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert process.stdout
        for line in process.stdout:
            if line.startswith("training\n"):
                break
        wait = next(moments, None)
        try:
            process.wait(wait)
        except subprocess.TimeoutExpired:
            process.kill()
            count += 1
        process.stdout.close()
        if process.wait() == 0:
            return count


def test_a_killed_training_goes_on_to_the_same_adapter(place: Path, whole: str) -> None:
    assert kills(place, "killed", iter([0.8])) == 1
    assert sha(run_in(place, "killed")) == whole


@pytest.mark.slow
def test_twenty_kills_change_nothing(place: Path, whole: str) -> None:
    generator, killed, same = torch.Generator().manual_seed(0), 0, 0
    for number in range(20):
        moment = 0.3 + 2.0 * float(torch.rand((), generator=generator))
        killed += kills(place, f"kill {number}", iter([moment]))
        same += sha(run_in(place, f"kill {number}")) == whole
    print(f"killed {killed} times in 20 trainings; the final adapter is the same in {same} of 20")
    assert same == 20 and killed >= 15


def test_a_tracker_is_sent_every_step_or_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sent: list[tuple[int, dict[str, Any]]] = []

    class Fake:
        requires_logging_directory = True

        def __init__(self, title: str, logging_dir: str) -> None:
            assert title == "tracked" and logging_dir.endswith("tracked/tracking")

        def start(self) -> None: ...

        def store_init_configuration(self, values: dict[str, Any]) -> None:
            assert values["lora__r"] == 4

        def log(self, values: dict[str, Any], step: int) -> None:
            sent.append((step, values))
            if step == 2:
                raise OSError(28, "No space left on device")

        def finish(self) -> None:
            sent.append((0, {}))

    with pytest.raises(lk.KitError, match="no tracker 'excel'; the trackers are tensorboard, wandb, trackio"):
        train(run_in(place, "tracked"), track="excel")
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "tensorboard", Fake)
    log = train(run_in(place, "tracked"), track="tensorboard")
    assert [step for step, _ in sent] == [*(row["step"] for row in log), 0]
    assert sent[-2][1]["evaluation_loss"] == log[-1]["evaluation_loss"]
    assert re.findall(r"does not take step (\d+): .*No space", capsys.readouterr().out) == ["2"]  # and goes on


def test_what_train_and_plan_are_given_is_checked(place: Path, tmp_path: Path) -> None:
    run = run_in(place, "given")
    other = lk.Run("tiny-cpu", data=write_rows(tmp_path / "other.jsonl", 30), root=tmp_path, **SMALL)
    model, data, wrong = lk.load_base(run), lk.prepare(run), lk.prepare(other)
    for call in (lk.train, lk.plan):
        with pytest.raises(lk.KitError, match=r"was prepared from other files or settings.*data = lk\.prepare\(run\)"):
            call(model, wrong, run)
        with pytest.raises(lk.KitError, match=r"\(model, data, run\) are wanted, in this order.*NoneType"):
            call(None, data, run)
    with pytest.raises(lk.KitError, match=r"fresh adapter.*lk\.attach_lora"):
        lk.plan(model, data, run)
    for minutes in ("1", -1, float("nan")):
        with pytest.raises(lk.KitError, match=r"max_minutes=.* must be a number of minutes"):
            lk.train(model, data, run, max_minutes=minutes)  # type: ignore[arg-type]
    lk.release(model)
    with pytest.raises(lk.KitError, match=r"the model was released: load it again with lk\.load_base\(run\)"):
        lk.train(model, data, run)


def test_without_a_whole_checkpoint_it_starts_from_the_beginning_and_says_so(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_in(place, "said")
    with monkeypatch.context() as patch:
        Stopper(patch, 3)
        train(run)
        for kept in unfinished(run).glob("step-*"):
            spoil(kept, "missing")
        train(run)
    assert "no whole checkpoint is left in" in capsys.readouterr().out
