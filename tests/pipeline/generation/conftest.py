"""Models that are loaded once for all tests, and a video with a sound of its own."""

from pathlib import Path

import pytest

from pipeline.generation.generator import SoundGenerator
from pipeline.generation.options import GenerateOptions
from tests.pipeline.media.samples import clicks, write_sample


@pytest.fixture(scope="session")
def generator() -> SoundGenerator:
    return SoundGenerator(GenerateOptions(steps=2).sampling_preset(), device="cpu")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_sample(tmp_path / "in.mp4", [i / 25 for i in range(50)], clicks(2.0, [0.5]))
    return tmp_path / "in.mp4"
