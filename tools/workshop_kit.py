"""Write build/lora_kit-workshop.zip, for a room without internet: python tools/workshop_kit.py

START.md            one page: what must be installed beforehand, and two commands
notebooks/          the course with its solutions and the teacher's notes
wheels/             lora_kit (with the embedded model and datasets), bitsandbytes' CPU part, small libraries
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from stage_kaggle import ROOT, wheel

KIT = ROOT / "build" / "workshop-kit"
ZIP = ROOT / "build" / "lora_kit-workshop.zip"
CUT = """# the network is cut; a kernel's own sockets to this machine stay
import socket
real = socket.socket.connect
def connect(self, address, *rest):
    if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "localhost"):
        raise OSError(f"the network is cut, and {address} was asked for")
    return real(self, address, *rest)
socket.socket.connect = connect
"""
SMALL = ("py3langid", "rapidfuzz", "psutil")
LARGEST = 60 * 10**6  # bytes
BEFORE = (
    "torch",
    "transformers>=5.0,<6",
    "peft>=0.19",
    "datasets>=4.0",
    "accelerate>=1.13",
    "matplotlib",
    "ipywidgets",
    "jupyterlab",
)
START = f"""# Start

At home, with internet: Python {sys.version_info.major}.{sys.version_info.minor}, in an environment of its own (`python -m venv course`), then

    pip install {" ".join(f'"{name}"' for name in BEFORE)}

In the room, in this folder, without internet:

    pip install --no-index --find-links wheels --no-deps lora_kit bitsandbytes {" ".join(SMALL)}
    jupyter lab notebooks

Open `notebooks/README.md` (right click, Open With, Markdown Preview), then `01_environment_check.ipynb`. Everything runs on the embedded
model, without GPU, account or network. Where a laptop has a GPU, hide it before Jupyter starts: `export CUDA_VISIBLE_DEVICES=`. Where other
programs keep all cores busy, `export OMP_NUM_THREADS=1` makes training faster, not slower.

Made for and tried on Linux, x86-64, Python {sys.version_info.major}.{sys.version_info.minor}. The wheels of bitsandbytes and of the small libraries are of this kind. With
another Python (3.11 is the oldest), on Windows and on macOS, install those four at home too: `pip install bitsandbytes {" ".join(SMALL)}`.
That was not tried.
"""


def build() -> Path:
    """Write the zip and return it."""
    shutil.rmtree(KIT, ignore_errors=True)
    (KIT / "wheels").mkdir(parents=True)
    shutil.copytree(ROOT / "notebooks", KIT / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    wheel(KIT / "wheels")
    fetched = KIT / "fetched"
    options = ["--only-binary=:all:", "--no-deps", "-q", "--disable-pip-version-check", "-d", str(fetched)]
    names = map(pinned, ("bitsandbytes", *SMALL))
    subprocess.run([sys.executable, "-m", "pip", "download", *options, *names], check=True)
    for file in fetched.iterdir():
        if file.name.startswith("bitsandbytes"):
            without_cuda(file, KIT / "wheels" / file.name)
        else:
            shutil.copy(file, KIT / "wheels")
    shutil.rmtree(fetched)
    (KIT / "START.md").write_text(START)
    for name in ("LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, KIT)
    ZIP.unlink(missing_ok=True)
    shutil.make_archive(str(ZIP.with_suffix("")), "zip", KIT.parent, KIT.name)
    if ZIP.stat().st_size > LARGEST:
        raise SystemExit(f"{ZIP.name} has {ZIP.stat().st_size:,} bytes, more than {LARGEST:,}")
    return ZIP


def pinned(name: str) -> str:
    """A library with the version that requirements.txt pins."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return next(line for line in lines if line.split("==")[0] == name)


def without_cuda(source: Path, target: Path) -> None:
    """The same wheel without its CUDA libraries, which are most of its bytes and no laptop's."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        kept = [name for name in old.namelist() if "libbitsandbytes_" not in name or "_cpu" in name]
        (record,) = [name for name in kept if name.endswith(".dist-info/RECORD")]
        lines = []
        for name in kept:
            if name != record:
                data = old.read(name)
                new.writestr(name, data)
                digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
                lines.append(f"{name},sha256={digest},{len(data)}")
        new.writestr(record, "\n".join([*lines, f"{record},,"]) + "\n")


def prove(made: Path) -> None:
    """Unpack, install and run every notebook from the zip alone, with the network cut.

    Raises:
        SystemExit: something in the kit asks for the network, or does not run.
    """
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        shutil.unpack_archive(made, place)
        kit, libraries = place / KIT.name, place / "libraries"
        options = ["--no-index", "--no-deps", "-q", "--disable-pip-version-check", "--find-links", str(kit / "wheels")]
        names = ["lora_kit", "bitsandbytes", *SMALL]
        pip = [sys.executable, "-m", "pip", "install", *options, "--target", str(libraries), *names]
        subprocess.run(pip, check=True)
        (libraries / "sitecustomize.py").write_text(CUT)
        told = {"PYTHONPATH": str(libraries), "LORA_KIT_PROFILE": "tiny-cpu", "LORA_KIT_RUNS": str(place / "runs")}
        told |= {"LORA_KIT_WIDGETS": "off", "LORA_KIT_PROGRESS": "off", "MPLBACKEND": "agg"}
        nbval = ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=900", "-p", "no:cacheprovider"]
        course = kit / "notebooks"
        for path in [*sorted(course.glob("0[1-5]*.ipynb")), course / "00_all_in_one.ipynb", *course.glob("*/*.ipynb")]:
            command = [sys.executable, "-m", "pytest", "-q", *nbval, str(path)]
            done = subprocess.run(command, cwd=place, env=os.environ | told, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{path.name} does not run from the kit:\n{done.stdout[-3000:]}{done.stderr[-1000:]}")
            print(f"{path.relative_to(course)} runs from the kit with the network cut", flush=True)


if __name__ == "__main__":
    made = build()
    prove(made)
    print(f"{made.relative_to(ROOT)}: {made.stat().st_size / 1e6:.1f} MB")
