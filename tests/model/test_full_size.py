"""The paper's models at full size: random checkpoints in the published layouts, loaded as any.

One model at a time, each deleted at once: the largest takes 2.5 GB of disk and 5 GB of memory.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from model.backbone import Backbone, bare_backbone
from model.hub.check import on_meta, parameters
from model.networks.audiobox import Audiobox
from model.networks.imagebind import ImageBind
from model.presets.preset import Preset, load_preset
from model.video_encoder import VideoEncoder, VJepa2Encoder
from model.weights.load import WeightsError
from tests.model.hub.published import (
    write_audiobox,
    write_backbone,
    write_imagebind,
    write_t5,
    write_vjepa2,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def paper(tmp_path: Path) -> Iterator[Preset]:
    """The paper preset with an empty folder of weights."""
    yield load_preset("paper", tmp_path)
    shutil.rmtree(tmp_path)
    gc.collect()


def millions(count: int) -> float:
    return count / 1e6


def test_stable_audio_open_and_t5_base(paper: Preset) -> None:
    write_t5(paper)
    write_backbone(paper)
    keys = set(on_meta(lambda: bare_backbone(paper)).state_dict())
    assert {  # as ComfyUI and diffusers find them in the published file
        "model.model.transformer.rotary_pos_emb.inv_freq",
        "model.model.preprocess_conv.weight",
        "model.model.transformer.layers.23.cross_attn.to_kv.weight",
        "pretransform.model.decoder.layers.1.layers.1.weight_g",
        "conditioner.conditioners.seconds_total.embedder.embedding.0.weights",
    } <= keys
    assert millions(parameters(paper, "text")) == pytest.approx(109.6, abs=0.1)
    backbone = Backbone.from_pretrained(paper)
    dit, vae = (
        sum(p.numel() for p in module.parameters())
        for module in (backbone.model.model, backbone.model.pretransform)
    )
    assert (millions(dit), millions(vae)) == pytest.approx((1056.8, 156.1), abs=0.1)
    text = backbone.encode_text(["a ball bounces"])
    assert text[0].shape == (15, 768)
    inputs = backbone.inputs(backbone.conditioning(text, [12.0]))
    with torch.inference_mode():
        velocity = backbone(torch.randn(1, 64, 16), torch.tensor([0.5]), **inputs)
    assert velocity.shape == (1, 64, 16)
    assert velocity.isfinite().all()
    mean, scale = backbone.codec.encode(torch.zeros(1, 2, 4096))
    assert mean.shape == scale.shape == (1, 64, 2)
    assert backbone.codec.decode(mean).shape == (1, 2, 4096)


def test_a_wrong_key_of_stable_audio_open_is_named(paper: Preset) -> None:
    def change(weights: dict[str, Tensor]) -> None:
        del weights["model.model.transformer.layers.7.ff.ff.2.bias"]
        weights["pretransform.model.extra"] = torch.zeros(1)
        weights["model.model.to_timestep_embed.0.weight"] = torch.zeros(3, 5)

    write_backbone(paper, change)
    with pytest.raises(WeightsError) as caught:
        parameters(paper, "backbone")
    for words in (
        "missing model.model.transformer.layers.7.ff.ff.2.bias",
        "unexpected pretransform.model.extra",
        "model.model.to_timestep_embed.0.weight has shape (3, 5), the model wants (1536, 256)",
    ):
        assert words in str(caught.value)


def test_vjepa2_large(paper: Preset) -> None:
    meta = write_vjepa2(paper)
    encoder = VideoEncoder.from_pretrained(paper)
    assert millions(sum(p.numel() for p in encoder.model.encoder.parameters())) == pytest.approx(
        303.9, abs=0.5
    )
    assert encoder.encode(np.zeros((2, 256, 256, 3), np.uint8)).shape == (1, 1, 1024)
    frames = np.zeros((64, 256, 256, 3), np.uint8)
    for pooling, tokens in (("frame", 1), ("grid8", 64), ("grid16", 256)):
        video = paper.video.model_copy(update={"pooling": pooling})
        assert VJepa2Encoder(video, meta).encode(frames).shape == (32, tokens, 1024)


def test_imagebind_huge(paper: Preset) -> None:
    write_imagebind(paper)
    assert millions(parameters(paper, "imagebind")) == pytest.approx(1200.8, abs=0.5)
    views = replace(paper.imagebind_views, crops=1, audio_clips=1)  # a third of the arithmetic
    network = ImageBind.from_pretrained(paper.model_copy(update={"imagebind_views": views}))
    frames = network.prepare_frames(np.zeros((2, 224, 300, 3), np.uint8))
    (cosine,) = network.compare([(frames, network.prepare(np.zeros(32000, np.float32)))])
    assert -1 <= cosine <= 1


def test_audiobox_aesthetics(paper: Preset) -> None:
    path = paper.model("audiobox")
    write_audiobox(paper)
    assert millions(parameters(paper, "audiobox")) == pytest.approx(94.4, abs=1)
    scores = Audiobox.from_pretrained(paper).score([np.zeros(16000, np.float32)])
    assert scores == [
        {"ce": 5.0, "cu": 6.0, "pc": 7.0, "pq": 8.0}
    ]  # an output of zero is the mean of the axis
    (path.parent / "config.json").write_text("{}")
    with pytest.raises(WeightsError, match="target_transform"):
        Audiobox.from_pretrained(paper)
