"""Clips that are read in `tests.benchmarks.media`, and how fast procedural ones are made."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import imageio_ffmpeg

from pipeline.media import WorkerLimits
from pipeline.procedural import (
    SAMPLE_RATE,
    material_of,
    render_audio,
    render_frames,
    sample_clip,
    write_clip,
)

Figure = dict[str, Any]

SIZES = {"340p": "340x256", "720p": "1280x720"}
LIMITS = WorkerLimits(seconds=600, memory_bytes=8 << 30, files=10**9)


def plain(name: str, value: float, unit: str, better: str) -> Figure:
    """A figure that is compared with nothing."""
    return {
        "name": name,
        "value": value,
        "unit": unit,
        "better": better,
        "against": None,
        "ratio": None,
    }


def procedural() -> Iterator[Figure]:
    """Procedural clips a second of CPU.

    Sound alone, picture alone, written as mp4, material told from sound.
    """
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
            began = time.process_time()
            for number in range(len(clips)):
                do(number)
            yield plain(name, len(clips) / (time.process_time() - began), "clips/CPU-s", "higher")


def clip(
    path: Path,
    pixels: str,
    fps: int,
    sound: str = "sine=beep_factor=4,volume=0.5",
    seconds: int = 10,
) -> Path:
    """Write a clip by the bundled ffmpeg."""
    inputs = [
        "-f",
        "lavfi",
        "-i",
        f"mandelbrot=s={pixels}:r={fps}",
        "-f",
        "lavfi",
        "-i",
        sound,
        "-t",
        str(seconds),
    ]
    codecs = [
        "-c:v",
        "libx264",
        "-preset",
        "veryfast",
        "-pix_fmt",
        "yuv420p",
        "-ac",
        "2",
        "-c:a",
        "aac",
        "-threads",
    ]
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-v",
        "error",
        "-nostdin",
        "-y",
        *inputs,
        *codecs,
        "1",
        str(path),
    ]
    subprocess.run(command, check=True)
    return path
