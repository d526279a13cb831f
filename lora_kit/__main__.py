"""python -m lora_kit doctor | demo | prepare | plan | train | merge | evaluate | chat | export | runs"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict

import lora_kit as lk

from .chatting import check_temperature
from .config import named_values
from .data.splits import question_files
from .distributed import main_process_first
from .errors import KitError
from .exporting import check_format
from .files import absolute, check_files, disk_errors, quoted, shown
from .machine import default_root, scratch_root
from .pipeline import stage_folder
from .presets import PROFILES


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0 when it went well, 1 when a check failed, 2 for a mistake of the user's."""
    options = parser().parse_args(arguments)
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # before torch loads: its threads spin less beside other programs
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal that lacks our signs shows others
        sys.stdout.reconfigure(errors="replace")
    if os.environ.get("LOCAL_RANK", "0") != "0":  # of several processes one prints
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    try:
        status = COMMANDS[options.command](options) or 0
        sys.stdout.flush()
        return status
    except KitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever reads, as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("\nstopped; finished stages are kept", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """The command line; the docstring of a command's function is its help."""
    top = argparse.ArgumentParser(prog="lora_kit", description="Fine-tune a chat model with LoRA on one small GPU.")
    commands = top.add_subparsers(dest="command", required=True, metavar="command")
    parsers = {}
    for name, function in COMMANDS.items():
        text = function.__doc__
        added = parsers[name] = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        added.add_argument("--profile", help=f"one of {', '.join(PROFILES)}; by default what the machine can do")
        added.add_argument(
            "--root", help="where run folders live; by default LORA_KIT_RUNS, else the checkout's runs or ./runs"
        )
        if name not in ("doctor", "runs"):
            added.add_argument("--data", help="handbook, triage, a file or folder of yours, or a Hub id")
            added.add_argument("--name", help="name of the run folder")
            added.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="as in lora__r=32")
    parsers["doctor"].add_argument("--json", action="store_true", help="for a program: name, ok, evidence, fix")
    parsers["runs"].add_argument("--delete", metavar="NAME", help="delete this run and all that is in it")
    parsers["export"].add_argument("--to", default="adapter-zip", help="adapter-zip, gguf, gguf-q8_0 or ollama")
    parsers["export"].add_argument(
        "--check", action="store_true", help="llama.cpp answers held-out questions from the GGUF first"
    )
    parsers["merge"].add_argument("--onto", choices=("original", "dequantized"), help="which base")
    parsers["evaluate"].add_argument("--questions", metavar="FILE", help="your own, with answers, as data is read")
    parsers["chat"].add_argument("--adapter", help="which of the run's adapters answers, as handbook or triage")
    parsers["chat"].add_argument("--temperature", type=float, default=0.0, help="0: the likeliest words; 2 at most")
    parsers["chat"].add_argument("question", nargs="?", help="one question; without it, a prompt until an empty line")
    return top


def open_run(options: argparse.Namespace, until: str | None = None) -> lk.Run:
    """The run that the options name, with its stages made up to and with `until`."""
    overrides = named_values(options.set)
    if plain := [name for name in overrides if "__" not in name]:
        raise KitError(f"--set {plain[0]}=... is no setting, as lora__r=32 is: see --help for --data and --name")
    if options.data == "":
        raise KitError("--data is empty: name a dataset, a file or a folder")
    run = lk.Run(options.profile, data=options.data, name=options.name, root=options.root, **overrides)
    if until:
        lk.make(run, until)
    return run


def doctor(options: argparse.Namespace) -> int:
    """check this machine and say what to fix"""
    if options.root:
        os.environ["LORA_KIT_RUNS"] = options.root
    with redirect_stdout(sys.stderr if options.json else sys.stdout):  # the JSON stands alone on stdout
        checkup = lk.doctor(options.profile)
    print(json.dumps([asdict(check) for check in checkup], indent=1) if options.json else checkup)
    return 1 if checkup.failed else 0


def demo(options: argparse.Namespace) -> None:
    """the whole way on the embedded model: prepare, train, merge, evaluate"""
    options.profile = options.profile or "tiny-cpu"  # downloads nothing, also where there is a GPU
    evaluate(options)


def prepare(options: argparse.Namespace) -> None:
    """encode the dataset and report what is in it"""
    run = open_run(options)
    with main_process_first():
        lk.prepare(run)


def plan(options: argparse.Namespace) -> None:
    """say what training will take, before it starts"""
    run = open_run(options, "data")
    lk.plan(lk.attach_lora(lk.load_base(run), run), lk.prepare(run), run)


def train(options: argparse.Namespace) -> None:
    """train the adapter"""
    run = open_run(options)
    if done := stage_folder(run, "training"):
        print(f"train: done before with these settings, in {shown(check_files(done))}")
    else:
        lk.make(run, "training")


def merge(options: argparse.Namespace) -> None:
    """merge the adapter into the base"""
    lk.merge(open_run(options, "training"), onto=options.onto)


def evaluate(options: argparse.Namespace) -> None:
    """make what is missing, then ask base, adapter and merged model the held-out questions"""
    run, questions = open_run(options), getattr(options, "questions", None)
    if questions is not None:
        question_files(questions, run.profile.data)  # a wrong name is no reason to train first
    lk.make(run, "merged")
    lk.evaluate(run, questions=questions)
    named = {"--profile": options.profile, "--data": options.data, "--name": options.name, "--root": options.root}
    words = [word for flag, value in named.items() if value for word in (flag, value)]
    words += [word for value in options.set for word in ("--set", value)]
    print(f"talk to it: {quoted(['python', '-m', 'lora_kit', 'chat', *words])}")


def chat(options: argparse.Namespace) -> None:
    """train what is missing, then talk to base and tuned model side by side"""
    check_temperature(options.temperature)
    run = open_run(options, "training")
    lk.chat(run, options.question, adapter=options.adapter, temperature=options.temperature)


def export(options: argparse.Namespace) -> None:
    """make what is missing, then write the adapter as a zip, or the merged model as GGUF or for Ollama"""
    check_format(options.to, options.check)
    run = open_run(options, "training" if options.to == "adapter-zip" else "merged")
    lk.export(run, options.to, check=options.check)


def runs(options: argparse.Namespace) -> None:
    """list the run folders with size, date and finished stages, or delete one"""
    root = absolute(options.root or default_root())
    folders = {path.name: path for path in sorted(root.glob("*")) if any(path.rglob("manifest.json"))}
    if options.delete is None:
        for name, folder in folders.items():
            files = {file for part in (folder, scratch_root(root) / name) for file in part.rglob("*")}
            size = sum(file.stat().st_size for file in files if file.is_file())
            done = sorted(folder.rglob("manifest.json"), key=lambda path: path.stat().st_mtime)
            stages = dict.fromkeys(path.relative_to(folder).parts[0] for path in done)
            date = time.strftime("%Y-%m-%d", time.localtime(done[-1].stat().st_mtime))
            print(f"{size / 2**20:10,.1f} MiB  {date}  {shown(folder)}  ({', '.join(stages)})")
        if not folders:
            print(f"no runs in {shown(root)}")
        return
    if options.delete not in folders:
        raise KitError(f"there is no run {options.delete!r}; there are {', '.join(folders) or 'none'}")
    for folder in dict.fromkeys((root / options.delete, scratch_root(root) / options.delete)):
        with disk_errors(folder):
            if folder.is_symlink():  # what it leads to is somebody else's
                folder.unlink()
            elif folder.exists():
                shutil.rmtree(folder)
    print(f"deleted {shown(root / options.delete)}")


FUNCTIONS = (doctor, demo, prepare, plan, train, merge, evaluate, chat, export, runs)
COMMANDS: dict[str, Callable[[argparse.Namespace], int | None]] = {each.__name__: each for each in FUNCTIONS}

if __name__ == "__main__":
    sys.exit(main())
