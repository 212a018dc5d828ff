"""Time in a file: where its picture starts, how long it is, and whether it ends too early.

Formats differ in what they say. mp4, AVI and Matroska (by a tag) give every stream its own
duration; FLV and untagged Matroska give one for the file, which a shorter stream may rightly miss;
for MPEG and ASF the library guesses.
"""

from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer

from pipeline.media.errors import MediaError
from pipeline.media.opening import forbid_large_pictures, open_media, video_stream

MediaStream = av.VideoStream | av.AudioStream

# formats whose durations the library estimates
_GUESSED = frozenset({"mpeg", "mpegts", "asf", "aac", "mp3"})
_OF_THE_FILE = frozenset({"flv"})  # formats where a stream's duration is just the file's
_SHORT = 0.5  # seconds, and
_SHARE = 0.02  # share of its duration, by which a stream may end early


def start_of(stream: MediaStream) -> float:
    """When the stream starts on the file's own clock by its header, in seconds."""
    if stream.start_time is None or stream.time_base is None:
        return 0.0
    return float(stream.start_time * stream.time_base)


def picture_start(path: Path, container: InputContainer) -> float | None:
    """When the first picture is shown on the file's own clock, in seconds; None without one."""
    stream = video_stream(container)
    if stream is None:
        return None
    if container.format.name != "avi":
        return start_of(stream)
    with open_media(path) as again:  # AVI streams all claim to start at 0
        stream = again.streams.video[stream.index if len(again.streams.video) > stream.index else 0]
        forbid_large_pictures(stream)
        first = next(iter(again.decode(stream)), None)
        return first.time if first is not None and first.pts is not None else 0.0


def duration_of(container: InputContainer, stream: MediaStream | None) -> float | None:
    """How long the stream is, in seconds, as well as the header tells; None if it does not."""
    if stream is None:
        return None
    own = _own_duration(container, stream)
    if own is not None:
        return own
    end = _file_end(container)
    return None if end is None else max(0.0, end - start_of(stream))


def seconds_of(path: Path, container: InputContainer, stream: MediaStream | None) -> float | None:
    """As `duration_of`; where the header does not tell, as a crashed recorder's, by the packets."""
    found = duration_of(container, stream)
    if found is not None or stream is None:
        return found
    return round(max(0.0, _last_packet_end(path, stream.index) - start_of(stream)), 6)


def check_whole(path: Path, container: InputContainer, stream: MediaStream, end: float) -> None:
    """Raise MediaError if a stream that ended at `end` (file's clock, seconds) was cut short."""
    own = _own_duration(container, stream)
    due = start_of(stream) + own if own is not None else _file_end(container)
    if due is None or container.format.name in _GUESSED or not _early(end, due, start_of(stream)):
        return
    if own is None and not _early(_last_packet_end(path), due, start_of(stream)):
        return  # this stream is short, but the file goes on to its end
    raise MediaError(path, f"truncated: its {stream.type} ends at {end:.2f} s of {due:.2f} s")


def _early(end: float, due: float, start: float) -> bool:
    return due - end > max(_SHORT, _SHARE * (due - start))


def _own_duration(container: InputContainer, stream: MediaStream) -> float | None:
    """The duration that the file declares for just this stream, if it does."""
    tagged = _duration_tag(stream.metadata)
    if tagged is not None:
        return max(0.0, tagged - start_of(stream))
    if container.format.name in _GUESSED | _OF_THE_FILE:
        return None
    if stream.duration is None or stream.time_base is None:
        return None
    return float(stream.duration * stream.time_base)


def _duration_tag(metadata: dict[str, str]) -> float | None:
    """Matroska may keep a stream's end in a tag such as 00:00:04.023000000."""
    try:
        hours, minutes, seconds = metadata["DURATION"].split(":")
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    except (KeyError, ValueError):
        return None


def _file_end(container: InputContainer) -> float | None:
    if container.duration is None:
        return None
    start: int | None = container.start_time
    return float(Fraction((start or 0) + container.duration, av.time_base))


def _last_packet_end(path: Path, index: int | None = None) -> float:
    """Where the last packet of a stream, or of any, ends, in seconds on the file's clock."""
    last = 0.0
    with open_media(path) as container:
        for packet in container.demux(*([] if index is None else [container.streams[index]])):
            if packet.pts is not None:
                last = max(last, float((packet.pts + (packet.duration or 0)) * packet.time_base))
    return last
