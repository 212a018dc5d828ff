"""The files that a request names: how long they are, and their own sound."""

from pathlib import Path

from pipeline.generation.options import MAX_SECONDS
from pipeline.generation.times import frames_of
from pipeline.media import MediaError, Sound, decode_audio, printable, probe, timecode_of

MOST_CHANNELS = 2  # that we write


def own_sound(path: Path, channels: int | None = None, seconds: float = MAX_SECONDS) -> Sound:
    """A file's sound in one or two channels, its own by default; raises MediaError.

    More of them become two: the mean of the left ones and the centre, that of the right ones and
    the centre.
    """
    channels = channels or probe(path).channels or 1
    return decode_audio(path, "mono" if channels == 1 else "stereo", seconds)


def mixed_down(path: Path, channels: int) -> list[str]:
    """A line where a file's sound has more channels than these."""
    own, name = probe(path).channels or 0, printable(Path(path.name))
    return [f"the {own} channels of {name} become {channels}"] if own > channels else []


def sound_seconds(sound: Path) -> float:
    """Length of a file's sound, which is its picture's if it has one. Raises MediaError."""
    info = probe(sound)
    if info.audio_codec is None:
        raise MediaError(sound, "holds no sound")
    return info.duration or 0.0


def earlier_seconds(sound: Path) -> float:
    """Length of a sound, part of which is made anew: what it holds, as a header may lie.

    Raises MediaError if it cannot be read or is too long.
    """
    _within_an_hour(sound, sound_seconds(sound))
    held = own_sound(sound, seconds=MAX_SECONDS + 1)
    return _within_an_hour(sound, held.samples.shape[1] / held.sample_rate)


def video_seconds(video: Path) -> float:
    """Length of a video. Raises MediaError if it cannot be used."""
    info = probe(video)
    if info.video_codec is None:
        raise MediaError(video, "no video stream")
    if not info.duration:
        raise MediaError(video, "does not say how long it is")
    return _within_an_hour(video, info.duration)


def _within_an_hour(path: Path, seconds: float) -> float:
    if seconds > MAX_SECONDS:
        length = f"is {seconds:.0f} s long, more than {MAX_SECONDS:.0f} s: cut it"
        raise MediaError(path, length)
    return seconds


def since_midnight(video: Path | None, rate: int) -> int | None:
    """Samples from midnight to the timecode of a video's first picture; None without one."""
    code = timecode_of(video) if video is not None else None
    fps = probe(video).fps if video is not None and code else None
    return round(frames_of(code, fps, code) / fps * rate) if code and fps else None
