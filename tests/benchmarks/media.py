"""Reading media: CPU time a clip, ours beside a process of the bundled ffmpeg a clip, in alternating rounds."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np

from pipeline.media import Framing, decode_audio, probe, read_frames
from pipeline.procedural import SAMPLE_RATE, material_of, render_audio, render_frames, sample_clip, write_clip
from pipeline.silence import SilenceSettings, measure, measure_file

Figure = dict[str, Any]
_SIZES = {"340p": "340x256", "720p": "1280x720"}
_SECONDS = 10
_ROUNDS = 7
_VJEPA2 = Framing(292, 256)


def media() -> Iterator[Figure]:
    """Probe, silence and frames of 10 s clips of two sizes, each beside the same work by ffmpeg processes."""
    with tempfile.TemporaryDirectory() as folder:
        for size, pixels in _SIZES.items():
            clips = [_clip(Path(folder) / f"{size}-{fps}.mp4", pixels, fps) for fps in (25, 30)]
            yield from _against(f"probe {size}", clips, probe, _header, "an ffmpeg process that reads the header")
            yield from _against(f"silence {size}", clips, _silence, _silencedetect, "ffmpeg -af silencedetect")
            yield from _against(f"frames {size}", clips, _frames, _decode, "ffmpeg -f null - (decodes, scales nothing)")


def media_system() -> Iterator[Figure]:
    """The same beside the system's own ffmpeg and ffprobe, a process a clip; nothing where they are not installed."""
    if not (shutil.which("ffmpeg") and shutil.which("ffprobe")):
        return
    with tempfile.TemporaryDirectory() as folder:
        for size, pixels in _SIZES.items():
            clips = [_clip(Path(folder) / f"{size}-{fps}.mp4", pixels, fps) for fps in (25, 30)]
            yield from _against(f"probe {size}", clips, probe, _ffprobe, "system ffprobe")
            yield from _against(
                f"silence {size}", clips, _silence, _system("-af", "silencedetect"), "system silencedetect"
            )
            yield from _against(
                f"sound facts {size}", clips, _facts, _system("-af", "silencedetect"), "system silencedetect"
            )
            yield from _against(f"frames {size}", clips, _frames, _system("-an"), "system ffmpeg -f null -")


def _facts(path: Path) -> object:
    return measure_file(path, SilenceSettings())


def _ffprobe(path: Path) -> object:
    return subprocess.run(
        ["ffprobe", "-v", "error", "-show_streams", "-of", "json", path], check=True, capture_output=True
    )


def _system(*arguments: str) -> Callable[[Path], object]:
    """The system's ffmpeg on one thread; without the picture where a sound filter is asked for."""
    chosen = ["-vn", *arguments] if "-af" in arguments else list(arguments)
    command = ["ffmpeg", "-v", "error", "-nostdin", "-threads", "1"]
    return lambda path: subprocess.run([*command, "-i", str(path), *chosen, "-f", "null", "-"], check=True)


def procedural() -> Iterator[Figure]:
    """Procedural clips a second of CPU: sound alone, picture alone, written as mp4, material told from sound."""
    clips = [sample_clip(seed) for seed in range(40)]
    sounds = [render_audio(clip) for clip in clips]
    with tempfile.TemporaryDirectory() as folder:
        work: dict[str, Callable[[int], object]] = {
            "procedural audio": lambda i: render_audio(clips[i]),
            "procedural frames": lambda i: render_frames(clips[i]),
            "procedural write": lambda i: write_clip(clips[i], Path(folder) / "a.mp4"),
            "procedural material": lambda i: material_of(sounds[i], SAMPLE_RATE),
        }
        for name, do in work.items():
            do(0)
            seconds = _cpu_seconds(lambda do=do: [do(i) for i in range(len(clips))])
            yield _figure(name, len(clips) / seconds, "clips/CPU-s", "higher")


def _against(
    name: str, clips: list[Path], ours: Callable[[Path], object], theirs: Callable[[Path], object], against: str
) -> Iterator[Figure]:
    """Medians over rounds in which the two take turns; the ratio is ours over theirs."""
    taken: dict[str, list[float]] = {"ours": [], "theirs": []}
    ours(clips[0])
    theirs(clips[0])
    for _ in range(_ROUNDS):
        for who, do in (("ours", ours), ("theirs", theirs)):
            taken[who].append(_cpu_seconds(lambda do=do: [do(clip) for clip in clips]) / len(clips))
    mine, other = (float(np.median(taken[who])) for who in ("ours", "theirs"))
    yield _figure(name, mine * 1e3, "CPU-ms/clip", "lower", against, mine / other)


def _figure(
    name: str, value: float, unit: str, better: str, against: str | None = None, ratio: float | None = None
) -> Figure:
    return {"name": name, "value": value, "unit": unit, "better": better, "against": against, "ratio": ratio}


def _cpu_seconds(do: Callable[[], object]) -> float:
    """Processor time of this process and of the ones it waited for: other jobs on the machine do not count."""
    before = os.times()
    started = time.process_time()
    do()
    after = os.times()
    children = after.children_user + after.children_system - before.children_user - before.children_system
    return time.process_time() - started + children


def _silence(path: Path) -> object:
    sound = decode_audio(path, "mono")
    return measure(sound.samples[0], sound.sample_rate)


def _frames(path: Path) -> object:
    """What V-JEPA2 sees of a clip: 160 x 256 x 256 x 3 at 16 frames a second."""
    return read_frames(path, np.arange(_SECONDS * 16) / 16, _VJEPA2)


def _header(path: Path) -> object:
    return _ffmpeg("-i", path, "-t", "0", "-f", "null", "-")


def _silencedetect(path: Path) -> object:
    return _ffmpeg("-i", path, "-vn", "-af", "silencedetect=noise=-60dB:d=0.01", "-f", "null", "-")


def _decode(path: Path) -> object:
    return _ffmpeg("-threads", "1", "-i", path, "-an", "-f", "null", "-")


def _clip(path: Path, pixels: str, fps: int) -> Path:
    picture, sound = f"mandelbrot=s={pixels}:r={fps}", "sine=beep_factor=4,volume=0.5"
    inputs = ["-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", sound, "-t", str(_SECONDS)]
    _ffmpeg(*inputs, "-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", "-ac", "2", "-c:a", "aac", path)
    return path


def _ffmpeg(*arguments: str | Path) -> object:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-y", *map(str, arguments)]
    return subprocess.run(command, check=True)
