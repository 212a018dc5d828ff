"""Sound for videos, muxed under their pictures: what `foley generate` does with its requests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.generation.provenance import keep_provenance
from pipeline.generation.requests import Request, durations
from pipeline.media import MediaError, mux, write_flac, write_wav
from warehouse.errors import FoleyError
from warehouse.files import file_sha256
from warehouse.store import Warehouse

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.generation.generator import Audio, Dubber

SOUND_WRITERS = {".wav": write_wav, ".flac": write_flac}


@dataclass(frozen=True)
class Dubbed:
    """What became of a request: a file with so many seconds of sound, or the error in one line."""

    request: Request
    seconds: float = 0.0
    error: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def dub(
    requests: Sequence[Request],
    load: Callable[[], Dubber],
    home: Warehouse | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Iterator[Dubbed]:
    """Write every request's file, with its provenance, as they are made: the shortest videos first.

    Frames are taken by timestamps, so any frame rate will do; sound is as long as the picture,
    which is copied bit for bit. A file that cannot be read or written costs its own requests and no
    other. Every video is encoded once. `load` is called once, if any video can be used. `on_step`
    gets the sampling steps done and to do, of all sounds.
    """
    lengths = durations(list(requests))
    for request in requests:
        if isinstance(error := lengths[request.video], MediaError):
            yield Dubbed(request, error=str(error))
    ready = [(seconds, r) for r in requests if isinstance(seconds := lengths[r.video], float)]
    if not ready:
        return
    dubber = load()
    progress = _Progress(len(ready), on_step)
    order = {video: i for i, video in enumerate(lengths)}
    ready.sort(
        key=lambda pair: (dubber.latents(pair[0]), order[pair[1].video])
    )  # stable: takes stay in order
    for _, group in groupby(ready, key=lambda pair: dubber.latents(pair[0])):
        yield from _of_one_length(dubber, list(group), home, progress)


def _of_one_length(
    dubber: Dubber,
    requests: list[tuple[float, Request]],
    home: Warehouse | None,
    progress: _Progress,
) -> Iterator[Dubbed]:
    """Requests (with the seconds of their videos) batch by batch.

    Those of one video are neighbours.
    """
    encoded: dict[Path, Tensor | MediaError] = {}
    for start in range(0, len(requests), dubber.options.batch):
        batch = requests[start : start + dubber.options.batch]
        kept, encoded = encoded, {}
        for seconds, request in batch:
            if request.video not in encoded:
                known = kept.get(request.video)  # the batch before may have ended among its takes
                encoded[request.video] = (
                    _encoded(dubber, request.video, seconds) if known is None else known
                )
            if isinstance(error := encoded[request.video], MediaError):
                yield Dubbed(request, error=str(error))
        good = [
            (r, s, tokens)
            for s, r in batch
            if not isinstance(tokens := encoded[r.video], MediaError)
        ]
        progress.begin(len(batch), len(good))
        if good:
            asked, seconds, tokens = (list(part) for part in zip(*good, strict=True))
            for request, sound in zip(
                asked, dubber.sounds(asked, tokens, seconds, progress.step), strict=True
            ):
                yield _written(dubber, request, sound, home)


def _encoded(dubber: Dubber, video: Path, seconds: float) -> Tensor | MediaError:
    try:
        return dubber.tokens(video, seconds)
    except MediaError as error:
        return error


def _written(dubber: Dubber, request: Request, sound: Audio, home: Warehouse | None) -> Dubbed:
    """Write one sound, or its video with it, and where it comes from."""
    rate, out = dubber.preset.sample_rate, request.out
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if writer := SOUND_WRITERS.get(out.suffix.lower()):
            writer(out, sound, rate)
        else:
            mux(request.video, sound, rate, out)
        facts = {
            "seconds": sound.shape[1] / rate,
            "sample_rate": rate,
            "channels": len(sound),
            "video": {"path": str(request.video.absolute()), "sha256": file_sha256(request.video)},
            "prompt": request.prompt,
            "negative_prompt": request.negative_prompt,
            "seed": request.seed,
            **dubber.made_by,
        }
        return Dubbed(request, sound.shape[1] / rate, facts=keep_provenance(out, facts, home))
    except (FoleyError, OSError) as error:
        return Dubbed(request, error=str(error))


class _Progress:
    """Sampling steps of all sounds, from those of the batches that they are made in."""

    def __init__(self, sounds: int, report: Callable[[int, int], None] | None) -> None:
        self._sounds, self._report = sounds, report
        self._done, self._now, self._steps = 0, 0, 0

    def begin(self, sounds: int, working: int) -> None:
        """The next batch: so many sounds, and how many of them can be made."""
        self._done, self._now = self._done + self._now, working
        self._sounds -= sounds - working
        if sounds > working and self._steps:
            self.step(0, self._steps)

    def step(self, done: int, total: int) -> None:
        """One sampling step of the batch."""
        self._steps = total
        if self._report:
            self._report(self._done * total + self._now * done, self._sounds * total)
