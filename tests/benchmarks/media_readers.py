"""What is timed in `tests.benchmarks.media`.

Functions of a clip's path, so that media workers can run them.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from pipeline import media
from pipeline.media import Framing, MediaError
from pipeline.scoring.loudness import SilenceSettings, measure, measure_file

SILENCEDETECT = "silencedetect=noise=-60dB:d=0.01"
_TIMES = np.arange(160) / 16  # what V-JEPA2 sees of 10 s: 160 x 256 x 256 x 3
_FRAMING = Framing(292, 256)


def timed(path: Path, do: Callable[[Path], object]) -> tuple[float, float]:
    """CPU seconds and wall seconds, of this process alone."""
    cpu, wall = time.process_time(), time.perf_counter()
    do(path)
    return time.process_time() - cpu, time.perf_counter() - wall


def probe(path: Path) -> object:
    """Ours."""
    return media.probe(path)


def levels(path: Path) -> object:
    """Ours: silence, peak and RMS alone."""
    sound = media.decode_audio(path, "mono")
    return measure(sound.samples[0], sound.sample_rate)


def facts(path: Path) -> object:
    """Ours: all that the silence stage tells."""
    return measure_file(path, SilenceSettings())


def frames(path: Path) -> object:
    """Ours, as V-JEPA2 sees them."""
    return media.read_frames(path, _TIMES, _FRAMING)


def front_end(path: Path) -> object:
    """Ours, one after the other; what is silent throughout goes no further."""
    media.probe(path)
    if measure_file(path, SilenceSettings())["silent_share"] >= SilenceSettings().reject_share:
        return None
    return frames(path)


def decode(path: Path) -> None:
    """All of sound and picture, and nothing done with it."""
    for kind in ("audio", "video"):
        with av.open(str(path)) as container:
            stream = getattr(container.streams, kind)[0]
            stream.thread_count = 1
            for _ in container.decode(stream):
                pass


def memory_after(path: Path) -> int:
    """This process's resident bytes after it has read all that there is to read of a short clip."""
    try:
        media.probe(path)
        measure_file(path, SilenceSettings())
        media.read_frames(path, np.arange(32) / 16, _FRAMING)
    except MediaError:
        pass
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def peers() -> dict[str, Callable[[Path], object]]:
    """Other readers of frames that are installed here."""
    known = {
        "cv2": ("OpenCV", opencv),
        "decord": ("decord", decord),
        "torchcodec": ("torchcodec", torchcodec),
    }
    return dict(named for module, named in known.items() if find_spec(module) is not None)


def opencv(path: Path) -> object:
    """Grabs every frame, retrieves those on screen at the times, by its own clock."""
    import cv2  # pyright: ignore[reportMissingImports]

    library: Any = cv2
    library.setNumThreads(1)
    video = library.VideoCapture(str(path), library.CAP_FFMPEG, [library.CAP_PROP_N_THREADS, 1])
    out = np.empty((len(_TIMES), 256, 256, 3), np.uint8)
    done, fps, number = 0, video.get(library.CAP_PROP_FPS), 0
    while done < len(_TIMES) and video.grab():
        until = int(np.searchsorted(_TIMES, (number + 1) / fps - 1e-4))
        if until > done:
            picture = library.cvtColor(_cropped(video.retrieve()[1]), library.COLOR_BGR2RGB)
            out[done:until] = library.resize(
                picture, (256, 256), interpolation=library.INTER_LINEAR
            )
        done, number = until, number + 1
    video.release()
    return out


def decord(path: Path) -> object:
    """Scales while it decodes; the frames are chosen by its own list of times."""
    import decord as library  # pyright: ignore[reportMissingImports]

    found: Any = library
    first = found.VideoReader(str(path), num_threads=1)[0].shape
    scale = 292 / min(first[:2])
    video = found.VideoReader(
        str(path), width=round(first[1] * scale), height=round(first[0] * scale), num_threads=1
    )
    starts = video.get_frame_timestamp(range(len(video)))[:, 0]
    chosen = np.searchsorted(starts, _TIMES + 1e-4, side="right") - 1
    batch = video.get_batch(chosen.tolist()).asnumpy()
    top, left = (batch.shape[1] - 256) // 2, (batch.shape[2] - 256) // 2
    return np.ascontiguousarray(batch[:, top : top + 256, left : left + 256])


def torchcodec(path: Path) -> object:
    """Exact frames at the times, cropped and scaled by torch."""
    import torch
    from torchcodec.decoders import VideoDecoder  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(1)
    decoder: Any = VideoDecoder(str(path), num_ffmpeg_threads=1, seek_mode="exact")
    out: list[torch.Tensor] = []
    for start in range(0, len(_TIMES), 16):
        batch: torch.Tensor = decoder.get_frames_played_at(_TIMES[start : start + 16].tolist()).data
        kept = round(256 * min(batch.shape[-2:]) / 292)
        top, left = (batch.shape[-2] - kept) // 2, (batch.shape[-1] - kept) // 2
        cut = batch[..., top : top + kept, left : left + kept]
        out.append(
            torch.nn.functional.interpolate(cut, (256, 256), mode="bilinear", antialias=True)
        )
    return torch.cat(out)


def _cropped(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    kept = round(256 * min(picture.shape[:2]) / 292)
    top, left = (picture.shape[0] - kept) // 2, (picture.shape[1] - kept) // 2
    return picture[top : top + kept, left : left + kept]
