"""The evaluation networks take the published checkpoints.

Key layouts, sizes, strictness, and what comes out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model.hub.check import count
from model.networks.base import EvaluationNetwork
from model.networks.motionformer import DividedAttention
from model.networks.panns import Cnn14
from model.networks.passt import Passt
from model.networks.synchformer import Synchformer
from model.networks.vggish import VGGish
from model.presets.preset import Preset, load_preset
from model.weights.load import WeightsError, save_weights

TOY = load_preset("toy")
Layout = dict[str, tuple[int, ...]]


def linear(name: str, inner: int, outer: int) -> Layout:
    return {f"{name}.weight": (outer, inner), f"{name}.bias": (outer,)}


def norm(name: str, width: int) -> Layout:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def cnn14_layout(channels: list[int], features: int, classes: int) -> Layout:
    """Keys of Cnn14_16k_mAP=0.438.pth."""

    def batch_norm(name: str, width: int) -> Layout:
        return norm(name, width) | {
            f"{name}.running_mean": (width,), f"{name}.running_var": (width,),
            f"{name}.num_batches_tracked": (),
        }  # fmt: skip

    layout: Layout = {
        "spectrogram_extractor.stft.conv_real.weight": (257, 1, 512),
        "spectrogram_extractor.stft.conv_imag.weight": (257, 1, 512),
        "logmel_extractor.melW": (257, 64),
    } | batch_norm("bn0", 64)
    for i, (inner, outer) in enumerate(zip([1, *channels[:-1]], channels, strict=True), 1):
        block = f"conv_block{i}"
        layout |= {
            f"{block}.conv1.weight": (outer, inner, 3, 3),
            f"{block}.conv2.weight": (outer, outer, 3, 3),
        }
        layout |= batch_norm(f"{block}.bn1", outer) | batch_norm(f"{block}.bn2", outer)
    return layout | linear("fc1", channels[-1], features) | linear("fc_audioset", features, classes)


def passt_layout(width: int, depth: int, frames: int, classes: int) -> Layout:
    """Keys of passt-s-f128-p16-s10-ap.476-swa.pt."""
    layout: Layout = {
        "cls_token": (1, 1, width), "dist_token": (1, 1, width), "new_pos_embed": (1, 2, width),
        "freq_new_pos_embed": (1, width, 12, 1), "time_new_pos_embed": (1, width, 1, frames // 10),
        "patch_embed.proj.weight": (width, 1, 16, 16), "patch_embed.proj.bias": (width,),
    }  # fmt: skip
    for i in range(depth):
        b = f"blocks.{i}"
        layout |= norm(f"{b}.norm1", width) | norm(f"{b}.norm2", width)
        layout |= linear(f"{b}.attn.qkv", width, 3 * width) | linear(f"{b}.attn.proj", width, width)
        layout |= linear(f"{b}.mlp.fc1", width, 4 * width) | linear(
            f"{b}.mlp.fc2", 4 * width, width
        )
    layout |= norm("norm", width) | norm("head.0", width)
    return layout | linear("head.1", width, classes) | linear("head_dist", width, classes)


def vggish_layout(channels: list[int], hidden: int, features: int) -> Layout:
    """Keys of vggish-10086976.pth."""
    a, b, c, d = channels
    layout: Layout = {}
    for i, (inner, outer) in {
        0: (1, a),
        3: (a, b),
        6: (b, c),
        8: (c, c),
        11: (c, d),
        13: (d, d),
    }.items():
        layout |= {f"features.{i}.weight": (outer, inner, 3, 3), f"features.{i}.bias": (outer,)}
    flat = linear("embeddings.0", d * 24, hidden) | linear("embeddings.2", hidden, hidden)
    return layout | flat | linear("embeddings.4", hidden, features)


def pooling_layout(name: str, width: int) -> Layout:
    return {
        f"{name}.cls_token": (1, 1, width),
        f"{name}.self_attn.in_proj_weight": (3 * width, width),
        f"{name}.self_attn.in_proj_bias": (3 * width,),
        **linear(f"{name}.self_attn.out_proj", width, width),
        **linear(f"{name}.linear1", width, 4 * width),
        **linear(f"{name}.linear2", 4 * width, width),
        **norm(f"{name}.norm1", width),
        **norm(f"{name}.norm2", width),
    }


def synchformer_layout(width: int, depth: int, size: int, segments: int, sync_depth: int) -> Layout:
    """Keys of synchformer_state_dict.pth."""
    v, a = "vfeat_extractor", "afeat_extractor"
    layout: Layout = {
        f"{v}.cls_token": (1, 1, width), f"{v}.pos_embed": (1, 1 + (size // 16) ** 2, width),
        f"{v}.temp_embed": (1, 8, width),
        f"{v}.patch_embed.proj.weight": (width, 3, 16, 16), f"{v}.patch_embed.proj.bias": (width,),
        f"{v}.patch_embed_3d.proj.weight": (width, 3, 2, 16, 16),
        f"{v}.patch_embed_3d.proj.bias": (width,), f"{a}.ast.embeddings.cls_token": (1, 1, width),
        f"{a}.ast.embeddings.distillation_token": (1, 1, width),
        f"{a}.ast.embeddings.position_embeddings": (1, 74, width),
        f"{a}.ast.embeddings.patch_embeddings.projection.weight": (width, 1, 16, 16),
        f"{a}.ast.embeddings.patch_embeddings.projection.bias": (width,),
    }  # fmt: skip
    for i in range(depth):
        b = f"{v}.blocks.{i}"
        for attention in ("attn", "timeattn"):
            layout |= linear(f"{b}.{attention}.qkv", width, 3 * width) | linear(
                f"{b}.{attention}.proj", width, width
            )
        layout |= linear(f"{b}.mlp.fc1", width, 4 * width) | linear(
            f"{b}.mlp.fc2", 4 * width, width
        )
        layout |= norm(f"{b}.norm1", width) | norm(f"{b}.norm2", width) | norm(f"{b}.norm3", width)
        b = f"{a}.ast.encoder.layer.{i}"
        for part in ("query", "key", "value"):
            layout |= linear(f"{b}.attention.attention.{part}", width, width)
        layout |= linear(f"{b}.attention.output.dense", width, width)
        layout |= linear(f"{b}.intermediate.dense", width, 4 * width) | linear(
            f"{b}.output.dense", 4 * width, width
        )
        layout |= norm(f"{b}.layernorm_before", width) | norm(f"{b}.layernorm_after", width)
    layout |= norm(f"{v}.norm", width) | norm(f"{a}.ast.layernorm", width)
    layout |= pooling_layout(f"{v}.spatial_attn_agg", width) | pooling_layout(
        f"{a}.freq_attn_agg", width
    )
    layout |= linear("vproj", width, width) | linear("aproj", width, width)
    t = "transformer"
    layout |= {f"{t}.OFF_tok": (1, 1, width), f"{t}.MOD_tok": (1, 1, width)}
    layout |= {f"{t}.pos_emb_cfg.pos_emb": (1, 2 + 14 * segments, width)}
    for i in range(sync_depth):
        b = f"{t}.blocks.{i}"
        for part in ("key", "query", "value", "proj"):
            layout |= linear(f"{b}.attn.{part}", width, width)
        layout |= linear(f"{b}.mlp.0", width, 4 * width) | linear(f"{b}.mlp.2", 4 * width, width)
        layout |= norm(f"{b}.ln1", width) | norm(f"{b}.ln2", width)
    for name in ("vis_in_lnorm", "aud_in_lnorm", "ln_f"):
        layout |= norm(f"{t}.{name}", width)
    return layout | linear(f"{t}.off_head", width, 21)


PUBLISHED: dict[type[EvaluationNetwork], tuple[Layout, int]] = {
    # parameters as published networks have them, those of Cnn14's fixed spectrogram (279,616)
    # included
    Cnn14: (cnn14_layout([64, 128, 256, 512, 1024, 2048], 2048, 527), 80_753_615 + 279_616),
    Passt: (passt_layout(768, 12, 998, 527), 86_153_758),
    VGGish: (vggish_layout([64, 128, 256, 512], 4096, 128), 72_141_184),
    Synchformer: (synchformer_layout(768, 12, 224, 14, 3), 237_460_245),
}
SMALL: dict[type[EvaluationNetwork], Layout] = {
    Cnn14: cnn14_layout([8, 16, 32, 48, 64, 96], 64, 4),
    Passt: passt_layout(48, 2, 400, 4),
    VGGish: vggish_layout([8, 16, 24, 32], 64, 32),
    Synchformer: synchformer_layout(64, 2, 64, 11, 2),
}
KINDS = pytest.mark.parametrize("kind", list(PUBLISHED), ids=lambda kind: kind.__name__)


def random_checkpoint(layout: Layout) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = {key: torch.randn(shape, generator=generator) * 0.1 for key, shape in layout.items()}
    made |= {k: v.abs() + 0.5 for k, v in made.items() if k.endswith("running_var")}
    return made | {k: torch.tensor(7) for k in made if k.endswith("num_batches_tracked")}


@KINDS
def test_the_published_layout_is_ours(kind: type[EvaluationNetwork]) -> None:
    layout, parameters = PUBLISHED[kind]
    with torch.device("meta"):
        weights = {key: torch.empty(shape) for key, shape in layout.items()}
    network = kind()
    own = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    assert {key: tuple(value.shape) for key, value in kind.published(weights).items()} == own
    assert count(network) == parameters


@KINDS
@pytest.mark.parametrize("wrapped", [None, "model", "state_dict"])
def test_a_random_checkpoint_in_the_published_layout_loads_strictly(
    kind: type[EvaluationNetwork], wrapped: str | None, tmp_path: Path
) -> None:
    checkpoint = random_checkpoint(SMALL[kind])
    # training states published beside the weights hold NumPy arrays
    content: Any = (
        checkpoint
        if wrapped is None
        else {wrapped: checkpoint, "sampler": {"indexes": np.arange(5), "at": 3}}
    )
    (tmp_path / "preset.toml").write_text(
        f'base = "toy"\n[models.{kind.name}]\npath = "weights.pth"\n'
    )
    torch.save(content, tmp_path / "weights.pth")
    preset = load_preset(str(tmp_path))
    network = kind.from_pretrained(preset)
    for key, value in kind.published(checkpoint).items():
        torch.testing.assert_close(network.state_dict()[key].cpu(), value, msg=key)
    assert len(kind.revision(preset)) == 16


@KINDS
def test_a_key_too_few_is_named(kind: type[EvaluationNetwork], tmp_path: Path) -> None:
    checkpoint = random_checkpoint(SMALL[kind])
    gone = min(checkpoint)
    del checkpoint[gone]
    save_weights(tmp_path / f"{kind.name}.safetensors", checkpoint)
    with pytest.raises(WeightsError, match="missing"):
        kind.from_pretrained(load_preset("toy", tmp_path))
    nowhere = load_preset("toy", tmp_path / "nowhere")
    for asked in (kind.from_pretrained, kind.revision):
        with pytest.raises(
            WeightsError,
            match=f"no weights at .*{kind.name}.safetensors: foley models fetch brings",
        ):
            asked(nowhere)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    (tmp_path / "preset.toml").write_text('base = "toy"\n[models.panns]\npath = "weights.pth"\n')
    torch.save({"model": Evil()}, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match="cannot read weights"):
        Cnn14.from_pretrained(load_preset(str(tmp_path)))
    assert not (tmp_path / "ran").exists()


def small(kind: type[EvaluationNetwork]) -> EvaluationNetwork:
    network = kind(**TOY.evaluation[kind.name])
    network.load_state_dict(kind.published(random_checkpoint(SMALL[kind])))
    return network.eval().requires_grad_(False)


@KINDS
def test_what_is_heard_of_a_sound_does_not_depend_on_its_batch(
    kind: type[EvaluationNetwork],
) -> None:
    network = small(kind)
    rng = np.random.default_rng(0)
    seconds = (4.0, 1.3, 4.0, 0.0)  # the last: an empty sound is silence, and no crash
    sounds = [
        rng.standard_normal(round(s * network.sample_rate)).astype(np.float32) * 0.1
        for s in seconds
    ]
    together = network.hear(sounds)
    for sound, found in zip(sounds, together, strict=True):
        alone = network.hear([sound])[0]
        np.testing.assert_allclose(found.features, alone.features, atol=1e-4)
        assert np.isfinite(found.features).all()
        if found.logits is not None:
            assert alone.logits is not None
            np.testing.assert_allclose(found.logits, alone.logits, atol=1e-4)


def test_features_are_of_the_kinds_that_the_metrics_take() -> None:
    sound = np.random.default_rng(0).standard_normal(64000).astype(np.float32)
    panns = small(Cnn14).hear([sound])[0]
    assert panns.features.shape == (1, 64)
    assert (panns.features >= 0).all()  # after its ReLU
    vggish = small(VGGish).hear([sound])[0]
    assert vggish.features.shape == (4, 32)
    assert (vggish.features < 0).any()  # before the ReLU that the published module ends with
    assert vggish.logits is None


def test_divided_attention_is_attention_within_a_time_or_a_place_and_the_class_token() -> None:
    torch.manual_seed(0)
    attention, times, places, width = DividedAttention(16, 2), 3, 4, 16
    x = torch.randn(1, 1 + times * places, width)
    q, k, v = attention.qkv(x)[0].chunk(3, -1)

    def attend(query: int, others: list[int]) -> Tensor:
        heads: list[Tensor] = []
        for h in range(2):
            part = slice(8 * h, 8 * h + 8)
            weight = (k[others, part] @ q[query, part] / 8**0.5).softmax(0)
            heads.append(weight @ v[others, part])
        return torch.cat(heads)

    for over_time in (True, False):
        expected = [attend(0, list(range(1 + times * places)))]
        for t in range(times):
            for p in range(places):
                mates = (
                    [1 + u * places + p for u in range(times)]
                    if over_time
                    else [1 + t * places + o for o in range(places)]
                )
                expected.append(attend(1 + t * places + p, [0, *mates]))
        found = attention(x, times, over_time=over_time)[0]
        torch.testing.assert_close(
            found, attention.proj(torch.stack(expected)), atol=1e-5, rtol=1e-4
        )


def test_synchformer_compares_the_first_and_the_last_window() -> None:
    network = small(Synchformer)
    assert isinstance(network, Synchformer)
    rng = np.random.default_rng(0)
    video = network.watch([rng.integers(0, 256, (132, 64, 64, 3), np.uint8)])[
        0
    ].features  # 15 segments
    audio = network.hear([rng.standard_normal(10240 + 14 * 5120).astype(np.float32)])[0].features
    assert video.shape == (15 * 8, 64)
    assert audio.shape == (15 * 6, 64)
    both = network.offset_logits(video[None], audio[None])
    assert both.shape == (1, 2, 21)
    with torch.inference_mode():
        v, a = torch.from_numpy(video)[None], torch.from_numpy(audio)[None]
        np.testing.assert_allclose(
            both[0, 0], network.compare(v[:, : 11 * 8], a[:, : 11 * 6])[0], atol=1e-5
        )
        np.testing.assert_allclose(
            both[0, 1], network.compare(v[:, 4 * 8 :], a[:, 4 * 6 :])[0], atol=1e-5
        )
    with pytest.raises(ValueError, match="11 segments are needed"):
        network.offset_logits(video[None, : 10 * 8], audio[None])


def test_modules_that_only_the_published_file_needs_take_part_in_nothing() -> None:
    network = small(Synchformer)
    assert isinstance(network, Synchformer)
    frames = np.random.default_rng(0).integers(0, 256, (96, 64, 64, 3), np.uint8)
    before = network.watch([frames])[0].features
    nn.init.zeros_(next(network.vfeat_extractor.patch_embed.parameters()))
    np.testing.assert_array_equal(network.watch([frames])[0].features, before)


def test_preset_names_are_those_of_the_networks() -> None:
    for preset in (TOY, load_preset("paper")):
        assert set(preset.evaluation) <= {kind.name for kind in PUBLISHED} | {"imagebind"}
        assert isinstance(preset, Preset)
