"""The Hub: the adapter alone unless asked otherwise, with its card and notice."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import KitError
from ..files import read_manifest
from ..training.train import trained_adapter
from .formats import adapter_files, merged_folder

if TYPE_CHECKING:
    from ..runs import Run


def push(run: Run, repository: str, *, what: str = "adapter", private: bool = True) -> str:
    """Push to the Hub and return the page's address; needs a token that may write, and never shows it.

    Args:
        run: its adapter is trained.
        repository: "owner/name".
        what: "adapter", a few MiB; or "merged", the whole model with its certificate.
        private: a new repository is seen by its owner alone.

    Raises:
        KitError: a wrong name, a stage that is missing, or the Hub refuses.
    """
    if not isinstance(repository, str) or not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise KitError(f"{repository!r} is no name of a repository: give owner/name")
    if what not in ("adapter", "merged"):
        raise KitError(f"what={what!r} cannot be pushed; there are adapter, merged")
    adapter = trained_adapter(run)
    if what == "adapter":
        files, texts = adapter_files(run, adapter)
    else:
        merged, texts = merged_folder(run)
        files = [merged / name for name in read_manifest(merged)["files"]]  # what was certified, nothing beside
    contents = {file.name: file for file in files} | {name: text.encode() for name, text in texts.items()}
    page = _upload(repository, contents, private=private)
    print(f"pushed: {page}")
    return page


def _upload(repository: str, contents: dict[str, Path | bytes], *, private: bool) -> str:
    """One commit with all files, and the address of its page."""
    from huggingface_hub import CommitOperationAdd, HfApi

    operations = [CommitOperationAdd(name, content) for name, content in contents.items()]
    try:
        api = HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        return str(api.create_commit(repository, operations, commit_message="lora_kit").commit_url)
    except Exception as error:  # the errors of the library and of the HTTP client under it are many
        status = getattr(getattr(error, "response", None), "status_code", None)
        kind = type(error).__name__ + (f", {status}" if status else "")
        # not "from error": the library's own error may quote the request
        raise KitError(f"the Hub did not take {repository!r} ({kind}): {_way_out(status, error)}") from None


def _way_out(status: int | None, error: Exception) -> str:
    """What helps: the reason where a name or the card breaks a rule of the Hub, else by its answer."""
    from huggingface_hub.errors import BadRequestError, HFValidationError

    if type(error) is ValueError or isinstance(error, BadRequestError | HFValidationError):
        return " ".join(str(getattr(error, "server_message", None) or error).split())
    if status in (401, 403, 404):
        return "set HF_TOKEN to a token that may write there"
    return "try again later" if status else "check the network, HF_HUB_OFFLINE and HF_TOKEN"
