"""The committed book, rendered once, and Chromium to look at it.

Pages are opened from the folder (`file://`) with the network off: what works there works from a
server too, and what secretly needs the network does not.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[2]
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


TOC = yaml.safe_load((ROOT / "book/_toc.yml").read_text())


def pages():
    """Every page in the table of contents, as the address of its html."""
    entries = [c["file"] for part in TOC["parts"] for c in part["chapters"]]
    return [f"{entry}.html" for entry in (TOC["root"], *entries)]


@pytest.fixture(scope="session")
def papers():
    """The chapters that execute a paper, as the addresses of their html."""
    (part,) = (part for part in TOC["parts"] if part["caption"] == "Papers")
    return [f"{c['file']}.html" for c in part["chapters"]]


@pytest.fixture(scope="session")
def html(tmp_path_factory):
    """The folder of the rendered pages, `SITE` or a new one; a renderer's warning is an error."""
    if "SITE" in os.environ:
        return ROOT / os.environ["SITE"]
    out = tmp_path_factory.mktemp("site")
    jupyter_book = "from jupyter_book.cli.main import main; main()"
    options = ["--config", "_config.yml", "--path-output", str(out), "-W", "--keep-going"]
    command = [sys.executable, "-c", jupyter_book, "build", "book", *options]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return out / "_build" / "html"


def find_chromium():
    """The executable, None where there is none; CHROMIUM names one that is not on the path."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)


@pytest.fixture(scope="session")
def chromium():
    """A running Chromium."""
    found = find_chromium()
    if found is None:
        pytest.skip("no Chromium on the path: install it, or set CHROMIUM to its executable")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium, html):
    """Open a page by its address, as a reader without a network does.

    Keyword arguments are those of a Playwright context: viewport, colour scheme, no script.
    The page collects its `requests` and `complaints` (console errors, uncaught exceptions).
    """
    contexts = []

    def open_one(address, **reader):
        context = chromium.new_context(offline=True, **reader)
        contexts.append(context)
        page = context.new_page()
        page.requests, page.complaints = [], []
        page.on("request", lambda request: page.requests.append(request.url))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("console", lambda m: m.type == "error" and page.complaints.append(m.text))
        page.goto(f"{html.as_uri()}/{address}")
        page.evaluate("Promise.allSettled(document.getAnimations().map(a => a.finished))")
        return page

    yield open_one
    for context in contexts:
        context.close()


@pytest.fixture
def tab_to():
    """Press Tab on a page until an element that is wanted has the focus."""

    def press(page, wanted, at_most=60):
        for _ in range(at_most):
            page.keyboard.press("Tab")
            if page.evaluate("wanted => document.activeElement.matches(wanted)", wanted):
                return
        raise AssertionError(f"{at_most} times Tab did not lead to {wanted}")

    return press


def pytest_generate_tests(metafunc):
    if "address" in metafunc.fixturenames:
        metafunc.parametrize("address", pages())
    if "executed" in metafunc.fixturenames:
        notebooks = {f"{path.stem}.html" for path in (ROOT / "book").glob("*.ipynb")}
        metafunc.parametrize("executed", [page for page in pages() if page in notebooks])
