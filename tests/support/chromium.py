"""A headless Chromium for tests of pages, or why there is none."""

import contextlib
import os
import shutil

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextlib.contextmanager
def launched():
    """Give a browser: the one that the variable CHROMIUM names, or the system's."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright isn't installed, see .[browser]")
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"no Chromium is installed: none of {', '.join(NAMES)} is found, and CHROMIUM names none")
    with playwright.sync_playwright() as running:
        # the tests may run as root, where Chromium's own sandbox can't
        browser = running.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def opened(browser, path, width=1280, height=900, scripts=True):
    """Open a file; anything logged to the console, raised, or fetched from elsewhere fails the test."""
    problems = []
    context = browser.new_context(viewport={"width": width, "height": height}, java_script_enabled=scripts)
    page = context.new_page()
    page.on("console", lambda message: problems.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("dialog", lambda dialog: (problems.append(dialog.message), dialog.dismiss()))
    page.on(
        "request", lambda request: None if request.url.startswith(("file:", "data:")) else problems.append(request.url)
    )
    try:
        page.goto(path.as_uri())
        yield page
    finally:
        context.close()
    assert problems == [], problems
