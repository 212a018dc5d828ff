"""Several videos as one film, with the cut list by which an editor finds them again."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import ffmpeg
import numpy as np

from model.types import Audio
from pipeline.generation.finishing import resampled
from pipeline.generation.sources import own_sound, video_seconds
from pipeline.generation.times import frames_of
from pipeline.media import (
    Framing,
    MediaError,
    MediaInfo,
    Muxing,
    mux,
    printable,
    probe,
    read_frames,
    timecode_of,
    whole,
)
from pipeline.media.errors import media_errors
from pipeline.media.opening import open_media, video_stream
from pipeline.media.proxy import encode, picture_of
from warehouse.errors import FoleyError
from warehouse.files import make_folder

RATE = 48_000  # Hz, of a film's sound
_HOLDS = (".mov", ".mkv", ".mp4")
_HOUR = 1  # at which a film begins, by the habit of editors
#: What editors count in. The mean of a phone's video, or of times in whole ms, is beside them.
_RATES = [
    *(Fraction(1000 * number, 1001) for number in (24, 30, 60)),
    *(Fraction(number) for number in (24, 25, 30, 48, 50, 60)),
]


@dataclass(frozen=True)
class Shot:
    """One video of a film: from which of its pictures on, and how many of them."""

    video: Path
    info: MediaInfo
    start: int
    frames: int
    own_start: int = 0  # by its own timecode, at the film's frame rate


def join(videos: Sequence[Path], film: Path) -> list[Shot]:
    """Write `film` (.mov, .mkv, .mp4), the videos one after the other, and FILM.edl beside it.

    Frame rate and size are the first video's, in square pixels, and others are fitted into it;
    pictures are encoded anew (H.264), as several kinds become one. Each sound begins with its
    first picture, to the sample: in stereo at RATE, as PCM of 24 bits where the container holds it.
    The film's timecode begins at 01:00:00:00, and so does the cut list (CMX3600).

    Raises FoleyError for a film that cannot be written, MediaError for a video that cannot be read.
    """
    if film.suffix.lower() not in _HOLDS:
        raise FoleyError(f"{printable(film)}: the name of a film ends in {', '.join(_HOLDS)}")
    if film.exists() and (same := [video for video in videos if film.samefile(video)]):
        raise FoleyError(f"{printable(same[0])} is itself one of the videos: choose another --out")
    shots, rate = _shots(videos)
    cuts, new = film.with_suffix(".edl"), cut_list(film.stem, shots, rate).encode()
    with media_errors(film, "cannot be written"):
        if cuts.is_dir() or (not film.exists() and cuts.exists() and cuts.read_bytes() != new):
            raise FoleyError(f"{printable(cuts)} is there already, and not of this film: move it")
        folder = make_folder(film.absolute().parent)
        with TemporaryDirectory(prefix=".foley-join-", dir=folder) as tmp:
            pictures = _pictures(shots, rate, Path(tmp))
            mux(pictures, _sound(shots, rate), RATE, film, Muxing(pcm=True))
    with whole(cuts) as partial:
        partial.write_bytes(new)
    return shots


def cut_list(title: str, shots: Sequence[Shot], rate: Fraction) -> str:
    """The shots as a CMX3600 edit decision list, whose comments name the files."""
    lines = [f"TITLE: {printable(Path(title))}", "FCM: NON-DROP FRAME"]
    for number, shot in enumerate(shots, 1):
        codes = [
            _timecode(frame, rate, hour)
            for hour, first in ((0, shot.own_start), (_HOUR, shot.start))
            for frame in (first, first + shot.frames)
        ]
        lines += [f"{number:03d}  AX       B     C        {' '.join(codes)}"]
        lines += [f"* FROM CLIP NAME: {printable(Path(shot.video.name))}"]
    return "\n".join(lines) + "\n"


def _shots(videos: Sequence[Path]) -> tuple[list[Shot], Fraction]:
    """All videos, whose pictures are there to their end, and the film's frame rate."""
    lengths, shots = [video_seconds(video) for video in videos], list[Shot]()
    infos = [probe(video) for video in videos]
    mean = infos[0].fps or 25.0
    near = min(_RATES, key=lambda usual: abs(usual - mean))
    rate = near if abs(near / mean - 1) < 0.005 else Fraction(mean).limit_denominator(1001)
    start = 0
    for video, info, seconds in zip(videos, infos, lengths, strict=True):
        read_frames(video, [seconds], Framing(16))  # else the last one would stand for the rest
        frames = max(1, round(seconds * rate))
        shots.append(Shot(video, info, start, frames, _own_start(video, info, rate)))
        start += frames
    return shots, rate


def _own_start(video: Path, info: MediaInfo, rate: Fraction) -> int:
    """A video's timecode in frames of the film: its hours to seconds as they are written."""
    own = round(info.fps or 25.0)
    try:
        code = (timecode_of(video) or "00:00:00:00").replace(";", ":")
        seconds, frames = divmod(frames_of(code, own, code), own)
    except MediaError:
        raise
    except FoleyError:  # a tag that is no timecode
        return 0
    return seconds * round(rate) + frames * round(rate) // own


def _sides(shot: Shot) -> tuple[int, int]:
    """Width and height of an upright picture in square pixels, both even."""
    with open_media(shot.video) as container:
        stream = video_stream(container)
        aspect = (stream.sample_aspect_ratio if stream else None) or 1
    sides = [round((shot.info.width or 2) * aspect), shot.info.height or 2]
    wide, high = [max(2, side - side % 2) for side in sides]
    return (high, wide) if (shot.info.rotation or 0) % 180 else (wide, high)


def _pictures(shots: Sequence[Shot], rate: Fraction, tmp: Path) -> Path:
    """A .mov of all pictures, each shot having just its frames; of a short one the last stands.

    They are joined as a bare stream, which has no times of its own: each gets its number's.
    """
    wide, high = _sides(shots[0])
    colour = dict.fromkeys(("color_primaries", "color_trc", "colorspace"), "bt709")
    bare, joined = tmp / "shot.h264", tmp / "film.h264"
    for shot in shots:
        picture = (
            picture_of(shot.video)
            .filter("setpts", "PTS-STARTPTS")
            .filter("fps", str(rate))
            .filter("tpad", stop=-1, stop_mode="clone")
            .filter("scale", "iw*sar", "ih")
            .filter("scale", wide, high, force_original_aspect_ratio="decrease",
                    out_color_matrix="bt709", out_range="tv")
            .filter("pad", wide, high, -1, -1)
            .filter("setsar", 1)
            .filter("setparams", range="tv", **colour)
        )  # fmt: skip
        how = {"preset": "fast", "crf": 14, "bf": 0, "frames:v": shot.frames}
        encode(shot.video, picture, bare, format="h264", **how)
        with bare.open("rb") as new, joined.open("ab") as film:
            shutil.copyfileobj(new, film)
    film = ffmpeg.input(str(joined), format="h264", framerate=str(rate)).video
    out = tmp / "film.mov"
    step = f"{rate.denominator}/{rate.numerator}/TB"
    times = {"bsf:v": f"setts=ts=round(N*{step}):duration=round({step})"}
    scale = {"video_track_timescale": rate.numerator}  # in which every time is a whole number
    encode(joined, film, out, vcodec="copy", timecode=_timecode(0, rate, _HOUR), **times, **scale)
    return out


def _sound(shots: Sequence[Shot], rate: Fraction) -> Audio:
    """The sounds of all shots [2, n] at RATE, each from its first picture on; silence for none."""
    end = shots[-1].start + shots[-1].frames
    total = np.zeros((2, round(end / rate * RATE)), np.float32)
    for shot in shots:
        if shot.info.audio_codec is None:
            continue
        own = own_sound(shot.video, 2)
        first = round(shot.start / rate * RATE)
        until = round((shot.start + shot.frames) / rate * RATE)
        new = resampled(own.samples, own.sample_rate, RATE)[:, : until - first]
        total[:, first : first + new.shape[1]] = new
    return total


def _timecode(frame: int, rate: Fraction, hour: int) -> str:
    """The timecode (non-drop) of a frame that is counted from an hour on."""
    seconds, frames = divmod(frame, round(rate))
    minutes, seconds = divmod(seconds, 60)
    return f"{hour + minutes // 60:02d}:{minutes % 60:02d}:{seconds:02d}:{frames:02d}"
