"""How slow a server may be, by a clock that is set by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.download.transfer import Fetcher, TransferSettings


@pytest.mark.parametrize(
    ("arrivals", "stalls_at"),
    [
        ([(29.0, 100), (29.5, 40_000), (59.0, 40_000)], None),  # slow at first, and then in time
        ([(29.0, 100), (31.0, 100), (32.0, 40_000)], 31.0),
        ([(30.0, 100), (30.5, 40_000)], None),  # judged after that time, not at its end
        ([(32.0, 32 * 1024)], None),  # just as fast as is asked for
        ([(32.0, 32 * 1024 - 1)], 32.0),
        ([(31.0, 400_000), (61.0, 100), (61.5, 100)], 61.5),  # each time is judged by itself
        ([(31.0, 400_000), (61.0, 100), (61.5, 40_000), (92.0, 40_000)], None),
    ],
)
def test_the_rate_is_judged_over_the_time_of_a_stall(
    monkeypatch: pytest.MonkeyPatch, arrivals: list[tuple[float, int]], stalls_at: float | None
) -> None:
    left, now = list(arrivals), [0.0]

    def read1(_: int) -> bytes:
        if not left:
            return b""
        now[0], count = left.pop(0)
        return bytes(count)

    monkeypatch.setattr(
        "pipeline.download.transfer.time", SimpleNamespace(monotonic=lambda: now[0])
    )
    fetcher = Fetcher(TransferSettings(stall_seconds=30, slowest_bytes_per_second=1024))
    response: Any = SimpleNamespace(raw=SimpleNamespace(read1=read1))
    try:
        got = [len(piece) for piece in fetcher._pieces("url", response)]
    except TimeoutError:
        assert now[0] == stalls_at
    else:
        assert stalls_at is None
        assert got == [count for _, count in arrivals]
