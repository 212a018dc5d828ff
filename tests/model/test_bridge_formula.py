"""A layer of the bridge against its formula, written out token by token in numpy.

Clips of different lengths, two cells an effective frame, an offset, a prepended position, a clip
without video, and the second half that guidance appends. Nothing of the product's code is used.
"""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest
import torch
from scipy.special import erf

from model.bridge import Bridge, LearnedPool, VideoBatch
from model.presets.settings import BridgeSettings

DIM, VIDEO, HEADS, WIDTH = 12, 6, 2, 8
LATENT_RATE, TOKEN_RATE, ROPE_RATE = 25.0, 8.0, 20.0
LATENTS, PREFIX, OFFSET = 9, 2, 0.31
FRAMES, CELLS = (5, 3, 4), 2
Values = np.ndarray


@pytest.fixture(params=[False, True], ids=["plain", "with a vector a cell"])
def bridge(request: pytest.FixtureRequest) -> Bridge:
    """A small bridge, none of whose weights is zero or one."""
    torch.manual_seed(0)
    settings = BridgeSettings(
        heads=HEADS,
        head_dim=WIDTH,
        adapter_width=10,
        rope_positions="seconds",
        rope_rate=ROPE_RATE,
        cell_embedding=request.param,
    )
    made = Bridge(DIM, 2, (CELLS, VIDEO), settings, (LATENT_RATE, TOKEN_RATE))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    made.set_scale(torch.randn(VIDEO) + 2, torch.rand(VIDEO) + 2)
    return made.requires_grad_(False)


def array(value: object) -> Values:
    assert isinstance(value, torch.Tensor)
    return value.detach().double().numpy()


def standard(bridge: Bridge, tokens: torch.Tensor) -> Values:
    """Tokens [B, J, P, V] as layers see them: standardised, with the vector of each cell."""
    scaled = (array(tokens) - array(bridge.mean)) / array(bridge.std)
    return scaled if bridge.cells is None else scaled + array(bridge.cells)


def linear(x: Values, layer: object) -> Values:
    assert isinstance(layer, torch.nn.Linear)
    weights = {name: array(value) for name, value in layer.named_parameters()}
    return x @ weights["weight"].T + weights.get("bias", 0)


def normal(x: Values, layer: object) -> Values:
    """Layer normalisation of one vector."""
    assert isinstance(layer, torch.nn.LayerNorm)
    scaled = (x - x.mean()) / math.sqrt(x.var() + layer.eps)
    return scaled * array(layer.weight) + array(layer.bias)


def turned(head: Values, position: float) -> Values:
    """RoPE: number i of a head's first half and of its second turn as one complex number."""
    half = len(head) // 2
    angles = [position / 10_000 ** (i / half) for i in range(half)]
    z = (head[:half] + 1j * head[half:]) * np.exp(1j * np.array(angles))
    return np.concatenate([z.real, z.imag])


def key_value(bridge: Bridge, token: Values) -> tuple[Values, Values]:
    layer = bridge.blocks[0]
    up = linear(token, layer.adapter.up)
    adapted = token + linear(up * (1 + erf(up / math.sqrt(2))) / 2, layer.adapter.down)
    both = linear(normal(adapted, layer.video_norm), layer.to_kv)
    return both[: HEADS * WIDTH], both[HEADS * WIDTH :]


def added_to(bridge: Bridge, x: Values, tokens: Values, kept: Values | None = None) -> Values:
    """What video adds to one clip's latents [L, D]; tokens [its own frames, P, V], standardised.

    `kept` [its own frames, P] is False for those that are left out.
    """
    layer, rows = bridge.blocks[0], []
    for latent, vector in enumerate(x):
        query = linear(normal(vector, layer.norm), layer.to_q)
        heads = []
        for head in range(HEADS):
            part = slice(head * WIDTH, (head + 1) * WIDTH)
            q = turned(query[part], (latent + 0.5) / LATENT_RATE * ROPE_RATE)
            scores, values = [], []
            for frame, cells in enumerate(tokens):
                seconds = (frame + 0.5) / TOKEN_RATE + OFFSET
                for cell, token in enumerate(cells):
                    if kept is not None and not kept[frame, cell]:
                        continue
                    key, value = key_value(bridge, token)
                    scores.append(q @ turned(key[part], seconds * ROPE_RATE) / math.sqrt(WIDTH))
                    values.append(value[part])
            weights = np.exp(np.array(scores) - max(scores))
            heads.append(weights @ np.array(values) / weights.sum())
        rows.append(linear(np.concatenate(heads), layer.to_out))
    return np.array(rows)


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("frames", [FRAMES, (5, 5, 5)])
def test_a_layer_adds_what_its_formula_says(
    bridge: Bridge, frames: tuple[int, ...], cache: bool
) -> None:
    tokens = torch.randn(3, 5, CELLS, VIDEO) * 2 + 1
    seen = torch.tensor([True, True, False])
    x = torch.randn(6, PREFIX + LATENTS, DIM)  # as guidance doubles three clips
    batch = VideoBatch(tokens, torch.tensor(frames), seen, OFFSET)
    with bridge.conditioned_on(batch, LATENTS, cache):
        first, doubled = bridge.blocks[0](x[:3]), bridge.blocks[0](x)
    torch.testing.assert_close(first, doubled[:3])
    seen_as = standard(bridge, tokens)
    seen_as[2] = array(bridge.null)
    for clip, count in enumerate(frames):
        want = added_to(bridge, array(x[clip, PREFIX:]), seen_as[clip, :count])
        np.testing.assert_allclose(array(first[clip, PREFIX:]), want, atol=2e-4)
    nothing = linear(key_value(bridge, array(bridge.null))[1], bridge.blocks[0].to_out)
    for half in doubled[3:]:
        np.testing.assert_allclose(array(half[PREFIX:]), np.tile(nothing, (LATENTS, 1)), atol=2e-4)
    assert not doubled[:, :PREFIX].any()


def test_single_tokens_can_be_left_out_but_not_all_of_a_clip(bridge: Bridge) -> None:
    tokens, x = torch.randn(3, 5, CELLS, VIDEO), torch.randn(3, LATENTS, DIM)
    kept = torch.rand(3, 5, CELLS) > 0.4
    kept[1, : FRAMES[1]] = False  # what is left lies behind its last frame
    batch = VideoBatch(tokens, torch.tensor(FRAMES), offset=OFFSET, kept=kept)
    with bridge.conditioned_on(batch, LATENTS):
        found = bridge.blocks[0](x)
    seen_as = standard(bridge, tokens)
    for clip, count in enumerate(FRAMES):
        own = None if clip == 1 else kept[clip].numpy()
        want = added_to(bridge, array(x[clip]), seen_as[clip, :count], own)
        np.testing.assert_allclose(array(found[clip]), want, atol=2e-4)


def test_a_channel_that_never_varies_is_left_in_scale(bridge: Bridge) -> None:
    bridge.set_scale(torch.full((VIDEO,), 4.0), torch.arange(VIDEO).float())
    assert array(bridge.mean).tolist() == [4.0] * VIDEO
    assert 0 < float(bridge.std[0]) < 1e-5
    assert array(bridge.std)[1:].tolist() == list(range(1, VIDEO))


def test_learned_pooling_is_attention_of_its_queries_to_the_cells_of_one_frame() -> None:
    torch.manual_seed(1)
    pool, tokens = LearnedPool(VIDEO, 2), torch.randn(2, 3, 4, VIDEO)
    torch.nn.init.normal_(pool.queries)
    pooled = pool(tokens)
    for clip in range(2):
        for frame in range(3):
            cells = array(tokens[clip, frame])
            for n, query in enumerate(array(pool.queries)):
                weights = np.exp(cells @ query / math.sqrt(VIDEO))
                want = weights @ cells / weights.sum()
                np.testing.assert_allclose(array(pooled[clip, frame, n]), want, rtol=1e-4)


def test_a_peaked_start_has_queries_and_keys_that_differ_by_little_but_time() -> None:
    torch.manual_seed(2)
    settings = BridgeSettings(heads=HEADS, head_dim=WIDTH, adapter_width=10, rope_init="peaked")
    bridge = Bridge(DIM, 1, (1, VIDEO), settings, (LATENT_RATE, TOKEN_RATE))
    layer, rng, cosines = bridge.blocks[0], np.random.default_rng(0), []
    for _ in range(50):
        query = linear(normal(rng.normal(size=DIM), layer.norm), layer.to_q)
        key, value = key_value(bridge, rng.normal(size=VIDEO))
        cosines.append(query @ key / np.linalg.norm(query) / np.linalg.norm(key))
        assert abs(value.mean()) < 1.0  # values are not part of it
    assert 0.96 < np.mean(cosines) < 0.999


def test_a_second_thread_waits_until_the_first_has_left_the_video(bridge: Bridge) -> None:
    batch = VideoBatch(torch.randn(1, 5, CELLS, VIDEO))
    entered = threading.Event()

    def enter() -> None:
        with bridge.conditioned_on(batch, LATENTS):
            entered.set()

    other = threading.Thread(target=enter)
    with bridge.conditioned_on(batch, LATENTS):
        other.start()
        assert not entered.wait(0.3)
    other.join(10)
    assert entered.is_set()


def test_nothing_of_a_video_outlives_it(bridge: Bridge) -> None:
    one, two = (VideoBatch(torch.randn(1, 5, CELLS, VIDEO)) for _ in range(2))
    x = torch.randn(1, LATENTS, DIM)
    with bridge.conditioned_on(two, LATENTS):
        want = bridge.blocks[0](x)
    with bridge.conditioned_on(one, LATENTS, cache=True):
        assert not torch.allclose(bridge.blocks[0](x), want, atol=1e-3)
    with bridge.conditioned_on(two, LATENTS):
        torch.testing.assert_close(bridge.blocks[0](x), want)
    assert not bridge.blocks[0](x).any()
