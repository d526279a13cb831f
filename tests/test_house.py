"""The house rules of design.md: imports run one way, importing is instant, nothing unsafe, small files, licences."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
FOUNDATION = {
    "errors",
    "config",
    "presets",
    "files",
    "machine",
    "base",
    "model_files",
    "packing",
    "runs",
    "checkup",
    "distributed",
}
LAYERS = (
    FOUNDATION | {"progress", "plots", "templates", "threads"},
    {"data", "quantization", "adapter_files", "adapters", "generation"},
    {"training", "merging", "evaluation"},
    {"pipeline", "correction", "hosted", "widgets", "chatting", "gguf", "llama_cpp", "exporting", "course"}
    | {"__main__", "__init__"},
)
HEAVY = {"torch", "transformers", "peft", "bitsandbytes", "datasets", "matplotlib", "accelerate", "pandas", "numpy"}
ONLY_IN = {"bitsandbytes": ("quantization", "training.optim"), "peft": ("adapter_files", "adapters", "merging")}
UNSAFE = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
LLAMA2 = (
    "Llama 2 is licensed under the LLAMA 2 Community License, Copyright (c) Meta Platforms, Inc. All Rights Reserved."
)
IMPORT_BUDGET = 0.3  # seconds over a bare start; three times as much fails

SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in sorted((ROOT / "lora_kit").rglob("*.py"))
}
OTHERS = [path for name in ("tools", "benchmarks") for path in sorted((ROOT / name).rglob("*.py"))]


class Import(NamedTuple):
    target: str  # full dotted name: lora_kit.runs, torch.nn
    line: int
    at_import: bool  # runs when the module is imported
    typing_only: bool  # under `if TYPE_CHECKING`


def imports(module: str) -> list[Import]:
    """Every import of a module of the package, relative ones resolved."""
    return list(_walk(ast.parse(SOURCES[module].read_text(encoding="utf-8")), module, True, False))


def _walk(node: ast.AST, module: str, at_import: bool, typing_only: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield from (Import(name, node.lineno, at_import, typing_only) for name in _targets(node, module))
    elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        for child in node.body:
            yield from _walk(child, module, False, True)
        for child in node.orelse:
            yield from _walk(child, module, at_import, typing_only)
    else:
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from _walk(child, module, at_import and not inside, typing_only)


def _targets(node: ast.Import | ast.ImportFrom, module: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [_known(alias.name) for alias in node.names]
    above = module.split(".")[: -node.level] if node.level else []
    stem = ".".join([*above, *([node.module] if node.module else [])])
    return [_known(f"{stem}.{alias.name}") for alias in node.names]


def _known(name: str) -> str:
    """`lora_kit.runs.Run` is lora_kit.runs; names of other libraries stay as they are."""
    parts = name.split(".")
    if parts[0] != "lora_kit":
        return name
    while parts:
        for candidate in (".".join(parts), ".".join([*parts, "__init__"])):
            if candidate in SOURCES:
                return candidate
        parts.pop()
    return name


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def layer(module: str) -> int:
    return next((level for level, rooms in enumerate(LAYERS) if room(module) in rooms), -1)


def test_relative_imports_are_resolved():
    tree = ast.parse(
        "from . import encoding\nfrom ..errors import KitError\nimport torch.nn as nn\nfrom .. import runs"
    )
    names = [name for node in tree.body for name in _targets(node, "lora_kit.data.encoding")]
    assert names == ["lora_kit.data.encoding", "lora_kit.errors", "torch.nn", "lora_kit.runs"]


def test_every_room_has_a_layer():
    homeless = sorted({room(module) for module in SOURCES if layer(module) < 0})
    assert not homeless, f"add {homeless} to LAYERS"


@pytest.mark.parametrize("module", SOURCES)
def test_imports_run_one_way(module):
    upward = [
        f"{module}:{found.line} imports {found.target} from a later layer"
        for found in imports(module)
        if found.target.startswith("lora_kit.") and layer(found.target) > layer(module)
    ]
    assert not upward


def test_no_import_cycles():
    graph = {
        module: {
            found.target
            for found in imports(module)
            if found.target in SOURCES and found.target != module and not found.typing_only
        }
        for module in SOURCES
    }
    TopologicalSorter(graph).prepare()  # CycleError names the modules


@pytest.mark.parametrize("module", SOURCES)
def test_heavy_libraries_are_imported_where_used(module):
    early = [
        f"{module}:{found.line} imports {found.target} at import"
        for found in imports(module)
        if found.at_import and found.target.split(".")[0] in HEAVY
    ]
    assert not early


@pytest.mark.parametrize("module", SOURCES)
def test_bitsandbytes_and_peft_have_their_rooms(module):
    name = module.removeprefix("lora_kit.")
    strangers = [
        f"{module}:{found.line} imports {found.target}, which belongs in {', '.join(ONLY_IN[library])}"
        for found in imports(module)
        if (library := found.target.split(".")[0]) in ONLY_IN
        and not any(name == home or name.startswith(f"{home}.") for home in ONLY_IN[library])
    ]
    assert not strangers


@pytest.mark.parametrize("path", [*SOURCES.values(), *OTHERS], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_foreign_code_is_ever_run(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not [f"{path.name}:{node.lineno}" for node in ast.walk(tree) if _runs_foreign_code(node)]


def _runs_foreign_code(node: ast.AST) -> bool:
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
        return not any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords)
    if isinstance(node, ast.Import):
        return any(alias.name.split(".")[0] in UNSAFE for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        return (node.module or "").split(".")[0] in UNSAFE
    if isinstance(node, ast.keyword):
        return node.arg == "trust_remote_code" and ast.unparse(node.value) != "False"
    return isinstance(node, ast.Constant) and node.value == "trust_remote_code"


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(p)",
        "torch.load(p, weights_only=False)",
        "import pickle",
        "f(trust_remote_code=True)",
    ],
)
def test_foreign_code_would_be_found(line):
    assert any(map(_runs_foreign_code, ast.walk(ast.parse(line))))


@pytest.mark.parametrize("module", SOURCES)
def test_transformers_never_asks_whether_to_run_foreign_code(module):
    """Where nothing is said, it asks at the keyboard."""
    calls = ast.walk(ast.parse(SOURCES[module].read_text(encoding="utf-8")))
    loads = [c for c in calls if isinstance(c, ast.Call) and re.match(r"Auto\w+\.from_", ast.unparse(c.func))]
    assert not [c.lineno for c in loads if "trust_remote_code" not in [keyword.arg for keyword in c.keywords]]


@pytest.mark.parametrize("module", SOURCES)
def test_texts_are_utf_8_whatever_the_machine_says(module):
    tree = ast.parse(SOURCES[module].read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    texts = [c for c in calls if ast.unparse(c.func).endswith((".read_text", ".write_text"))]
    texts += [c for c in calls if ast.unparse(c.func) == "open"]
    assert not [call.lineno for call in texts if "encoding" not in [keyword.arg for keyword in call.keywords]]


@pytest.mark.parametrize("module", SOURCES)
def test_files_and_functions_stay_small(module):
    text = SOURCES[module].read_text(encoding="utf-8")
    functions = (n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
    long = [f"{f.name} has {length} lines" for f in functions if (length := (f.end_lineno or 0) - f.lineno + 1) > 60]
    assert not long
    assert len(text.splitlines()) < 250


def test_importing_is_instant():
    bare, ours = (min(_seconds(code) for _ in range(5)) for code in ("pass", "import lora_kit"))
    print(f"import lora_kit: {ours - bare:.3f} s over a bare start, budget {IMPORT_BUDGET} s")
    assert ours - bare < 3 * IMPORT_BUDGET


def test_importing_loads_no_heavy_library():
    code = f"import lora_kit, sys; print(*sorted({HEAVY!r} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


def _seconds(code: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    return time.perf_counter() - start


def test_licences_are_named():
    licence, notice = ((ROOT / name).read_text(encoding="utf-8") for name in ("LICENSE", "NOTICE"))
    assert licence.startswith("MIT License\n\nCopyright (c) 2026 the lora_kit authors\n")
    assert LLAMA2 in notice.splitlines()
    assert "CC0 1.0" in notice
    named = [line.strip() for line in notice.splitlines() if line.startswith("    ")]
    assert named and all((ROOT / name).exists() for name in named)


def test_every_dependency_is_pinned():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    setup = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    lists = [k.value for k in ast.walk(setup) if isinstance(k, ast.keyword) and k.arg == "install_requires"]
    wanted = {requirement.split(">")[0] for requirement in ast.literal_eval(lists[0])}
    assert wanted <= pins.keys()
