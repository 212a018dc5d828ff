"""A workshop with a home of its own, and a video."""

from __future__ import annotations

from pathlib import Path

import pytest

from foley.studio.workshop import Workshop
from pipeline.generation.options import GenerateOptions
from pipeline.procedural import sample_clip, write_clip


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("studio") / "home", GenerateOptions.of(device="cpu"))


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "my clip.mp4"
    write_clip(sample_clip(3, 2.5), path)
    return path
