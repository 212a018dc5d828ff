"""Known damage to a sound: what a scorer of quality must notice."""

from typing import Literal, get_args

import numpy as np

from model.types import Audio
from pipeline.procedural.audio import SAMPLE_RATE

Kind = Literal["noise", "clipping", "bandwidth", "hum"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def degrade(
    audio: Audio, kind: Kind, severity: float, seed: int, sample_rate: int = SAMPLE_RATE
) -> Audio:
    """A sound [..., n] with damage; `severity` in 0..1 goes from just heard to ruined.

    noise: white, 30 to 0 dB under the sound's loudest tenth; clipping: 6 to 40 dB too loud;
    bandwidth: nothing over 2000 to 200 Hz; hum: 50 Hz and its harmonics, 30 to 0 dB under.
    """
    rng = np.random.default_rng(seed)
    loud = np.sqrt(np.mean(np.sort(np.square(audio, dtype=np.float64), None)[-audio.size // 10 :]))
    under = loud * 10 ** (-(30 - 30 * severity) / 20)
    if kind == "noise":
        out = audio + rng.standard_normal(audio.shape) * under
    elif kind == "clipping":
        peak = max(float(np.abs(audio).max()), 1e-6)
        out = np.clip(audio * 10 ** ((6 + 34 * severity) / 20), -peak, peak)
    elif kind == "bandwidth":
        spectrum = np.fft.rfft(audio)
        high = np.fft.rfftfreq(audio.shape[-1], 1 / sample_rate) > 2000 * 10**-severity
        spectrum[..., high] = 0
        out = np.fft.irfft(spectrum, audio.shape[-1])
    else:
        t = np.arange(audio.shape[-1]) / sample_rate
        out = audio + under * sum(
            np.sin(2 * np.pi * 50 * h * t + rng.uniform(0, 2 * np.pi)) / h for h in (1, 2, 3, 5)
        )
    return np.clip(out, -1, 1).astype(np.float32)
