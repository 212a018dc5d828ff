"""What the command makes of a request."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.presets.preset import Preset, load_preset
from pipeline.generation.dub import Dubbed, dub, prepare
from pipeline.generation.generator import SoundGenerator
from pipeline.generation.options import GenerateOptions
from pipeline.generation.requests import Request
from pipeline.media import decode_audio
from tests.pipeline.media.samples import write_sample
from warehouse import Warehouse

PRESET = load_preset("toy")
PROMPT = "a ball bounces on wood"
FAST = {"prompt": PROMPT, "steps": 2, "device": "cpu"}


def dubbed(generator: SoundGenerator, source: Path | None, out: Path, **options: object) -> Dubbed:
    """What the command makes of it, with models that are loaded once for all tests."""
    asked = GenerateOptions.model_validate(FAST | options)
    dubbing = prepare(source, out, asked, None)
    (found,) = dubbing.run(lambda *_: None, lambda _: generator)
    assert found.error is None, found.error
    return found


def samples(path: Path) -> NDArray[np.float32]:
    return decode_audio(path).samples


def sampling(steps: int) -> Preset:
    """The toy preset, with so many sampling steps."""
    return GenerateOptions(steps=steps).sampling_preset()


def video(path: Path, fps: float, seconds: float) -> Path:
    write_sample(path, [i / fps for i in range(round(seconds * fps))], None)
    return path


def made(
    generator: SoundGenerator, *requests: Request, home: Warehouse | None = None
) -> list[Dubbed]:
    return list(dub(requests, lambda: generator, 3, home))
