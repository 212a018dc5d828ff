"""Pictures that ffmpeg encodes anew, in H.264 of 8 bits, which everything plays."""

from pathlib import Path
from typing import Any

import ffmpeg
import imageio_ffmpeg

from pipeline.media.errors import MediaError
from warehouse.files import make_folder

WIDTH = 640  # pixels, at most


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
    """The picture of a file, for ffmpeg-python's filters."""
    return ffmpeg.input(str(video.absolute())).video  # a name alone may be taken for a protocol


def encode(video: Path, picture: Any, out: Path, **options: Any) -> None:
    """Write a picture of `video` as ffmpeg's options say: in H.264, unless they name a codec.

    Raises MediaError, with ffmpeg's last line, if it fails.
    """
    codec = {} if "vcodec" in options else {"vcodec": "libx264", "pix_fmt": "yuv420p"}
    output = picture.output(str(out), **codec, **options)
    try:
        output.overwrite_output().run(cmd=imageio_ffmpeg.get_ffmpeg_exe(), quiet=True)
    except ffmpeg.Error as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines()
        raise MediaError(video, lines[-1] if lines else "cannot be read") from None
