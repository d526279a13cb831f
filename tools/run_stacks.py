"""Run the notebooks and the core tests on other library stacks: python tools/run_stacks.py [kaggle colab@3.11 newest]

Each file of tests/stacks becomes an environment in build/stacks, on its platform's Python where that is found, or on the
one after the @. The kit itself is installed without dependencies, as the setup cell does it. Every notebook and the core
tests are one result each; a table of them closes the run, and the exit status is the number of failures.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
STACKS, BUILD = ROOT / "tests" / "stacks", ROOT / "build" / "stacks"
PYTHONS = {"kaggle": "3.12", "colab": "3.13"}  # the others take the Python that runs this
SHOWN = ("torch", "transformers", "peft")
MISSING = ("py3langid", "rapidfuzz", "psutil")  # what the setup cell adds, and what every image has
TOOLS = ("pytest", "hypothesis", "ipykernel", "nbclient")
CORE = ("test_adapters", "test_base", "test_quantization", "test_generation", "test_pipeline", "data/test_encoding")
CORE += ("training/test_loop", "merging/test_merge", "merging/test_certificate", "data/test_templates")
QUIET = {
    "LORA_KIT_PROFILE": "tiny-cpu",
    "LORA_KIT_WIDGETS": "off",
    "LORA_KIT_PROGRESS": "off",
    "HF_HUB_OFFLINE": "1",
    "MPLBACKEND": "agg",
}


def found_python(version: str) -> str:
    """The path of python3.12 for "3.12", pyenv's ones included; where there is none, of the Python that runs this."""
    try:
        ask = [f"python{version}", "-c", "import ensurepip, sys; print(sys.executable)"]
        environment = os.environ | {"PYENV_VERSION": version}
        return subprocess.run(ask, env=environment, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        print(f"there is no python{version} with venv; this is {platform.python_version()}")
        return sys.executable


def build(name: str, interpreter: str) -> Path:
    """The environment's Python, made on first use and again when its file has changed."""
    place, wanted = BUILD / name, f"{interpreter}\n{(STACKS / f'{name}.txt').read_text()}"
    python, mark = place / "bin" / "python", place / "ready"
    if not mark.exists() or mark.read_text() != wanted:
        subprocess.run([interpreter, "-m", "venv", "--clear", str(place)], check=True)
        pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*pip, "-r", str(STACKS / f"{name}.txt"), *MISSING, *TOOLS], check=True)
        subprocess.run([*pip, "--no-deps", "-e", str(ROOT)], check=True)
        mark.write_text(wanted)
    return python


def versions(python: Path) -> list[str]:
    """The environment's Python, and its libraries as SHOWN."""
    ask = "import platform, sys; from importlib.metadata import version; print(platform.python_version())"
    ask += "; print(*map(version, sys.argv[1:]), sep='\\n')"
    return subprocess.run([python, "-c", ask, *SHOWN], capture_output=True, text=True, check=True).stdout.split()


def results(name: str, python: Path) -> dict[str, bool]:
    """Each notebook, and the core tests, with whether it passed."""
    runs, found = BUILD / f"{name}-runs", {}
    subprocess.run(["rm", "-rf", str(runs)], check=True)
    nbval = ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=900"]
    for notebook in sorted((ROOT / "notebooks").glob("0[1-5]*.ipynb")):
        found[notebook.stem] = passes(python, [*nbval, str(notebook)], runs)
    found["core tests"] = passes(python, [str(ROOT / "tests" / f"{part}.py") for part in CORE], runs)
    return found


def passes(python: Path, what: list[str], runs: Path) -> bool:
    """Whether pytest is content; what it says is shown when it is not."""
    given = os.environ | QUIET | {"LORA_KIT_RUNS": str(runs)}
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *what]
    done = subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stdout[-6000:])
    return done.returncode == 0


def main(names: list[str]) -> int:
    known = sorted(path.stem for path in STACKS.glob("*.txt"))
    wanted = [name.partition("@")[::2] for name in names or known]
    if wrong := {name for name, _ in wanted} - set(known):
        raise SystemExit(f"there is no stack {', '.join(sorted(wrong))}; there are {', '.join(known)}")
    failures, rows = 0, [("stack", "Python", *SHOWN, "notebooks", "core tests"), ("---",) * (len(SHOWN) + 4)]
    for name, version in wanted:
        start, chosen = time.time(), version or PYTHONS.get(name)
        python = build(name, found_python(chosen) if chosen else sys.executable)
        used, told = versions(python), results(name, python)
        failed = ", ".join(part for part, ok in told.items() if not ok)
        seconds = time.time() - start
        print(f"{name} on {used[0]}: {sum(told.values())} of {len(told)}, {seconds:.0f} s {failed}", flush=True)
        failures += sum(not ok for ok in told.values())
        core = "passed" if told.pop("core tests") else "failed"
        rows.append((name, *used, f"{sum(told.values())} of {len(told)}", core))
    print("\n".join(f"| {' | '.join(row)} |" for row in rows))
    return failures


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
