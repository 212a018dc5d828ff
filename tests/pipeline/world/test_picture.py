"""What is painted anew while a camera stands is all that can have changed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.world import WorldClip
from pipeline.world.picture import render_frames


@pytest.mark.parametrize(("seed", "level", "side"), [(1, 1, 64), (2, 2, 64), (5, 2, 96)])
def test_a_camera_that_stands_sees_what_one_that_moves_by_nothing_does(
    seed: int, level: int, side: int
) -> None:
    clip = WorldClip(seed, level, 2.0)
    stands = render_frames(clip.world, clip.motion, 12, side)
    cameras = tuple(replace(camera, swing=1e-300) for camera in clip.world.cameras)
    moves = render_frames(replace(clip.world, cameras=cameras), clip.motion, 12, side)
    assert np.array_equal(stands, moves)
    changed = (np.diff(stands.astype(int), axis=0) != 0).any((0, 3))
    assert 0.01 < changed.mean() < 0.9  # things do move, and some of the picture never changes
