"""A file's own sound: all of it, and on the sides where it is; and sounds that are told of."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from pipeline.generation.finishing import finish
from pipeline.generation.generator import GeneratedSound
from pipeline.generation.options import SoundOptions
from pipeline.generation.provenance import is_made, sidecar_of, told_of
from pipeline.generation.requests import Request
from pipeline.generation.sources import earlier_seconds, mixed_down, own_sound
from pipeline.media import MediaError, write_wav
from tests.foley.commands import ROOT
from tests.pipeline.media.samples import ffmpeg
from warehouse.store import Warehouse

RATE = 1000


def test_a_sound_is_heard_beyond_ten_minutes(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    own = np.zeros((1, 605 * RATE), np.float32)
    own[:, 603 * RATE :] = 0.5
    write_wav(path, own, RATE)
    mixed, *_ = finish(
        Request(path, Path(), "", 0, options=SoundOptions(mix=0.0)), np.zeros_like(own), RATE
    )
    np.testing.assert_allclose(mixed, own, atol=1e-3)
    asked = Request(None, Path(), "", 0, None, SoundOptions(redo="601-602"), path)
    again, *_ = finish(asked, np.full_like(own, 0.25), RATE)
    assert again.shape == own.shape
    np.testing.assert_allclose(again[0, 602 * RATE :], own[0, 602 * RATE :], atol=1e-3)
    assert again[0, 601 * RATE + RATE // 2] == pytest.approx(0.25)
    write_wav(path, np.zeros(3601 * 100, np.float32), 100)
    with pytest.raises(MediaError, match="is 3601 s long, more than 3600 s"):
        earlier_seconds(path)


def test_each_side_keeps_its_own(tmp_path: Path) -> None:
    """Of 5.1 sound the left front alone is heard on the left alone."""
    path = tmp_path / "six.wav"
    front = "sine=440:d=1,pan=5.1|FL=c0"
    ffmpeg("-f", "lavfi", "-i", front, "-ar", "8000", path)
    request = Request(path, Path(), "", 0, options=SoundOptions(mix=0.0))
    (left, right), *_ = finish(request, np.zeros((2, 8000), np.float32), 8000)
    assert np.abs(left).max() > 0.01
    assert np.abs(right).max() < 1e-3
    earlier = Request(None, Path(), "", 0, None, SoundOptions(redo="0.2-0.5"), path)
    again, *_ = finish(earlier, np.zeros((1, 8000), np.float32), 8000)
    np.testing.assert_array_equal(again[:, :1600], own_sound(path).samples[:, :1600])
    assert len(again) == 2
    assert mixed_down(path, 2) == ["the 6 channels of six.wav become 2"]
    assert mixed_down(path, 6) == []


@pytest.mark.parametrize("before", [False, True])
def test_a_sound_is_told_of_whenever_its_making_is_killed(tmp_path: Path, before: bool) -> None:
    """Before every file that it opens or names: so it is no source, and made again unless whole."""
    # in a process of its own, since it forks: this one may have threads of many libraries
    code = f"from {__name__} import kill_everywhere as k; from pathlib import Path as P; "
    code += f"k(P({str(tmp_path)!r}), {before})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def kill_everywhere(tmp_path: Path, before: bool) -> None:
    """See the test above."""
    asked = {"video": None, "seed": 1}
    sound = GeneratedSound(np.zeros((1, 160), np.float32), 16_000, None, dict(asked))
    kills, ended = 0, False
    while not ended:
        out, home = tmp_path / f"{kills}.wav", Warehouse(tmp_path / f"home{kills}")
        if before:
            GeneratedSound(sound.audio + 0.5, 16_000, None, asked | {"seed": 0}).save(out)
        kills += 1
        code = _killed_at(kills, partial(sound.save, out, home))
        assert code in (0, 9)
        ended = code == 0
        assert bool(told_of(out)) >= out.exists()
        assert is_made(out, asked) <= bool([*home.records("sounds")])
        sound.save(out, home)
        assert is_made(out, asked)
        assert [*tmp_path.glob("*.json")] == [sidecar_of(out)]
        out.unlink()
        sidecar_of(out).unlink()
    assert kills > 4


def _killed_at(count: int, work: Callable[[], object]) -> int:
    """Do the work in a process that ends before it opens or names its file of that number."""
    child = os.fork()
    if child == 0:
        left = [count]

        def hook(event: str, given: object) -> None:
            if event in ("open", "os.rename"):
                left[0] -= 1
                if left[0] == 0:
                    os._exit(9)

        sys.addaudithook(hook)
        try:
            work()
        finally:
            os._exit(1 if sys.exception() else 0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
