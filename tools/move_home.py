"""Move every badge, address and setup cell to another repository: python tools/move_home.py owner/name

The repository's name stands in setup.py; what else names it follows from there.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*/(?![\w.-]*\.git$)\w[\w.-]*")  # as GitHub names them


def home() -> str:
    """The repository as owner/name, from setup.py."""
    found = re.search(r'^HOME = "https://github.com/([^"]+)"', (ROOT / "setup.py").read_text(), re.M)
    if found is None:
        raise SystemExit('setup.py must hold a line like HOME = "https://github.com/owner/name"')
    return found[1]


def texts() -> list[Path]:
    """Every text file of the repository."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=False, capture_output=True, text=True)
    if listed.returncode:
        raise SystemExit("this folder is no git clone: clone the repository, then move it")
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    return [path for path in paths if path.suffix in (".py", ".md", ".ipynb", ".json", ".toml", ".txt")]


def move(to: str) -> list[Path]:
    """Put `to` where the repository is named, and give the files that changed."""
    if not SLUG.fullmatch(to):
        raise SystemExit(f"{to!r} is no repository: give owner/name, as {home()}")
    before, changed = home(), []
    # With what stands before it: a short name may also occur by chance, in a figure's bytes.
    named = re.compile(rf"(github(?:usercontent)?\.com/|/github/){re.escape(before)}(?![\w-])")
    mine = re.compile(rf'"{re.escape(before.split("/")[0])}/', re.I)
    for path in texts():
        text = path.read_text(encoding="utf-8")
        new = named.sub(rf"\g<1>{to}", text)
        if path.name == "kaggle-kernel-metadata.json":
            new = mine.sub(f'"{to.split("/")[0].lower()}/', new)
        if new != text:
            path.write_text(new, encoding="utf-8")
            changed.append(path)
    return changed


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(f"give the repository as owner/name; now it is {home()}")
    for path in move(sys.argv[1]):
        print(path.relative_to(ROOT))
