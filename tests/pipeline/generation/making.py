"""What the command makes of a request."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.generation.dub import Dubbed, prepare
from pipeline.generation.generator import SoundGenerator
from pipeline.generation.options import GenerateOptions
from pipeline.media import decode_audio

FAST = {"prompt": "a ball bounces on wood", "steps": 2, "device": "cpu"}


def dubbed(generator: SoundGenerator, source: Path | None, out: Path, **options: object) -> Dubbed:
    """What the command makes of it, with models that are loaded once for all tests."""
    asked = GenerateOptions.model_validate(FAST | options)
    dubbing = prepare(source, out, asked, None)
    (found,) = dubbing.run(lambda *_: None, lambda _: generator)
    assert found.error is None, found.error
    return found


def samples(path: Path) -> NDArray[np.float32]:
    return decode_audio(path).samples
