"""Pictures for the README, after the browser test: python tools/pictures.py, with a Chromium.

docs/card.png is the report card as notebook 05 shows it; form, training and chat are the test's own pictures.
"""

from __future__ import annotations

import io
import shutil

import nbformat
from PIL import Image
from playwright.sync_api import sync_playwright
from run_notebooks import NOTEBOOKS

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")


def card() -> str:
    """The first HTML that notebook 05 shows: its report card."""
    cells = nbformat.read(NOTEBOOKS / "05_evaluation.ipynb", as_version=4).cells
    shown = (output.get("data", {}).get("text/html") for cell in cells for output in cell.get("outputs", []))
    return next(filter(None, shown))


def main() -> None:
    browser = next(filter(None, map(shutil.which, CHROMIUMS)), None)
    if browser is None:
        raise SystemExit("no Chromium here: apt-get install chromium")
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = opened.new_page(viewport={"width": 860, "height": 1200}, device_scale_factor=1.5)
        page.set_content(
            f"<main style='font: 15px system-ui, sans-serif; padding: 1em; background: white'>{card()}</main>"
        )
        drawn = Image.open(io.BytesIO(page.locator("main").screenshot())).convert("RGB")
        opened.close()
    keep(drawn, "card")
    for name in ("form", "training", "chat"):
        keep(Image.open(NOTEBOOKS.parent / "build" / "browser" / f"{name}.png").convert("RGB"), name)


def keep(drawn: Image.Image, name: str) -> None:
    """Write docs/NAME.png in 128 colours."""
    few = drawn.quantize(128, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(NOTEBOOKS.parent / "docs" / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
