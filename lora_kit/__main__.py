"""python -m lora_kit doctor | demo | prepare | plan | train | merge | evaluate | chat | export | runs"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path

from .disk import absolute
from .environment import default_root, scratch_root
from .errors import KitError
from .manifests import check_files, shown
from .profiles import PROFILES
from .runs import Run
from .traps import doctor

STAGE_OF = {"prepare": "data", "train": "training"}
HELP = {
    "doctor": "check this machine and say what to mend",
    "demo": "the whole way on the embedded model: prepare, train, merge, evaluate",
    "prepare": "encode the dataset and report what is in it",
    "plan": "say what training will take, before it starts",
    "train": "train the adapter",
    "merge": "merge the adapter into the base",
    "evaluate": "make what is missing, then ask base, adapter and merged model the held-out questions",
    "chat": "talk to base and tuned model side by side",
    "export": "write the adapter as a zip, or the merged model as GGUF or for Ollama",
    "runs": "list the run folders with their sizes, or delete one",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0 when it went well, 1 when a check failed, 2 for a mistake of the user's."""
    options = parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal without our signs gets other ones, and no error
        sys.stdout.reconfigure(errors="replace")
    if os.environ.get("LOCAL_RANK", "0") != "0":  # of several processes one speaks
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    try:
        return COMMANDS[options.command](options)
    except KitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read the output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print("\nstopped; finished stages are kept", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="lora_kit", description="Fine-tune a Llama chat model with LoRA on one small GPU."
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="command")
    for name, text in HELP.items():
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        command.add_argument("--profile", help=f"one of {', '.join(PROFILES)}; by default what the machine can do")
        command.add_argument("--root", help="where run folders live; by default LORA_KIT_RUNS or ./runs")
        if name not in ("doctor", "runs"):
            command.add_argument("--data", help="handbook, triage, a file or folder of yours, or a Hub id")
            command.add_argument("--name", help="name of the run folder")
            command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as in lora__r=32")
        if name == "doctor":
            command.add_argument("--json", action="store_true", help="for a program: name, ok, evidence, fix")
        if name == "runs":
            command.add_argument("--delete", metavar="NAME", help="delete this run and all that is in it")
        if name == "export":
            command.add_argument("--to", default="adapter-zip", help="adapter-zip, gguf, gguf-q8_0 or ollama")
        if name == "merge":
            command.add_argument("--onto", default="original", choices=("original", "dequantized"), help="which base")
        if name == "evaluate":
            command.add_argument("--questions", metavar="FILE", help="your own questions with answers, as data is read")
            command.add_argument("--harness", nargs="+", default=[], metavar="TASK", help="lm-eval's tasks besides")
        if name == "chat":
            command.add_argument("--adapter", help="which of the run's adapters answers, as handbook or triage")
            command.add_argument("--temperature", type=float, default=0.0, help="0: the likeliest words; 2 at most")
            command.add_argument("question", nargs="?", help="one question; without it, a prompt until an empty line")
    return top


def open_run(options: argparse.Namespace) -> Run:
    """The run that the options name."""
    wrong = [text for text in options.set if "=" not in text]
    if wrong:
        raise KitError(f"--set {wrong[0]!r} must be KEY=VALUE, as in lora__r=32")
    overrides = dict(text.split("=", 1) for text in options.set)
    return Run(options.profile, data=options.data, name=options.name, root=options.root, **overrides)


def _stage(options: argparse.Namespace) -> int:
    from .pipeline import is_done, make, stage_folder

    run, stage = open_run(options), STAGE_OF[options.command]
    done = is_done(run, stage)
    make(run, stage)
    folder = stage_folder(run, stage)
    if done and folder:
        check_files(folder)
        print(f"{options.command}: done before with these settings, in {shown(run.path)}")
    return 0


def _merge(options: argparse.Namespace) -> int:
    from .merging import merge
    from .pipeline import make

    run = open_run(options)
    make(run, "training")
    merge(run, onto=options.onto)
    return 0


def _demo(options: argparse.Namespace) -> int:
    from .evaluation import evaluate
    from .pipeline import make

    if options.command == "demo" and options.profile is None:
        options.profile = "tiny-cpu"  # a demo downloads nothing, also where a GPU is
    run = open_run(options)
    make(run, "merged")
    told = options if options.command == "evaluate" else argparse.Namespace(questions=None, harness=[])
    evaluate(run, questions=told.questions, harness=told.harness)
    return 0


def _plan(options: argparse.Namespace) -> int:
    from .adapters import attach_lora
    from .data import prepare
    from .quantization import load_base
    from .training import plan

    run = open_run(options)
    plan(attach_lora(load_base(run), run), prepare(run), run)
    return 0


def _chat(options: argparse.Namespace) -> int:
    from .chatting import chat

    chat(open_run(options), options.question, adapter=options.adapter, temperature=options.temperature)
    return 0


def _export(options: argparse.Namespace) -> int:
    from .exporting import export

    export(open_run(options), options.to)
    return 0


def _doctor(options: argparse.Namespace) -> int:
    if options.root:
        os.environ["LORA_KIT_RUNS"] = options.root
    with redirect_stdout(sys.stderr if options.json else sys.stdout):  # of a program's JSON nothing else is a part
        checkup = doctor(options.profile)
    print(json.dumps(checkup.as_data(), indent=1) if options.json else checkup)
    return 1 if checkup.failed else 0


def _runs(options: argparse.Namespace) -> int:
    root = absolute(options.root or default_root())
    folders = sorted(path for path in root.glob("*") if any(path.rglob("manifest.json")))
    if options.delete is not None:
        return _delete(options.delete, folders)
    for folder in folders:
        files = [file for part in (folder, scratch_root(root) / folder.name) for file in part.rglob("*")]
        size = sum({file: file.stat().st_size for file in files if file.is_file()}.values())
        print(f"{size / 2**20:10,.1f} MiB  {shown(folder)}")
    if not folders:
        print(f"no runs in {shown(root)}")
    return 0


def _delete(name: str, folders: list[Path]) -> int:
    found = next((folder for folder in folders if folder.name == name), None)
    if found is None:
        raise KitError(f"there is no run {name!r}; there are {', '.join(folder.name for folder in folders) or 'none'}")
    shutil.rmtree(found)
    shutil.rmtree(scratch_root(found.parent) / name, ignore_errors=True)
    print(f"deleted {shown(found)}")
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    **dict.fromkeys(STAGE_OF, _stage),
    "merge": _merge,
    "demo": _demo,
    "evaluate": _demo,  # it too ends with the card
    "plan": _plan,
    "chat": _chat,
    "export": _export,
    "doctor": _doctor,
    "runs": _runs,
}

if __name__ == "__main__":
    sys.exit(main())
