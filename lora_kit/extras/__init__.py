"""What leaves the kit: an adapter zip that plain PEFT loads, and the Hub."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from ..base import locate
from ..disk import disk_errors
from ..errors import KitError
from ..manifests import shown
from ..merging import NOTICE
from ..training import trained_adapter

if TYPE_CHECKING:
    from ..runs import Run

FORMATS = ("adapter-zip",)
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "chat_template.jinja")


def export(run: Run, kind: str = "adapter-zip") -> Path:
    """Write the trained adapter with its tokenizer as one zip that plain PEFT loads, and return its path.

    Raises:
        KitError: an unknown format, no trained adapter, no room on the disk.
    """
    if kind not in FORMATS:
        raise KitError(f"there is no export {kind!r}; lora_kit exports {', '.join(FORMATS)}")
    adapter, base = trained_adapter(run), locate(run.profile.base)
    target = run.path / f"{adapter.parent.name}-adapter.zip"
    files = [*sorted(adapter.iterdir()), *(base / name for name in TOKENIZER if (base / name).is_file())]
    with disk_errors(target), zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(file, file.name)
        if run.profile.base.licence == "llama2":
            archive.writestr("NOTICE", NOTICE)
    print(f"adapter: {target.stat().st_size / 2**20:,.1f} MiB in {shown(target)}")
    return target


def push(run: Run, repository: str) -> str:
    """Push the trained adapter, not the weights, to the Hub as a private repository; needs a token that may write.

    Raises:
        KitError: no trained adapter, or the Hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    adapter = trained_adapter(run)
    try:
        HfApi().create_repo(repository, private=True, exist_ok=True)
        page = HfApi().upload_folder(repo_id=repository, folder_path=adapter)
    except (HfHubHTTPError, LocalTokenNotFoundError, ValueError, OSError) as error:
        raise KitError(
            f"the Hub did not take {repository!r} ({type(error).__name__}): set HF_TOKEN to a token that may write"
        ) from error
    print(f"pushed: {page}")
    return str(page)
