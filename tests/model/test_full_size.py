"""The paper's models at full size: random checkpoints in the published key layouts, loaded as a person's are.

One model at a time, each deleted at once: the largest takes 2.5 GB of disk and 5 GB of memory.
"""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from model.architectures import bare_backbone, on_meta, parameters
from model.backbone import Backbone
from model.presets import Preset, load_preset
from model.scorers import AXES, AudioboxScorer, ImageBindScorer, ImageBindViews, build_audiobox, build_imagebind
from model.video import VideoEncoder, VJepa2Encoder
from model.weights import WeightsError

pytestmark = pytest.mark.slow
T5_BASE: dict[str, Any] = {
    "d_model": 768,
    "d_kv": 64,
    "d_ff": 3072,
    "num_layers": 12,
    "num_heads": 12,
    "vocab_size": 32128,
}
NOISE = torch.randn(2**20, generator=torch.Generator().manual_seed(0)).mul_(0.02).half()


@pytest.fixture
def paper(tmp_path: Path) -> Iterator[Preset]:
    """The paper preset with an empty folder of weights."""
    yield load_preset("paper", tmp_path)
    shutil.rmtree(tmp_path)
    gc.collect()


def random_weights(module: nn.Module) -> dict[str, Tensor]:
    """Half-precision noise in the keys and shapes of a module on the meta device."""

    def noise(shape: torch.Size) -> Tensor:
        count = shape.numel()
        return NOISE.repeat(-(-count // len(NOISE)))[:count].reshape(shape)

    return {key: noise(value.shape) for key, value in module.state_dict().items()}


def write(path: Path, weights: dict[str, Tensor], **beside: Any) -> None:
    """A published file, with JSON files beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".pth":
        torch.save(weights, path)
    else:
        save_file(weights, path, {"format": "pt"})
    for name, content in beside.items():
        (path.parent / f"{name}.json").write_text(json.dumps(content))


def write_t5(preset: Preset) -> None:
    """T5-base as published: encoder and decoder, and a tokenizer (bytes here, the vocabulary is not at hand)."""
    from transformers import ByT5Tokenizer, T5Config, T5ForConditionalGeneration

    config = T5Config(**T5_BASE)
    weights = random_weights(on_meta(lambda: T5ForConditionalGeneration(config)))
    for tied in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"):
        weights.pop(tied, None)
    assert any(key.startswith("decoder.") for key in weights)
    folder = preset.model("text")
    write(folder / "model.safetensors", weights)
    config.architectures = ["T5ForConditionalGeneration"]
    config.save_pretrained(folder)
    ByT5Tokenizer(extra_ids=0).save_pretrained(folder)


def write_backbone(preset: Preset, change: Callable[[dict[str, Tensor]], None] = lambda weights: None) -> None:
    """Stable Audio Open 1.0 as published: one file of VAE, conditioners and DiT, and its configuration."""
    weights = random_weights(on_meta(lambda: bare_backbone(preset)))
    change(weights)
    write(preset.model("backbone"), weights, model_config=preset.backbone_config)


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
        sum(p.numel() for p in module.parameters()) for module in (backbone.model.model, backbone.model.pretransform)
    )
    assert (millions(dit), millions(vae)) == pytest.approx((1056.8, 156.1), abs=0.1)
    text = backbone.encode_text(["a ball bounces"])
    assert text[0].shape == (15, 768)
    inputs = backbone.inputs(backbone.conditioning(text, [12.0]))
    with torch.inference_mode():
        velocity = backbone(torch.randn(1, 64, 259), torch.tensor([0.5]), **inputs)
    assert velocity.shape == (1, 64, 259)
    assert velocity.isfinite().all()
    mean, scale = backbone.encode_audio(torch.zeros(1, 2, 4096))
    assert mean.shape == scale.shape == (1, 64, 2)
    assert backbone.decode_audio(mean).shape == (1, 2, 4096)


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
    from transformers import VJEPA2Config, VJEPA2Model

    config = VJEPA2Config(architectures=["VJEPA2Model"])  # the defaults are those of vitl-fpc64-256
    meta = on_meta(lambda: VJEPA2Model(config))
    write(paper.model("video") / "model.safetensors", random_weights(meta), config=config.to_dict())
    encoder = VideoEncoder.from_pretrained(paper)
    assert millions(sum(p.numel() for p in encoder.model.encoder.parameters())) == pytest.approx(303.9, abs=0.5)
    assert encoder.encode(np.zeros((2, 256, 256, 3), np.uint8)).shape == (1, 1, 1024)
    frames = np.zeros((64, 256, 256, 3), np.uint8)
    for pooling, tokens in (("frame", 1), ("grid8", 64), ("grid16", 256)):
        video = paper.video.model_copy(update={"pooling": pooling})
        assert VJepa2Encoder(video, meta).encode(frames).shape == (32, tokens, 1024)


def test_imagebind_huge(paper: Preset) -> None:
    write(paper.model("imagebind"), random_weights(on_meta(lambda: build_imagebind(paper))))
    assert millions(parameters(paper, "imagebind")) == pytest.approx(1200.8, abs=0.5)
    scorer = ImageBindScorer.from_pretrained(paper, ImageBindViews(video_clips=1, audio_clips=1))
    frames = [np.zeros((2, 224, 300, 3), np.uint8)]
    scores = scorer.score(frames, [np.zeros(32000, np.float32)])
    assert len(scores) == 1
    assert -1 <= scores[0] <= 1


def test_audiobox_aesthetics(paper: Preset) -> None:
    path = paper.model("audiobox")
    weights = random_weights(build_audiobox(paper))
    weights |= {key: torch.zeros_like(value) for key, value in weights.items() if key.startswith("proj_layer")}
    target = {axis: {"mean": 5.0 + i, "std": 2.0} for i, axis in enumerate(AXES)}
    write(path, weights, config={"target_transform": target, "nth_layer": 13})
    assert millions(parameters(paper, "audiobox")) == pytest.approx(94.4, abs=1)
    scores = AudioboxScorer.from_pretrained(paper).score([np.zeros(16000, np.float32)])
    assert scores == [{"ce": 5.0, "cu": 6.0, "pc": 7.0, "pq": 8.0}]  # an output of zero is the mean of the axis
    (path.parent / "config.json").write_text("{}")
    with pytest.raises(WeightsError, match="target_transform"):
        AudioboxScorer.from_pretrained(paper)
