"""What `foley generate` is asked for: sound for a video, a folder of them, or a CSV."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from model.presets.preset import Preset, load_preset
from model.presets.settings import SampleSettings
from pipeline.media import MediaError, printable, probe
from warehouse.errors import FoleyError

COLUMNS = ("video", "prompt", "seed", "negative_prompt", "out")
MUXED, SOUND_ALONE = (".mp4", ".m4v", ".mov", ".mkv", ".webm"), (".wav", ".flac")
MAX_SEED = 2**31 - 1
MAX_SECONDS = 3600.0  # a header may claim any length, and the sound of all of it is in memory


@dataclass(frozen=True)
class Request:
    """One file to write: a video with its sound, or the sound alone."""

    video: Path
    out: Path
    prompt: str
    seed: int
    negative_prompt: str | None = None


@dataclass(frozen=True)
class RequestDefaults:
    """What holds for all sounds of a command, where a CSV says nothing else."""

    prompt: str | None = None
    seed: int = 0
    takes: int = 1
    negative_prompt: str | None = None
    format: str | None = None  # of the files in a folder: mp4, mkv, mov, webm, wav, flac


@dataclass(frozen=True)
class GenerateOptions(RequestDefaults):
    """Everything that `foley generate` may be told beside its files; None is the preset's own."""

    preset: str = "toy"
    weights: Path | None = None
    bridge: Path | None = None
    device: str = "auto"
    batch: int = 8  # sounds of one length that are made at once
    cfg: float | None = None
    video_cfg: float | None = None
    steps: int | None = None
    fast: bool = False  # the preset's `fast_steps`

    def load_preset(self) -> Preset:
        """The preset, sampling as these options say. Raises ModelError if there is none."""
        preset = load_preset(self.preset, self.weights)
        steps = preset.sample.fast_steps if self.fast else self.steps
        sample = sample_settings(preset, cfg=self.cfg, video_cfg=self.video_cfg, steps=steps)
        return preset.model_copy(update={"sample": sample})


def sample_settings(preset: Preset, **changes: float | None) -> SampleSettings:
    """How the preset samples, but for the changes that are not None."""
    given = {name: value for name, value in changes.items() if value is not None}
    return SampleSettings.model_validate(preset.sample.model_dump() | given)


def requests_for(source: Path, out: Path, defaults: RequestDefaults) -> list[Request]:
    """The sounds to make, in order. `out` is a file for a single video, else a folder.

    With several takes the seed comes before the extension (`clip.3.mp4`), as it does for the rows
    of a CSV. Raises FoleyError if the source is not there or makes no sense, if a sound has no
    prompt, or if two would go to one file.
    """
    if source.is_dir():
        requests = list(_of_folder(source, out, defaults))
    elif source.suffix.lower() == ".csv":
        requests = list(_of_csv(source, out, defaults))
    else:
        requests = list(_of_file(source, out, defaults))
    videos = {request.video.resolve() for request in requests}
    first: dict[Path, Request] = {}
    for request in requests:
        check_out(request.out, videos)
        other = first.setdefault(request.out.absolute(), request)
        if other is not request:
            raise FoleyError(
                f"{printable(other.video)} (seed {other.seed}) and {printable(request.video)} "
                f"(seed {request.seed}) would both go to {printable(request.out)}: "
                "name them in a CSV's column `out`"
            )
    return requests


def check_out(out: Path, videos: Collection[Path]) -> None:
    """Raises FoleyError if `out` is one of the (resolved) videos, or no kind of file we write."""
    same = out.exists() and any(video.exists() and out.samefile(video) for video in videos)
    if same or out.resolve() in videos:
        raise FoleyError(f"{printable(out)} is one of the videos: choose another file to write")
    if out.suffix.lower() not in (*MUXED, *SOUND_ALONE):
        endings = ", ".join((*MUXED, *SOUND_ALONE))
        raise FoleyError(
            f"{printable(out)} cannot be written: the name must end in one of {endings}"
        )


def _of_file(video: Path, out: Path, defaults: RequestDefaults) -> Iterator[Request]:
    if not video.is_file():
        raise FoleyError(f"no such file: {printable(video)}")
    if not out.absolute().parent.is_dir():
        raise FoleyError(f"no such folder: {out.absolute().parent}; make it first")
    if defaults.prompt is None:
        raise FoleyError("what is to be heard? give a --prompt")
    yield from _takes(video, out, defaults)


def _of_folder(folder: Path, out: Path, defaults: RequestDefaults) -> Iterator[Request]:
    from pipeline.curation.sources import folder_source

    rows = folder_source(folder).clips.to_pylist()
    if not rows:
        raise FoleyError(f"{printable(folder)}: holds no video")
    for row in rows:
        video = Path(row["path"])
        prompt = defaults.prompt if defaults.prompt is not None else row["prompt"]
        if not prompt:
            raise FoleyError(
                f"{printable(video)}: has no prompt, neither by its name nor a clips.csv: "
                "give a --prompt"
            )
        target = _with_format(out / video.relative_to(folder.absolute()), defaults.format)
        yield from _takes(video, target, replace(defaults, prompt=prompt))


def _of_csv(table: Path, out: Path, defaults: RequestDefaults) -> Iterator[Request]:
    for number, row in enumerate(_rows(table), 2):  # line 1 is the header
        try:
            yield from _of_row(table.parent, out, row, defaults)
        except ValueError as error:
            raise FoleyError(f"{printable(table)}, line {number}: {error}") from None


def _rows(table: Path) -> Iterator[Mapping[str, str | None]]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            names = list(reader.fieldnames or [])
            if "video" not in names or not set(names) <= set(COLUMNS):
                raise FoleyError(
                    f"{printable(table)}: its first line must name the columns: video, prompt, "
                    "and if you like seed, negative_prompt, out; "
                    f"it has {', '.join(names) or 'none'}"
                )
            yield from reader
    except FileNotFoundError:
        raise FoleyError(f"no such file: {printable(table)}") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FoleyError(f"{printable(table)}: cannot be read as CSV: {error}") from None


def _of_row(
    folder: Path, out: Path, row: Mapping[str, str | None], defaults: RequestDefaults
) -> Iterator[Request]:
    if not row["video"]:
        raise ValueError("names no video")
    video = folder / row["video"]
    prompt = row.get("prompt") or defaults.prompt
    if not prompt:
        raise ValueError("has no prompt, and no --prompt is given")
    try:
        seed = int(row.get("seed") or defaults.seed)
    except ValueError:
        raise ValueError(f"{row['seed']!r} is no seed: give a whole number") from None
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"the seed must be 0 to {MAX_SEED}, not {seed}")
    name = row.get("out")
    target = out / name if name else _with_format(out / video.name, defaults.format)
    negative_prompt = row.get("negative_prompt") or defaults.negative_prompt
    own = replace(defaults, prompt=prompt, seed=seed, negative_prompt=negative_prompt)
    yield from _takes(video, target, own, always=not name)


def _with_format(path: Path, format: str | None) -> Path:
    """The path with the extension asked for: else its own, or .mkv, which holds any picture."""
    if format is None and path.suffix.lower() in MUXED:
        return path
    return path.with_suffix(f".{format or 'mkv'}")


def _takes(
    video: Path, out: Path, wish: RequestDefaults, always: bool = False
) -> Iterator[Request]:
    """A request for every seed, which is in the file's name if there are several, or `always`."""
    for seed in range(wish.seed, wish.seed + wish.takes):
        suffix = f".{seed}{out.suffix}" if wish.takes > 1 or always else out.suffix
        target = out.with_suffix(suffix)
        yield Request(video, target, wish.prompt or "", seed, wish.negative_prompt)


def video_seconds(video: Path) -> float:
    """Length of a video. Raises MediaError if it cannot be used."""
    info = probe(video)
    if info.video_codec is None:
        raise MediaError(video, "no video stream")
    if not info.duration:
        raise MediaError(video, "does not say how long it is")
    if info.duration > MAX_SECONDS:
        length = f"is {info.duration:.0f} s long, more than {MAX_SECONDS:.0f} s: cut it"
        raise MediaError(video, length)
    return info.duration
