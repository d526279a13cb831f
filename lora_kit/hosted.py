"""What Colab and Kaggle add: runs kept on a Drive, a file of yours uploaded, the adapter downloaded."""

from __future__ import annotations

import os
from pathlib import Path

from .base import KAGGLE_INPUT
from .data.reading.readers import READERS, ending_of
from .errors import KitError
from .files import shown
from .machine import DRIVE, platform


def keep_on_drive(folder: str = "lora_kit") -> None:
    """Keep run folders in a folder of your Google Drive, so that they outlive the Colab machine; asks for consent."""
    if platform() != "colab":
        raise KitError("Drive is Colab's: elsewhere set LORA_KIT_RUNS to a folder that stays")
    try:
        from google.colab import drive

        drive.mount(str(DRIVE))
    except Exception as error:  # refused, timed out: Colab has its own names for it
        raise KitError(f"Drive was not granted ({type(error).__name__}): runs stay on this machine") from error
    os.environ["LORA_KIT_RUNS"] = str(DRIVE / "MyDrive" / folder)
    print(f"runs are kept in Drive's folder {folder}")


def upload() -> Path:
    """Your file of rows: Colab asks for it, on Kaggle it is an input of the notebook.

    Raises:
        KitError: none was given, or several; the message lists them.
    """
    if platform() == "colab":
        from google.colab import files

        found = [Path(name).resolve() for name in files.upload()]
        way_out = "choose one file"
    elif platform() == "kaggle":
        readable = (path for path in sorted(KAGGLE_INPUT.rglob("*")) if ending_of(path) in READERS)
        found = [path for path in readable if not (path.parent / "config.json").is_file()]  # which a model has
        way_out = "attach one with Add Input, Upload, or name it in DATA"
    else:
        raise KitError("data='upload' is for Colab and Kaggle: elsewhere give the path of your file")
    if len(found) != 1:
        raise KitError(f"one file of rows is wanted, and there are {', '.join(map(str, found)) or 'none'}: {way_out}")
    return found[0]


def download(file: Path) -> None:
    """Hand a file to the browser on Colab; elsewhere say where it is."""
    if platform() == "colab":
        from google.colab import files

        files.download(str(file))
    else:
        print(f"{shown(file)}{' (in the Output of this notebook)' if platform() == 'kaggle' else ''}")
