"""Run the notebooks and the core tests on other library stacks: python tools/run_stacks.py [kaggle colab newest]

Each file of tests/stacks becomes an environment in build/stacks. The kit itself is installed without dependencies, as
the setup cell does it. Every notebook and the core tests are one result each; the exit status is the number of failures.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
STACKS, BUILD = ROOT / "tests" / "stacks", ROOT / "build" / "stacks"
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


def build(name: str) -> Path:
    """The environment's Python, made on first use and again when its file has changed."""
    place, wanted = BUILD / name, (STACKS / f"{name}.txt").read_text()
    python, mark = place / "bin" / "python", place / "ready"
    if not mark.exists() or mark.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(place)], check=True)
        pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*pip, "-r", str(STACKS / f"{name}.txt"), *MISSING, *TOOLS], check=True)
        subprocess.run([*pip, "--no-deps", "-e", str(ROOT)], check=True)
        mark.write_text(wanted)
    return python


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
    if wrong := set(names) - set(known):
        raise SystemExit(f"there is no stack {', '.join(sorted(wrong))}; there are {', '.join(known)}")
    failures = 0
    for name in names or known:
        start, told = time.time(), results(name, build(name))
        failures += sum(not ok for ok in told.values())
        failed = ", ".join(part for part, ok in told.items() if not ok)
        print(f"{name}: {sum(told.values())} of {len(told)}, {time.time() - start:.0f} s {failed}", flush=True)
    return failures


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
