"""Reading media, ours beside others on the same clips in one run.

`uv run python -m tests.benchmarks.media --help` says what can be chosen.

What reads in process (ours, decoding alone, OpenCV, decord, torchcodec) is timed in a media worker,
as the stages run; what is a process of its own a clip is timed whole. All on one thread, in
alternating rounds; medians of a clip.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import imageio_ffmpeg

from pipeline.media import MediaWorkers
from tests.benchmarks import media_readers as read
from tests.benchmarks.media_clips import LIMITS, SIZES, Figure, clip, plain

Spent = tuple[float, float]  # CPU seconds and wall seconds

_RATES = (25, 30, 24, 60, 15, 50, 12)

# (what, ours, theirs, asked of the ratio of CPU seconds ours / theirs at 340p and 720p)
_CONTESTS = (
    ("probe", "probe", "ffprobe", 1 / 20, 1 / 7),
    ("levels of the sound", "levels", "silencedetect", 1 / 5, 1 / 4),
    ("facts of the sound", "facts", "silencedetect", 1 / 5, 1 / 4),
    ("facts of the sound", "facts", "silencedetect, ebur128, astats", None, None),
    ("facts of the sound", "facts", "silencedetect (bundled)", None, None),
    ("frames", "frames", "ffmpeg -f null", 0.8, 1.3),
    ("frames", "frames", "ffmpeg -f null (bundled)", None, None),
    ("frames", "frames", "OpenCV", 1 / 1.25, 1 / 1.4),
    ("frames", "frames", "decord", 1 / 1.25, 1 / 1.4),
    ("frames", "frames", "torchcodec", 1 / 1.25, 1 / 1.4),
    ("probe, facts and frames", "front end", "decoding alone", 1.3, 1.3),
    ("a silent clip", "silent", "front end", 0.07, 0.02),
)


def media(rounds: int = 3, clips: int = 2) -> Iterator[Figure]:
    """Probe, facts of the sound and frames of 10 s clips of two sizes, beside other readers."""
    with tempfile.TemporaryDirectory() as folder:
        workers = MediaWorkers(1, LIMITS)
        for number, (size, pixels) in enumerate(SIZES.items()):
            made = [clip(Path(folder) / f"{size}-{fps}.mp4", pixels, fps) for fps in _RATES[:clips]]
            silent = clip(Path(folder) / f"{size}-silent.mp4", pixels, 25, sound="anullsrc")
            spent = _contest(_contestants(workers, silent), made, rounds)
            for what, ours, theirs, *asked in _CONTESTS:
                if theirs in spent:
                    yield from _figures(
                        f"{what} {size}", spent[ours], theirs, spent[theirs], asked[number]
                    )
        workers.close()


def _contestants(workers: MediaWorkers, silent: Path) -> dict[str, Callable[[Path], Spent]]:
    """What there is on this machine: seconds that it takes for a clip."""

    def ours(do: Callable[[Path], object]) -> Callable[[Path], Spent]:
        return lambda path: workers.submit(partial(read.timed, path, do)).result()

    bundled = imageio_ffmpeg.get_ffmpeg_exe()
    found = {"probe": ours(read.probe), "levels": ours(read.levels), "facts": ours(read.facts)}
    found |= {
        "frames": ours(read.frames),
        "front end": ours(read.front_end),
        "decoding alone": ours(read.decode),
    }
    found["silent"] = lambda path: ours(read.front_end)(silent)
    found["silencedetect (bundled)"] = partial(_process, _sound(bundled, read.SILENCEDETECT))
    found["ffmpeg -f null (bundled)"] = partial(_process, _picture(bundled))
    if shutil.which("ffmpeg") and shutil.which("ffprobe"):
        found["ffprobe"] = partial(
            _process, ["ffprobe", "-v", "error", "-show_streams", "-of", "json", "PATH"]
        )
        found["silencedetect"] = partial(_process, _sound("ffmpeg", read.SILENCEDETECT))
        found["silencedetect, ebur128, astats"] = partial(
            _process, _sound("ffmpeg", read.SILENCEDETECT + ",ebur128,astats")
        )
        found["ffmpeg -f null"] = partial(_process, _picture("ffmpeg"))
    return found | {name: ours(do) for name, do in read.peers().items()}


def _sound(ffmpeg: str, filters: str) -> list[str]:
    return [
        ffmpeg,
        "-nostdin",
        "-threads",
        "1",
        "-i",
        "PATH",
        "-vn",
        "-af",
        filters,
        "-f",
        "null",
        "-",
    ]


def _picture(ffmpeg: str) -> list[str]:
    return [ffmpeg, "-nostdin", "-threads", "1", "-i", "PATH", "-an", "-f", "null", "-"]


def _process(command: Sequence[str], path: Path) -> Spent:
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    filled = [str(path) if word == "PATH" else word for word in command]
    subprocess.run(filled, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, time.perf_counter() - began


def _contest(
    contestants: dict[str, Callable[[Path], Spent]], clips: Sequence[Path], rounds: int
) -> dict[str, list[Spent]]:
    """Seconds a clip of every round."""
    spent: dict[str, list[Spent]] = {name: [] for name in contestants}
    for round_ in range(rounds + 1):
        for name, do in contestants.items():
            taken = [do(path) for path in clips[: None if round_ else 1]]
            if round_:  # the first is for caches and imports
                spent[name].append(
                    (statistics.fmean(t[0] for t in taken), statistics.fmean(t[1] for t in taken))
                )
    return spent


def _figures(
    name: str, ours: list[Spent], against: str, theirs: list[Spent], asked: float | None
) -> Iterator[Figure]:
    for kind, column in (("CPU", 0), ("wall", 1)):
        mine, other = (
            statistics.median(taken[column] for taken in spent) for spent in (ours, theirs)
        )
        unit = f"{kind}-ms/clip"
        figure = {
            "name": name,
            "value": mine * 1e3,
            "unit": unit,
            "better": "lower",
            "against": against,
        }
        yield figure | {"ratio": mine / other, "asked": asked if kind == "CPU" else None}


def media_workers(clips: int = 24) -> Iterator[Figure]:
    """The front end in two processes against one.

    `core share` under 0.9 says that others had the cores.
    """
    with tempfile.TemporaryDirectory() as folder:
        made = clip(Path(folder) / "a.mp4", SIZES["340p"], 25)
        rates: dict[int, float] = {}
        for count in (1, 2):
            workers = MediaWorkers(count, LIMITS)
            jobs = [partial(read.timed, made, read.front_end)] * clips
            list(workers.map(jobs[: 2 * count], ahead=2 * count))
            began = time.perf_counter()
            spent = [
                taken for taken in workers.map(jobs, ahead=2 * count) if isinstance(taken, tuple)
            ]
            rates[count] = len(spent) / (time.perf_counter() - began)
            workers.close()
            share = sum(cpu for cpu, _ in spent) / sum(wall for _, wall in spent)
            yield plain(f"front end in {count} processes", rates[count], "clips/s", "higher")
            yield plain(f"core share of {count} processes", share, "CPU-s/s", "higher")
        figure = plain("two processes", rates[2], "clips/s", "higher")
        yield figure | {"against": "one process", "ratio": rates[2] / rates[1], "asked": 1.8}


def media_memory(clips: int = 200) -> Iterator[Figure]:
    """RSS of one worker that is never replaced, over many clips.

    Good ones, silent ones, broken ones.
    """
    with tempfile.TemporaryDirectory() as folder:
        made = [clip(Path(folder) / f"{fps}.mp4", "340x256", fps, seconds=2) for fps in (25, 30)]
        made.append(clip(Path(folder) / "silent.mp4", "340x256", 25, sound="anullsrc", seconds=2))
        made.append(Path(folder) / "cut.mp4")
        made[-1].write_bytes(made[0].read_bytes()[:60_000])
        workers, first = MediaWorkers(1, LIMITS), 0.0
        for number in range(clips):
            rss = (
                workers.submit(partial(read.memory_after, made[number % len(made)])).result()
                / 2**20
            )
            first = rss if number == clips // 10 else first
            if number % max(1, clips // 10) == 0 and number:
                yield plain(f"RSS after {number} clips", rss, "MiB", "lower")
            if number == clips - 1:
                figure = plain(f"RSS after {clips} clips", rss, "MiB", "lower")
                yield figure | {"against": f"after {clips // 10}", "ratio": rss / first}
        workers.close()


def main() -> None:
    """Print every ratio, one JSON line each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--clips", type=int, default=2, choices=range(1, len(_RATES) + 1), help="of each size"
    )
    parser.add_argument(
        "--memory", type=int, default=200, help="clips over which memory is watched"
    )
    options = parser.parse_args()
    print(
        json.dumps(
            {
                "cores": len(os.sched_getaffinity(0)),
                "load before": os.getloadavg()[0],
                **vars(options),
            }
        )
    )
    for figures in (
        media(options.rounds, options.clips),
        media_workers(),
        media_memory(options.memory),
    ):
        for figure in figures:
            rounded = {
                k: round(v, 3) if isinstance(v, float) else v
                for k, v in figure.items()
                if v is not None
            }
            print(json.dumps(rounded), flush=True)


if __name__ == "__main__":
    main()
