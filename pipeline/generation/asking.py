"""From what a person asks to what the models are asked: cues, cuts, references and known sounds."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from model.foley import FoleyControl
from model.sampling.canvas import Canvas
from model.sampling.request import Reference, Retake, SoundRequest
from model.types import Audio
from pipeline.generation.cues import LEAST, stretches_of, within
from pipeline.generation.finishing import resampled
from pipeline.generation.provenance import gain_of
from pipeline.generation.requests import Request
from pipeline.generation.retake import Span, latent_spans, read_spans
from pipeline.generation.sources import MOST_CHANNELS, mixed_down, own_sound
from pipeline.media.glancing import cut_times

LEAST_SCENE = 1.0  # seconds: a shorter scene is made with the one before it


@dataclass(frozen=True)
class Watched:
    """A video as the models see it.

    Attributes:
        tokens: [J, P, V].
        cuts: seconds at which one scene gives way to the next.

    """

    tokens: Tensor
    cuts: tuple[float, ...] = ()


def scene_cuts(video: Path, seconds: float) -> tuple[float, ...]:
    """Cuts between scenes that are long enough to be made apart; raises MediaError."""
    if seconds < 2 * LEAST_SCENE:
        return ()
    kept: list[float] = []
    for cut in cut_times(video, seconds):
        if cut - (kept[-1] if kept else 0.0) >= LEAST_SCENE and seconds - cut >= LEAST_SCENE:
            kept.append(cut)
    return tuple(kept)


def sound_request(
    foley: FoleyControl, request: Request, seconds: float, watched: Watched | None
) -> SoundRequest:
    """What the models are asked for. Raises MediaError where a sound of it cannot be read."""
    options = request.options
    cuts = () if watched is None else watched.cuts
    reference = None
    if options.like is not None:
        known = _repeated(sound_at(options.like, foley, seconds), seconds, foley.preset.sample_rate)
        reference = Reference(foley.encode(known), options.strength)
    retake = None
    if request.earlier is not None and options.redo is not None:
        known = sound_at(request.earlier, foley, seconds)
        known *= np.float32(10 ** (-gain_of(request.earlier) / 20))  # as the models make sounds
        retake = retake_of(foley, known, read_spans(options.redo))
    return SoundRequest(
        request.prompt,
        seconds,
        request.seed,
        watched.tokens if watched else None,
        request.negative_prompt,
        stretches_of(request.cues(), cuts, request.prompt, seconds),
        retake,
        reference,
    )


def retake_of(foley: FoleyControl, known: Audio, spans: tuple[Span, ...]) -> Retake:
    """A known sound [channels, n] at the preset's rate, of which the spans are made anew."""
    latents = foley.encode(known)
    rate = Canvas.of(foley.preset).latent_rate
    return Retake(latents, latent_spans(spans, rate, latents.shape[-1]))


def notes_on(foley: FoleyControl, request: Request, seconds: float) -> list[str]:
    """What a person should know of a request, in lines."""
    notes: list[str] = []
    for what, text in (("prompt", request.prompt), ("negative prompt", request.negative_prompt)):
        count, taken = foley.backbone.text_encoder.tokens(text or "")
        if taken < count:
            notes.append(f"of the {what}'s {count} tokens the first {taken} count")
    notes += [
        f"cue {cue.prompt!r} is left out: less than {LEAST:g} s of it is within the sound"
        for cue in request.cues()
        if within(cue, seconds) is None
    ]
    if request.earlier is not None:
        notes += mixed_down(request.earlier, MOST_CHANNELS)
    if request.options.mix is not None and request.video is not None:
        notes += mixed_down(request.video, foley.preset.audio_channels)
    return notes


def sound_at(path: Path, foley: FoleyControl, seconds: float) -> Audio:
    """So many seconds of a file's sound [channels, n], with the preset's rate and channels."""
    preset = foley.preset
    sound = own_sound(path, preset.audio_channels, seconds)
    samples = resampled(sound.samples, sound.sample_rate, preset.sample_rate)
    return np.ascontiguousarray(samples)


def _repeated(sound: Audio, seconds: float, rate: int) -> Audio:
    """The sound again and again, as long as is asked for: its material is to be everywhere."""
    count = round(seconds * rate)
    return np.ascontiguousarray(np.tile(sound, -(-count // max(1, sound.shape[1])))[:, :count])
