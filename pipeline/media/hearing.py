"""What a sound is like: loudness, bandwidth, noise, by one transform of blocks of 100 ms.

Loudness is ITU-R BS.1770-4: the K-weighting is applied to the blocks' power spectra, which gives
what its filters give.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from model.types import Audio

FLOOR = -120.0  # dB, what digital silence is given as
_BLOCK = 0.1  # seconds: a quarter of BS.1770's window, which moves by that much
_PIECE = 16  # blocks transformed at once: few enough to stay in the cache
_CLIPPED = 0.985  # of full scale: a codec's ripple stays above it where the original was cut off
_BAND = -65.0  # dB below the strongest band, under which a band is taken to be empty
_BAND_HZ = 100.0


@dataclass(frozen=True)
class Hearing:
    """Facts of a sound: LUFS, share of samples near full scale, mean sample, Hz, dB."""

    loudness_lufs: float
    clipped_share: float
    dc_offset: float
    bandwidth_hz: float
    snr_db: float


def hear(samples: Audio, sample_rate: int) -> Hearing:
    """Measure a sound, float32 [channels, n].

    The noise of `snr_db` is the tenth percentile of the blocks' power: right for sounds that pause
    now and then, and an underestimate of the ratio for those that never do.
    """
    if not samples.any():
        return Hearing(FLOOR, 0.0, 0.0, 0.0, 0.0)
    powers, weighted, spectrum = _blocks(samples, sample_rate)
    clipped = np.count_nonzero(np.abs(samples) >= _CLIPPED) / samples.size
    dc = float(samples.mean(dtype=np.float64))
    bandwidth = _bandwidth(spectrum, sample_rate)
    return Hearing(_loudness(weighted), clipped, dc, bandwidth, _snr(powers))


def _blocks(
    samples: Audio, sample_rate: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Power of every block, the same K-weighted and summed over channels, power by frequency."""
    length = round(_BLOCK * sample_rate)
    # to the block's mean square; twice, for real and imaginary parts, which lie side by side
    gain = _k_weighting(np.fft.rfftfreq(length, 1 / sample_rate)) * (2 / length**2)
    gains = np.repeat(gain.astype(np.float32), 2)
    weights = _channel_weights(len(samples))
    powers: list[NDArray[np.float64]] = [np.zeros(0)]
    weighted: list[NDArray[np.float64]] = [np.zeros(0)]
    spectrum = np.zeros(length // 2 + 1)
    for piece in _pieces(samples, length):  # [channels, blocks, length]
        transform: Any = scipy.fft.rfft(piece)  # complex64; NumPy's takes twice the time
        powers.append(np.vecdot(piece, piece).mean(0).astype(np.float64) / length)
        weighted.append(weights @ (np.square(transform.view(np.float32)) @ gains))
        mono = transform.sum(0)
        # Hann's window, as it looks from here
        smooth = 0.5 * mono[:, 1:-1] - 0.25 * (mono[:, :-2] + mono[:, 2:])
        spectrum[1:-1] += np.square(smooth.view(np.float32)).sum(0).reshape(-1, 2).sum(1)
    return np.concatenate(powers), np.concatenate(weighted), spectrum


def _pieces(samples: Audio, length: int) -> Iterator[Audio]:
    count = samples.shape[1] // length
    for start in range(0, count, _PIECE):
        end = min(count, start + _PIECE)
        yield samples[:, start * length : end * length].reshape(len(samples), end - start, length)


def _k_weighting(frequencies: NDArray[Any]) -> NDArray[np.float64]:
    """Power gain of BS.1770's two filters at these frequencies, from their analogue prototypes."""
    s = 1j * frequencies
    shelf_hz, shelf_q, high = 1681.974450955533, 0.7071752369554196, 10 ** (3.999843853973347 / 20)
    low_hz, low_q = 38.13547087602444, 0.5003270373238773
    middle = high**0.4996667741545416
    shelf = (high * s**2 + middle * shelf_hz / shelf_q * s + shelf_hz**2) / (
        s**2 + shelf_hz / shelf_q * s + shelf_hz**2
    )
    pass_ = s**2 / (s**2 + low_hz / low_q * s + low_hz**2)
    return np.abs(shelf * pass_) ** 2


def _channel_weights(channels: int) -> NDArray[np.float64]:
    """1 for the front, 1.41 for the sides, none for the bass channel of 5.1 and 7.1."""
    weights = np.ones(channels)
    if channels >= 6:
        weights[3] = 0.0
        weights[4:] = 1.41
    return weights


def _loudness(weighted: NDArray[np.float64]) -> float:
    """Gated loudness of the blocks, LUFS."""
    if len(weighted) == 0:
        return FLOOR
    windows = weighted.mean(keepdims=True)
    if len(weighted) >= 4:
        windows = np.convolve(weighted, np.full(4, 0.25), "valid")
    gated = windows[_lufs(windows) > -70]
    if len(gated) == 0:
        return FLOOR
    gated = gated[_lufs(gated) > float(_lufs(gated.mean())) - 10]
    return float(_lufs(gated.mean()))


def _lufs(power: NDArray[np.float64] | np.floating) -> NDArray[np.float64]:
    return -0.691 + 10 * np.log10(np.maximum(power, 1e-12))


def _bandwidth(spectrum: NDArray[np.float64], sample_rate: int) -> float:
    """The highest frequency (Hz) at which there is something, of bands of 100 Hz; 0 for silence."""
    width = max(1, round(_BAND_HZ * _BLOCK))
    bands = spectrum[1 : 1 + (len(spectrum) - 1) // width * width].reshape(-1, width).sum(1)
    strongest = float(bands.max(initial=0.0))
    if strongest <= 0:
        return 0.0
    top = int(np.flatnonzero(bands >= strongest * 10 ** (_BAND / 10))[-1])
    return min((top + 1) * _BAND_HZ, sample_rate / 2)


def _snr(powers: NDArray[np.float64]) -> float:
    """Mean power over that of the quietest tenth, dB in -20..100."""
    if len(powers) == 0 or float(powers.mean()) <= 0:
        return 0.0
    noise = max(float(np.quantile(powers, 0.1)), 1e-12)
    signal = max(float(powers.mean()) - noise, 0.01 * noise)
    return min(100.0, 10 * math.log10(signal / noise))
