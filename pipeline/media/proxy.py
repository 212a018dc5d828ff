"""A small copy of a picture that any browser plays: for pages, never for measuring."""

from pathlib import Path

import ffmpeg
import imageio_ffmpeg

from pipeline.media.errors import MediaError
from warehouse.files import make_folder

WIDTH = 640  # pixels, at most


def write_proxy(video: Path, out: Path) -> Path:
    """Write `out` (.mp4): the picture in H.264, 8 bits, at its own times, without sound.

    Raises MediaError if the picture cannot be read whole.
    """
    partial = make_folder(out.parent) / f".{out.name}"
    try:
        (
            ffmpeg.input(str(video))
            .video.filter("scale", f"trunc(min({WIDTH},iw)/2)*2", -2)
            .output(
                str(partial),
                vcodec="libx264",
                preset="veryfast",
                crf=26,
                pix_fmt="yuv420p",
                fps_mode="passthrough",
                movflags="+faststart",
                format="mp4",
            )
            .overwrite_output()
            .run(cmd=imageio_ffmpeg.get_ffmpeg_exe(), quiet=True)
        )
    except ffmpeg.Error as error:
        partial.unlink(missing_ok=True)
        lines = error.stderr.decode(errors="replace").strip().splitlines()
        raise MediaError(video, lines[-1] if lines else "cannot be read") from None
    return partial.replace(out)
