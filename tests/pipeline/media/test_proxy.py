"""A proxy is the same picture at the same times, as any browser plays it."""

from __future__ import annotations

from pathlib import Path

import av
import pytest

from pipeline.media import MediaError, write_proxy
from tests.pipeline.media.samples import ffmpeg, write_sample


def test_pictures_of_uneven_times_keep_them_and_sound_is_left_out(tmp_path: Path) -> None:
    times = [0.0, 0.04, 0.08, 0.3, 0.34, 0.9, 0.94, 1.0]
    write_sample(tmp_path / "uneven.mp4", times, None)
    wide = tmp_path / "wide.mkv"  # ten bits, odd sides, later than 0
    ffmpeg("-itsoffset", "5", "-i", tmp_path / "uneven.mp4", "-f", "lavfi", "-i", "sine=d=1",
           "-vf", "scale=1281:721", "-c:v", "libx265", "-pix_fmt", "yuv444p10le", "-fps_mode",
           "passthrough", wide)  # fmt: skip
    with av.open(str(write_proxy(wide, tmp_path / "proxies" / "small.mp4"))) as small:
        assert len(small.streams) == 1
        stream = small.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.codec_context.width, stream.codec_context.height) == (640, 360)
        shown = [frame.time or 0.0 for frame in small.decode(video=0)]
    assert [time - shown[0] for time in shown] == pytest.approx(times, abs=0.002)


def test_what_cannot_be_read_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no video at all")
    with pytest.raises(MediaError, match=r"bad\.mp4"):
        write_proxy(tmp_path / "bad.mp4", tmp_path / "out" / "bad.mp4")
    assert list((tmp_path / "out").iterdir()) == []
