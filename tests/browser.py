"""A real browser for tests of pages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, sync_playwright

CHROMIUM = shutil.which("chromium")
PATIENCE = 120_000  # milliseconds
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium"
)


@contextmanager
def browser_page(address: str, asked_elsewhere: list[str]) -> Generator[Page]:
    """A page that asks nobody but `address`: what it would ask of others goes into the list."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        page.set_default_timeout(PATIENCE)

        def note(route: Route) -> None:
            asked_elsewhere.append(route.request.url)
            route.abort()

        page.route(lambda url: not url.startswith((address, "data:", "blob:")), note)
        yield page
        browser.close()


def picture(page: Page, name: str, whole: bool = False) -> None:
    """Keep a screenshot where somebody asked for one."""
    if folder := os.environ.get("FOLEY_PICTURES"):
        Path(folder).mkdir(exist_ok=True, parents=True)
        page.wait_for_timeout(1500)  # for the eye: the page fades in
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=whole)
