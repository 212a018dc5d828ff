"""Sound for one video file, muxed under its picture: what `foley generate` does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from model.foley import FoleyControl
from model.presets import Preset
from model.video import VideoEncoder
from pipeline.features import read_video
from pipeline.media import MediaError, mux, probe, write_flac, write_wav

SOUND_WRITERS = {".wav": write_wav, ".flac": write_flac}


@dataclass(frozen=True)
class Dubbing:
    """What is asked for."""

    prompt: str
    seed: int = 0
    cfg: float | None = None
    steps: int | None = None
    negative_prompt: str | None = None


@dataclass(frozen=True)
class Dubbed:
    """What was made."""

    out: Path
    seconds: float
    sample_rate: int


def dub(
    video: Path,
    out: Path,
    dubbing: Dubbing,
    preset: Preset,
    bridge: Path | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Dubbed:
    """Write `out`: the video with new sound as long as its picture (or the sound alone, if out is .wav or .flac).

    Frames are taken by timestamps, so any frame rate will do; the picture is copied bit for bit. `bridge` None is the
    one shipped with the preset. Raises MediaError for a video that cannot be read or is longer than the preset's limit.
    """
    info = probe(video)
    if info.video_codec is None or info.duration is None:
        raise MediaError(video, "no video stream" if info.video_codec is None else "does not say how long it is")
    if info.duration > preset.max_seconds:
        limit = f"{preset.max_seconds:g} s"
        raise MediaError(video, f"is {info.duration:.1f} s long, preset {preset.name!r} makes up to {limit}: cut it")
    frames = read_video(preset, video, info.duration)
    tokens = VideoEncoder.from_pretrained(preset).encode(frames)
    foley = FoleyControl.from_pretrained(preset, bridge)
    sound = foley.generate(
        [tokens],
        [dubbing.prompt],
        [info.duration],
        [dubbing.seed],
        cfg=dubbing.cfg,
        steps=dubbing.steps,
        negative_prompts=[dubbing.negative_prompt] if dubbing.negative_prompt else None,
        on_step=on_step,
    )[0]
    if writer := SOUND_WRITERS.get(out.suffix.lower()):
        writer(out, sound, preset.sample_rate)
    else:
        mux(video, sound, preset.sample_rate, out)
    return Dubbed(out, sound.shape[1] / preset.sample_rate, preset.sample_rate)
