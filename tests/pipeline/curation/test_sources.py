"""Sources: which files are clips, what they are called, and what is known of them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pipeline.curation.sources import SCHEMA, folder_source, words_of
from pipeline.procedural import BAD_KINDS, Corpus, sample_clip, write_clip, write_corpus
from warehouse import FoleyError


def rows(folder: Path, name: str | None = None) -> dict[str, dict[str, Any]]:
    listing = folder_source(folder, name)
    assert listing.clips.schema == SCHEMA
    found = {row["clip_id"]: row for row in listing.clips.to_pylist()}
    assert len(found) == len(listing.clips)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    for name in ("a.mp4", "deep/er/b.MOV", "deep/c.mp4"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"claims to be a video")
    return folder


def test_ids_are_readable_and_the_same_wherever_the_folder_lies(
    folder: Path, tmp_path: Path
) -> None:
    ids = set(rows(folder))
    assert ids == {"mine/a", "mine/deep/er/b", "mine/deep/c"}
    (tmp_path / "elsewhere").mkdir()
    assert set(rows(folder.rename(tmp_path / "elsewhere" / "mine"))) == ids


def test_two_folders_of_one_name_can_be_told_apart(folder: Path) -> None:
    assert set(rows(folder, "second")) == {"second/a", "second/deep/er/b", "second/deep/c"}
    assert {row["source"] for row in rows(folder, "second").values()} == {"second"}


def test_a_folder_given_by_way_of_its_parent_is_the_same_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "clips.csv").write_text("file,prompt\n../mine/a.mp4,rain\ndeep/c.mp4,hail\n")
    monkeypatch.chdir(folder / "deep")
    found = rows(Path(".."))
    assert found == rows(folder)
    assert {
        id: row["prompt"] for id, row in found.items() if row["prompt"] in ("rain", "hail")
    } == {"mine/a": "rain", "mine/deep/c": "hail"}


def test_files_that_differ_in_the_extension_alone_keep_it(folder: Path) -> None:
    (folder / "a.mkv").write_bytes(b"another")
    assert set(rows(folder)) == {"mine/a.mp4", "mine/a.mkv", "mine/deep/er/b", "mine/deep/c"}


def test_what_is_a_clip(folder: Path) -> None:
    """By content or by name; hidden files, other files and links to folders are not."""
    write_clip(sample_clip(0, 1.0), folder / "a video without a suffix")
    (folder / "notes.txt").write_text("bring milk")
    (folder / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0 and so on, not a video")
    (folder / "._a.mp4").write_bytes(b"left by another system")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "d.mp4").write_bytes(b"")
    (folder / "loop").symlink_to(folder)
    (folder / "linked.mp4").symlink_to(folder / "a.mp4")
    (folder / "broken.mp4").symlink_to(folder / "gone")
    os.mkfifo(folder / "pipe")
    os.mkfifo(folder / "pipe.mp4")
    new = set(rows(folder)) - {"mine/a", "mine/deep/er/b", "mine/deep/c"}
    assert new == {"mine/a video without a suffix", "mine/linked", "mine/broken", "mine/pipe"}
    assert rows(folder)["mine/pipe"]["path"].endswith("pipe.mp4")


def test_a_name_that_is_no_text_is_reported(folder: Path) -> None:
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.mp4")).write_bytes(b"")
    listing = folder_source(folder)
    assert len(listing.clips) == 3
    ((where, why),) = listing.skipped
    assert where.endswith("\\udcff.mp4")
    assert "not valid text" in why


@pytest.mark.parametrize("name", ["clips.jsonl", "metadata.csv"])
def test_a_sidecar_tells_what_is_known(folder: Path, name: str) -> None:
    known = {
        "file": "a.mp4",
        "caption": "a dog, barking",
        "label": "dog",
        "split": "val",
        "url": "https://x.invalid/a",
    }
    absent = {"file": "deep/gone.mp4", "caption": "nothing", "label": "", "split": "", "url": ""}
    with (folder / name).open("w", encoding="utf-8") as file:
        if name.endswith("csv"):
            file.write("file,caption,label,split,url\n")
            file.writelines(
                ",".join(f'"{value}"' for value in row.values()) + "\n" for row in (known, absent)
            )
        else:
            file.writelines(json.dumps(row) + "\n" for row in (known, absent))
    found = rows(folder)
    a, gone = found["mine/a"], found["mine/deep/gone"]
    assert (a["prompt"], a["label"], a["split"], a["url"]) == (
        "a dog, barking",
        "dog",
        "val",
        "https://x.invalid/a",
    )
    assert a["path"] == str(folder / "a.mp4")
    # listed, so that its absence becomes a row
    assert (gone["prompt"], gone["label"], gone["path"]) == (
        "nothing",
        None,
        str(folder / "deep" / "gone.mp4"),
    )
    assert found["mine/deep/c"]["label"] is None


def test_half_a_character_in_a_sidecar_is_left_out_with_its_reason(folder: Path) -> None:
    lines = [{"file": "a.mp4", "prompt": "dog \ud83d", "label": "dog"}, {"file": "\ud83d.mp4"}]
    (folder / "clips.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    listing = folder_source(folder)
    reasons = [(where.split(", ")[-1], why) for where, why in listing.skipped if "line" in where]
    assert reasons == [("line 1", "prompt is not valid text"), ("line 2", "file is not valid text")]
    assert rows(folder)["mine/a"]["prompt"] == rows(folder)["mine/a"]["label"] == "dog"


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("clips.jsonl", '{"file": "a.mp4"\n', "cannot be read as JSONL"),
        ("clips.jsonl", '["a.mp4"]\n', "line 1 is not a JSON object"),
        ("clips.jsonl", '{"prompt": "a dog"}\n', "names no file"),
        ("clips.csv", "name,prompt\na.mp4,a dog\n", "names no file"),
        ("clips.csv", "file\n\udcff\n", "save it as CSV UTF-8"),
    ],
)
def test_a_sidecar_that_makes_no_sense_is_named(
    folder: Path, name: str, text: str, what: str
) -> None:
    (folder / name).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(FoleyError, match=what) as caught:
        folder_source(folder)
    assert name in str(caught.value)


def test_no_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FoleyError, match="no such folder"):
        folder_source(tmp_path / "gone")
    assert rows(tmp_path) == {}


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("x/Dog-barking_02.mp4", "dog barking"),
        ("x/glassBreaking.webm", "glass breaking"),
        ("x/Tür fällt zu.mp4", "tür fällt zu"),
        ("rain on a roof/IMG_0042.mp4", "rain on a roof"),
        ("rain on a roof/0042.mp4", "rain on a roof"),
        ("12/34.mp4", ""),
    ],
)
def test_a_prompt_from_the_name(path: str, words: str) -> None:
    assert words_of(Path(path)) == words


def test_clips_of_one_video_stay_together(tmp_path: Path) -> None:
    for name in ("-bcdefghijk_000001_000011.mp4", "-bcdefghijk_000011_000021.mp4", "other.mp4"):
        path = tmp_path / "k" / "playing drums" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    found = rows(tmp_path / "k")
    assert {row["source_video"] for row in found.values()} == {
        "-bcdefghijk",
        "k/playing drums/other",
    }
    assert found["k/playing drums/-bcdefghijk_000001_000011"]["prompt"] == "playing drums"


def test_procedural_clips_bring_their_truth(tmp_path: Path) -> None:
    corpus = Corpus(2)
    write_corpus(tmp_path / "clips", corpus)
    clips = rows(tmp_path / "clips")
    assert len(clips) == 2 + len(BAD_KINDS)
    first, clip = clips["clips/clip-00000"], sample_clip(0)
    assert (first["prompt"], first["label"], first["split"]) == (clip.prompt, clip.material, None)
    assert json.loads(first["truth"]) == clip.truth() | {"bad": None, "flaw": None}
    assert Path(first["path"]).is_file()
    write_corpus(tmp_path / "clips", corpus)
    assert rows(tmp_path / "clips") == clips
