"""Several videos as one film, with the cut list by which an editor finds them again."""

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import ffmpeg
import numpy as np

from model.types import Audio
from pipeline.generation.finishing import resampled
from pipeline.generation.requests import LONGEST_NAME
from pipeline.generation.sources import own_sound, video_seconds
from pipeline.generation.times import frames_of, timecode_at
from pipeline.media import (
    Framing,
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
from pipeline.media.proxy import encode, picture_of, tone_mapped
from warehouse.errors import FoleyError
from warehouse.files import make_folder, remove_abandoned, scratch_folder

RATE = 48_000  # Hz, of a film's sound
_HOLDS = (".mov", ".mkv", ".mp4")
_ASIDE = ".foley-join-"  # names of what is made beside a film begin so
#: What editors count in. The mean of a phone's video, or of times in whole ms, is beside them.
_RATES = [
    *(Fraction(1000 * number, 1001) for number in (24, 30, 60)),
    *(Fraction(number) for number in (24, 25, 30, 48, 50, 60)),
]
_DROPPING = (Fraction(30_000, 1001), Fraction(60_000, 1001))  # rates that have drop frame


@dataclass(frozen=True)
class Shot:
    """One video of a film: from which of its pictures on, and how many of them."""

    video: Path
    info: MediaInfo
    start: int
    frames: int
    own_start: int = 0  # by its own timecode, at the film's frame rate
    own_drop: bool = False  # whether that is drop frame


@dataclass(frozen=True)
class Film:
    """The shots of a film, its pictures a second, and whether its timecode is drop frame."""

    shots: list[Shot]
    rate: Fraction
    drop: bool

    @property
    def begin(self) -> str:
        """The timecode of its first picture: an hour, by the habit of editors."""
        return f"01:00:00{';' if self.drop else ':'}00"

    @property
    def frames(self) -> int:
        """Its pictures."""
        return sum(shot.frames for shot in self.shots)


def join(videos: Sequence[Path], film: Path) -> list[Shot]:
    """Write `film` (.mov, .mkv, .mp4), the videos one after the other, and FILM.edl beside it.

    Frame rate and size are the first video's, in square pixels, and others are fitted into it;
    pictures are encoded anew (H.264), as several kinds become one. Each sound begins with its
    first picture, to the sample: in stereo at RATE, as PCM of 24 bits where the container holds it.
    The film's timecode begins at 01:00:00:00, and so does the cut list (CMX3600); it is drop frame
    where that of the first video with a timecode is, at 29.97 or 59.94 pictures a second.

    All is made in a hidden folder beside the film, which is gone at the end; one of a process that
    was killed goes at the next run.

    Raises FoleyError for a film that cannot be written, MediaError for a video that cannot be read.
    """
    if film.suffix.lower() not in _HOLDS:
        raise FoleyError(f"{printable(film)}: the name of a film ends in {', '.join(_HOLDS)}")
    if len(os.fsencode(film.name)) > LONGEST_NAME:
        raise FoleyError(f"{printable(film)}: a name too long to write: over {LONGEST_NAME} bytes")
    if film.exists() and (same := [video for video in videos if film.samefile(video)]):
        raise FoleyError(f"{printable(same[0])} is itself one of the videos: choose another --out")
    joined = _joined(videos)
    cuts, new = film.with_suffix(".edl"), cut_list(film.stem, joined).encode()
    with media_errors(film, "cannot be written"):
        if cuts.is_dir() or (not film.exists() and cuts.exists() and cuts.read_bytes() != new):
            raise FoleyError(f"{printable(cuts)} is there already, and not of this film: move it")
        folder = make_folder(film.absolute().parent)
        for left in sorted(folder.glob(f"{_ASIDE}*")):
            remove_abandoned(left)
        with scratch_folder(folder, _ASIDE) as tmp:
            made = tmp / f"joined{film.suffix.lower()}"
            mux(_pictures(joined, tmp), _sound(joined), RATE, made, Muxing(pcm=True))
            made.replace(film)
    with whole(cuts) as partial:
        partial.write_bytes(new)
    return joined.shots


def cut_list(title: str, film: Film) -> str:
    """The shots as a CMX3600 edit decision list, whose comments name the files.

    FCM says how the film counts; a timecode that is drop frame has `;` before its frames.
    """
    begin = frames_of(film.begin, float(film.rate), title)
    lines = [f"TITLE: {printable(Path(title))}", f"FCM: {'' if film.drop else 'NON-'}DROP FRAME"]
    for number, shot in enumerate(film.shots, 1):
        places = ((shot.own_start, shot.own_drop), (begin + shot.start, film.drop))
        codes = [
            timecode_at(frame, film.rate, drop)
            for first, drop in places
            for frame in (first, first + shot.frames)
        ]
        lines += [f"{number:03d}  AX       B     C        {' '.join(codes)}"]
        lines += [f"* FROM CLIP NAME: {printable(Path(shot.video.name))}"]
    return "\n".join(lines) + "\n"


def _joined(videos: Sequence[Path]) -> Film:
    """All videos, whose pictures are there to their end, one after the other."""
    lengths, shots = [video_seconds(video) for video in videos], list[Shot]()
    infos = [probe(video) for video in videos]
    mean = infos[0].fps or 25.0
    near = min(_RATES, key=lambda usual: abs(usual - mean))
    rate = near if abs(near / mean - 1) < 0.005 else Fraction(mean).limit_denominator(1001)
    codes = [_own_start(video, info, rate) for video, info in zip(videos, infos, strict=True)]
    drop = next((code[1] for code in codes if code), False)
    start = 0
    for video, info, seconds, code in zip(videos, infos, lengths, codes, strict=True):
        read_frames(video, [seconds], Framing(16))  # else the last one would stand for the rest
        frames = max(1, round(seconds * rate))
        shots.append(Shot(video, info, start, frames, *(code or (0, drop))))
        start += frames
    return Film(shots, rate, drop)


def _own_start(video: Path, info: MediaInfo, rate: Fraction) -> tuple[int, bool] | None:
    """A video's timecode in frames of the film, and whether it is drop frame there, if it has one.

    Its hours to seconds are as they are written.
    """
    own, each, code = round(info.fps or 25.0), round(rate), timecode_of(video)
    if code is None:
        return None
    try:
        written = frames_of(re.sub("[;.]", ":", code), own, code)
    except FoleyError:  # a tag that is no timecode
        return None
    seconds, frames = divmod(written, own)
    start = seconds * each + frames * each // own
    if rate not in _DROPPING or not re.search("[;.]", code):
        return start, False
    written_anew = timecode_at(start, rate, drop=False)
    return frames_of(";".join(written_anew.rsplit(":", 1)), each, code), True


def _sides(shot: Shot) -> tuple[int, int]:
    """Width and height of an upright picture in square pixels, both even."""
    with open_media(shot.video) as container:
        stream = video_stream(container)
        aspect = (stream.sample_aspect_ratio if stream else None) or 1
    sides = [round((shot.info.width or 2) * aspect), shot.info.height or 2]
    wide, high = [max(2, side - side % 2) for side in sides]
    return (high, wide) if (shot.info.rotation or 0) % 180 else (wide, high)


def _pictures(joined: Film, tmp: Path) -> Path:
    """A .mov of all pictures, each shot having just its frames; of a short one the last stands.

    They are joined as a bare stream, which has no times of its own: each gets its number's.
    """
    rate, (wide, high) = joined.rate, _sides(joined.shots[0])
    colour = dict.fromkeys(("color_primaries", "color_trc", "colorspace"), "bt709")
    bare, whole_film = tmp / "shot.h264", tmp / "film.h264"
    for shot in joined.shots:
        picture = (
            tone_mapped(shot.video, picture_of(shot.video))
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
        with bare.open("rb") as new, whole_film.open("ab") as film:
            shutil.copyfileobj(new, film)
    film = ffmpeg.input(str(whole_film), format="h264", framerate=str(rate)).video
    out = tmp / "film.mov"
    step = f"{rate.denominator}/{rate.numerator}/TB"
    times = {"bsf:v": f"setts=ts=round(N*{step}):duration=round({step})"}
    scale = {"video_track_timescale": rate.numerator}  # in which every time is a whole number
    encode(whole_film, film, out, vcodec="copy", timecode=joined.begin, **times, **scale)
    return out


def _sound(joined: Film) -> Audio:
    """The sounds of all shots [2, n] at RATE, each from its first picture on; silence for none."""
    rate = joined.rate
    total = np.zeros((2, round(joined.frames / rate * RATE)), np.float32)
    for shot in joined.shots:
        if shot.info.audio_codec is None:
            continue
        own = own_sound(shot.video, 2)
        first = round(shot.start / rate * RATE)
        until = round((shot.start + shot.frames) / rate * RATE)
        new = resampled(own.samples, own.sample_rate, RATE)[:, : until - first]
        total[:, first : first + new.shape[1]] = new
    return total
