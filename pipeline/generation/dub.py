"""Files with sound for videos: what `foley generate` does with a video, a folder or a CSV."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pipeline.generation.requests import GenerateOptions, Request, requests_for, video_seconds
from pipeline.media import MediaError
from warehouse.errors import FoleyError
from warehouse.store import Warehouse

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.generation.generator import SoundGenerator

T = TypeVar("T")
OnStep = Callable[[int, int], None]  # sampling steps done and to do, of all sounds

Dub = Callable[["Warehouse | None", OnStep], Iterator["Dubbed"]]


@dataclass(frozen=True)
class Dubbed:
    """What became of a request: a file with so many seconds of sound, or the error in one line."""

    request: Request
    seconds: float = 0.0
    error: str | None = None


def prepare(source: Path, out: Path, options: GenerateOptions) -> Dub:
    """Check what is asked for, and give the function that makes the sounds.

    Args:
        source: a video, a folder of them, or a CSV (see `requests_for`).
        out: file to write for a single video, else a folder.
        options: prompts and models.

    Returns:
        :func:`dub` of (home, on_step) for what is asked for.

    Raises:
        FoleyError, ModelError: a wrong path or setting.
    """
    requests = requests_for(source, out, options)
    preset = options.load_preset()

    def load() -> SoundGenerator:
        from pipeline.generation.generator import SoundGenerator

        return SoundGenerator(preset, options.bridge, options.device)

    return lambda home, on_step: dub(requests, load, options.batch, home, on_step)


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
    videos = dict.fromkeys(request.video for request in requests)
    lengths = {video: _or_error(video_seconds, video) for video in videos}
    for request in requests:
        if isinstance(error := lengths[request.video], MediaError):
            yield Dubbed(request, error=str(error))
    seconds = {video: s for video, s in lengths.items() if isinstance(s, float)}
    ready = [request for request in requests if request.video in seconds]
    if not ready:
        return
    generator = load()
    frames = {video: generator.foley.latent_frames(s) for video, s in seconds.items()}
    steps, done = generator.preset.sample.steps, 0
    batch: list[Request] = []

    @lru_cache(maxsize=batch_size)  # the takes of one video are neighbours
    def tokens(video: Path) -> Tensor | MediaError:
        return _or_error(generator.tokens, video, seconds[video])

    def step(of_batch: int, _: int) -> None:
        if on_step:
            on_step(done * steps + len(batch) * of_batch, len(ready) * steps)

    for batch in _batches(ready, frames, batch_size):
        inputs = [(tokens(request.video), seconds[request.video]) for request in batch]
        yield from _dub_batch(generator, batch, inputs, home, step)
        step(steps, steps)  # where no sound could be made
        done += len(batch)


def _batches(
    requests: Sequence[Request], frames: Mapping[Path, int], size: int
) -> Iterator[list[Request]]:
    """Requests of one length in latent frames, the shortest first, those of one video together."""
    order = {video: (count, i) for i, (video, count) in enumerate(frames.items())}
    ordered = sorted(requests, key=lambda request: order[request.video])
    for _, group in groupby(ordered, key=lambda request: frames[request.video]):
        same_length = list(group)
        yield from (same_length[i : i + size] for i in range(0, len(same_length), size))


def _dub_batch(
    generator: SoundGenerator,
    batch: Sequence[Request],
    inputs: Sequence[tuple[Tensor | MediaError, float]],
    home: Warehouse | None,
    on_step: OnStep,
) -> Iterator[Dubbed]:
    """Sounds that are made together; `inputs` are the video tokens and seconds of each request."""
    from model.foley import SoundRequest

    sounds: dict[Request, SoundRequest] = {}
    for request, (video, seconds) in zip(batch, inputs, strict=True):
        if isinstance(video, MediaError):
            yield Dubbed(request, error=str(video))
        else:
            sounds[request] = SoundRequest(
                request.prompt, seconds, request.seed, video, request.negative_prompt
            )
    paths = [request.video for request in sounds]
    generated = generator.sounds(paths, list(sounds.values()), on_step=on_step)
    for request, sound in zip(sounds, generated, strict=True):
        try:
            sound.save(request.out, home)
            yield Dubbed(request, sound.seconds)
        except (FoleyError, OSError) as error:
            yield Dubbed(request, error=str(error))


def _or_error(read: Callable[..., T], *arguments: object) -> T | MediaError:
    """What `read` gives, or why the file is bad."""
    try:
        return read(*arguments)
    except MediaError as error:
        return error
