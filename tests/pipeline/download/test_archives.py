"""Archives that are damaged, cut off or hostile.

Only whole clips come out, and the reason is said.
"""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from pipeline.download import ArchiveError, ArchiveLimits, archive_folder, extract
from tests.pipeline.download.mirror import tar_of
from warehouse import FoleyError


def _clip(number: int) -> str:
    return f"abcdefghi{number:02d}_000001_000011.mp4"


def test_tarfile_is_not_believed_when_it_stops_at_a_damaged_header(tmp_path: Path) -> None:
    content = bytearray(tar_of({_clip(i): bytes([i]) * 600 for i in range(20)}, compress=False))
    middle = content.index(_clip(10).encode())
    content[middle + 148 : middle + 156] = b"\xff" * 8  # the header's checksum
    with tarfile.open(fileobj=io.BytesIO(bytes(content))) as archive:
        assert len(archive.getmembers()) == 10  # and not a word
    with pytest.raises(ArchiveError, match="no valid member at byte"):
        extract(iter([bytes(content)]), tmp_path)


@pytest.mark.parametrize("compress", [True, False])
def test_an_archive_without_its_end(tmp_path: Path, compress: bool) -> None:
    content = tar_of({_clip(0): b"x" * 512}, compress=False)[:1024]  # a header and its data
    if compress:
        import gzip

        content = gzip.compress(content)
    with pytest.raises(ArchiveError, match=r"cut|damaged"):
        extract(iter([content]), tmp_path)


def test_hostile_members_are_left_out(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:

        def add(name: str, content: bytes = b"x", **facts: object) -> None:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in facts.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(content))

        add(f"/etc/{_clip(1)}", b"absolute")
        add(f"a/../../{_clip(2)}")
        add(_clip(3), b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add(_clip(4), b"", type=tarfile.LNKTYPE, linkname=_clip(1))
        add(_clip(5), b"", type=tarfile.CHRTYPE)
        add(_clip(6), b"", type=tarfile.FIFOTYPE)
        add(f"._{_clip(7)}")
        add("playing drums/-bcdefghijk_000001_000011.mp4", b"dash")
        add(_clip(8), b"first")
        add(f"again/{_clip(8)}", b"first")
        add(f"other/{_clip(8)}", b"second")
        add("manifest.json")
        add("x" * 300 + ".mp4")
    folder = tmp_path / "here"
    folder.mkdir()
    contents = extract(iter([out.getvalue()]), folder)
    assert {clip.file: clip.label for clip in contents.clips} == {
        _clip(1): "etc",
        "-bcdefghijk_000001_000011.mp4": "playing drums",
        _clip(8): None,
    }
    why = dict(contents.left_out)
    assert why[f"a/../../{_clip(2)}"] == "a path with `..`"
    assert (why[_clip(3)], why[_clip(4)], why[_clip(5)]) == (
        "a link",
        "a link",
        "not a regular file",
    )
    assert "other content" in why[f"other/{_clip(8)}"]
    assert why[f"again/{_clip(8)}"] == "comes twice"
    assert len(why) == 10
    assert sorted(path.name for path in tmp_path.rglob("*.mp4")) == sorted(
        clip.file for clip in contents.clips
    )
    assert (folder / _clip(8)).read_bytes() == b"first"


@pytest.mark.parametrize(
    ("members", "limits", "what"),
    [
        ({_clip(0): bytes(40 << 20)}, ArchiveLimits(), "a bomb"),
        ({_clip(i): b"x" for i in range(30)}, ArchiveLimits(members=20), "more than 20 members"),
        ({_clip(0): os.urandom(3000)}, ArchiveLimits(member_bytes=2000), "a member of 3000 bytes"),
    ],
)
def test_bombs(tmp_path: Path, members: dict[str, bytes], limits: ArchiveLimits, what: str) -> None:
    with pytest.raises(ArchiveError, match=what):
        extract(iter([tar_of(members)]), tmp_path, limits)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 26 << 20


@pytest.mark.parametrize(
    "address", ["https://h/x/../photos.tar.gz", "https://h/train/...tar.gz", "https://h/a.tar"]
)
def test_an_address_cannot_lead_elsewhere(tmp_path: Path, address: str) -> None:
    with pytest.raises(FoleyError, match="names no archive"):
        archive_folder(tmp_path, address)


def test_a_sparse_member_is_not_written(tmp_path: Path) -> None:
    sparse, packed = tmp_path / "sparse.mp4", tmp_path / "sparse.tar"
    with sparse.open("wb") as file:
        file.truncate(50 << 20)
    subprocess.run(
        [
            "tar",
            "-S",
            "-cf",
            packed,
            "-C",
            tmp_path,
            "--transform",
            f"s/.*/{_clip(1)}/",
            sparse.name,
        ],
        check=True,
    )
    assert packed.stat().st_size < 1 << 20
    (tmp_path / "out").mkdir()
    found = extract(iter([packed.read_bytes()]), tmp_path / "out")
    assert found.clips == []
    assert [why for _, why in found.left_out] == ["a sparse file"]
