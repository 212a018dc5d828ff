"""Fetching, hashing and extracting archives from loopback, beside `curl` to disk and `tar x`."""

from __future__ import annotations

import gzip
import io
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipeline.download.transfer import Fetcher
from pipeline.download.units import fetch_archive

_CLIPS, _BYTES = 60, 750_000  # an archive of 45 MB, of clips as large as Kinetics' are
_ROUNDS = 3


def media_download() -> Iterator[dict[str, Any]]:
    """Megabytes of archive a second of wall clock and of CPU, plain and gzipped.

    Nothing without curl and tar.
    """
    if not (shutil.which("curl") and shutil.which("tar")):
        return
    with tempfile.TemporaryDirectory() as folder:
        served, root = Path(folder) / "train", Path(folder) / "out"
        served.mkdir()
        _write(served)
        command = [
            sys.executable,
            "-u",
            "-m",
            "http.server",
            "0",
            "--bind",
            "127.0.0.1",
            "--directory",
            folder,
        ]
        server = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert server.stdout is not None
        port = server.stdout.readline().split(" port ")[1].split()[0]
        try:
            for name in ("plain.tar", "packed.tar.gz"):
                yield from _against(f"http://127.0.0.1:{port}/train/{name}", root)
        finally:
            server.terminate()
            server.wait()
            server.stdout.close()


def _write(folder: Path) -> None:
    with tarfile.open(folder / "plain.tar", "w") as archive:
        for number in range(_CLIPS):
            info = tarfile.TarInfo(f"playing drums/clip_{number:06d}_000000_000010.mp4")
            info.size = _BYTES
            archive.addfile(info, io.BytesIO(os.urandom(_BYTES)))
    with (
        (folder / "plain.tar").open("rb") as plain,
        gzip.open(folder / "packed.tar.gz", "wb", 1) as packed,
    ):
        shutil.copyfileobj(plain, packed)


def _against(url: str, root: Path) -> Iterator[dict[str, Any]]:
    fetcher = Fetcher()

    def ours() -> None:
        result = fetch_archive(fetcher, url, root)
        assert result.clips == _CLIPS, result.error

    def theirs() -> None:
        root.mkdir(exist_ok=True)
        subprocess.run(["curl", "-sS", "-o", root / "archive", url], check=True)
        subprocess.run(["tar", "xf", root / "archive", "-C", root], check=True)

    spent: dict[str, list[tuple[float, float]]] = {"ours": [], "theirs": []}
    for round_ in range(_ROUNDS + 1):
        for who, do in (("ours", ours), ("theirs", theirs)):
            taken = _seconds(do)
            shutil.rmtree(root)
            if round_:
                spent[who].append(taken)
    for kind, column in (("wall", 0), ("CPU", 1)):
        mine, other = (
            statistics.median(taken[column] for taken in spent[who]) for who in ("ours", "theirs")
        )
        yield {
            "name": f"download {url.rpartition('/')[2]}",
            "value": _CLIPS * _BYTES / 1e6 / mine,
            "unit": f"MB/{kind}-s",
            "better": "higher",
            "against": "curl to disk, then tar x; no hash",
            "ratio": other / mine,
        }


def _seconds(do: Callable[[], None]) -> tuple[float, float]:
    """Wall clock, and CPU of this process and those it waited for."""
    cpu, wall = _cpu(), time.perf_counter()
    do()
    return time.perf_counter() - wall, _cpu() - cpu


def _cpu() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(u.ru_utime + u.ru_stime for u in used)
