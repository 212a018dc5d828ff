"""Coverage-guided fuzzing of the probe.

    uv run python -m tests.pipeline.media.fuzz_probe --seconds 300 [--found FOLDER]

A changed file that does something new is kept, and changed further. Something new is a pair of
lines of ours that follow each other, or a kind of remark in the media library's own trace, which
tells of the way through its C code. Files are probed in a media worker, so that a crash, a hang or
too much memory is a finding like any other.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import av.logging
import numpy as np

from pipeline import media
from pipeline.media import MediaError, MediaInfo, MediaWorkers, WorkerLimits, probe
from tests.pipeline.media.samples import Codecs, clicks, write_sample

Target = Callable[[Path], object]

_OURS = str(Path(media.__file__).parent)
_NUMBERS = re.compile(r"0x[0-9a-f]+|[\d.,:-]+")
_WORDS = b"""ftyp moov trak mdia minf stbl stsd stts ctts stsc stsz stco co64 stss mvhd tkhd mdhd
hdlr elst edts avc1 avcC mp4a esds meta udta ilst moof traf trun tfhd mvex trex sidx
uuid LIST hdrl strh strf movi idx1""".split()
_EDGES = (
    0,
    1,
    2,
    7,
    8,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    1 << 24,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
)


@dataclass
class Fuzz:
    """What came of it: files that did something new, and findings as (what, file)."""

    runs: int = 0
    seen: set[str] = field(default_factory=set[str])
    corpus: list[bytes] = field(default_factory=list[bytes])
    findings: dict[str, bytes] = field(default_factory=dict[str, bytes])


def fuzz(
    seeds: Sequence[bytes],
    seconds: float,
    *,
    runs: int | None = None,
    seed: int = 0,
    target: Target = probe,
) -> Fuzz:
    """Change files until the time or the number of runs is up."""
    rng, found = np.random.default_rng(seed), Fuzz()
    workers = MediaWorkers(1, WorkerLimits(seconds=10, memory_bytes=1 << 30, files=2000))
    until = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        for content in seeds:
            _try(found, workers, path, content, target)
        found.corpus = list(seeds)
        while time.monotonic() < until and (runs is None or found.runs < runs):
            _try(found, workers, path, mutate(found.corpus, rng), target)
    workers.close()
    return found


def _try(found: Fuzz, workers: MediaWorkers, path: Path, content: bytes, target: Target) -> None:
    path.write_bytes(content)
    found.runs += 1
    try:
        ways, wrong = workers.submit(partial(watched, path, target)).result()
    except MediaError as error:  # the worker was lost
        ways, wrong = frozenset[str](), error.what
    if wrong is not None:
        found.findings.setdefault(re.sub(r"\d+", "#", wrong), content)
    if not ways <= found.seen:
        found.seen |= ways
        found.corpus.append(content)


def watched(path: Path, target: Target) -> tuple[frozenset[str], str | None]:
    """Run in a worker: which ways the target went, and what is wrong with what it says."""
    ways: set[str] = set()
    before = ""
    theirs = sys.modules[target.__module__].__file__

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal before
        file = frame.f_code.co_filename
        if not file.startswith(_OURS) and file != theirs:
            return None
        here = f"{file}:{frame.f_lineno}"
        ways.add(f"{before} {here}")
        before = here
        return trace

    av.logging.set_level(av.logging.TRACE)
    sys.settrace(trace)
    try:
        with av.logging.Capture() as remarks:
            wrong = judge(target, path)
    finally:
        sys.settrace(None)
        av.logging.set_level(av.logging.PANIC)
    ways |= {f"{name}: {_NUMBERS.sub('#', message)[:80]}" for _, name, message in remarks}
    return frozenset(ways), wrong


def judge(target: Target, path: Path) -> str | None:
    """None if the target keeps its word about this file.

    Sensible facts, or a MediaError of one line.
    """
    try:
        said = target(path)
    except MediaError as error:
        return None if str(error).isprintable() else f"an error of more than a line: {error!r}"
    except MemoryError:
        raise
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if isinstance(said, MediaInfo):
        numbers = {
            "duration": said.duration,
            "fps": said.fps,
            "sample_rate": said.sample_rate,
            **_sizes(said),
        }
        for name, number in numbers.items():
            if number is not None and not (
                math.isfinite(number) and number >= (name != "duration")
            ):
                return f"{name} is {number}"
        if said.rotation not in (None, 0, 90, 180, 270):
            return f"rotation is {said.rotation}"
    return None


def _sizes(info: MediaInfo) -> dict[str, float | None]:
    return {"width": info.width, "height": info.height, "channels": info.channels}


def mutate(corpus: Sequence[bytes], rng: np.random.Generator) -> bytes:
    """A file of the corpus with one to eight changes; the newest are chosen more often."""
    chosen = int(len(corpus) * max(rng.random(), rng.random()))
    content = bytearray(corpus[chosen])
    for _ in range(1 << int(rng.integers(4))):
        at, length = int(rng.integers(len(content) + 1)), int(2 ** rng.uniform(0, 8))
        match int(rng.integers(8)):
            case 0 if at < len(content):
                content[at] ^= 1 << int(rng.integers(8))
            case 1 if at < len(content):
                content[at] = int(rng.integers(256))
            case 2:
                size = int(rng.choice([1, 2, 4]))
                content[at : at + size] = (
                    int(rng.choice(_EDGES)) & ((1 << 8 * size) - 1)
                ).to_bytes(size, "big")
            case 3:
                del content[at : at + length]
            case 4:
                content[at:at] = content[at : at + length]
            case 5:
                other = corpus[int(rng.integers(len(corpus)))]
                start = int(rng.integers(len(other) + 1))
                content[at : at + length * int(rng.integers(2))] = other[start : start + length]
            case 6:
                places = [
                    found.start() for found in re.finditer(rb"[a-zA-Z]{3}[a-zA-Z0-9]", content)
                ] or [at]
                at = int(rng.choice(places))
                content[at : at + 4] = _WORDS[int(rng.integers(len(_WORDS)))]
            case _:
                if rng.random() < 0.1:
                    del content[at:]
    return bytes(content)


def small_files(folder: Path) -> list[bytes]:
    """Small whole files of the usual formats."""
    found: list[bytes] = []
    kinds = [
        ("mp4", Codecs(), {"movflags": "+faststart"}),
        ("mp4", Codecs(), {"movflags": "+frag_keyframe+empty_moov"}),
    ]
    kinds += [("mkv", Codecs(), {}), ("ts", Codecs(), {}), ("flv", Codecs(rate=44_100), {})]
    tick = Fraction(1, 25)
    kinds += [("avi", Codecs("mpeg4", "pcm_s16le", 8000, tick=tick), {})]
    kinds += [("mpg", Codecs("mpeg2video", "mp2", tick=tick), {})]
    for number, (suffix, codecs, options) in enumerate(kinds):
        path = folder / f"{number}.{suffix}"
        write_sample(
            path, [i / 25 for i in range(4)], clicks(0.16, [0.05], codecs.rate), codecs, **options
        )
        found.append(path.read_bytes())
    return found


def main() -> int:
    """Fuzz the probe; 1 if there is a finding."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--found", type=Path, help="folder for files with findings")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seeds = small_files(Path(folder))
    found = fuzz(seeds, options.seconds, seed=options.seed)
    print(
        f"{found.runs} files, {len(found.seen)} ways,"
        f" {len(found.corpus)} kept, {len(found.findings)} findings"
    )
    for number, (what, content) in enumerate(found.findings.items()):
        print(f"{number}: {what}")
        if options.found is not None:
            options.found.mkdir(parents=True, exist_ok=True)
            (options.found / f"{number}.bin").write_bytes(content)
    return 1 if found.findings else 0


if __name__ == "__main__":
    from tests.pipeline.media import fuzz_probe  # noqa: PLW0406 (workers find it by its own name)

    sys.exit(fuzz_probe.main())
