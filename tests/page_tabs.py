"""Tabs of a real browser, for tests of the page. One browser for all tests of a module."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from left_out import chromium

PATIENCE_MS = 60_000  # of a machine that is very busy
LOOK_EVERY_MS = 20
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def open_browser() -> Iterator[Any]:
    """A browser of Playwright. While it is open, this thread has a running event loop."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as opened:
        yield opened


class Tab:
    """A tab that fails the test if a script of the page fails.

    What a page shows after an action is expected (`expect`, `sees`, `until`), never read at once.
    """

    def __init__(self, page: Any, url: str) -> None:
        self.page = page
        self.url = url.rstrip("/")
        self.problems: list[str] = []
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", self._heard)

    def _heard(self, message: Any) -> None:
        # That a server does not answer is what some tests want.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.problems.append(message.text)

    def open(self, path: str) -> Tab:
        self.page.goto(self.url + path)
        return self

    def sees(self, text: str | re.Pattern[str]) -> None:
        self.page.get_by_text(text).first.wait_for()

    def is_at(self, part: str) -> None:
        """Wait until the address has this part."""
        self.expect(self.page).to_have_url(re.compile(re.escape(part)))

    def is_at_step(self, step: int) -> None:
        """Wait until an episode is shown at a step."""
        self.expect(self.page.get_by_label("Go to step")).to_have_value(str(step))

    def expect(self, thing: Any) -> Any:
        """What Playwright expects of a part of the page, or of all of it: it waits for it."""
        from playwright.sync_api import expect

        return expect(thing)

    def until(self, script: str) -> None:
        """Wait until an expression is true; Playwright's own waiting needs `eval` in the page."""
        from playwright.sync_api import Error

        deadline = time.monotonic() + PATIENCE_MS / 1000
        while time.monotonic() < deadline:
            with suppress(Error):  # the page that was asked has just been left
                if self.page.evaluate(script):
                    return
            self.page.wait_for_timeout(LOOK_EVERY_MS)
        raise AssertionError(f"not within {PATIENCE_MS} ms: {script}")


OpenTab = Callable[..., Tab]


@pytest.fixture
def open_tab(browser: Any) -> Iterator[OpenTab]:
    opened: list[tuple[Any, Tab]] = []

    def open_one(url: str, **options: Any) -> Tab:
        context = browser.new_context(**options)
        opened.append((context, Tab(context.new_page(), url)))
        return opened[-1][1]

    yield open_one
    for context, tab in opened:
        context.close()
        assert not tab.problems
