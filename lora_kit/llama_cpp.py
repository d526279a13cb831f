"""A GGUF file is asked: llama.cpp's answers to held-out questions, against the merged model that it was written from.

    llama.cpp   messages -> the file's own chat template -> ids -> greedy answer
    here        messages -> ids as in training, and the merged model's logits along llama.cpp's answer

An answer in which every token is the merged model's likeliest is its own greedy answer. llama.cpp rounds otherwise,
which may decide between tokens that are nearly as likely.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

from .base import load_tokenizer, read_config
from .config import Profile
from .data.prepare import data_inputs
from .data.prepared import load_prepared
from .data.splits import pick
from .errors import KitError
from .evaluation.asking import Question, answer_rows, as_stored
from .evaluation.evaluate import choose_questions
from .files import version
from .generation import check_length, stop_tokens, text_of
from .progress import Progress
from .quantization import load_model, release
from .runs import Run
from .training.loss import row_logits

QUESTIONS = 14  # of each kind, at most
ROUNDING = {"F16": 0.05, "Q8_0": 1.0}  # nats between two tokens; log-probabilities of SmolLM2 move by 0.012 and 0.56
SERVER = """
import sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx = sys.argv[1], int(sys.argv[2])
params.n_parallel, params.n_gpu_layers, params.warmup = 1, 0, False
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""
Post = Callable[..., Any]


def reference(run: Run, merged: Path) -> Profile:
    """The profile that loads the merged model as it is stored; KitError where memory does not suffice for that."""
    stored = run.profile if run.profile.quantization.kind == "none" else as_stored(run.profile, merged)
    if stored is None:
        raise KitError(
            f"check=True loads the merged model unquantized, and {run.profile.base.title} does not fit into the free "
            "memory: lk.release(model) what is loaded, export without the check, or on a larger machine"
        )
    return stored


def check_gguf(run: Run, file: Path, merged: Path, kind: str) -> None:
    """Ask the file held-out questions and print what was found; KitError where it does not answer as the merged model.

    Args:
        run: some of its held-out questions of each kind are asked, with their system texts.
        file: what was written from the folder `merged`.
        kind: of its weights, "F16" or "Q8_0".
    """
    data, limit = run.need("data", data_inputs(run), made_by="lk.prepare(run)"), run.profile.evaluation.max_new_tokens
    questions = pick(choose_questions(run, load_prepared(data), None), QUESTIONS)
    longest = max(len(row["prompt"]) for row in questions)
    check_length(longest, limit, read_config(merged)["max_position_embeddings"])
    with llama_cpp(file, longest + limit) as post:
        check_ids(post, questions)
        answers = ask(post, questions, limit)
    lost = shortfalls(run, merged, questions, answers)
    worst, others = max(lost), len(lost) - lost.count(0.0)
    if worst > ROUNDING[kind]:
        wrong, first = sum(value > ROUNDING[kind] for value in lost), lost.index(worst)
        said = text_of(answers[first], load_tokenizer(run.profile.base))
        how = "ends elsewhere" if worst == math.inf else f"finds another token {worst:.2f} nats likelier"
        raise KitError(
            f"the {kind} file is refused: {wrong} of {len(lost)} answers of llama.cpp are not the merged model's. "
            f"To {questions[first]['messages'][-2]['content']!r} it says {said!r}; the model {how}"
        )
    n, rest = len(lost), f", {others} differ by rounding (its own token is at most {worst:.3f} nats likelier)"
    print(f"checked with llama.cpp (xllamacpp {version('xllamacpp')}): {n} of {n} prompts have the ids of training,")
    print(f"  {n - others} of {n} greedy answers are the merged model's{rest if others else ''}")


def check_ids(post: Post, questions: Sequence[Question]) -> None:
    """Raise KitError where llama.cpp, with the file's own chat template, encodes a conversation unlike training."""
    texts = [post("/apply-template", messages=row["messages"][:-1])["prompt"] for row in questions]
    found = [post("/tokenize", content=text, add_special=True, parse_special=True)["tokens"] for text in texts]
    wrong = [i for i, row in enumerate(questions) if found[i] != row["prompt"]]
    for i in wrong[:1]:
        raise KitError(
            f"the file is refused: llama.cpp gives {len(wrong)} of {len(questions)} prompts other ids than training. "
            f"{texts[i]!r} gives {found[i]} instead of {questions[i]['prompt']}"
        )


def ask(post: Post, questions: Sequence[Question], max_new_tokens: int) -> list[list[int]]:
    """llama.cpp's greedy answers as ids, each with its stop token where it has ended."""
    greedy = {"n_predict": max_new_tokens, "samplers": ["top_k"], "top_k": 1, "return_tokens": True}
    answers = list[list[int]]()
    with Progress("answers of llama.cpp", len(questions)) as progress:
        for row in questions:
            answers.append(post("/completion", prompt=row["prompt"], cache_prompt=False, **greedy)["tokens"])
            progress.update(len(answers))
    return answers


def shortfalls(run: Run, merged: Path, questions: Sequence[Question], answers: Sequence[list[int]]) -> list[float]:
    """The most nats by which the merged model prefers another token, for each answer: 0 is its own greedy answer."""
    model, lost = load_model(reference(run, merged), merged), [0.0] * len(answers)
    for row, logits, tokens in row_logits(
        model, answer_rows([row["prompt"] for row in questions], answers), run.profile.training
    ):
        chosen = logits.gather(1, tokens.unsqueeze(1)).squeeze(1)
        lost[row.number] = float((logits.amax(1) - chosen).max())
    stops, limit = stop_tokens(model, load_tokenizer(run.profile.base)), run.profile.evaluation.max_new_tokens
    release(model)
    for i, answer in enumerate(answers):  # it ends where the merged model does: at its first stop token, or the limit
        if next((n for n, token in enumerate(answer, start=1) if token in stops), limit) != len(answer):
            lost[i] = math.inf
    return lost


@contextmanager
def llama_cpp(file: Path, context: int) -> Iterator[Post]:
    """llama.cpp with this file, on the CPU, in a process of its own: a file that breaks it breaks nothing else.

    Yields a function that posts fields to a path of llama.cpp's server and returns the answer.

    Raises:
        KitError: it does not load the file, or refuses a request.
    """
    local = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy stands before this machine
    command = [sys.executable, "-c", SERVER, str(file.absolute()), str(context)]
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True) as server,
    ):

        def stopped() -> KitError:
            server.wait()
            log.seek(0)
            lines = log.read().decode(errors="replace").splitlines() or ["no reason given"]
            reason = next((line.partition(" E ")[2] for line in lines if " E " in line), lines[-1])
            return KitError(f"llama.cpp cannot use {file.name}: {reason}")

        def post(path: str, **fields: Any) -> Any:
            body = json.dumps(fields).encode()
            request = urllib.request.Request(address + path, body, {"Content-Type": "application/json"})
            try:
                with local.open(request) as answer:
                    return json.load(answer)
            except HTTPError as error:
                raise KitError(f"llama.cpp refuses {path}: {error.read().decode(errors='replace')}") from error
            except OSError as error:  # it is not there any more
                raise stopped() from error

        try:
            assert server.stdout is not None
            if not (address := server.stdout.readline().strip()):
                raise stopped()
            yield post
        finally:
            server.kill()
