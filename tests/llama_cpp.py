"""llama.cpp itself, from PyPI's xllamacpp, in a process of its own: python tests/llama_cpp.py MODEL.gguf < request"""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any


def ask(model: Path, prompts: list[list[int]], texts: list[str], *, max_new_tokens: int) -> dict[str, Any]:
    """Greedy answers to prompts of ids, and the ids of texts, as llama.cpp gives them."""
    request = json.dumps({"prompts": prompts, "texts": texts, "max_new_tokens": max_new_tokens})
    done = subprocess.run(
        [sys.executable, __file__, str(model)], input=request, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    import xllamacpp

    request = json.load(sys.stdin)
    settings = xllamacpp.CommonParams()
    settings.model.path, settings.n_ctx, settings.n_parallel, settings.warmup = sys.argv[1], 512, 1, False
    server = xllamacpp.Server(settings)

    def post(path: str, **body: Any) -> list[int]:
        address = urllib.request.Request(
            server.listening_address + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(address) as answer:
            tokens: list[int] = json.load(answer)["tokens"]
            return tokens

    greedy = {"n_predict": request["max_new_tokens"], "temperature": 0.0, "top_k": 1, "return_tokens": True}
    answers = [post("/completion", prompt=prompt, **greedy) for prompt in request["prompts"]]
    ids = [post("/tokenize", content=text, add_special=False, parse_special=True) for text in request["texts"]]
    print(json.dumps({"answers": answers, "ids": ids}))


if __name__ == "__main__":
    main()
