"""Sound longer than the trained length: windows that fit together, and sound without a seam."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.backbone import Backbone
from model.bridge import Bridge, VideoBatch
from model.foley import FoleyControl, SoundRequest
from model.metrics.onsets import detect_onsets, sync_score
from model.presets.preset import Preset, load_preset
from model.presets.settings import WindowSettings
from model.sampling.windows import (
    DECODER_MARGIN,
    Window,
    cross_fades,
    decode_in_pieces,
    plan_windows,
)
from model.video_encoder import VideoEncoder
from pipeline.procedural import ProceduralClip, render_frames, sample_clip

PAPER = load_preset("paper")
rates = st.sampled_from([(25.0, 8.0), (PAPER.latent_rate, 8.0), (PAPER.latent_rate, 16.0)])
settings = st.tuples(st.floats(1, 12), st.floats(0.1, 0.9)).map(
    lambda pair: WindowSettings(seconds=pair[0], overlap=pair[0] * pair[1])
)


@given(st.floats(0.1, 120), rates, settings)
def test_windows_cover_all_and_none_is_longer_than_trained(
    seconds: float, rate: tuple[float, float], window: WindowSettings
) -> None:
    latent_rate, token_rate = rate
    length = math.ceil(seconds * latent_rate)
    plan = plan_windows(length, latent_rate, token_rate, window)
    assert plan[0].start == 0
    assert plan[-1].stop == length
    assert max(part.length for part in plan) <= max(1, round(window.seconds * latent_rate))
    for before, after in pairwise(plan):
        assert before.start < after.start
        assert before.stop - after.start >= window.overlap * latent_rate - 2
    total = torch.zeros(length)
    for part, fade in zip(plan, cross_fades(plan), strict=True):
        assert bool((fade > 0).all())
        total[part.start : part.stop] += fade
    torch.testing.assert_close(total, torch.ones(length))


@given(st.floats(13, 120), rates, settings)
def test_a_window_sees_the_video_of_its_own_time(
    seconds: float, rate: tuple[float, float], window: WindowSettings
) -> None:
    latent_rate, token_rate = rate
    for part in plan_windows(math.ceil(seconds * latent_rate), latent_rate, token_rate, window):
        begins = part.first / token_rate
        assert begins == pytest.approx(part.start / latent_rate + part.offset, abs=1e-6)
        assert abs(part.offset) <= 0.5 / token_rate + 1e-6
        assert part.last / token_rate >= part.stop / latent_rate - 0.5 / token_rate - 1e-5


def test_windows_of_the_paper_preset_begin_with_segments() -> None:
    plan = plan_windows(math.ceil(60 * PAPER.latent_rate), PAPER.latent_rate, 8.0, PAPER.window)
    segment = PAPER.video.segment_frames // 2
    assert [part.first % segment for part in plan[:-1]] == [0] * (len(plan) - 1)
    assert max(abs(part.offset) for part in plan[:-1]) <= 0.5 / PAPER.latent_rate + 1e-6


def test_positions_in_a_window_are_those_of_its_time(
    bridge: Bridge, backbone: Backbone, preset: Preset
) -> None:
    """What the bridge adds depends on how tokens and latents lie to each other.

    So an offset of the tokens must shift it as much.
    """
    tokens, x = (
        torch.randn(1, 8, 1, preset.video.width),
        torch.randn(1, 25, backbone.dit.transformer.dim),
    )
    layer = bridge.blocks[0]

    def added(first: int, count: int, offset: float) -> torch.Tensor:
        with (
            bridge.conditioned_on(VideoBatch(tokens[:, first : first + count], offset=offset), 25),
            torch.no_grad(),
        ):
            return layer(x)

    with bridge.conditioned_on(VideoBatch(tokens, frames=torch.tensor([8])), 25), torch.no_grad():
        condition = layer.condition
        assert condition is not None
        layer.condition = replace(
            condition, mask=torch.arange(8)[None] >= 3
        )  # only the last five are seen
        whole = layer(x)
    torch.testing.assert_close(added(3, 5, 3 / 8), whole, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(added(3, 5, 0.0), whole, atol=1e-2)


@pytest.mark.parametrize("length", [1, 99, 100, 101, 333])
def test_decoding_in_pieces_gives_the_whole(
    backbone: Backbone, preset: Preset, length: int
) -> None:
    latents = torch.randn(
        2, preset.latent_channels, length, generator=torch.Generator().manual_seed(0)
    )
    whole = backbone.codec.decode(latents)
    pieces = list(decode_in_pieces(backbone, latents, 100))
    assert max(piece.shape[-1] for piece in pieces) <= 100 * preset.downsampling_ratio
    torch.testing.assert_close(torch.cat(pieces, -1), whole, atol=1e-4, rtol=1e-4)


def test_the_margin_is_wider_than_the_full_size_decoder_looks() -> None:
    """The decoder of Stable Audio Open, thinned to few channels.

    Strides and kernels decide how far it looks.
    """
    from stable_audio_tools.models.autoencoders import OobleckDecoder

    config = PAPER.backbone_config["model"]["pretransform"]["config"]["decoder"]["config"]
    decoder = OobleckDecoder(**(config | {"channels": 2})).eval()
    near, length = 4, 2 * DECODER_MARGIN + 5
    latents = torch.zeros(1, config["latent_dim"], length).requires_grad_()
    middle = length // 2 * PAPER.downsampling_ratio
    decoder(latents)[..., middle : middle + PAPER.downsampling_ratio].square().sum().backward()
    assert latents.grad is not None
    reached = latents.grad.abs().sum(1)[0].nonzero().ravel()
    assert near < length // 2 - int(reached.min()) <= DECODER_MARGIN
    assert int(reached.max()) - length // 2 <= DECODER_MARGIN


@pytest.fixture(scope="module")
def shipped() -> tuple[FoleyControl, VideoEncoder]:
    preset = load_preset("toy")
    return FoleyControl.from_pretrained(preset), VideoEncoder.from_pretrained(preset)


def heard(
    shipped: tuple[FoleyControl, VideoEncoder], clips: list[ProceduralClip]
) -> list[np.ndarray]:
    foley, encoder = shipped
    requests = [
        SoundRequest(clip.prompt, clip.seconds, clip.seed, encoder.encode(render_frames(clip)))
        for clip in clips
    ]
    return [sound.mean(0) for sound in foley.generate(requests)]


@pytest.mark.slow
def test_thirty_seconds_are_as_good_as_four_and_have_no_seams(
    shipped: tuple[FoleyControl, VideoEncoder],
) -> None:
    rate = shipped[0].preset.sample_rate
    short, long = (
        [sample_clip(seed, seconds) for seed in range(94_000, 94_000 + n)]
        for seconds, n in ((4.0, 32), (30.0, 12))
    )

    def score(clips: list[ProceduralClip], sounds: list[np.ndarray]) -> float:
        impacts = [np.array(clip.impacts) for clip in clips]
        return sync_score(impacts, [detect_onsets(sound, rate) for sound in sounds]).f1_60ms

    sounds = heard(shipped, long)
    assert score(long, sounds) >= score(short, heard(shipped, short)) - 0.05
    edges = _edges(shipped[0], 30.0)
    near, far = _levels(sounds, edges, rate)
    assert abs(near - far) < 3.0, "level near the windows' edges and elsewhere, in dB"
    near, far = _false_hits(long, sounds, edges, rate)
    assert near < far + 0.05, "onsets without an impact"


def _edges(foley: FoleyControl, seconds: float) -> list[float]:
    """Times at which a window begins or ends, within the sound."""
    bridge, rate = foley.bridge, foley.preset.latent_rate
    plan: list[Window] = plan_windows(
        round(seconds * rate), rate, bridge.token_rate, foley.preset.window
    )
    return sorted(
        {part.start / rate for part in plan[1:]} | {part.stop / rate for part in plan[:-1]}
    )


def _levels(sounds: list[np.ndarray], edges: list[float], rate: int) -> tuple[float, float]:
    """Mean power within 0.25 s of an edge, and of all the rest, in dB."""
    times = np.arange(len(sounds[0])) / rate
    near = np.min([np.abs(times - edge) for edge in edges], axis=0) < 0.25
    power = np.mean([sound**2 for sound in sounds], axis=0)
    return 10 * math.log10(power[near].mean()), 10 * math.log10(power[~near].mean())


def _false_hits(
    clips: list[ProceduralClip], sounds: list[np.ndarray], edges: list[float], rate: int
) -> list[float]:
    """Share of onsets that are no impact: within 0.25 s of an edge, and elsewhere."""
    false: dict[bool, list[bool]] = {True: [], False: []}
    for clip, sound in zip(clips, sounds, strict=True):
        for onset in detect_onsets(sound, rate):
            near = np.abs(np.array(edges) - onset).min() < 0.25
            false[bool(near)].append(np.abs(np.array(clip.impacts) - onset).min() > 0.1)
    return [float(np.mean(false[near])) for near in (True, False)]
