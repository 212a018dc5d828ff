"""What of a file goes along beside its picture: other tracks, chapters, titles, dates, timecode.

What a container cannot hold is said in a line, and the picture is refused before any work.
"""

import io
from pathlib import Path

import av
from av.container import InputContainer, OutputContainer
from av.stream import Disposition, Stream

from pipeline.media.errors import MediaError, media_errors
from pipeline.media.opening import open_media, video_stream

MUXERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
_APPLE = (".mp4", ".m4v", ".mov")  # what has edit lists, and four letters for a codec
#: Names by which Apple tells kinds of HEVC and ProRes.
_TAGS = ("hvc1", "dvh1", "apco", "apcs", "apcn", "apch", "ap4h", "ap4x")
_TECHNICAL = frozenset(["major_brand", "minor_version", "compatible_brands", "encoder", "duration"])
_KINDS = {"audio": "a sound track", "subtitle": "subtitles", "video": "another picture"} | {
    "attachment": "an attached file", "data": "a data track"
}  # fmt: skip


def check_holds(video: Path, out: Path, keep_audio: bool = False) -> None:
    """Raises MediaError where the container of `out` cannot hold the picture of `video`.

    With `keep_audio`, nor its sound tracks. The message names the containers that hold them.
    """
    if out.suffix.lower() not in MUXERS:
        return
    with open_media(video) as source:
        why = _refused(source, out, keep_audio)
        if why is None:
            return
        others = [Path(f"x{end}") for end in MUXERS if end not in (out.suffix.lower(), ".m4v")]
        good = [other.suffix for other in others if _refused(source, other, keep_audio) is None]
        instead = f"choose {' or '.join(good)}" if good else "no other does: write .wav or .flac"
        raise MediaError(out, f"cannot hold {why}: {instead}")


def _refused(source: InputContainer, out: Path, keep_audio: bool) -> str | None:
    """What `out` cannot hold of the source; None where all is well."""
    stream = video_stream(source)
    if stream is None:
        return None
    codec = f"a picture of {stream.codec_context.codec.canonical_name}"
    if out.suffix.lower() not in _APPLE and any(e.is_discard for e in stream.index_entries):
        return f"the cut of {Path(source.name).name} (an edit list), and would show what is cut off"
    with av.open(io.BytesIO(), "w", format=MUXERS[out.suffix.lower()]) as target:
        try:
            add_picture(target, stream, out)
            if keep_audio:
                for audio in source.streams.audio:
                    codec = f"the sound track's {audio.codec_context.codec.canonical_name}"
                    target.add_stream_from_template(audio, opaque=True)
            with media_errors(out, "cannot"):
                target.start_encoding()
        except (MediaError, ValueError):
            return codec
    return None


def add_picture(target: OutputContainer, stream: av.VideoStream, out: Path) -> av.VideoStream:
    """A stream for packets as they are in another. Raises MediaError where none can be had."""
    try:
        # opaque: packets are copied, and need no encoder of the codec's name (AV1 has none)
        picture = target.add_stream_from_template(stream, opaque=True)
    except ValueError:
        codec = stream.codec_context.codec.canonical_name
        raise MediaError(out, f"cannot hold a picture of {codec}") from None
    tag = stream.codec_context.codec_tag
    if tag in _TAGS and out.suffix.lower() in _APPLE:
        picture.codec_context.codec_tag = tag  # the library's own is hev1, or ProRes of its best
    told = stream.metadata
    kept = {k: told[k] for k in ("language", "title", "creation_time", "alpha_mode") if k in told}
    picture.metadata.update(kept)
    return picture


def add_others(
    source: InputContainer, target: OutputContainer, out: Path, keep_audio: bool
) -> tuple[dict[int, Stream], list[str]]:
    """Tracks, chapters and words of the source that the target can hold.

    Returns:
        The target's streams by the index of the source's, and a line for each that is left out.
    """
    copies: dict[int, Stream] = {}
    left: list[str] = []
    first = next(iter(source.streams.audio), None)
    for stream in source.streams:
        if stream is video_stream(source) or _is_of_the_file(source, stream):
            continue
        if stream.type == "audio" and not keep_audio:
            if stream is not first:  # whose place the new sound takes
                left.append("a second sound track is left out: --keep-audio keeps them all")
            continue
        if stream.type not in ("audio", "subtitle") or not _added(target, stream, copies):
            left.append(f"{_named(stream)} left out: {out.suffix} is not given any of that kind")
    chapters = source.chapters()
    if chapters:
        target.set_chapters(chapters)
    left += _words(source, target, out)
    return copies, left


def _is_of_the_file(source: InputContainer, stream: Stream) -> bool:
    """Whether a data track only holds chapters or timecode, which are written anew."""
    return stream.type == "data" and bool(source.chapters() or timecode(source))


def _added(target: OutputContainer, stream: Stream, copies: dict[int, Stream]) -> bool:
    try:
        copy = target.add_stream_from_template(stream, opaque=True)
    except ValueError:
        return False
    told = stream.metadata
    copy.metadata.update({key: told[key] for key in ("language", "title") if key in told})
    if stream.type == "audio":
        copy.disposition = Disposition(0)  # players take the new sound
    copies[stream.index] = copy
    return True


def _named(stream: Stream) -> str:
    kind = _KINDS.get(stream.type or "", "a track")
    if stream.disposition & Disposition.attached_pic:
        kind = "a cover picture"
    context = getattr(stream, "codec_context", None)
    verb = "are" if kind.endswith("s") else "is"
    return f"{kind} {f'({context.name}) ' if context else ''}{verb}"


def _words(source: InputContainer, target: OutputContainer, out: Path) -> list[str]:
    """Copy titles, dates, places and timecode; a line for a transparency that is lost."""
    told = {k: v for k, v in source.metadata.items() if k.lower() not in _TECHNICAL}
    if out.suffix.lower() in _APPLE and any(key.startswith("com.") for key in told):
        target.options["movflags"] = "use_metadata_tags"
    target.metadata.update(told)
    code, stream, picture = timecode(source), video_stream(source), target.streams.video[0]
    if code and stream is not None and stream.average_rate:
        picture.metadata["timecode"] = code
        picture.codec_context.framerate = stream.average_rate  # which its frames are counted at
    clear = stream is not None and stream.metadata.get("alpha_mode", "0") != "0"
    if clear and out.suffix.lower() in _APPLE:
        return ["the picture's transparency is left out: .webm and .mkv hold it"]
    return []


def timecode_of(path: Path) -> str | None:
    """A file's timecode, if it has one; raises MediaError."""
    with open_media(path, picture=False) as source:
        return timecode(source)


def timecode(source: InputContainer) -> str | None:
    """The source's timecode, such as 01:00:00:00, if it has one."""
    tagged = (*(stream.metadata for stream in source.streams), source.metadata)
    # Matroska's tags are in capitals
    found = (value for words in tagged for key, value in words.items() if key.lower() == "timecode")
    return next(filter(None, found), None)
