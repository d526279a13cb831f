"""Packed files, whoever packed them: unpacked whole, in their place and within reason, or refused."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

from .errors import KitError
from .files import DISK, disk_errors, shown

SMALL, RATIO = 2**28, 100  # bytes unpacked; more than 256 MiB must have been packed to a hundredth or more


def unpacked_limit(packed: Path) -> int:
    """Bytes that a packed file may become: no text of people packs better."""
    return max(SMALL, RATIO * packed.stat().st_size)


def check_unpacked(packed: Path, size: int) -> None:
    """Raise KitError where a packed file becomes absurdly large."""
    if size > unpacked_limit(packed):
        raise KitError(
            f"{shown(packed)} becomes {size / 2**30:,.2f} GiB or more when unpacked: no honest file does that"
        )


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a packed run; nothing that is there already is overwritten, nothing lands outside `folder`.

    Every file takes its place as a whole, a manifest behind the files it names: what broke off is made good by another.
    """
    partial = folder / ".unpacked.partial"
    with disk_errors(folder):
        shutil.rmtree(partial, ignore_errors=True)  # what a process that was killed has left
        try:
            if not zipfile.is_zipfile(archive):
                raise ValueError("it is no zip")
            with zipfile.ZipFile(archive) as packed:
                check_unpacked(archive, sum(file.file_size for file in packed.infolist()))
                packed.extractall(partial)
            for file in sorted(partial.rglob("*"), key=lambda file: (file.name == "manifest.json", file)):
                target = folder / file.relative_to(partial)
                if file.is_file() and not target.exists():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    file.rename(target)
        except (KitError, MemoryError):
            raise
        except Exception as error:  # also a password; the library has many names for what is wrong
            if getattr(error, "errno", None) in DISK:
                raise
            reason = f"source={str(archive)!r} is not a packed run ({error})"
            raise KitError(f"{reason}: give the zip that run.pack() wrote") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
