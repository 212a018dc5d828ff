"""The interval of onset F1 over clips."""

from pipeline.world import WorldClip
from pipeline.world.sound import SAMPLE_RATE as RATE
from tests.benchmarks import claims


def test_the_interval_holds_the_value_and_is_of_clips() -> None:
    clips = [WorldClip(400_000_000 + i) for i in range(6)]
    truths, sounds = [clip.truth() for clip in clips], [clip.audio() for clip in clips]
    value = claims.f1(truths, sounds, RATE)
    low, high = claims.interval(truths, sounds, RATE)
    assert value > 0.9
    assert low <= value <= high
    half = [sound * (i % 2) for i, sound in enumerate(sounds)]
    low, high = claims.interval(truths, half, RATE)
    assert high - low > 0.2
