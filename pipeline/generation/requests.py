"""What `foley generate` is asked for.

One video, a folder of them, or a CSV of (video, prompt, seed).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.media import MediaError, printable, probe
from warehouse.errors import FoleyError

COLUMNS = ("video", "prompt", "seed", "negative_prompt", "out")
MUXED, SOUND_ALONE = (".mp4", ".m4v", ".mov", ".mkv", ".webm"), (".wav", ".flac")
MAX_SEED = 2**31 - 1
MAX_SECONDS = (
    3600.0  # of a video: a header may claim any length, and the sound of all of it is held
)


@dataclass(frozen=True)
class Request:
    """One sound for one video."""

    video: Path
    out: Path
    prompt: str
    seed: int
    negative_prompt: str | None = None


@dataclass(frozen=True)
class Ask:
    """What holds for all sounds of a command, where a CSV says nothing else."""

    prompt: str | None = None
    seed: int = 0
    takes: int = 1
    negative_prompt: str | None = None
    format: str | None = None  # of the files in a folder: mp4, mkv, mov, webm, wav, flac


def requests_for(source: Path, out: Path, ask: Ask) -> list[Request]:
    """The sounds to make, in order. `out` is a file for a single video, else a folder.

    With several takes the seed comes before the extension (`clip.3.mp4`), as it does for the lines
    of a CSV. Raises FoleyError if the source is not there or makes no sense, if a sound has no
    prompt, or if two would go to one file.
    """
    if source.is_dir():
        found = list(_of_folder(source, out, ask))
    elif source.suffix.lower() == ".csv":
        found = list(_of_csv(source, out, ask))
    else:
        found = list(_of_file(source, out, ask))
    seen: dict[Path, Request] = {}
    videos = {request.video.resolve() for request in found}
    for request in found:
        if request.out.exists() and request.video.exists() and request.out.samefile(request.video):
            raise FoleyError(f"{printable(request.out)} is the video itself: choose another --out")
        if request.out.resolve() in videos:
            raise FoleyError(f"{printable(request.out)} is one of the videos: choose another --out")
        if request.out.suffix.lower() not in (*MUXED, *SOUND_ALONE):
            known = ", ".join((*MUXED, *SOUND_ALONE))
            raise FoleyError(
                f"{printable(request.out)} cannot be written: the name must end in one of {known}"
            )
        other = seen.setdefault(request.out.absolute(), request)
        if other is not request:
            both = f"{printable(other.video)} (seed {other.seed}) and {printable(request.video)} (seed {request.seed})"
            raise FoleyError(
                f"{both} would both go to {printable(request.out)}: name them in a CSV's column `out`"
            )
    return found


def _of_file(video: Path, out: Path, ask: Ask) -> Iterator[Request]:
    if not video.is_file():
        raise FoleyError(f"no such file: {printable(video)}")
    if not out.absolute().parent.is_dir():
        raise FoleyError(f"no such folder: {out.absolute().parent}; make it first")
    if ask.prompt is None:
        raise FoleyError("what is to be heard? give a --prompt")
    yield from _takes(Request(video, out, ask.prompt, ask.seed, ask.negative_prompt), ask.takes)


def _of_folder(folder: Path, out: Path, ask: Ask) -> Iterator[Request]:
    from pipeline.curation.sources import folder_source

    rows = folder_source(folder).clips.to_pylist()
    if not rows:
        raise FoleyError(f"{printable(folder)}: holds no video")
    for row in rows:
        video = Path(row["path"])
        prompt = ask.prompt if ask.prompt is not None else row["prompt"]
        if not prompt:
            raise FoleyError(
                f"{printable(video)}: has no prompt, neither by its name nor a clips.csv: give a --prompt"
            )
        target = _named(out / video.relative_to(folder.absolute()), ask.format)
        yield from _takes(Request(video, target, prompt, ask.seed, ask.negative_prompt), ask.takes)


def _of_csv(table: Path, out: Path, ask: Ask) -> Iterator[Request]:
    for number, row in enumerate(_rows(table), 2):  # line 1 is the header
        try:
            yield from _of_row(table.parent, out, row, ask)
        except ValueError as error:
            raise FoleyError(f"{printable(table)}, line {number}: {error}") from None


def _rows(table: Path) -> Iterator[Mapping[str, str | None]]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            names = list(reader.fieldnames or [])
            if "video" not in names or not set(names) <= set(COLUMNS):
                raise FoleyError(f"{printable(table)}: its first line must name the columns: video, prompt, and if you "
                                 f"like seed, negative_prompt, out; it has {', '.join(names) or 'none'}")  # fmt: skip
            yield from reader
    except FileNotFoundError:
        raise FoleyError(f"no such file: {printable(table)}") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FoleyError(f"{printable(table)}: cannot be read as CSV: {error}") from None


def _of_row(folder: Path, out: Path, row: Mapping[str, str | None], ask: Ask) -> Iterator[Request]:
    if not row["video"]:
        raise ValueError("names no video")
    video = folder / row["video"]
    prompt = row.get("prompt") or ask.prompt
    if not prompt:
        raise ValueError("has no prompt, and no --prompt is given")
    try:
        seed = int(row.get("seed") or ask.seed)
    except ValueError:
        raise ValueError(f"{row['seed']!r} is no seed: give a whole number") from None
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"the seed must be 0 to {MAX_SEED}, not {seed}")
    named = row.get("out")
    target = out / named if named else _named(out / video.name, ask.format)
    request = Request(
        video, target, prompt, seed, row.get("negative_prompt") or ask.negative_prompt
    )
    yield from _takes(request, ask.takes, always=not named)


def _named(path: Path, format: str | None) -> Path:
    """With the extension that is asked for.

    Else its own, or mkv, which holds any picture, where that cannot be.
    """
    if format is None and path.suffix.lower() in MUXED:
        return path
    return path.with_suffix(f".{format or 'mkv'}")


def _takes(request: Request, takes: int, always: bool = False) -> Iterator[Request]:
    """A request for every seed.

    The seed is in the file's name if there are several, or `always`.
    """
    for seed in range(request.seed, request.seed + takes):
        out = (
            request.out.with_suffix(f".{seed}{request.out.suffix}")
            if takes > 1 or always
            else request.out
        )
        yield replace(request, seed=seed, out=out)


def durations(requests: list[Request]) -> dict[Path, float | MediaError]:
    """Seconds of each video, or why it cannot be used; every file is looked at once."""
    found: dict[Path, float | MediaError] = {}
    for video in dict.fromkeys(request.video for request in requests):
        try:
            found[video] = _seconds(video)
        except MediaError as error:
            found[video] = error
    return found


def _seconds(video: Path) -> float:
    info = probe(video)
    if info.video_codec is None:
        raise MediaError(video, "no video stream")
    if not info.duration:
        raise MediaError(video, "does not say how long it is")
    if info.duration > MAX_SECONDS:
        raise MediaError(
            video, f"is {info.duration:.0f} s long, more than {MAX_SECONDS:.0f} s: cut it"
        )
    return info.duration
