"""What `foley generate` makes of a video, a folder or a CSV.

And the mistakes that it names before any work.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.generation.requests import RequestDefaults, requests_for
from tests.pipeline.media.samples import write_sample
from warehouse.errors import FoleyError

RAIN = RequestDefaults(prompt="rain", seed=4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "videos"
    (root / "deep").mkdir(parents=True)
    for name in ("dog-barking.mp4", "deep/old.avi"):
        write_sample(root / name, [i / 25 for i in range(10)], None)
    return root


def table(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def named(requests: list) -> list[tuple[str, int, str]]:
    return [(request.out.name, request.seed, request.prompt) for request in requests]


def test_a_video_and_its_takes(folder: Path, tmp_path: Path) -> None:
    video, out = folder / "dog-barking.mp4", tmp_path / "o.wav"
    assert named(requests_for(video, out, RAIN)) == [("o.wav", 4, "rain")]
    takes = requests_for(video, out, RequestDefaults(prompt="rain", seed=4, takes=2))
    assert named(takes) == [("o.4.wav", 4, "rain"), ("o.5.wav", 5, "rain")]


def test_a_folder_keeps_its_shape_and_names_its_prompts(folder: Path, tmp_path: Path) -> None:
    found = requests_for(folder, tmp_path / "out", RequestDefaults(seed=1))
    assert [str(r.out.relative_to(tmp_path / "out")) for r in found] == [
        "deep/old.mkv",
        "dog-barking.mp4",
    ]
    assert [r.prompt for r in found] == ["old", "dog barking"]
    assert {r.prompt for r in requests_for(folder, tmp_path / "out", RAIN)} == {"rain"}
    flac = requests_for(folder, tmp_path / "out", RequestDefaults(prompt="rain", format="flac"))
    assert {r.out.suffix for r in flac} == {".flac"}
    (folder / "clips.csv").write_text("file,prompt\ndog-barking.mp4,a dog\n")
    assert [r.prompt for r in requests_for(folder, tmp_path / "out", RequestDefaults())] == [
        "old",
        "a dog",
    ]


def test_a_csv_says_it_line_by_line(folder: Path, tmp_path: Path) -> None:
    lines = (
        "video,prompt,seed,negative_prompt,out\n"
        "a.mp4,,,,\nb.mov,bells,7,speech,x/y.flac\na.mp4,rain,9,,\n"
    )
    found = requests_for(table(folder / "jobs.csv", lines), tmp_path / "out", RAIN)
    assert named(found) == [("a.4.mp4", 4, "rain"), ("y.flac", 7, "bells"), ("a.9.mp4", 9, "rain")]
    assert [r.negative_prompt for r in found] == [None, "speech", None]
    assert found[0].video == folder / "a.mp4"
    assert found[1].out == tmp_path / "out/x/y.flac"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("clip,prompt\na.mp4,rain\n", "must name the columns"),
        ("video,prompt,loudness\na.mp4,rain,3\n", "loudness"),
        ("", "must name the columns"),
        ("video,prompt\n,rain\n", "line 2: names no video"),
        ("video,prompt\na.mp4,rain\nb.mp4,\n", "line 3: has no prompt"),
        ("video,prompt,seed\na.mp4,rain,many\n", "line 2: 'many' is no seed"),
        ("video,prompt,seed\na.mp4,rain,-1\n", "line 2: the seed must be"),
        ("video,prompt\na.mp4,rain\na.mp4,bells\n", "would both go to"),
        ("video,prompt,out\na.mp4,rain,a.mp3\n", "must end in one of"),
    ],
)
def test_what_is_wrong_with_a_csv_is_one_line(
    folder: Path, tmp_path: Path, lines: str, said: str
) -> None:
    with pytest.raises(FoleyError, match=said) as caught:
        requests_for(table(folder / "jobs.csv", lines), tmp_path / "out", RequestDefaults())
    assert "\n" not in str(caught.value)


def test_other_mistakes_are_named(folder: Path, tmp_path: Path) -> None:
    video, empty = folder / "dog-barking.mp4", tmp_path / "empty"
    empty.mkdir()
    for source, out, ask, said in (
        (video, tmp_path / "o.wav", RequestDefaults(), "--prompt"),
        (video, video, RAIN, "is one of the videos"),
        (video, tmp_path / "no" / "o.wav", RAIN, "no such folder"),
        (video, tmp_path / "o.txt", RAIN, "must end in one of"),
        (empty, tmp_path / "out", RAIN, "holds no video"),
        (folder, folder, RAIN, "is one of the videos"),
        (tmp_path / "gone.csv", tmp_path / "out", RAIN, "no such file"),
        (tmp_path / "gone.mp4", tmp_path / "o.wav", RAIN, "no such file"),
    ):
        with pytest.raises(FoleyError, match=said):
            requests_for(source, out, ask)
