"""What goes wrong with a disk, said in one sentence with a way out."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import KitError
from .manifests import shown

FULL = (errno.ENOSPC, errno.EDQUOT)
DISK = (*FULL, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENAMETOOLONG)


@contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Turn "disk full", "read-only" and their like into one sentence with a way out."""
    try:
        yield
    except Exception as error:
        reason = _disk_reason(error)
        if reason is None:
            raise
        raise _refused(place, reason) from error


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """A hidden file to write, which takes its name when the block ends well; nobody sees half a file."""
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    with disk_errors(target):
        try:
            yield partial
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)


def _disk_reason(error: Exception) -> str | None:
    """Why the disk refused, or None for any other error."""
    if isinstance(error, OSError):
        return error.strerror if error.errno in DISK else None
    code = re.search(r"\(os error (\d+)\)", str(error))  # safetensors has an error class of its own
    return os.strerror(int(code[1])) if code and int(code[1]) in DISK else None


def absolute(folder: str | os.PathLike[str]) -> Path:
    """The folder with ~ and links resolved.

    Raises:
        KitError: nobody has that home, or links that go in a circle.
    """
    try:
        return Path(folder).expanduser().resolve()
    except RuntimeError as error:
        raise KitError(f"{os.fspath(folder)!r} names no folder: {error}") from error


def check_writable(folder: Path) -> None:
    """Make the folder and write into it once.

    Raises:
        KitError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-test-{os.getpid()}"
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:  # also where no folder can be made, as below /proc
        raise _refused(folder, error.strerror or str(error)) from error


def _refused(place: Path, reason: str) -> KitError:
    way_out = "Free some space, or choose" if reason in map(os.strerror, FULL) else "Choose"
    return KitError(
        f"cannot write {shown(place)}: {reason}. {way_out} another place with "
        "lk.Run(root=...) or the variable LORA_KIT_RUNS; what was finished before is untouched"
    )
