"""The fuzzer finds what only guidance finds, and a little of it finds nothing in the probe."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.pipeline.media.fuzz_probe import fuzz, small_files

pytestmark = pytest.mark.slow


def brittle(path: Path) -> int:
    """Breaks behind four doors, each of which one byte in 16 opens.

    By chance alone, one file in 65,536 does.
    """
    first, second, third, fourth, *_ = path.read_bytes().ljust(4)
    if first % 16 == 7:
        if second % 16 == 9:
            if third % 16 == 4:
                if fourth % 16 == 11:
                    raise KeyError("the fourth door")
                os.kill(os.getpid(), signal.SIGSEGV if fourth > 127 else 0)
            return 2
        return 1
    return 0


def test_it_is_guided_by_coverage() -> None:
    found = fuzz([b"abcd"], 300, runs=1200, target=brittle)
    assert "KeyError: 'the fourth door'" in found.findings
    assert any("SIGSEGV" in what for what in found.findings)


def test_a_little_of_it_finds_nothing(tmp_path: Path) -> None:
    seeds = small_files(tmp_path)
    found = fuzz(seeds, 300, runs=300, seed=1)
    assert found.findings == {}
    assert len(found.corpus) > len(seeds) + 20
    assert any(way.startswith("mov,mp4") for way in found.seen)
