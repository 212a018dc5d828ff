"""Pictures that ffmpeg encodes anew, in H.264 of 8 bits, which everything plays."""

from pathlib import Path
from typing import Any

import ffmpeg
import imageio_ffmpeg

from pipeline.media.errors import MediaError, media_errors
from pipeline.media.opening import open_media, video_stream
from warehouse.files import make_folder

WIDTH = 640  # pixels, at most
_HDR = (16, 18)  # transfer characteristics of ITU-T H.273: PQ and HLG
_UNSPECIFIED = 2
_WHITE, _BRIGHTEST = 203, 1000  # cd/m2: diffuse white (ITU-R BT.2408), and what most HDR ends at


def write_proxy(video: Path, out: Path) -> Path:
    """Write `out` (.mp4): a small picture at its own times, for pages, never for measuring.

    Raises MediaError if the picture cannot be read whole.
    """
    picture = picture_of(video).filter("scale", f"trunc(min({WIDTH},iw)/2)*2", -2)
    partial = make_folder(out.parent) / f".{out.name}"
    how = {"preset": "veryfast", "crf": 26, "fps_mode": "passthrough", "movflags": "+faststart"}
    try:
        encode(video, picture, partial, format="mp4", **how)
        return partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)


def picture_of(video: Path) -> Any:
    """The picture of a file, for ffmpeg-python's filters, which take names in UTF-8 alone.

    Raises MediaError for another name.
    """
    with media_errors(video, "cannot be read"):
        str(video.absolute()).encode()
    return ffmpeg.input(str(video.absolute())).video  # a name alone may be taken for a protocol


def tone_mapped(video: Path, picture: Any) -> Any:
    """The picture of a video: where that is HDR (PQ or HLG) in BT.709, else as it is.

    White of 203 cd/m2 is about 0.7 of the light of white then, what is under 0.3 of it stays as
    bright as it is (ffmpeg's tonemap, mobius), and what is over 1000 cd/m2 is white.
    """
    with open_media(video) as container:
        stream = video_stream(container)
        context = stream.codec_context if stream else None
    if context is None or context.color_trc not in _HDR:
        return picture
    unsaid = {}
    if context.color_primaries == _UNSPECIFIED:
        unsaid["primariesin"] = "bt2020"
    if context.colorspace == _UNSPECIFIED:
        unsaid["matrixin"] = "bt2020nc"
    return (
        picture.filter("zscale", transfer="linear", npl=_WHITE, **unsaid)
        .filter("format", "gbrpf32le")
        .filter("zscale", primaries="bt709")
        .filter("tonemap", "mobius", peak=_BRIGHTEST / _WHITE)
        .filter("zscale", transfer="bt709", matrix="bt709", range="tv")
        .filter("format", "yuv420p")
    )


def encode(video: Path, picture: Any, out: Path, **options: Any) -> None:
    """Write a picture of `video` as ffmpeg's options say: in H.264, unless they name a codec.

    Raises MediaError, with ffmpeg's last line, if it fails.
    """
    codec = {} if "vcodec" in options else {"vcodec": "libx264", "pix_fmt": "yuv420p"}
    output = picture.output(str(out), **codec, **options)
    process = output.overwrite_output().run_async(
        cmd=imageio_ffmpeg.get_ffmpeg_exe(), pipe_stdout=True, pipe_stderr=True
    )
    with process:
        try:
            said = process.communicate()[1]
        except BaseException:  # stopped: it would go on writing to what is then removed
            process.kill()
            raise
    if process.returncode:
        lines = said.decode(errors="replace").strip().splitlines()
        raise MediaError(video, lines[-1] if lines else "cannot be read")
