"""Batches read ahead: the same, in order, before they are asked for, with errors in their place."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from model.training.feature_batch import FeatureBatch
from pipeline.training.read_ahead import AHEAD, ReadAhead
from warehouse import FoleyError

ONE = FeatureBatch(*(torch.zeros(1) for _ in range(5)), text=[], seconds=[])


def numbered(count: int, read: list[int]) -> Iterator[FeatureBatch]:
    for number in range(count):
        read.append(number)
        yield replace(ONE, seconds=[float(number)])


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("read ahead")]


def test_batches_come_in_order_and_so_many_are_read_before_they_are_asked_for() -> None:
    read: list[int] = []
    with ReadAhead(numbered(50, read)) as ahead:
        for number in range(50):
            assert next(ahead).seconds == [number]
            assert len(read) <= number + 1 + AHEAD
        assert next(ahead, None) is None
    assert read == list(range(50))


def test_the_next_batches_are_read_while_nobody_asks() -> None:
    enough = threading.Event()

    def batches() -> Iterator[FeatureBatch]:
        for number in range(10):
            if number == AHEAD:
                enough.set()
            yield replace(ONE, seconds=[float(number)])

    with ReadAhead(batches()) as ahead:
        next(ahead)
        assert enough.wait(60)


def test_what_goes_wrong_is_raised_where_its_batch_would_have_come() -> None:
    def batches() -> Iterator[FeatureBatch]:
        yield from numbered(3, [])
        raise FoleyError("feature shard 7 ends too early")

    with ReadAhead(batches()) as ahead:
        assert [next(ahead).seconds for _ in range(3)] == [[0.0], [1.0], [2.0]]
        with pytest.raises(FoleyError, match="shard 7 ends too early"):
            next(ahead)
    assert not readers()


def test_the_thread_ends_with_the_training() -> None:
    read: list[int] = []

    def training() -> None:
        with ReadAhead(numbered(10**9, read)) as ahead:
            next(ahead)
            assert readers()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training()
    assert not readers()
    assert len(read) <= 1 + AHEAD
