"""Speech and music that the picture does not ask for: heard by the tagger, and made again unseen.

Where it is heard, the stretch is sampled again with the video masked there, which needs no training
(HALCON, arXiv 2510.08078); the rest of the sound stays as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from model.foley import FoleyControl
from model.presets.networks import NETWORKS
from model.presets.preset import ModelError, Preset
from model.presets.settings import SampleSettings, TaggerSettings
from model.sampling.request import SoundRequest
from model.types import Audio
from pipeline.generation.asking import retake_of
from pipeline.generation.finishing import resampled
from pipeline.generation.options import MAX_SEED
from pipeline.generation.retake import Span, spliced
from pipeline.scoring.tags import Heard, Tagger

OTHER_NOISE = 2**30  # added to the seed: a sound of text alone has no video to hide


@dataclass(frozen=True)
class Unwanted:
    """What is not to be heard (speech, music), and the tagger that hears it."""

    kinds: tuple[str, ...]
    tagger: Tagger

    def made_again(
        self, foley: FoleyControl, request: SoundRequest, audio: Audio, settings: SampleSettings
    ) -> tuple[Audio, tuple[str, ...]]:
        """The sound [channels, n] without it, as far as that goes, and what was heard in a line."""
        rate = foley.preset.sample_rate
        before = self._heard(audio, rate)
        spans = self._spans(before, request.seconds)
        if not spans:
            return audio, ()
        again = replace(
            request,
            seed=(request.seed + OTHER_NOISE) % (MAX_SEED + 1),
            hidden=(*request.hidden, *spans),
            retake=retake_of(foley, audio, spans),
        )
        made = spliced(audio, foley.generate([again], settings)[0], spans, rate)
        after = self._heard(made, rate)
        told = ", ".join(
            f"{kind} in {before.share(kind):.0%} of the time, now {after.share(kind):.0%}"
            for kind in self.kinds
            if before.share(kind)
        )
        where = ", ".join(f"{start:g}-{stop:g} s" for start, stop in spans)
        return made, (f"{told}: made again without the video at {where}",)

    def _heard(self, audio: Audio, rate: int) -> Heard:
        mono = audio.mean(0, keepdims=True, dtype=np.float32)
        return self.tagger.hear([resampled(mono, rate, self.tagger.network.sample_rate)[0]])[0]

    def _spans(self, heard: Heard, seconds: float) -> tuple[Span, ...]:
        """The stretches in which any of it is heard."""
        there = np.any([getattr(heard, kind) for kind in self.kinds], axis=0)
        ends = np.minimum(np.cumsum(heard.seconds), seconds)
        return _joined(there.tolist(), [0.0, *ends.tolist()])


def _joined(there: Sequence[bool], edges: Sequence[float]) -> tuple[Span, ...]:
    """Stretches of neighbouring windows, given the edges of all."""
    changes = np.flatnonzero(np.diff([False, *there, False]))
    pairs = changes.reshape(-1, 2).tolist()
    return tuple((edges[start], edges[stop]) for start, stop in pairs)


def check_tagger(preset: Preset) -> TaggerSettings:
    """Raises ModelError where a preset has no tagger that knows speech and music."""
    if preset.scores.tagger is None:
        raise ModelError(
            f"preset {preset.name} has no tagger that knows speech and music, which --without "
            "needs: set scores.tagger"
        )
    return preset.scores.tagger


def load_tagger(preset: Preset) -> Tagger:
    """The preset's. Raises ModelError as `check_tagger` does, WeightsError without weights."""
    settings = check_tagger(preset)
    return Tagger(NETWORKS["panns"].load_class().from_pretrained(preset), settings)
