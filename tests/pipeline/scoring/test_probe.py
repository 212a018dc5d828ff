"""The probe stage: facts of good files, a reason for the others, and the neighbours untouched."""

from __future__ import annotations

import pickle
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.media import MediaInfo, probe
from pipeline.procedural import BAD_KINDS, Corpus, write_corpus
from pipeline.scoring.probe import Probe, ProbeSettings
from pipeline.stages.stage import Failed, Outcome, Passed, Rejected
from tests.pipeline.media.samples import Codecs, clicks, write_sample


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """By kind of clip, "" for a good one."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = write_corpus(folder, Corpus(1))
    clips = [{"clip_id": row["file"], "path": str(folder / row["file"])} for row in rows]
    return {
        row["truth"]["bad"] or "": o for row, o in zip(rows, Probe().process(clips), strict=True)
    }


def test_each_kind_ends_as_it_should(outcomes: dict[str, Outcome]) -> None:
    assert set(outcomes) == {"", *BAD_KINDS}
    for kind in ("", "silent"):
        assert isinstance(outcomes[kind], Passed)
    assert _reason(outcomes["no_audio"]) == "no audio stream"
    assert _reason(outcomes["no_video"]) == "no video stream"
    for kind, what in (
        ("truncated", "truncated: "),
        ("not_a_video", "not a media file"),
        ("empty", "an empty file"),
    ):
        outcome = outcomes[kind]
        assert isinstance(outcome, Failed)
        assert outcome.error == "MediaError"
        assert what in outcome.message
        assert kind.replace("_", "-") in outcome.message


def _reason(outcome: Outcome) -> str:
    assert isinstance(outcome, Rejected)
    return outcome.reason


def test_the_facts_of_a_clip(outcomes: dict[str, Outcome]) -> None:
    good, rejected = outcomes[""], outcomes["no_audio"]
    assert isinstance(good, Passed)
    facts = {
        "container": "mp4",
        "video_codec": "h264",
        "audio_codec": "aac",
        "duration": 4.0,
        "fps": 16.0,
    }
    assert good.columns == facts | {
        "width": 64,
        "height": 64,
        "rotation": 0,
        "sample_rate": 16_000,
        "channels": 1,
    }
    assert isinstance(rejected, Rejected)
    assert rejected.columns == dict(good.columns) | {
        "audio_codec": None,
        "sample_rate": None,
        "channels": None,
    }


def test_columns_fit_the_schema(outcomes: dict[str, Outcome]) -> None:
    rows = [dict(o.columns) for o in outcomes.values() if not isinstance(o, Failed)]
    table = pa.Table.from_pylist(rows, Probe.schema)
    assert table.to_pylist() == rows
    assert all((field.metadata or {}).get(b"comment") for field in Probe.schema)


def test_what_is_needed_is_a_setting(tmp_path: Path) -> None:
    write_sample(tmp_path / "a.mp4", [0, 0.1, 0.2], None)
    clip = {"path": str(tmp_path / "a.mp4")}
    (outcome,) = Probe(ProbeSettings(needs_audio=False)).process([clip])
    assert isinstance(outcome, Passed)
    assert Probe().settings != Probe(ProbeSettings(needs_audio=False)).settings


@pytest.mark.parametrize(
    ("suffix", "codecs", "container"),
    [
        ("mp4", Codecs(layout="stereo", rate=44_100), "mp4"),
        ("mov", Codecs(audio="pcm_s16le"), "mov"),
        ("webm", Codecs("libvpx-vp9", "libopus"), "matroska"),
        ("ts", Codecs(), "mpegts"),
    ],
)
def test_the_name_is_not_trusted(
    tmp_path: Path, suffix: str, codecs: Codecs, container: str
) -> None:
    path = tmp_path / f"a.{suffix}"
    write_sample(path, [i / 25 for i in range(50)], clicks(2, [1], codecs.rate), codecs)
    info = probe(path)
    renamed = path.rename(tmp_path / "really.jpg")
    assert probe(renamed) == info
    assert isinstance(info, MediaInfo)
    assert (info.container, info.sample_rate) == (container, codecs.rate)
    assert info.duration == pytest.approx(2, abs=0.05)
    assert info.fps == pytest.approx(25, rel=0.03)


def test_a_stage_travels_to_another_process() -> None:
    assert pickle.loads(pickle.dumps(Probe())).settings == Probe().settings
