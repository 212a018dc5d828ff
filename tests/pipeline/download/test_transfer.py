"""Downloads from a server that does everything wrong.

What comes out is the undisturbed corpus, or a reason.
"""

from __future__ import annotations

import hashlib
import io
import re
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.download.transfer import Fetcher, TransferError, TransferSettings
from pipeline.download.units import Choice, archive_folder, fetch_archive, fetch_file, sweep
from tests.pipeline.download.mirror import ARCHIVE, QUICK, Faults, Mirror, tree
from warehouse import FoleyError


def undisturbed(files: dict[str, bytes], path: str) -> dict[str, str]:
    """What an archive holds, by Python's own reader."""
    found: dict[str, str] = {}
    with tarfile.open(fileobj=io.BytesIO(files[path])) as archive:
        for member in archive:
            name, content = Path(member.name).name, archive.extractfile(member)
            if content is not None and name.endswith(".mp4") and not name.startswith("._"):
                found[name] = hashlib.sha256(content.read()).hexdigest()
    return found


FAULTS: dict[str, Callable[[], Faults]] = {
    "none": Faults,
    "dropped": lambda: Faults(left=3, drop_at=lambda n: n // 3),
    "dropped at once": lambda: Faults(left=3, drop_at=lambda n: 0),
    "dropped, no ranges": lambda: Faults(left=2, drop_at=lambda n: n // 2, ranges=False),
    "dropped, no validators": lambda: Faults(left=2, drop_at=lambda n: n // 2, validators=False),
    "500": lambda: Faults(left=2, status=500),
    "503": lambda: Faults(left=2, status=503, retry_after="0"),
    "429": lambda: Faults(left=2, status=429, retry_after="Thu, 01 Jan 1970 00:00:00 GMT"),
    "stall": lambda: Faults(left=1, stall=True),
    "drip": lambda: Faults(left=1, drip=True),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_happens_the_clips_are_the_same(
    tmp_path: Path, mirror: tuple[Mirror, str], files: dict[str, bytes], fault: str
) -> None:
    server, base = mirror
    server.faults = FAULTS[fault]()
    result = fetch_archive(Fetcher(QUICK), base + ARCHIVE, tmp_path)
    assert (result.error, result.fetched, result.clips) == (None, True, 3)
    assert tree(archive_folder(tmp_path, ARCHIVE)) == undisturbed(files, ARCHIVE)
    assert result.manifest["sha256"] == hashlib.sha256(files[ARCHIVE]).hexdigest()
    assert not list((tmp_path / ".partial").iterdir())
    if fault == "dropped":  # what was had is not fetched again
        assert server.fetched(ARCHIVE) == len(files[ARCHIVE])


@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.floats(0, 1), min_size=1, max_size=3), ranges=st.booleans())
def test_cut_anywhere(
    files: dict[str, bytes],
    tmp_path_factory: pytest.TempPathFactory,
    cuts: list[float],
    ranges: bool,
) -> None:
    server, left = Mirror(dict(files)), list(cuts)
    server.faults = Faults(left=len(cuts), drop_at=lambda n: int(left.pop() * n), ranges=ranges)
    base = server.start()
    try:
        root = tmp_path_factory.mktemp("cut")
        assert fetch_archive(Fetcher(QUICK), base + ARCHIVE, root).error is None
        assert tree(archive_folder(root, ARCHIVE)) == undisturbed(files, ARCHIVE)
    finally:
        server.stop()


def test_an_archive_replaced_half_way_is_the_new_one(
    tmp_path: Path, mirror: tuple[Mirror, str], files: dict[str, bytes]
) -> None:
    server, base = mirror
    other = files["train/k700_train_002.tar.gz"]
    server.faults = Faults(left=1, drop_at=lambda n: n // 2, replace_with=other)
    result = fetch_archive(Fetcher(QUICK), base + ARCHIVE, tmp_path)
    assert result.error is None
    assert tree(archive_folder(tmp_path, ARCHIVE)) == undisturbed(
        files, "train/k700_train_002.tar.gz"
    )


@pytest.mark.parametrize(
    ("faults", "what"),
    [
        (Faults(left=99, status=503), "HTTP 503, after 3 more tries"),
        (Faults(left=99, drop_at=lambda n: 0), "after 3 more tries"),
        (Faults(left=99, stall=True), "after 3 more tries"),
        (Faults(announce=1000), "after 3 more tries|announced more"),
    ],
)
def test_what_cannot_be_had_is_a_reason(
    tmp_path: Path, mirror: tuple[Mirror, str], faults: Faults, what: str
) -> None:
    server, base = mirror
    server.faults = faults
    result = fetch_archive(Fetcher(QUICK), base + ARCHIVE, tmp_path)
    assert result.error
    with pytest.raises(TransferError, match=what):
        raise TransferError(result.error)
    assert tree(tmp_path) == {}
    server.faults = Faults()  # and is had the next time
    assert fetch_archive(Fetcher(QUICK), base + ARCHIVE, tmp_path).clips == 3


def test_an_archive_that_is_not_there(tmp_path: Path, mirror: tuple[Mirror, str]) -> None:
    result = fetch_archive(Fetcher(QUICK), mirror[1] + "train/gone.tar.gz", tmp_path)
    assert result.error == f"{mirror[1]}train/gone.tar.gz: HTTP 404 Not Found"


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda c: c[: len(c) // 2], "cut"),
        (lambda c: c[:-4], "cut"),
        (lambda c: c[:-8] + bytes(4) + c[-4:], "damaged: .*incorrect data check"),
        (lambda c: c[: len(c) // 2] + b"\0" * 2000 + c[len(c) // 2 + 2000 :], "damaged|cut"),
        (lambda c: b"<html>not here</html>", "damaged or no tar"),
        (lambda c: b"", "damaged or no tar"),
    ],
)
def test_a_damaged_archive_is_a_reason(
    tmp_path: Path, mirror: tuple[Mirror, str], spoil: Callable[[bytes], bytes], what: str
) -> None:
    server, base = mirror
    server.files[ARCHIVE] = spoil(server.files[ARCHIVE])
    result = fetch_archive(Fetcher(QUICK), base + ARCHIVE, tmp_path)
    assert result.error
    assert re.search(what, result.error)
    assert tree(tmp_path) == {}


def test_nothing_whole_is_fetched_twice(tmp_path: Path, mirror: tuple[Mirror, str]) -> None:
    server, base = mirror
    url, fetcher = base + ARCHIVE, Fetcher(QUICK)
    assert fetch_archive(fetcher, url, tmp_path).fetched
    log = list(server.log)
    again = fetch_archive(fetcher, url, tmp_path)
    assert (again.fetched, again.clips, server.log) == (False, 3, log)
    victim = next(archive_folder(tmp_path, url).glob("*.mp4"))
    victim.write_bytes(victim.read_bytes()[:-1])  # damaged since: all of it comes again
    assert fetch_archive(fetcher, url, tmp_path).fetched
    some = fetch_archive(fetcher, url, tmp_path, Choice(frozenset([victim.name])))
    assert some.clips == 3  # all are there, so the chosen one is


def test_killed_in_the_middle_and_run_again(
    tmp_path: Path, mirror: tuple[Mirror, str], files: dict[str, bytes]
) -> None:
    server, base = mirror
    server.faults = Faults(left=1, stall=True)
    code = (
        "from pathlib import Path; from pipeline.download.units import Fetcher, fetch_archive\n"
        f"def said(n): print(n, flush=True)\n"
        f"fetch_archive(Fetcher(), {base + ARCHIVE!r}, Path({str(tmp_path)!r}), progress=said)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    child.stdout.readline()  # bytes have come
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert tree(tmp_path) == {}
    assert list((tmp_path / ".partial").iterdir())
    sweep(tmp_path)
    assert not list((tmp_path / ".partial").iterdir())
    assert fetch_archive(Fetcher(QUICK), base + ARCHIVE, tmp_path).error is None
    assert tree(archive_folder(tmp_path, ARCHIVE)) == undisturbed(files, ARCHIVE)


def test_more_classes_are_added_to_what_is_there(
    tmp_path: Path, mirror: tuple[Mirror, str], files: dict[str, bytes]
) -> None:
    server, base = mirror
    path = "train/k700_train_001.tar.gz"
    url, fetcher = base + path, Fetcher(QUICK)
    first, second, *_ = sorted(name for name in undisturbed(files, path) if "no_row" not in name)
    folder = archive_folder(tmp_path, url)
    assert fetch_archive(fetcher, url, tmp_path, Choice(frozenset([first]))).clips == 1
    sent = len(server.log)
    for there in (
        [first],
        [],
        ["of_another__000001_000011.mp4"],
    ):  # the manifest knows what the archive holds
        again = fetch_archive(fetcher, url, tmp_path, Choice(frozenset(there)))
        assert (again.error, again.fetched) == (None, False)
    assert len(server.log) == sent
    server.faults = Faults(left=99, status=503)  # and what is there stays, whatever happens
    assert fetch_archive(fetcher, url, tmp_path, Choice(frozenset([second]))).error
    assert list(tree(folder)) == [first]
    server.faults = Faults()
    assert fetch_archive(fetcher, url, tmp_path, Choice(frozenset([second]))).fetched
    assert list(tree(folder)) == [first, second]
    assert fetch_archive(fetcher, url, tmp_path).fetched
    assert tree(folder) == undisturbed(files, path)


@pytest.mark.parametrize(
    "url", ["s3://bucket/a.mp4", "ftp://host/a.mp4", "a.mp4", "http://", "http://[/a.mp4"]
)
def test_what_is_no_address_is_not_tried_again(tmp_path: Path, url: str) -> None:
    patient = Fetcher(TransferSettings(backoff_seconds=3600, longest_wait_seconds=3600))
    error = fetch_file(patient, url, tmp_path).error
    assert error == f"{url}: no address that can be fetched, give one with http:// or https://"


def test_a_full_disk_is_said_before(
    tmp_path: Path, mirror: tuple[Mirror, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.download.units.RESERVE", 1 << 60)
    with pytest.raises(FoleyError, match="make room"):
        fetch_archive(Fetcher(QUICK), mirror[1] + ARCHIVE, tmp_path)
    assert tree(tmp_path) == {}


def test_a_file_by_its_address(
    tmp_path: Path, mirror: tuple[Mirror, str], files: dict[str, bytes]
) -> None:
    server, base = mirror
    server.faults = Faults(left=2, drop_at=lambda n: n // 2)
    result = fetch_file(Fetcher(QUICK), base + ARCHIVE, tmp_path)
    assert result.error is None
    assert (tmp_path / result.manifest["file"]).read_bytes() == files[ARCHIVE]
    assert not fetch_file(Fetcher(QUICK), base + ARCHIVE, tmp_path).fetched
    assert (
        fetch_file(Fetcher(QUICK), base + "gone.mp4", tmp_path).error
        == f"{base}gone.mp4: HTTP 404 Not Found"
    )


def test_a_host_is_not_overrun(tmp_path: Path, mirror: tuple[Mirror, str]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    server, base = mirror
    fetcher = Fetcher(replace(QUICK, per_host=2))
    urls = [f"{base}{path}" for path in server.files if ".tar" in path]
    with ThreadPoolExecutor(5) as pool:
        results = list(pool.map(lambda url: fetch_archive(fetcher, url, tmp_path), urls))
    assert all(result.error is None for result in results)
    assert server.most_at_once <= 2
