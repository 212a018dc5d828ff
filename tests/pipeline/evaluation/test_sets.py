"""Which videos a folder holds as an evaluation set, and which file is a system's sound of which."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.evaluation.sets import Item, System, evaluation_set, system
from pipeline.media import write_wav
from pipeline.procedural import SAMPLE_RATE, sample_clip, write_clip
from warehouse import FoleyError


def test_layouts_of_vggsound_and_kinetics(tmp_path: Path) -> None:
    for name in ("-abc_123DEF_000030", "zzzzzzzzzzz_000007"):
        write_clip(sample_clip(1, 1.0), tmp_path / f"{name}.mp4")
    rows = (
        "-abc_123DEF,30,dog barking,test\nzzzzzzzzzzz,7,sea waves,train\nlost_lost_x,1,rain,test\n"
    )
    (tmp_path / "vggsound.csv").write_text(rows)
    vggsound = evaluation_set(tmp_path)
    assert [(i.name, i.prompt) for i in vggsound.items] == [("-abc_123DEF_000030", "dog barking")]
    assert vggsound.missing == ("lost_lost_x_000001",)
    (tmp_path / "vggsound.csv").unlink()
    (tmp_path / "-abc_123DEF_000030.mp4").rename(tmp_path / "-abc_123DEF_000030_000040.mp4")
    (tmp_path / "val.csv").write_text(
        "label,youtube_id,time_start,time_end,split\nflying kite,-abc_123DEF,30,40,validate\n"
    )
    assert [(i.name, i.label) for i in evaluation_set(tmp_path).items] == [
        ("-abc_123DEF_000030_000040", "flying kite")
    ]


def test_movie_gens_layout_prompts_beside_and_sounds_apart(tmp_path: Path) -> None:
    (tmp_path / "videos" / "metadata").mkdir(parents=True)
    (tmp_path / "sounds").mkdir()
    write_clip(sample_clip(1, 1.0), tmp_path / "videos" / "7.mp4")
    (tmp_path / "videos" / "metadata" / "7.json").write_text(
        '{"prompt": "a video", "audio_prompt": "rain falls"}'
    )
    write_wav(tmp_path / "sounds" / "7.wav", np.zeros(100, np.float32), SAMPLE_RATE)
    item = evaluation_set(tmp_path / "videos", reference=tmp_path / "sounds").items[0]
    assert (item.prompt, item.reference) == ("rain falls", tmp_path / "sounds" / "7.wav")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda p: evaluation_set(p / "nowhere"),
            "no such folder, give the folder that holds the evaluation videos",
        ),
        (evaluation_set, "no videos in it"),
        (
            lambda p: system("x", p / "nowhere", ()),
            "no such folder, give the folder that holds the sounds of system x",
        ),
    ],
)
def test_a_wrong_folder_is_one_clear_line(tmp_path: Path, make: object, said: str) -> None:
    assert callable(make)
    with pytest.raises(FoleyError, match=said):
        make(tmp_path)


def test_wrong_names_and_doubled_names_are_said(tmp_path: Path) -> None:
    items = (Item("clip-00000", tmp_path / "clip-00000.mp4", tmp_path / "clip-00000.mp4"),)
    write_wav(tmp_path / "other.wav", np.zeros(10, np.float32), SAMPLE_RATE)
    with pytest.raises(
        FoleyError, match=r"no file is named as a video is \(such as clip-00000.wav\)"
    ):
        system("x", tmp_path, items)
    write_wav(tmp_path / "clip-00000.wav", np.zeros(10, np.float32), SAMPLE_RATE)
    write_wav(tmp_path / "clip-00000.flac.wav", np.zeros(10, np.float32), SAMPLE_RATE)
    found = system("x", tmp_path, items)
    assert isinstance(found, System)
    (tmp_path / "deeper").mkdir()
    write_wav(tmp_path / "deeper" / "clip-00000.wav", np.zeros(10, np.float32), SAMPLE_RATE)
    with pytest.raises(FoleyError, match="a second file named clip-00000"):
        system("x", tmp_path, items)


def test_sounds_beside_their_videos_and_sounds_with_a_seed(tmp_path: Path) -> None:
    """What another tool writes (NAME.flac beside NAME.mp4), and what `foley generate` writes."""
    for name in ("a.flac", "a.mp4", "b.7.wav", "b.2.mp4", "c.1.wav"):
        (tmp_path / name).write_bytes(b"")
    items = [Item(name, tmp_path / name, tmp_path / name) for name in ("a", "b", "c.1")]
    found = system("mine", tmp_path, items)
    assert {name: path.name for name, path in found.sounds.items()} == {
        "a": "a.flac", "b": "b.7.wav", "c.1": "c.1.wav",
    }  # fmt: skip
    assert (found.missing, found.unknown) == ((), ())
    (tmp_path / "b.8.wav").write_bytes(b"")
    with pytest.raises(FoleyError, match="a second file named b"):
        system("mine", tmp_path, items)
