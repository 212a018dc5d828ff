"""Sources: what a scan takes, what a clash says, and which clips are selected from."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.curation.policy import Policy, select
from pipeline.curation.registry import clips_of, register, registered, remove, scan_source
from pipeline.stages.engine import fingerprints
from tests.warehouse.toys import Facts, make_files, run_once
from warehouse import FoleyError, IngestResult, Warehouse, query


def write(folder: Path, *names: str, text: str = "") -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text or name}\n")
    return folder


@pytest.fixture
def wh(tmp_path: Path) -> Warehouse:
    return Warehouse(tmp_path / "home")


def clips(wh: Warehouse) -> dict[str, str]:
    rows = wh.clips(["source"], status=None)
    return dict(zip(rows["clip_id"].to_pylist(), rows["source"].to_pylist(), strict=True))


def scan(wh: Warehouse, *names: str) -> list[IngestResult]:
    return [scan_source(wh, source).result for source in registered(wh, names)]


def test_a_scan_takes_what_is_new_changed_or_gone(wh: Warehouse, tmp_path: Path) -> None:
    folder = write(tmp_path / "a", "one.mp4", "sub/two.mp4")
    register(wh, folder)
    register(wh, folder)
    assert scan(wh) == [IngestResult(new=2)]
    assert scan(wh) == [IngestResult(unchanged=2)]
    (folder / "one.mp4").unlink()
    write(folder, "sub/two.mp4", "three.mp4", text="longer than before")
    assert scan(wh) == [IngestResult(new=1, changed=2, failed=1)]
    gone = wh.clips(["error"], status="failed").to_pylist()
    assert gone == [{"clip_id": "a/one", "error": "FileNotFoundError"}]
    write(folder, "one.mp4")
    assert scan(wh) == [IngestResult(changed=1, unchanged=2)]


def test_a_file_keeps_its_id_when_one_of_another_type_comes(wh: Warehouse, tmp_path: Path) -> None:
    folder = write(tmp_path / "a", "one.mp4")
    register(wh, folder)
    scan(wh)
    write(folder, "one.webm")
    assert scan(wh) == [IngestResult(new=1, unchanged=1)]
    assert list(clips(wh)) == ["a/one", "a/one.webm"]
    assert wh.clips(["source_video"])["source_video"].to_pylist() == ["a/one", "a/one.webm"]


def test_two_folders_of_one_name_are_refused_with_what_to_type(
    wh: Warehouse, tmp_path: Path
) -> None:
    first, second = (write(tmp_path / name / "clips", "one.mp4") for name in "ab")
    register(wh, first)
    with pytest.raises(FoleyError, match=r"clips is there already \(.*/a/clips\).*--name b-clips"):
        register(wh, second)
    register(wh, second, "b-clips")
    assert scan(wh) == [IngestResult(new=1), IngestResult(new=1)]
    assert clips(wh) == {"b-clips/one": "b-clips", "clips/one": "clips"}
    assert [source.place for source in registered(wh)] == [second, first]


@pytest.mark.parametrize(
    ("place", "name", "message"),
    [
        ("a/clips/sub", None, "come in twice: run foley curate --sources clips"),
        ("a", None, "come in twice"),
        ("a/clips", "again", "come in twice"),
        ("gone", None, "gone: no such folder"),
        ("b", "x/y", "cannot name one of the sources"),
        ("b", "x,y", "leave the comma out"),
        ("b", "old", "source old is there already, with other clips"),
    ],
)
def test_what_cannot_become_a_source_is_one_line(
    wh: Warehouse, tmp_path: Path, place: str, name: str | None, message: str
) -> None:
    """`old` came in before sources were registered, from another folder."""
    register(wh, write(tmp_path / "a/clips", "sub/one.mp4"))
    write(tmp_path / "b", "one.mp4")
    old = {"clip_id": "old/one", "path": str(tmp_path / "c/one.mp4"), "source": "old"}
    wh.ingest(pa.Table.from_pylist([old]))
    with pytest.raises(FoleyError, match=message) as error:
        register(wh, tmp_path / place, name)
    assert "\n" not in str(error.value)
    assert [source.name for source in registered(wh)] == ["clips"]


def test_clips_that_came_in_before_sources_were_registered_are_known(
    wh: Warehouse, tmp_path: Path
) -> None:
    folder = write(tmp_path / "a", "one.mp4")
    old = {"clip_id": "a/one", "path": str(folder / "one.mp4"), "source": "a", "prompt": "one"}
    wh.ingest(pa.Table.from_pylist([old]))
    register(wh, folder)
    assert scan(wh) == [IngestResult(unchanged=1)]


def test_a_source_that_cannot_be_read_costs_its_known_clips_nothing(
    wh: Warehouse, tmp_path: Path
) -> None:
    folder = write(tmp_path / "a", "one.mp4")
    register(wh, folder)
    scan(wh)
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(FoleyError, match="no such folder"):
        scan(wh)
    folder.mkdir()  # as where a disk is not mounted
    with pytest.raises(FoleyError, match="no media file"):
        scan(wh)
    (source,) = registered(wh)
    assert "no media file" in str(source.error)
    assert wh.clips(["status"])["status"].to_pylist() == ["passed"]
    remove(wh, "a")
    register(wh, tmp_path / "elsewhere", "a")  # the source moved, its clips did not change
    assert scan(wh) == [IngestResult(changed=1)]
    assert list(clips(wh)) == ["a/one"]
    assert registered(wh)[0].error is None


def test_what_is_removed_is_neither_scanned_nor_selected(wh: Warehouse, tmp_path: Path) -> None:
    for name in "abc":
        register(wh, write(tmp_path / name, "one.mp4"))
    scan(wh)
    assert clips_of(wh) is None
    assert clips_of(wh, ["a", "c"]) == ["a/one", "c/one"]
    remove(wh, "b")
    assert clips_of(wh) == ["a/one", "c/one"]
    assert [source.name for source in registered(wh)] == ["a", "c"]
    for call in (lambda: clips_of(wh, ["b"]), lambda: remove(wh, "b")):
        with pytest.raises(FoleyError, match=r"no source 'b' in .*; there are: a, c"):
            call()
    register(wh, tmp_path / "b")
    assert scan(wh, "b") == [IngestResult(unchanged=1)]
    assert clips_of(wh) is None


def test_the_name_of_a_removed_source_is_free_where_its_clips_moved_to(
    wh: Warehouse, tmp_path: Path
) -> None:
    """Elsewhere its clips would come back with the name."""
    register(wh, write(tmp_path / "a", "one.mp4", "sub/two.mp4"))
    scan(wh)
    remove(wh, "a")
    other = write(tmp_path / "b", "one.mp4")
    for place in (other, tmp_path / "a/sub"):
        with pytest.raises(FoleyError, match=r"source a is there already \(.*/a, removed\)"):
            register(wh, place, "a")
    write(other, "sub/two.mp4", "three.mp4")
    register(wh, other, "a")
    assert scan(wh) == [IngestResult(new=1, changed=2)]
    paths = wh.clips(["path"], status=None)["path"].to_pylist()
    assert {Path(path).relative_to(other).name for path in paths} == {
        "one.mp4",
        "two.mp4",
        "three.mp4",
    }


def test_a_removed_source_comes_again_only_where_no_other_has_its_clips(
    wh: Warehouse, tmp_path: Path
) -> None:
    folder = write(tmp_path / "data", "sub/one.mp4")
    register(wh, folder)
    for place, name in ((folder / "sub", None), (folder, "again")):
        remove(wh, "data")
        taken = register(wh, place, name).name
        with pytest.raises(FoleyError, match=f"come in twice: run foley curate --sources {taken}"):
            register(wh, folder, "data")
        assert [source.name for source in registered(wh)] == [taken]
        remove(wh, taken)
        assert register(wh, folder, "data").name == "data"
    remove(wh, "data")
    register(wh, folder, "again")
    assert register(wh, folder).name == "again"  # not the one of that folder that was removed


def test_the_catalog_tells_sources_apart(wh: Warehouse, tmp_path: Path) -> None:
    register(wh, write(tmp_path / "a", "one.mp4", "two.mp4"))
    register(wh, write(tmp_path / "empty", "notes.txt"), kind="list")
    scan(wh)
    (tmp_path / "a/two.mp4").unlink()
    scan(wh)
    old = {"clip_id": "old/one", "path": str(tmp_path / "a/one.mp4"), "source": "old"}
    wh.ingest(pa.Table.from_pylist([old]))
    remove(wh, "empty")
    wh.publish()
    columns = "name, kind, removed, clips, unreadable, newest_clip is null, scanned_at is null"
    rows = query(wh.home, f"select {columns}, place from sources order by name").to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        ("a", "folder", False, 2, 1, False, False, str(tmp_path / "a")),
        ("empty", "list", True, 0, 0, True, False, str(tmp_path / "empty")),
        ("old", None, False, 1, 0, False, True, None),
    ]


def test_what_one_source_holds_out_leaves_out_of_another(wh: Warehouse, tmp_path: Path) -> None:
    """Two corpora may have clips of one video: a selection from one knows what the other tests."""
    rows = make_files(tmp_path / "media", 6).to_pylist()
    for number, row in enumerate(rows):
        row |= {"source": "ab"[number % 2], "split": "test" if number == 3 else "train"}
    wh.ingest(pa.Table.from_pylist(rows))
    run_once(wh, [Facts()])
    chosen = [row["clip_id"] for row in rows if row["source"] == "a"]
    dataset = select(wh, fingerprints([Facts()]), Policy("p", 1, ()), clip_ids=chosen)
    reasons = {row["clip_id"]: row["reason"] for row in dataset.members(kept=None).to_pylist()}
    divided = "split: its source video is in another"
    assert reasons == {"clip0000": None, "clip0002": None, "clip0004": divided}
