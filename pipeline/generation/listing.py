"""From a video, a folder of them, a CSV or a text to the sounds to make."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.generation.cues import read_cues
from pipeline.generation.options import MAX_SEED, GenerateOptions, SoundOptions
from pipeline.generation.provenance import is_made, told_of
from pipeline.generation.requests import MUXED, SOUND_ALONE, STEM, Request, check_out, places_of
from pipeline.generation.sources import sound_seconds
from pipeline.media import printable
from pipeline.paths import path_of
from pipeline.tables import read_table
from warehouse.errors import FoleyError
from warehouse.files import Json

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "video": ("file", "file_name", "filename", "path"),
    "prompt": ("caption", "text"),
    "seed": (),
    "negative_prompt": (),
    "cues": (),
    "out": ("output",),
}

#: What a mix and its stem have in common in their sidecars.
_SAME_SOUND = ("video", "prompt", "negative_prompt", "seed", "bridge", "settings", "earlier")


@dataclass(frozen=True)
class Requests:
    """The sounds to make, in order, and a line for everything that was passed over."""

    sounds: list[Request]
    notes: list[str] = field(default_factory=list[str])


def _check_source(source: Path | None, options: GenerateOptions) -> None:
    """Raises FoleyError for an option that is about a video without one, or about text with one."""
    if source is not None and options.seconds is not None:
        raise FoleyError("--seconds is for text alone: with a video, the sound is as long as it")
    for name in ("mix", "keep_audio", "across_cuts"):
        if source is None and getattr(options, name) not in (None, False):
            raise FoleyError(f"--{name.replace('_', '-')} is about a video: name one")


def requests_for(source: Path | None, out: Path, options: GenerateOptions) -> Requests:
    """The sounds to make. `out` is a file for a single video or for text alone, else a folder.

    With several takes the seed comes before the extension (`clip.3.mp4`), as it does for the rows
    of a CSV. Raises FoleyError if the source is not there or makes no sense, if a video has no
    prompt, or if two would go to one file.
    """
    notes = options.unused()
    if options.like is not None:
        sound_seconds(options.like)
    if options.cues is not None:
        read_cues(options.cues)
    if options.redo is not None:
        requests = list(of_sound(source, out, options))
    elif source is None or not (source.is_dir() or source.suffix.lower() == ".csv"):
        requests = list(_of_file(source, out, options))
    elif source.is_dir():
        requests = list(_of_folder(source, out, options, notes))
    else:
        requests = list(_of_csv(source, out, options, notes))
    _check_source(source, options)
    files = [file for r in requests for file in (r.video, r.earlier, r.options.like) if file]
    taken = places_of(files)
    first: dict[Path, Request] = {}
    for request in requests:
        check_out(request.out, taken)
        if request.options.keep_audio and request.out.suffix.lower() in SOUND_ALONE:
            raise FoleyError(
                f"--keep-audio: {printable(request.out)} holds the new sound alone: leave the "
                f"option out, or write a video ({', '.join(MUXED)})"
            )
        other = first.setdefault(request.out.absolute(), request)
        if other is not request:
            raise FoleyError(
                f"{_named(other)} and {_named(request)} would both go to {printable(request.out)}: "
                "name them in a CSV's column `out`"
            )
    return Requests(requests, notes)


def _named(request: Request) -> str:
    return f"{printable(request.video or Path('text'))} (seed {request.seed})"


def _of_file(
    video: Path | None, out: Path, options: GenerateOptions, earlier: Path | None = None
) -> Iterator[Request]:
    if video is None and earlier is None and options.seconds is None:
        raise FoleyError("sound for what? name a video, or give --seconds for a text alone")
    if video is not None and not video.is_file():
        raise FoleyError(f"no such file: {printable(video)}")
    if options.prompt is None or not (options.prompt or video or earlier):
        alone = '; --prompt "" lets the video alone decide' if video else ""
        raise FoleyError(f"what is to be heard? give a --prompt{alone}")
    if options.format is not None:
        raise FoleyError(f"--format is for folders and CSVs: {printable(out)} says its own")
    if video is None and out.suffix.lower() in MUXED:
        raise FoleyError(f"{printable(out)}: without a video there is sound alone: .wav or .flac")
    for request in _takes(video, out, options):
        yield replace(request, earlier=earlier)


def of_sound(sound: Path | None, out: Path, options: GenerateOptions) -> Iterator[Request]:
    """An earlier sound, part of which is made anew: its video and prompts are as its sidecar has.

    A video that holds the sound is its own picture.
    """
    if sound is None or not sound.is_file() or sound.suffix.lower() == ".csv":
        told = f", not {printable(sound)}" if sound else ""
        raise FoleyError(f"--redo is of one earlier sound: name its file{told}")
    told = told_of(sound)
    if "mix" in told.get("options", {}):
        yield from _of_mix(sound, told, out, options)
        return
    if not told and options.prompt is None:
        raise FoleyError(
            f"{printable(sound)} has no sidecar that tells its prompt: give a --prompt"
        )
    known = {name: told.get(name) for name in ("prompt", "negative_prompt")}
    own = {name: getattr(options, name) for name in known if getattr(options, name) is not None}
    video = sound if sound.suffix.lower() not in SOUND_ALONE else None
    if video is None and told.get("video"):
        video = Path(told["video"]["path"])
        if not video.is_file():
            raise FoleyError(f"{printable(sound)} was made for {printable(video)}: not there now")
    asked = options.model_copy(update={**known, **own})
    yield from _of_file(video, out, asked, sound)


def _of_mix(mix: Path, told: Json, out: Path, options: GenerateOptions) -> Iterator[Request]:
    """A mix of which a stretch is made anew: of its stem, which is then mixed as before."""
    stem, later = mix.with_suffix(STEM), ("mix", "loudness", "keep_audio")
    same = {name: told.get(name) for name in _SAME_SOUND}
    same["options"] = {k: v for k, v in told["options"].items() if k not in later}
    if not is_made(stem, same):
        raise FoleyError(
            f"{printable(mix)} is a mix, and its own new sound ({printable(Path(stem.name))}) is "
            "not beside it: give the command that made the mix again, with --stem"
        )
    levels = {name: told["options"].get(name) for name in ("mix", "loudness")}
    for request in of_sound(stem, out, options.model_copy(update={"stem": False})):
        mixed = replace(request, options=request.options.model_copy(update=levels))
        yield from (mixed, mixed.stem())


def of_call(
    video: Path | None, prompt: str | None, seed: int, negative: str | None, options: SoundOptions
) -> Request:
    """One sound that Python asks for, with no file to write yet.

    Raises FoleyError for what makes no sense.
    """
    if not (isinstance(prompt, str) or (prompt is None and options.redo)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise FoleyError(f"the prompt must be text, not {prompt!r}")
    if not 0 <= seed <= MAX_SEED:
        raise FoleyError(f"the seed must be 0 to {MAX_SEED}, not {seed}")
    if not options.redo:
        return Request(video, Path(), prompt or "", seed, negative, options)
    own = options.model_dump(exclude_defaults=True)
    asked = GenerateOptions.of(prompt=prompt, negative_prompt=negative, seed=seed, **own)
    return next(of_sound(video, Path("redone.wav"), asked))


def _of_folder(
    folder: Path, out: Path, options: GenerateOptions, notes: list[str]
) -> Iterator[Request]:
    from pipeline.curation.sources import folder_source, source_root

    listing, root = folder_source(folder), source_root(folder)
    notes += [f"passed over {where}: {why}" for where, why in listing.skipped]
    made_there = out.absolute() if out.absolute() != root else None
    rows = [
        row
        for row in listing.clips.to_pylist()
        if made_there not in Path(row["path"]).parents and not told_of(Path(row["path"]))
    ]
    if not rows:
        raise FoleyError(f"{printable(folder)}: holds no video")
    for row in rows:
        video = Path(row["path"])
        prompt = options.prompt if options.prompt is not None else row["prompt"] or ""
        target = _with_format(out / video.relative_to(root), options.format)
        yield from _takes(video, target, options.model_copy(update={"prompt": prompt}))


def _of_csv(path: Path, out: Path, options: GenerateOptions, notes: list[str]) -> Iterator[Request]:
    table = read_table(path, COLUMNS, needed=("video",))
    if table.ignored:
        names = ", ".join(table.ignored)
        notes.append(f"{printable(path)}: columns that mean nothing here: {names}")
    if not table.rows:
        raise FoleyError(f"{printable(path)}: names no video: there is no line after the first")
    for number, row in table.rows:
        try:
            yield from _of_row(path.parent, out, row, options)
        except (ValueError, FoleyError) as error:
            raise FoleyError(f"{printable(path)}, line {number}: {error}") from None


def _of_row(
    folder: Path, out: Path, row: Mapping[str, str], options: GenerateOptions
) -> Iterator[Request]:
    if not row["video"]:
        raise ValueError("names no video")
    video, name, cues = folder / path_of(row["video"]), row.get("out"), row.get("cues")
    if cues:
        cues = str(folder / cues) if cues.lower().endswith((".csv", ".edl")) else cues
        read_cues(cues)
    own = {
        "prompt": row.get("prompt") or options.prompt or "",
        "seed": _seed(row.get("seed") or options.seed),
        "negative_prompt": row.get("negative_prompt") or options.negative_prompt,
        "cues": cues or options.cues,
    }
    target = out / name if name else _with_format(out / video.name, options.format)
    yield from _takes(video, target, options.model_copy(update=own), always=not name)


def _seed(text: str | int) -> int:
    """A seed as a table has it: pandas writes 3.0 for 3 where a cell of the column is empty."""
    try:
        seed = float(text)
    except ValueError:
        seed = 0.5
    if not seed.is_integer():
        raise ValueError(f"{text!r} is no seed: give a whole number")
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"the seed must be 0 to {MAX_SEED}, not {int(seed)}")
    return int(seed)


def _with_format(path: Path, format: str | None) -> Path:
    """The path with the extension asked for: else its own, or .mkv, which holds any picture."""
    if format is None and path.suffix.lower() in MUXED:
        return path
    return path.with_suffix(f".{format or 'mkv'}")


def _takes(
    video: Path | None, out: Path, options: GenerateOptions, always: bool = False
) -> Iterator[Request]:
    """A request for every seed, which is in the file's name if there are several, or `always`."""
    last = options.seed + options.takes - 1
    if last > MAX_SEED:
        raise FoleyError(f"the seeds of {options.takes} takes go to {last}, over {MAX_SEED}")
    for seed in range(options.seed, last + 1):
        suffix = f".{seed}{out.suffix}" if options.takes > 1 or always else out.suffix
        request = Request(
            video,
            out.with_suffix(suffix),
            options.prompt or "",
            seed,
            options.negative_prompt,
            options.of_sound,
        )
        yield from (request, request.stem()) if options.stem else (request,)
