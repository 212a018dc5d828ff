"""Files with sound for videos: what `foley generate` does with a video, a folder or a CSV."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pipeline.generation.listing import requests_for
from pipeline.generation.options import GenerateOptions
from pipeline.generation.provenance import is_made, model_facts, told_of
from pipeline.generation.requests import Request
from pipeline.media import MediaError, check_holds, printable
from pipeline.training.checkpoints import Checkpoint, choose_checkpoint
from warehouse.errors import FoleyError
from warehouse.store import Warehouse

if TYPE_CHECKING:
    from model.presets.preset import Preset
    from pipeline.generation.asking import Watched
    from pipeline.generation.generator import SoundGenerator

T = TypeVar("T")
OnStep = Callable[[int, int], None]  # sampling steps done and to do, of all sounds


@dataclass(frozen=True)
class Dubbed:
    """What became of a request: a file with so many seconds of sound, or the error in one line.

    `before` where the file was there already, made of just what is asked for.
    """

    request: Request
    seconds: float = 0.0
    error: str | None = None
    notes: tuple[str, ...] = ()
    before: bool = False


@dataclass(frozen=True)
class Dubbing:
    """The sounds that are asked for, and the bridge that makes them: all checked.

    `notes` are lines on what was passed over, or has no part in it.
    """

    requests: Sequence[Request]
    notes: Sequence[str]
    preset: Preset
    checkpoint: Checkpoint
    options: GenerateOptions
    home: Warehouse | None

    def run(
        self, on_step: OnStep, load: Callable[[Dubbing], SoundGenerator] | None = None
    ) -> Iterator[Dubbed]:
        """See :func:`dub`; sounds that are there already are not made again, unless asked to."""
        made = {} if self.options.overwrite else self._made()
        for request, seconds in made.items():
            yield Dubbed(request, seconds, before=True)
        rest = [request for request in self.requests if request not in made]
        yield from dub(
            rest, partial(load or Dubbing.load, self), self.options.batch, self.home, on_step
        )

    def _made(self) -> dict[Request, float]:
        """Requests that are made already, and their seconds."""
        told = {
            request: told_of(request.out)
            for request in self.requests
            if request.video is None or request.video.is_file()
        }
        if not any(told.values()):
            return {}
        from model.bridge_file import read_bridge_facts

        path = self.checkpoint.path
        facts = read_bridge_facts(path)
        models = model_facts(facts.apply(self.preset, path), path, facts)
        return {
            request: float(said["seconds"])
            for request, said in told.items()
            if said and is_made(request.out, models | request.facts())
        }

    def load(self) -> SoundGenerator:
        """The models that it needs."""
        from pipeline.generation.generator import SoundGenerator

        options = self.options
        return SoundGenerator(self.preset, self.checkpoint.path, options.device, options.low_memory)


def prepare(source: Path | None, out: Path, options: GenerateOptions, home: Path | None) -> Dubbing:
    """Check what is asked for, before anything is loaded or made.

    Args:
        source: a video, a folder of them, or a CSV (see `requests_for`); None for text alone.
        out: file to write for a single video, else a folder.
        options: prompts and models.
        home: where its checkpoints are, and records of the sounds go; None for neither.

    Raises:
        FoleyError, ModelError: a wrong path or setting, or no bridge for this preset.
    """
    requests = requests_for(source, out, options)
    preset = options.sampling_preset()
    if options.without:
        from pipeline.generation.unwanted import check_tagger

        check_tagger(preset)
    there = Warehouse(home) if home and home.is_dir() else None
    bridge = choose_checkpoint(there, preset, options.checkpoint)
    wh = Warehouse(home) if home else None
    return Dubbing(requests.sounds, requests.notes, preset, bridge, options, wh)


def dub(
    requests: Sequence[Request],
    load: Callable[[], SoundGenerator],
    batch_size: int = 8,
    home: Warehouse | None = None,
    on_step: OnStep | None = None,
) -> Iterator[Dubbed]:
    """Write every request's file, with its provenance, as they are made: the shortest videos first.

    Frames are taken by timestamps, so any frame rate will do; sound is as long as the picture,
    which is copied bit for bit. A file that cannot be read or written costs its own requests and no
    other. Every video is encoded once. `load` is called once, if any video can be used.
    """
    lengths = _lengths(requests)
    yield from (
        Dubbed(r, error=str(bad)) for r, bad in lengths.items() if isinstance(bad, Exception)
    )
    ready = {r: seconds for r, seconds in lengths.items() if isinstance(seconds, float)}
    if not ready:
        return
    generator = load()
    frames = {r: generator.foley.latent_frames(seconds) for r, seconds in ready.items()}
    steps, done, to_do = generator.preset.sample.steps, 0, sampled(ready)
    batch: list[Request] = []

    @lru_cache(maxsize=batch_size)  # the takes of one video are neighbours
    def watched(video: Path, seconds: float, across_cuts: bool) -> Watched | MediaError:
        return _or_error(generator.watch, video, seconds, across_cuts)

    def step(of_batch: int, _: int) -> None:
        if on_step:
            on_step(done * steps + sampled(batch) * of_batch, to_do * steps)

    batches = list(_batches(frames, batch_size))
    for batch in batches:
        videos = [
            watched(r.video, ready[r], r.options.across_cuts) if r.video else None for r in batch
        ]
        if batch is batches[-1]:
            generator.let_encoder_go()  # before the DiT takes its memory
        inputs = list(zip(batch, (ready[r] for r in batch), videos, strict=True))
        yield from _dub_batch(generator, inputs, home, step)
        step(steps, steps)  # where no sound could be made
        done += sampled(batch)


def sampled(requests: Iterable[Request]) -> int:
    """Sounds that the models make for them: a mix and its stem are one."""
    return len({request.of_models() for request in requests})


def _batches(frames: Mapping[Request, int], size: int) -> Iterator[list[Request]]:
    """Requests of one length in latent frames, the shortest first, those of one video together."""
    place = {video: i for i, video in enumerate(dict.fromkeys(r.video for r in frames))}
    ordered = sorted(frames, key=lambda request: (frames[request], place[request.video]))
    for _, group in groupby(ordered, key=lambda request: frames[request]):
        sounds = [list(same) for _, same in groupby(group, key=Request.of_models)]
        for i in range(0, len(sounds), size):
            yield [request for same in sounds[i : i + size] for request in same]


def _dub_batch(
    generator: SoundGenerator,
    inputs: Sequence[tuple[Request, float, Watched | MediaError | None]],
    home: Warehouse | None,
    on_step: OnStep,
) -> Iterator[Dubbed]:
    """Sounds that are made together, of requests with their seconds and videos."""
    usable: list[tuple[Request, float, Watched | None]] = []
    for request, seconds, video in inputs:
        if isinstance(video, MediaError):
            yield Dubbed(request, error=str(video))
        else:
            usable.append((request, seconds, video))
    generated = generator.sounds(usable, on_step=on_step)
    for (request, _, _), sound in zip(usable, generated, strict=True):
        try:
            if isinstance(sound, FoleyError):
                raise sound
            notes = (f"{printable(request.out)}: {note}" for note in sound.notes)
            notes = (*notes, *sound.save(request.out, home))
            yield Dubbed(request, sound.seconds, notes=notes)
        except (FoleyError, OSError) as error:
            yield Dubbed(request, error=str(error))


def _lengths(requests: Sequence[Request]) -> dict[Request, float | MediaError]:
    """The seconds of each request, or why its video, or the file to write, cannot be used."""
    lengths: dict[object, float | MediaError] = {}  # takes have one
    found: dict[Request, float | MediaError] = {}
    for request in requests:
        key = (request.video, request.earlier, request.options)
        if key not in lengths:
            lengths[key] = _or_error(request.length)
        found[request] = length = lengths[key]
        if request.video and not isinstance(length, MediaError):
            keep = request.options.keep_audio
            found[request] = _or_error(check_holds, request.video, request.out, keep) or length
    return found


def _or_error(read: Callable[..., T], *arguments: object) -> T | MediaError:
    """What `read` gives, or why the file is bad."""
    try:
        return read(*arguments)
    except MediaError as error:
        return error
