"""Notebooks 03 and 05 as a reader uses them: JupyterLab in a real headless Chromium (make test-browser).

The form is filled, a training interrupted and gone on with, a question asked and both answers read. Pictures of it lie
in build/browser; tools/pictures.py takes some of them into docs.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytestmark = pytest.mark.browser
ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "build" / "browser"
CHANGES = "training__epochs=1 evaluation__limit=4"  # one epoch is 85 steps
BUDGET = 180.0  # seconds that one step may take, three times what it takes
HELPERS = """
window.book = () => window.jupyterapp.shell.currentWidget;
window.holds = (cell, text) => cell.model.type === 'code' && cell.model.sharedModel.getSource().includes(text);
window.place = text => book().content.widgets.findIndex(cell => holds(cell, text));
window.said = text => JSON.stringify(book().content.widgets[place(text)].model.outputs.toJSON());
window.runCell = async (text, wait) => {
    book().content.activeCellIndex = place(text);
    await book().content.scrollToItem(place(text));
    const done = jupyterapp.commands.execute('notebook:run-cell');
    if (wait) await done;
};
"""


class Lab(NamedTuple):
    """A running JupyterLab: its address and the folder that it serves."""

    address: str
    folder: Path


class Notebook:
    """One notebook in a browser's page; cells are found by what stands in them."""

    def __init__(self, page: Any, lab: Lab, name: str) -> None:
        self.page = page
        start_kernel(lab, f"notebooks/{name}.ipynb")
        page.goto(f"{lab.address}/lab/tree/notebooks/{name}.ipynb?reset")
        page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
        page.evaluate(HELPERS)
        page.add_style_tag(content=".Toastify { display: none }")  # Jupyter's news
        self._wait_for_a_kernel()

    def _wait_for_a_kernel(self) -> None:
        """Until the kernel has been idle for some seconds; a dialog that stays is answered with what it offers."""
        idle, none, end = 0, 0, time.monotonic() + 90
        while idle < 15:
            assert time.monotonic() < end, "no kernel came"
            status = self.page.evaluate("book().sessionContext.session?.kernel?.status")
            idle, none = (idle + 1 if status == "idle" else 0), (0 if status else none + 1)
            if none > 10:  # at once, it would ask for a second kernel
                for button in self.page.locator(".jp-Dialog .jp-mod-accept").all():
                    button.click()
                none = 0
            time.sleep(0.2)

    def run(self, text: str, wait: bool = True) -> None:
        """Run the first cell that holds `text`; with `wait`, until it has ended, and well."""
        self.page.evaluate("([text, wait]) => runCell(text, wait)", [text, wait])
        if wait:
            assert "Traceback" not in self.said(text), self.said(text)

    def said(self, text: str) -> str:
        """All that stands below the first cell that holds `text`."""
        return str(self.page.evaluate("text => said(text)", text))

    def wait_for(self, text: str, wanted: str) -> str:
        """What stands below a cell, once it matches `wanted`."""
        end = time.monotonic() + BUDGET
        while not re.search(wanted, said := self.said(text)):
            assert time.monotonic() < end, f"{wanted!r} never came: {said[-800:]}"
            time.sleep(0.2)
        return said

    def picture(self, name: str, of: str = "") -> None:
        """A picture of the page, or of what stands below the first cell that holds `of`."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        below = "text => book().content.widgets[place(text)].outputArea.node"
        self.page.add_style_tag(
            content=".jp-Dialog { display: none !important }"
        )  # it may ask for a second kernel, and greys all
        shown = self.page.evaluate_handle(below, of).as_element() if of else self.page
        shown.screenshot(path=PICTURES / f"{name}.png")


def start_kernel(lab: Lab, path: str) -> None:
    """Start the notebook's session before its page opens, which then joins it.

    Left to itself, the page at times starts two kernels, and its widgets listen to the one that it stops again.
    """
    session = {"path": path, "name": path, "type": "notebook", "kernel": {"name": "python3"}}
    headers = {"Content-Type": "application/json"}
    wanted = urllib.request.Request(f"{lab.address}/api/sessions", json.dumps(session).encode(), headers)
    with urllib.request.urlopen(wanted, timeout=60) as answer:
        assert answer.status == 201


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """JupyterLab over a copy of the notebooks, run folders beside them."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    quiet = {
        "LORA_KIT_PROGRESS": "",
        "LORA_KIT_WIDGETS": "",
        "LORA_KIT_PROFILE": "tiny-cpu",
        "LORA_KIT_RUNS": str(folder / "runs"),
    }
    options = [f"--ServerApp.port={address.rpartition(':')[2]}", f"--ServerApp.root_dir={folder}"]
    options += [
        "--no-browser",
        "--allow-root",
        "--IdentityProvider.token=",
        "--ServerApp.disable_check_xsrf=True",
        "--expose-app-in-browser",
    ]
    server = subprocess.Popen([sys.executable, "-m", "jupyterlab", *options], env=os.environ | quiet)
    try:
        _wait_until_it_answers(f"{address}/api/status")
        yield Lab(address, folder)
    finally:
        server.terminate()
        server.wait(30)


def _wait_until_it_answers(address: str) -> None:
    for _ in range(240):
        try:
            urllib.request.urlopen(address, timeout=5)
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.25)
    pytest.fail(f"JupyterLab does not answer at {address}")


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    """A page of the Chromium that the machine has."""
    from playwright.sync_api import sync_playwright

    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.fail("no Chromium here: apt-get install chromium")
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        yield opened.new_page(viewport={"width": 1280, "height": 1000})
        opened.close()


def open_and_fill(page: Any, lab: Lab, name: str) -> Notebook:
    """Open a notebook, run it up to its form, and fill the form."""
    notebook = Notebook(page, lab, name)
    for cell in ("# @title Setup", "BASE =", "form = lk.settings"):
        notebook.run(cell)
    field = page.get_by_placeholder("lora__r=8 training__epochs=2")
    field.fill("lora__rank=8")
    page.get_by_text("Not yet: there is no setting 'lora__rank'").wait_for()
    field.fill(CHANGES)
    page.get_by_text(f"Chosen: base auto, data handbook, {CHANGES}.").wait_for()
    notebook.picture("form", of="form = lk.settings")
    return notebook


def test_a_training_is_interrupted_and_gone_on_with(page: Any, lab: Lab) -> None:
    notebook = open_and_fill(page, lab, "03_lora_training")
    for cell in ("data = lk.prepare(run)\nmodel = lk.load_base(run)", "model = lk.attach_lora(model, run)"):
        notebook.run(cell)
    train = "log = lk.train(model, data, run)"
    notebook.run(train, wait=False)
    notebook.wait_for(train, "interrupt the kernel")
    notebook.wait_for(train, r"[3-7]\d%.*<svg")
    notebook.picture("training", of=train)
    page.evaluate("window.jupyterapp.commands.execute('notebook:interrupt-kernel')")
    notebook.wait_for(train, "make the same call again to go on")
    notebook.picture("03-interrupted")
    notebook.run(train)
    notebook.wait_for(train, "training: 85 steps, loss")
    notebook.picture("03-gone-on")
    (log,) = (lab.folder / "runs").glob("*/training/handbook/log.jsonl")
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == list(range(1, 86))


def test_both_models_answer_side_by_side(page: Any, lab: Lab) -> None:
    notebook = open_and_fill(page, lab, "05_evaluation")
    notebook.run("card = lk.evaluate(run)")
    notebook.run("lk.chat(run)")
    page.get_by_placeholder("Your question").fill("When does the canteen open?")
    page.get_by_role("button", name="Ask").click()
    answers = dict.fromkeys(("base", "tuned"), "")
    end = time.monotonic() + BUDGET
    while not all(len(answer.strip()) > 5 for answer in answers.values()):
        assert time.monotonic() < end, f"no answers: {answers}"
        time.sleep(0.2)  # each word replaces the element before it
        answers = {who: page.locator(f"b:text-is('{who}') + div").text_content() or "" for who in answers}
    page.get_by_role("button", name="Ask", disabled=False).wait_for()
    notebook.picture("chat", of="lk.chat(run)")
    assert answers["base"] != answers["tuned"]
