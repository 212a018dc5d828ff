"""What a media file says of itself, from its header and its first picture."""

from dataclasses import dataclass
from pathlib import Path

import av
from av.container import InputContainer

from pipeline.media.clock import seconds_of
from pipeline.media.errors import MediaError
from pipeline.media.opening import (
    audio_stream,
    forbid_large_pictures,
    has_decoder,
    open_media,
    video_stream,
)


@dataclass(frozen=True)
class MediaInfo:
    """Facts of one file. What it does not have, or does not say, is None."""

    container: str
    video_codec: str | None
    audio_codec: str | None
    duration: float | None  # seconds of the picture if there is one, else of the sound
    fps: float | None  # the mean
    width: int | None  # as stored
    height: int | None
    rotation: int | None  # degrees, of 90 each, by which a player turns it counter-clockwise
    sample_rate: int | None
    channels: int | None


def probe(path: Path) -> MediaInfo:
    """Read the header and decode one picture; raises MediaError if either cannot be read."""
    with open_media(path, "cannot be probed") as container:
        video, audio = video_stream(container), audio_stream(container)
        for stream in (video, audio):
            if stream is not None and not has_decoder(stream):
                raise MediaError(path, f"its {stream.type} is in a codec that cannot be decoded")
        return MediaInfo(
            container=_container_name(container),
            video_codec=video.codec_context.name if video else None,
            audio_codec=audio.codec_context.name if audio else None,
            duration=seconds_of(path, container, video or audio),
            fps=float(video.average_rate) if video and video.average_rate else None,
            width=video.width if video else None,
            height=video.height if video else None,
            rotation=_first_picture_rotation(path, container, video) if video else None,
            sample_rate=audio.sample_rate or None if audio else None,
            channels=audio.channels or None if audio else None,
        )


def _container_name(container: InputContainer) -> str:
    """The demuxer's name; one demuxer reads both QuickTime and mp4, which say what they are."""
    name = container.format.name
    return (
        "mp4" if name == "mov" and container.metadata.get("major_brand", "qt  ") != "qt  " else name
    )


def _first_picture_rotation(path: Path, container: InputContainer, stream: av.VideoStream) -> int:
    first = _first_key_picture(container, stream)
    if first is None:  # not a picture by itself: the decoder needs to see more
        with open_media(path, "cannot be probed") as again:
            stream = again.streams.video[container.streams.video.index(stream)]
            forbid_large_pictures(stream)
            first = next(iter(again.decode(stream)), None)
    if first is None:
        raise MediaError(path, "its video holds no picture")
    return quarter_turns(first) * 90


def _first_key_picture(container: InputContainer, stream: av.VideoStream) -> av.VideoFrame | None:
    """The first key frame by itself, which a decoder else gives after several more packets."""
    forbid_large_pictures(stream)
    stream.thread_count = 1
    for packet in container.demux(stream):
        if packet.is_keyframe:
            frames = packet.decode() + (stream.codec_context.decode(None) if packet.size else [])
            return frames[0] if frames else None
    return None


def quarter_turns(frame: av.VideoFrame) -> int:
    """Counter-clockwise quarter turns that make the picture upright: np.rot90(picture, turns)."""
    return round(frame.rotation / 90) % 4
