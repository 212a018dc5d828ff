"""Prefect's UI as a person uses it: a real browser starts, watches, looks and cancels.

The pictures in docs/pictures are from here: FOLEY_PICTURES=docs/pictures pytest
tests/operations/test_browser.py
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from playwright.sync_api import Error, Locator, Page, expect

from tests.browser import PATIENCE, browser_page, needs_chromium, picture
from tests.operations.factory import Factory, until

pytestmark = [pytest.mark.slow, needs_chromium]


@pytest.fixture(scope="module")
def asked_elsewhere() -> list[str]:
    """Addresses on other hosts that a page asked for."""
    return []


@pytest.fixture(scope="module")
def page(factory: Factory, asked_elsewhere: list[str]) -> Iterator[Page]:
    with browser_page(factory.address, asked_elsewhere) as page:
        yield page


def open_form(page: Page, factory: Factory, deployment: str) -> None:
    """From the list of deployments to the form of one."""
    page.goto(f"{factory.address}/v2/deployments?flowOrDeploymentName={deployment}")
    page.get_by_role("link", name=deployment, exact=True).first.click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Custom run").click()
    expect(page.get_by_role("heading", name="Parameters")).to_be_visible(timeout=PATIENCE)


def field(page: Page, title: str, kind: str) -> Locator:
    """The input of an optional parameter, once its kind is chosen in place of None."""
    label = f'//label[normalize-space()="{title} (Optional)"]'
    box = page.locator(
        f"{label}/ancestor::div[following-sibling::fieldset][1]/following-sibling::fieldset"
    )
    box.get_by_role("tab", name=kind, exact=True).click()
    return box.locator("textarea, input").first


def submit(page: Page, factory: Factory, deployment: str) -> str:
    """Send the form; the id of the run that it started."""
    before = {run["id"] for run in runs(factory, deployment)}
    for _ in range(
        3
    ):  # a form that is still drawing itself loses a click, and a person clicks again
        page.get_by_role("button", name="Submit").click()
        try:
            page.wait_for_url(
                lambda url: not url.partition("?")[0].endswith("/run"), timeout=20_000
            )
            break
        except Error:
            assert {run["id"] for run in runs(factory, deployment)} == before
    return until(
        lambda: {run["id"] for run in runs(factory, deployment)} - before, 300, "a run"
    ).pop()


def runs(factory: Factory, name: str) -> list[dict[str, str]]:
    chosen = {"flow_runs": {"deployment_id": {"any_": [factory.deployment(name)["id"]]}}}
    return [
        run for run in factory.ask("/flow_runs/filter", "POST", chosen) if not run["auto_scheduled"]
    ]


def press_cancel(page: Page, factory: Factory, id: str) -> None:
    """Cancel on the page of a run, until the server knows of it.

    A page that is drawing itself, or a server that is busy, loses a click, and a person clicks
    again.
    """
    dialog = page.get_by_role("alertdialog").or_(page.get_by_role("dialog"))
    sure = dialog.get_by_role("button", name=re.compile("cancel.*run|confirm|yes", re.IGNORECASE))
    for _ in range(3):
        with suppress(Error):
            page.goto(f"{factory.address}/v2/runs/flow-run/{id}")
            page.get_by_role("button", name="Open menu").last.click(timeout=40_000)
            page.get_by_role("menuitem", name="Cancel").click(timeout=40_000)
            sure.click(timeout=40_000)
        with suppress(AssertionError):
            factory.reaches(id, "CANCELLING", "CANCELLED", seconds=20)
            return
    factory.reaches(id, "CANCELLING", "CANCELLED", seconds=0)


def test_curate_is_started_in_the_form_watched_and_looked_at(
    page: Page, factory: Factory, clips: Path, tmp_path: Path
) -> None:
    own = shutil.copytree(clips, tmp_path / "clips")  # a folder is a source once
    open_form(page, factory, "curate")
    size = field(page, "Batch Size", "int")
    size.fill("0")
    page.get_by_role("button", name="Submit").click()
    assert "greater than or equal to 1" in size.evaluate(
        "input => input.validationMessage"
    )  # refused in the form
    assert page.url.endswith("/run") or "/run?" in page.url
    size.fill("6")
    folder = field(page, "Folder", "path")
    folder.fill("/data/clips")  # for the picture, where no path of this machine is to be
    picture(page, "form")
    folder.fill(str(own))
    id = submit(page, factory, "curate")
    page.goto(f"{factory.address}/v2/runs/flow-run/{id}")
    expect(page.get_by_text("Running", exact=True).first).to_be_visible(timeout=PATIENCE)
    picture(page, "run")
    factory.reaches(id, "COMPLETED")
    expect(page.get_by_text("Completed", exact=True).first).to_be_visible(timeout=PATIENCE)
    page.reload()
    page.get_by_role("tab", name="Artifacts").click()
    expect(page.get_by_text("funnel").first).to_be_visible(timeout=PATIENCE)
    shown = factory.artifacts(id)
    page.goto(f"{factory.address}/v2/artifacts/artifact/{shown['funnel']['id']}")
    image = page.locator("img[src^='data:image/svg']").first
    expect(image).to_be_visible(timeout=PATIENCE)
    assert image.evaluate("image => image.naturalWidth") > 0  # the browser could draw it
    picture(page, "funnel")
    page.goto(f"{factory.address}/v2/artifacts/artifact/{shown['failures']['id']}")
    expect(page.get_by_text("truncated").first).to_be_visible(timeout=PATIENCE)
    picture(page, "failures")


def test_a_long_training_is_started_watched_and_cancelled(
    page: Page, factory: Factory, curated: str
) -> None:
    open_form(page, factory, "train")
    field(page, "Steps", "int").fill("1000000")
    id = submit(page, factory, "train")
    factory.reaches(id, "RUNNING")
    factory.moves(id)
    press_cancel(page, factory, id)
    until(lambda: not factory.processes(of_run=id), 300, "the process is gone")
    factory.reaches(id, "CANCELLED")
    expect(page.get_by_text("Cancelled", exact=True).first).to_be_visible(timeout=PATIENCE)
    page.get_by_role("tab", name="Task Runs").click()
    picture(page, "cancelled")


def test_no_page_asks_another_host(
    page: Page, factory: Factory, asked_elsewhere: list[str]
) -> None:
    page.goto(f"{factory.address}/v2/dashboard")
    expect(page.get_by_role("link", name="Deployments").first).to_be_visible(timeout=PATIENCE)
    page.goto(f"{factory.address}/catalog")
    expect(page.get_by_role("heading", name="Failures by reason")).to_be_visible(timeout=PATIENCE)
    picture(page, "catalog")
    assert asked_elsewhere == []
