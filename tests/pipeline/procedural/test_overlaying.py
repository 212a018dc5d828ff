"""Speech and music over a sound: how loud, and how they differ by ear's own measures."""

import numpy as np
import pytest

from model.types import Audio
from pipeline.procedural import Corpus, sample_clip
from pipeline.procedural.audio import render_audio
from pipeline.procedural.corpus import CorpusClip, rendered
from pipeline.procedural.overlaying import OVERLAYS, Overlay, overlay
from pipeline.world.corpus import WorldCorpus

RATE = 16_000


@pytest.mark.parametrize("kind", OVERLAYS)
def test_severity_is_how_loud_it_is_against_the_loudest_tenth(kind: Overlay) -> None:
    sound = render_audio(sample_clip(5))
    loud = np.sqrt(np.sort(sound.astype(float) ** 2)[-sound.size // 10 :].mean())
    for severity, decibels in ((0.0, -12.0), (1.0, 6.0)):
        added = overlay(sound, kind, severity, 0, RATE).astype(float) - sound
        level = 20 * np.log10(np.sqrt((added**2).mean()) / loud)
        assert level == pytest.approx(decibels, abs=1.5)  # peaks over 1 are cut


def test_speech_has_syllables_and_music_a_beat() -> None:
    silence = np.full(RATE * 4, 0.01, np.float32)
    speech, music = (_level(overlay(silence, kind, 0.5, 1, RATE) - 0.01) for kind in OVERLAYS)
    pauses = [(level < level.max() * 0.1).mean() for level in (speech, music)]
    assert pauses[0] > 0.12
    assert pauses[1] < 0.08
    assert [_repeats(speech) < 0.4, _repeats(music) > 0.7] == [True, True]


def _repeats(level: np.ndarray) -> float:
    """How alike a level is to itself .3 to 1.3 s later, of 1."""
    apart = level - level.mean()
    alike = np.correlate(apart, apart, "full")[len(apart) - 1 :]
    return float(alike[15:65].max() / alike[0])


def test_a_stereo_sound_gets_it_on_both_sides() -> None:
    sound = np.stack([render_audio(sample_clip(1)), render_audio(sample_clip(2))])
    added = overlay(sound, "music", 0.2, 3, RATE) - sound
    assert np.allclose(added[0], added[1], atol=2e-3)
    assert np.abs(added).max() > 0.01


def test_of_procedural_clips_none_has_one_and_of_worlds_some_have() -> None:
    assert not {clip.flaw for clip in Corpus(1, flawed=20).clips()} & {*OVERLAYS}
    assert {clip.flaw for clip in WorldCorpus(1, flawed=12).clips()} >= {*OVERLAYS}
    clip = CorpusClip("a.mp4", rendered(sample_clip(1)), flaw="speech")
    assert clip.row("", 0)["truth"]["severity"] > 0.3
    assert not np.allclose(clip.sound(), render_audio(sample_clip(1)), atol=0.01)


def _level(sound: Audio) -> np.ndarray:
    return np.sqrt(np.square(sound.astype(float)).reshape(-1, 320).mean(1))
