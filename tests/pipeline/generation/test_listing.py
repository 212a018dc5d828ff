"""What `foley generate` makes of a video, a folder or a CSV.

And the mistakes that it names before any work.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pipeline.generation.cues import read_cues
from pipeline.generation.listing import requests_for as asked_for
from pipeline.generation.options import GenerateOptions
from pipeline.generation.provenance import sidecar_of
from pipeline.generation.requests import Request
from pipeline.media import write_wav
from tests.pipeline.media.samples import clicks, write_sample
from warehouse.errors import FoleyError

RAIN = GenerateOptions(prompt="rain", seed=4)
KEPT = RAIN.model_copy(update={"keep_audio": True})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "videos"
    (root / "deep").mkdir(parents=True)
    for name in ("dog-barking.mp4", "deep/old.avi"):
        write_sample(root / name, [i / 25 for i in range(10)], None)
    return root


def requests_for(source: Path | None, out: Path, options: GenerateOptions) -> list[Request]:
    return asked_for(source, out, options).sounds


def table(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def named(requests: list) -> list[tuple[str, int, str]]:
    return [(request.out.name, request.seed, request.prompt) for request in requests]


def test_a_video_and_its_takes(folder: Path, tmp_path: Path) -> None:
    video, out = folder / "dog-barking.mp4", tmp_path / "o.wav"
    assert named(requests_for(video, out, RAIN)) == [("o.wav", 4, "rain")]
    takes = requests_for(video, out, GenerateOptions(prompt="rain", seed=4, takes=2))
    assert named(takes) == [("o.4.wav", 4, "rain"), ("o.5.wav", 5, "rain")]


def test_a_folder_keeps_its_shape_and_names_its_prompts(folder: Path, tmp_path: Path) -> None:
    found = requests_for(folder, tmp_path / "out", GenerateOptions(seed=1))
    assert [str(r.out.relative_to(tmp_path / "out")) for r in found] == [
        "deep/old.mkv",
        "dog-barking.mp4",
    ]
    assert [r.prompt for r in found] == ["old", "dog barking"]
    assert {r.prompt for r in requests_for(folder, tmp_path / "out", RAIN)} == {"rain"}
    flac = requests_for(folder, tmp_path / "out", GenerateOptions(prompt="rain", format="flac"))
    assert {r.out.suffix for r in flac} == {".flac"}
    (folder / "clips.csv").write_text("file,prompt\ndog-barking.mp4,a dog\n")
    assert [r.prompt for r in requests_for(folder, tmp_path / "out", GenerateOptions())] == [
        "old",
        "a dog",
    ]


def test_a_folder_given_by_way_of_its_parent_keeps_its_shape(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder / "deep")
    found = requests_for(Path(".."), tmp_path / "out", RAIN)
    assert [str(r.out.relative_to(tmp_path / "out")) for r in found] == [
        "deep/old.mkv",
        "dog-barking.mp4",
    ]


def test_a_csv_says_it_line_by_line(folder: Path, tmp_path: Path) -> None:
    lines = (
        "video,prompt,seed,negative_prompt,cues,out\n"
        "a.mp4,,,,,\nb.mov,bells,7,speech,sheet.csv,x/y.flac\na.mp4,rain,9,,0-1 hail; 1-2 wind,\n"
    )
    table(folder / "sheet.csv", "start,end,prompt\n0,1,a door\n")  # which lies beside the table
    found = requests_for(table(folder / "jobs.csv", lines), tmp_path / "out", RAIN)
    assert named(found) == [("a.4.mp4", 4, "rain"), ("y.flac", 7, "bells"), ("a.9.mp4", 9, "rain")]
    assert [r.negative_prompt for r in found] == [None, "speech", None]
    assert [[cue.prompt for cue in read_cues(r.options.cues or "")] for r in found[1:]] == [
        ["a door"],
        ["hail", "wind"],
    ]
    assert found[0].options.cues is None
    assert found[0].video == folder / "a.mp4"
    assert found[1].out == tmp_path / "out/x/y.flac"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("clip,prompt\na.mp4,rain\n", "must name the columns"),
        ("", "must name the columns"),
        ("video,prompt\n,rain\n", "line 2: names no video"),
        ("video,prompt\na.mp4,rain\nb.mp4,a ball, on wood\n", "line 3: has more cells"),
        ('video,prompt\na.mp4,"rain\n\nhail"\n\nb.mp4,x,y\n', "line 6: has more cells"),
        ("video;prompt\na.mp4;a ball; on wood\n", "line 2: has more cells"),
        ('video,prompt\na.mp4,"rain\n', "cannot be read as CSV"),
        ("video,cues,cues\na.mp4,0-1 rain,1-2 wind\n", "two columns are named cues"),
        ('video,cues\na.mp4,"0,5-1,2 rain"\n', "line 2"),
        ("video,prompt,seed\na.mp4,rain,1.5\n", "line 2: '1.5' is no seed"),
        ("video,prompt,seed\na.mp4,rain,many\n", "line 2: 'many' is no seed"),
        ("video,prompt,seed\na.mp4,rain,-1\n", "line 2: the seed must be"),
        ("video,cues\na.mp4,0-1 rain\na.mp4,rain\n", "line 3: 'rain' is no cue"),
        ("video,cues\na.mp4,gone.csv\n", "line 2: .*gone.csv"),
        ("video,prompt\na.mp4,rain\na.mp4,bells\n", "would both go to"),
        ("video,prompt,out\na.mp4,rain,a.mp3\n", "must end in one of"),
    ],
)
def test_what_is_wrong_with_a_csv_is_one_line(
    folder: Path, tmp_path: Path, lines: str, said: str
) -> None:
    with pytest.raises(FoleyError, match=said) as caught:
        requests_for(table(folder / "jobs.csv", lines), tmp_path / "out", GenerateOptions())
    assert "\n" not in str(caught.value)


def test_other_mistakes_are_named(folder: Path, tmp_path: Path) -> None:
    video, empty = folder / "dog-barking.mp4", tmp_path / "empty"
    empty.mkdir()
    for source, out, ask, said in (
        (video, tmp_path / "o.wav", GenerateOptions(), "--prompt"),
        (video, video, RAIN, "is one of the files to read"),
        (video, tmp_path / "o.txt", RAIN, "must end in one of"),
        (video, tmp_path / "o.wav", KEPT, r"--keep-audio: .*o\.wav holds the new sound alone"),
        (folder, tmp_path / "out", KEPT.model_copy(update={"format": "flac"}), "--keep-audio: "),
        (empty, tmp_path / "out", RAIN, "holds no video"),
        (folder, folder, RAIN, "is one of the files to read"),
        (tmp_path / "gone.csv", tmp_path / "out", RAIN, "no such file"),
        (tmp_path / "gone.mp4", tmp_path / "o.wav", RAIN, "no such file"),
    ):
        with pytest.raises(FoleyError, match=said):
            requests_for(source, out, ask)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Video,Prompt\na.mp4,wood\n", "utf-8"),
        ("video;prompt\na.mp4;wood\n", "utf-8-sig"),
        ("sep=;\nvideo;prompt\na.mp4;wood\n", "utf-8"),
        ("video\tprompt\r\na.mp4\twood\r\n", "utf-16"),
        (",video,prompt\n0,a.mp4,wood\n", "utf-8"),
        ("File Name, Caption\na.mp4, wood\n\n,\n", "utf-8"),
        ("video,prompt,notes\na.mp4,wood,x\n", "utf-8"),
        ("video,prompt,seed\na.mp4,wood,4.0\n", "utf-8"),
    ],
)
def test_what_spreadsheets_and_pandas_write_is_read(
    tmp_path: Path, text: str, encoding: str
) -> None:
    path = tmp_path / "jobs.csv"
    path.write_bytes(text.encode(encoding))
    found = asked_for(path, tmp_path / "out", GenerateOptions(seed=4))
    assert named(found.sounds) == [("a.4.mp4", 4, "wood")]
    said = "columns that mean nothing here: notes"
    assert [said in note for note in found.notes] == [True] * ("notes" in text)


def test_a_table_may_name_videos_as_file_managers_do(folder: Path, tmp_path: Path) -> None:
    rows = f"video,prompt\nfile://{folder}/my%20dog%23.mp4,rain\nmy%20dog.mp4,rain\n"
    found = requests_for(table(folder / "jobs.csv", rows), tmp_path, GenerateOptions())
    assert [r.video for r in found] == [folder / "my dog#.mp4", folder / "my%20dog.mp4"]
    far = table(folder / "jobs.csv", "video\nfile://nas/a.mp4\n")
    with pytest.raises(FoleyError, match=r"line 2: file://nas/a\.mp4 is no file on this machine"):
        requests_for(far, tmp_path, GenerateOptions())


def test_a_video_may_do_without_words(folder: Path, tmp_path: Path) -> None:
    path = table(folder / "jobs.csv", "video,prompt\na.mp4,\nb.mp4,rain\n")
    assert [r.prompt for r in requests_for(path, tmp_path, GenerateOptions())] == ["", "rain"]
    video = folder / "dog-barking.mp4"
    (alone,) = requests_for(video, tmp_path / "o.wav", GenerateOptions(prompt=""))
    assert alone.prompt == ""


def test_a_text_may_do_without_a_video(folder: Path, tmp_path: Path) -> None:
    eight = GenerateOptions(prompt="rain", seconds=8)
    (alone,) = requests_for(None, tmp_path / "o.wav", eight)
    assert (alone.video, alone.length()) == (None, 8.0)
    for source, out, options, said in (
        (None, "o.wav", RAIN, "--seconds"),
        (None, "o.mp4", eight, "sound alone"),
        (folder / "dog-barking.mp4", "o.wav", eight, "as long as"),
    ):
        with pytest.raises(FoleyError, match=said):
            requests_for(source, tmp_path / out, options)


def test_what_a_folder_holds_beside_videos_is_said(folder: Path, tmp_path: Path) -> None:
    (folder / "moving.gif").write_bytes(b"GIF89a")
    (folder / "raw.h264").write_bytes(b"\0\0\0\1")
    (folder / "clips.csv").write_text("file, Caption,mood\ndog-barking.mp4, a dog,glad\n")
    found = asked_for(folder, tmp_path / "out", GenerateOptions(settings=("train.steps=3",)))
    assert [r.prompt for r in found.sounds] == ["old", "a dog"]
    for said in ("moving.gif", "raw.h264", "mood", "train.steps=3"):
        assert [said in note for note in found.notes].count(True) == 1, said


def test_sounds_of_ours_are_no_videos(folder: Path, tmp_path: Path) -> None:
    """A batch may write into the folder that it reads, and be given again."""
    out = folder / "dubbed"
    first = requests_for(folder, out, RAIN)
    for request in first:
        request.out.parent.mkdir(parents=True, exist_ok=True)
        request.out.write_bytes((folder / "dog-barking.mp4").read_bytes())
    assert requests_for(folder, out, RAIN) == first
    beside = folder / "dog-barking.wav"
    beside.write_bytes(b"RIFF....WAVE")
    Path(f"{beside}.json").write_text('{"sound": "x", "seed": 0, "video": null}')
    wav = RAIN.model_copy(update={"format": "wav"})
    assert beside in {r.out for r in requests_for(folder, folder, wav)}


def test_a_name_that_is_too_long_is_named_before_any_work(folder: Path, tmp_path: Path) -> None:
    video = folder / "dog-barking.mp4"
    for length in (250, 251):
        out = tmp_path / ("x" * (length - 4) + ".wav")
        if length <= 250:
            assert requests_for(video, out, RAIN)
        else:
            with pytest.raises(FoleyError, match=r"x+\.wav: a name too long"):
                requests_for(video, out, RAIN)


def test_a_sound_without_a_video_is_checked_as_any_other(tmp_path: Path) -> None:
    sound = tmp_path / "a.wav"
    write_wav(sound, clicks(1.0, [0.5], 16_000), 16_000)
    told = {"sound": "x", "seed": 0, "video": None, "prompt": "rain"}
    sidecar_of(sound).write_text(json.dumps(told))
    ask = GenerateOptions(redo="0.2-0.6", prompt=None)
    (found,) = requests_for(sound, tmp_path / "o.wav", ask)
    assert (found.video, found.earlier, found.prompt) == (None, sound, "rain")
    for out, options, said in (
        ("x.mp4", ask, "without a video there is sound alone"),
        ("o.wav", ask.model_copy(update={"format": "flac"}), "--format is for folders"),
    ):
        with pytest.raises(FoleyError, match=said):
            requests_for(sound, tmp_path / out, options)
    sidecar_of(sound).unlink()
    with pytest.raises(FoleyError, match="no sidecar"):
        requests_for(sound, tmp_path / "o.wav", ask)


def test_no_take_has_a_seed_that_is_none(folder: Path, tmp_path: Path) -> None:
    ask, last = GenerateOptions(prompt="rain", takes=2), 2**31 - 1
    video, jobs = folder / "dog-barking.mp4", folder / "jobs.csv"
    found = requests_for(video, tmp_path / "o.wav", ask.model_copy(update={"seed": last - 1}))
    assert [request.seed for request in found] == [last - 1, last]
    with pytest.raises(FoleyError, match="the seeds of 2 takes go to 2147483648"):
        requests_for(video, tmp_path / "o.wav", ask.model_copy(update={"seed": last}))
    with pytest.raises(FoleyError, match="line 2: the seeds of 2 takes"):
        requests_for(table(jobs, f"video,seed\na.mp4,{last}\n"), tmp_path / "out", ask)


def test_files_to_read_are_known_under_every_name_at_little_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many looks at files a row, however many rows: not all at all."""
    out = tmp_path / "out"
    out.mkdir()
    looks: list[object] = []
    look = os.stat

    def counted(*given: Any, **named: Any) -> os.stat_result:
        looks.append(given)
        return look(*given, **named)

    def rows(count: int) -> int:
        for i in range(count):
            (tmp_path / f"{i}.mp4").touch()
            (out / f"{i}.0.mp4").touch()
        text = "video\n" + "".join(f"{i}.mp4\n" for i in range(count))
        looks.clear()
        assert len(requests_for(table(tmp_path / "a.csv", text), out, GenerateOptions())) == count
        return len(looks)

    monkeypatch.setattr(os, "stat", counted)
    assert rows(60) < 2.5 * rows(30)
    (out / "7.0.mp4").unlink()
    os.link(tmp_path / "3.mp4", out / "7.0.mp4")
    with pytest.raises(FoleyError, match=r"7.0.mp4 is one of the files to read"):
        rows(8)
