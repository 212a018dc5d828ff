"""Archives that are damaged, cut off or hostile.

Only whole clips come out, and the reason is said.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from pipeline.download.archive import ArchiveError, ArchiveLimits, extract
from pipeline.download.units import archive_folder
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


def gzipped_in_parts(content: bytes, parts: int) -> bytes:
    """What `cat a.gz b.gz` gives, and tools that compress on several cores."""
    size = -(-len(content) // parts)
    return b"".join(gzip.compress(content[i : i + size]) for i in range(0, len(content), size))


def pieces(content: bytes, size: int) -> Iterator[bytes]:
    return (content[i : i + size] for i in range(0, len(content), size))


CLIPS = {_clip(i): Random(i).randbytes(700 + 900 * i) for i in range(4)}


@pytest.mark.parametrize("padding", [0, 1, 700])
@pytest.mark.parametrize("size", [1, 7, 1000, 1 << 20])
@pytest.mark.parametrize("parts", [1, 2, 5])
def test_gzip_files_that_follow_each_other_are_one(
    tmp_path: Path, parts: int, size: int, padding: int
) -> None:
    content = gzipped_in_parts(tar_of(CLIPS, compress=False), parts) + bytes(padding)
    contents = extract(pieces(content, size), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == CLIPS
    assert [(clip.file, clip.bytes, clip.sha256) for clip in contents.clips] == [
        (name, len(clip), hashlib.sha256(clip).hexdigest()) for name, clip in CLIPS.items()
    ]
    assert (contents.bytes, contents.members) == (len(content), len(CLIPS))
    assert contents.sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("size", [7, 1 << 20])
def test_every_part_has_to_be_whole(tmp_path: Path, size: int) -> None:
    """The tar is whole after the first part; what follows is read and checked all the same."""
    good = gzip.compress(tar_of(CLIPS, compress=False))
    zeros = gzip.compress(bytes(5000))
    more = gzip.compress(tar_of({_clip(9): b"x"}, compress=False))
    wrong = [
        (good + zeros[:-1], "cut: the gzip stream has no end"),
        (good + zeros[:-8] + b"\1" + zeros[-7:], "damaged: .*incorrect data check"),
        (good + zeros[:-1] + b"\1", "damaged: .*incorrect length check"),
        (good + b"not gzip", "damaged: "),
        (good + more, "damaged: no valid member at byte"),
    ]
    for number, (content, what) in enumerate(wrong):
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.raises(ArchiveError, match=what):
            extract(pieces(content, size), folder)
    (tmp_path / "good").mkdir()
    assert len(extract(pieces(good + zeros, size), tmp_path / "good").clips) == len(CLIPS)


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("size", [99, 1 << 20])
def test_an_end_mark_is_one_block_of_zeros_and_nothing_follows_it(
    tmp_path: Path, size: int, compress: bool
) -> None:
    tar = tar_of(CLIPS, compress=False)
    used = len(tar.rstrip(b"\0"))
    used = -(-used // 512) * 512  # the last clip ends here

    def outcome(content: bytes, name: str) -> str:
        (tmp_path / name).mkdir()
        content = gzip.compress(content) if compress else content
        try:
            return str(len(extract(pieces(content, size), tmp_path / name).clips))
        except ArchiveError as error:
            return str(error)

    assert outcome(tar[:used] + bytes(512), "one") == "4"
    assert outcome(tar[:used] + bytes(511), "less").startswith(("cut", "damaged"))
    assert outcome(tar[:used], "none").startswith("cut")
    assert outcome(tar + bytes(3 << 20), "long") == "4"
    assert "bytes after it" in outcome(tar + bytes(3 << 20) + b"x", "more")
    assert "bytes after it" in outcome(tar[:used] + bytes(511) + b"x" + bytes(512), "mark")


def test_the_limits_are_just_where_they_are_said_to_be(tmp_path: Path) -> None:
    def taken(name: str, limits: ArchiveLimits, content: bytes) -> bool:
        (tmp_path / name).mkdir()
        try:
            extract(iter([content]), tmp_path / name, limits)
        except ArchiveError:
            return False
        return True

    content = tar_of({_clip(i): b"x" * 3000 for i in range(20)})
    assert taken("members", ArchiveLimits(members=20), content)
    assert not taken("members less", ArchiveLimits(members=19), content)
    assert taken("bytes", ArchiveLimits(member_bytes=3000), content)
    assert not taken("bytes less", ArchiveLimits(member_bytes=2999), content)
    plain = len(tar_of({_clip(i): b"x" * 3000 for i in range(20)}, compress=False))
    assert taken("total", ArchiveLimits(total_bytes=plain), content)
    assert not taken("total less", ArchiveLimits(total_bytes=plain - 1), content)
    # what is small may be packed as well as it can be: 16 MiB are no bomb
    assert taken("small", ArchiveLimits(ratio=1), tar_of({_clip(0): bytes(15 << 20)}))
    assert not taken("large", ArchiveLimits(ratio=1), tar_of({_clip(0): bytes(17 << 20)}))


def test_only_the_wanted_clips_are_written_and_the_others_named(tmp_path: Path) -> None:
    members = {f"drums/{name}": content for name, content in CLIPS.items()} | {"readme.txt": b"x"}
    wanted = {_clip(1), _clip(3), _clip(77)}
    contents = extract(iter([tar_of(members)]), tmp_path, wanted=wanted)
    assert sorted(path.name for path in tmp_path.iterdir()) == [_clip(1), _clip(3)]
    assert contents.others == [_clip(0), _clip(2)]
    assert [clip.label for clip in contents.clips] == ["drums", "drums"]
    assert contents.left_out == [("readme.txt", "not named as a clip is")]


@pytest.mark.parametrize(
    "name",
    [
        "abcdefghijk_000001_000011.mp4.txt",
        "abcdefghijk_000001_000011.MP4",
        "abcdefghijk_00001_000011.mp4",
        "abcdefghij_000001_000011.mp4",
        "abcdefghijkl_000001_000011.mp4",
        "\N{LATIN SMALL LETTER E WITH ACUTE}bcdefghijk_000001_000011.mp4",
        "abcdefghijk_000001_000011xmp4",
    ],
)
def test_what_is_not_named_as_a_clip_is(tmp_path: Path, name: str) -> None:
    contents = extract(iter([tar_of({name: b"x"})]), tmp_path)
    assert (contents.clips, contents.left_out) == ([], [(name, "not named as a clip is")])
