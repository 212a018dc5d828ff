"""The studio's page in a real browser, from a video that is dropped to the files of a take.

Its picture in docs/pictures is from here: FOLEY_PICTURES=docs/pictures pytest tests/foley/studio
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest
import uvicorn
from playwright.sync_api import Page, expect
from starlette.testclient import TestClient

from flows.server.server import AUTH
from foley.studio.page import _options
from foley.studio.server import create
from foley.studio.workshop import Workshop
from pipeline.generation.options import GenerateOptions
from pipeline.media import read_audio
from tests.browser import PATIENCE, browser_page, needs_chromium, picture
from tests.operations.factory import free_port, until


def test_what_the_studio_was_started_with_holds_for_every_sound(tmp_path: Path) -> None:
    given = GenerateOptions.of(device="cpu", low_memory=True, settings=("window.overlap=2",))
    asked = _options(Workshop(tmp_path, given), "rain", 2, ["music"], *[None] * 7)
    fixed = (asked.device, asked.low_memory, asked.settings)
    assert (*fixed, asked.without) == ("cpu", True, ("window.overlap=2",), "music")


def test_strangers_names_pages_and_people_without_the_password_get_nothing(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(AUTH, "me:secret")
    page = TestClient(create(workshop), base_url="http://127.0.0.1:7860")
    assert page.get("/").status_code == 401
    assert page.get("/gradio_api/info").status_code == 401
    assert page.get("/", auth=("me", "wrong")).status_code == 401
    answer = page.get("/", auth=("me", "secret"))
    assert answer.status_code == 200
    assert "connect-src 'self'" in answer.headers["content-security-policy"]
    for header in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        answer = page.get("/", auth=("me", "secret"), headers=header)
        assert answer.status_code in (400, 403)
    monkeypatch.setenv(AUTH, "")  # which is none
    assert page.get("/").status_code == 200


@pytest.fixture(scope="module")
def address(workshop: Workshop) -> Iterator[str]:
    port = free_port()
    config = uvicorn.Config(create(workshop), port=port, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started, 120, "the studio answers")
    yield f"http://127.0.0.1:{port}"
    server.should_exit = server.force_exit = True
    thread.join()


@pytest.fixture
def page(address: str) -> Iterator[Page]:
    asked: list[str] = []
    with browser_page(address, asked) as page:
        page.goto(address)
        yield page
    assert asked == []  # no other host was asked


@pytest.mark.slow
@needs_chromium
def test_from_a_video_to_the_files_of_the_take_that_is_kept(
    page: Page, video: Path, tmp_path: Path
) -> None:
    page.get_by_role("button", name="Make sound", exact=True).click()
    expect(page.get_by_text("Drop a video first.")).to_be_visible()
    page.locator("input[type=file]").first.set_input_files(video)
    page.get_by_label("What is to be heard").first.fill("a ball bounces on wood")
    page.get_by_role("button", name="Make sound", exact=True).click()

    takes = page.frame_locator("iframe.takes")
    expect(takes.locator(".pick b")).to_have_text(
        ["Original", "Seed 0", "Seed 1"], timeout=PATIENCE
    )
    takes.locator(".play").click()
    expect(takes.locator(".clip")).to_have_class("clip card playing")
    expect(takes.locator(".clock")).not_to_have_text("0.0 s")
    takes.locator(".play").press("3")  # a key chooses what is heard, and so what is kept
    expect(takes.locator(".heard b")).to_have_text("Seed 1")
    chosen = page.locator("#take").get_by_role("radio", name="Seed 1")
    takes.get_by_role("radio", name="Original").check()
    takes.get_by_role("radio", name="Seed 1").check()
    expect(chosen).to_be_checked()

    track = takes.locator(".heard .track").bounding_box()
    assert track is not None
    y = track["y"] + track["height"] / 2
    for action, share in ((page.mouse.down, 0.4), (page.mouse.up, 0.6)):  # of 2.5 s
        page.mouse.move(track["x"] + share * track["width"], y, steps=4)
        action()
    page.get_by_role("button", name="Make this stretch anew").click()
    anew = "Seed 2, 1-1.5 s anew"
    expect(takes.locator(".pick b")).to_have_text(
        ["Original", "Seed 0", "Seed 1", anew, "Seed 3, 1-1.5 s anew"], timeout=PATIENCE
    )
    expect(page.locator("#take").get_by_role("radio", name=anew)).to_be_checked()
    page.get_by_role("button", name="Keep this take").click()
    link = page.locator("#files a").filter(has_text="KB").first
    expect(link).to_be_visible(timeout=PATIENCE)
    expect(page.get_by_text("Drop a video first.")).to_be_hidden(timeout=PATIENCE)
    picture(page, "studio", whole=True)
    below = takes.locator("html").evaluate("html => innerHeight - html.offsetHeight")
    page.set_viewport_size({"width": 390, "height": 844})  # a telephone: nothing reaches beyond
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert takes.locator("html").evaluate("html => html.scrollWidth <= innerWidth")
    assert 0 <= below < 8  # and the frame is as high as what it holds
    page.set_viewport_size({"width": 1280, "height": 860})
    with page.expect_download() as download:
        link.click()
    out = tmp_path / download.value.suggested_filename
    download.value.save_as(out)
    assert out.name == "my clip.2.mp4"
    assert len(read_audio(out, 16_000)) == 40_000


@pytest.mark.slow
@needs_chromium
def test_from_a_folder_to_one_file_with_videos_and_stems(
    page: Page, video: Path, tmp_path: Path
) -> None:
    page.get_by_role("tab", name="Many videos").click()
    pack = page.locator("#pack")
    pack.click()
    expect(page.get_by_text("Make sounds first.")).to_be_visible()
    page.locator("#source textarea").fill(f"file://{video.parent}")
    page.locator("#out textarea").fill(str(tmp_path / "out"))
    page.get_by_label("Stems").check()
    page.locator("#make-many").click()
    cells = page.locator("#states").get_by_role("gridcell")
    made = ["my clip.mp4", "2.5", "made", "my clip.stem.wav", "2.5", "made"]
    expect(cells).to_have_text(made, timeout=PATIENCE)
    pack.click()
    link = page.locator("#packed a").first
    with page.expect_download(timeout=PATIENCE) as download:
        link.click(timeout=PATIENCE)
    download.value.save_as(tmp_path / "packed.zip")
    with ZipFile(tmp_path / "packed.zip") as packed:
        assert "my clip.stem.wav" in packed.namelist()
