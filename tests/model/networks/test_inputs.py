"""What each evaluation network is given, against spectrograms computed here by other means."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model.networks.imagebind import ImageBind
from model.networks.panns import Cnn14
from model.networks.passt import Passt
from model.networks.synchformer import Synchformer
from model.networks.vggish import VGGish
from model.presets.preset import load_preset

TOY = load_preset("toy")


def sound(seconds: float, rate: int) -> np.ndarray:
    """A chirp with noise, so that every band and frame holds something."""
    t = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(0).standard_normal(len(t)) * 0.01
    return (0.3 * np.sin(2 * np.pi * (100 + 700 * t) * t) + noise).astype(np.float32)


def power_frames(audio: np.ndarray, window: np.ndarray, fft: int, hop: int) -> np.ndarray:
    """Power of frames centred at multiples of `hop`, ends reflected -> float64 [T, fft / 2 + 1]."""
    padded = np.pad(audio.astype(np.float64), fft // 2, mode="reflect")
    shaped = np.zeros(fft)
    first = (fft - len(window)) // 2
    shaped[first : first + len(window)] = window
    count = 1 + (len(padded) - fft) // hop
    return np.stack(
        [np.abs(np.fft.rfft(padded[i * hop : i * hop + fft] * shaped)) ** 2 for i in range(count)]
    )


def hz_to_mel(hz: np.ndarray) -> np.ndarray:
    return 1127 * np.log1p(hz / 700)


def triangles(
    fft: int, rate: int, mels: int, low: float, high: float, *, on_mel_scale: bool
) -> np.ndarray:
    """Triangular filters, straight on the mel scale or in Hz -> [fft / 2 + 1, mels]."""
    hz = np.arange(fft // 2 + 1) * rate / fft
    edges = np.linspace(hz_to_mel(np.array(low)), hz_to_mel(np.array(high)), mels + 2)
    at = hz_to_mel(hz) if on_mel_scale else hz
    edges = edges if on_mel_scale else 700 * np.expm1(edges / 1127)
    filters = np.zeros((len(hz), mels))
    for m in range(mels):
        left, centre, right = edges[m : m + 3]
        filters[:, m] = np.maximum(
            0, np.minimum((at - left) / (centre - left), (right - at) / (right - centre))
        )
    return filters


def slaney_triangles(fft: int, rate: int, mels: int, low: float, high: float) -> np.ndarray:
    """Filters in Hz, of one area each, as librosa's -> [fft / 2 + 1, mels].

    Their edges are even on the scale of Slaney's Auditory Toolbox (1998): 15 mels to 1000 Hz, and
    27 more for every 6.4 times as much.
    """
    log_from, mels_below, step = 1000.0, 15.0, np.log(6.4) / 27
    lowest, highest = low * mels_below / log_from, mels_below + np.log(high / log_from) / step
    at = np.linspace(lowest, highest, mels + 2)
    above = log_from * np.exp(step * (at - mels_below))
    edges = np.where(at < mels_below, at * log_from / mels_below, above)
    hz = np.arange(fft // 2 + 1)[:, None] * rate / fft
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (hz - left) / (centre - left), (right - hz) / (right - centre)
    return np.maximum(0, np.minimum(rising, falling)) * 2 / (right - left)


def hann(n: int, *, periodic: bool) -> np.ndarray:
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / (n if periodic else n - 1))


def test_panns_hears_64_log_mels_of_50_to_8000_hz() -> None:
    audio = sound(1.0, 16000)
    network = Cnn14(**TOY.evaluation["panns"]).eval()
    found = network.spectrogram(network.prepare(audio)[None])[0, 0].numpy()
    power = power_frames(audio, hann(512, periodic=True), 512, 160)
    mel = power @ slaney_triangles(512, 16000, 64, 50.0, 8000.0)
    np.testing.assert_allclose(found, 10 * np.log10(np.maximum(mel, 1e-10)), atol=2e-3)


def test_passt_hears_128_mels_of_the_emphasised_sound_at_32_khz() -> None:
    audio = sound(4.0, 32000)
    network = Passt(**TOY.evaluation["passt"]).eval()
    found = network.spectrogram(network.prepare(audio)[None])[0].numpy()
    emphasised = audio[1:].astype(np.float64) - 0.97 * audio[:-1]
    power = power_frames(emphasised, hann(800, periodic=False), 1024, 320)
    mel = power @ triangles(1024, 32000, 128, 0.0, 15000.0, on_mel_scale=True)
    np.testing.assert_allclose(found.T, (np.log(mel + 1e-5) + 4.5) / 5, atol=2e-3)


@pytest.mark.parametrize("seconds", [1.0, 10.0, 12.0])
def test_passt_hears_just_its_10_seconds(seconds: float) -> None:
    network = Passt(embed_dim=24, depth=1, num_heads=1, classes=3)
    prepared = network.prepare(sound(seconds, 32000)).numpy()
    assert prepared.shape == (320_000,)
    kept = min(len(prepared), round(seconds * 32000))
    np.testing.assert_array_equal(prepared[:kept], sound(seconds, 32000)[:kept])
    assert not prepared[kept:].any()


def test_vggish_hears_whole_pieces_of_960_ms() -> None:
    audio = sound(2.5, 16000)
    found = VGGish(**TOY.evaluation["vggish"]).prepare(audio).numpy()
    assert found.shape == (2, 96, 64)  # 248 frames: what is left after two pieces is dropped
    window = hann(400, periodic=True)
    filters = triangles(512, 16000, 64, 125.0, 7500.0, on_mel_scale=True)
    for i in (0, 95, 96, 191):  # frames do not reach over the ends: nothing is padded
        magnitude = np.abs(
            np.fft.rfft(audio[i * 160 : i * 160 + 400].astype(np.float64) * window, 512)
        )
        np.testing.assert_allclose(
            found.reshape(-1, 64)[i], np.log(magnitude @ filters + 0.01), atol=1e-3
        )


def test_synchformer_hears_segments_of_640_ms_every_320_ms() -> None:
    audio = sound(4.0, 16000)
    found = Synchformer(**TOY.evaluation["synchformer"]).prepare(audio).numpy()
    assert found.shape == (11, 66, 128)
    filters = triangles(1024, 16000, 128, 0.0, 8000.0, on_mel_scale=False)
    for segment in (0, 7, 10):
        part = audio[segment * 5120 : segment * 5120 + 10240]
        logs = np.log(
            power_frames(part, hann(400, periodic=True), 1024, 160) @ filters + 1e-6
        )  # [65, 128]
        padded = np.concatenate(
            [logs, np.zeros((1, 128))]
        )  # the 66th frame is zero before it is normalised
        np.testing.assert_allclose(
            found[segment], (padded + 4.2677393) / (2 * 4.5689974), atol=2e-3
        )


def test_synchformer_sees_segments_of_16_pictures_every_8() -> None:
    network = Synchformer(**TOY.evaluation["synchformer"])
    times = network.times(4.0)
    np.testing.assert_allclose(times[:2], [0.02, 0.06])  # the middle of each of 25 slots a second
    assert len(times) == 100
    frames = np.random.default_rng(0).integers(0, 256, (100, 64, 64, 3), np.uint8)
    found = network.prepare_frames(frames).numpy()
    assert found.shape == (11, 3, 16, 64, 64)
    np.testing.assert_allclose(found[3, 1, 5], frames[3 * 8 + 5, :, :, 1] / 127.5 - 1, atol=1e-6)
    with pytest.raises(ValueError, match="96 pictures of side 64"):
        network.prepare_frames(frames[:90])


def test_imagebind_hears_windows_of_2_s_as_kaldi_would() -> None:
    audio = sound(8.0, 16000)
    found = ImageBind(TOY.imagebind).prepare(audio).numpy()
    assert found.shape == (3, 1, 128, 204)
    filters = triangles(512, 16000, 128, 20.0, 8000.0, on_mel_scale=True)
    for i, start in enumerate((0, 48000, 96000)):
        wave = audio[start : start + 32000].astype(np.float64)
        wave = wave - wave.mean()
        for frame in (0, 100, 197):
            part = wave[frame * 160 : frame * 160 + 400]
            part = part - part.mean()
            part = part - 0.97 * np.concatenate([part[:1], part[:-1]])
            power = np.abs(np.fft.rfft(part * hann(400, periodic=False), 512)) ** 2
            logs = np.log(np.maximum(power @ filters, np.finfo(np.float32).eps))
            np.testing.assert_allclose(found[i, 0, :, frame], (logs + 4.268) / 9.138, atol=2e-3)
        np.testing.assert_allclose(
            found[i, 0, :, 198:], 4.268 / 9.138, atol=1e-6
        )  # padded before it is normalised


def test_the_benchmark_shows_imagebind_a_picture_every_2_s_each_with_the_next() -> None:
    network = ImageBind(TOY.imagebind, pair_fps=0.5)
    np.testing.assert_allclose(network.times(8.0), [1, 3, 3, 5, 5, 7])
    frames = np.random.default_rng(0).integers(0, 256, (6, 224, 300, 3), np.uint8)
    assert network.prepare_frames(frames).shape == (9, 3, 2, 224, 224)  # 3 pairs x 3 crops
    np.testing.assert_allclose(
        network.window_times(10.0),
        np.ravel([(s, s + 2 - 1e-3) for s in (0, 2, 4, 6, 8)]),
        atol=1e-9,
    )


def test_imagebind_embeds_sound_and_picture_apart_as_together() -> None:
    torch.manual_seed(0)
    network = ImageBind.build(TOY).eval()
    count = len(network.times(4.0))
    frames = [
        np.random.default_rng(i).integers(0, 256, (count, 224, 224, 3), np.uint8) for i in range(2)
    ]
    audio = [sound(4.0, 16000), sound(4.0, 16000)[::-1].copy()]
    seen, heard = (
        torch.from_numpy(np.concatenate([clip.features for clip in clips]))
        for clips in (network.watch(frames), network.hear(audio))
    )
    cosines = torch.nn.functional.cosine_similarity(seen, heard).tolist()
    clips = [
        (network.prepare_frames(f), network.prepare(a)) for f, a in zip(frames, audio, strict=True)
    ]
    assert network.compare(clips) == pytest.approx(cosines, abs=1e-6)
