"""Encoders and scorers against upstream's own classes on the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from audiobox_aesthetics.infer import AesPredictor
from torch import Tensor
from transformers import (
    AutoTokenizer,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
    T5EncoderModel,
    VJEPA2Config,
    VJEPA2Model,
)

from model.backbone import Backbone
from model.networks.audiobox import Audiobox
from model.networks.imagebind import ImageBind
from model.presets.networks import ModelFiles
from model.presets.preset import ModelError, Preset, load_preset
from model.video_encoder import VideoEncoder, frame_times, pool

RNG = np.random.default_rng(0)


def random_frames(count: int, size: int = 64) -> np.ndarray:
    return RNG.integers(0, 256, (count, size, size, 3), np.uint8)


def test_video_tokens_are_the_mean_of_transformers_own_features(preset: Preset) -> None:
    frames = random_frames(64)
    model = VJEPA2Model.from_pretrained(preset.model("video"), dtype=torch.float32).eval()
    pixels = torch.from_numpy(frames).float() / 255
    pixels = (pixels - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        features = model.get_vision_features(pixels.permute(0, 3, 1, 2)[None])  # [1, 128, 96]
    ours = VideoEncoder.from_pretrained(preset).encode(frames)
    assert ours.shape == (32, 1, preset.video.width)
    torch.testing.assert_close(
        ours[:, 0], features[0].view(32, 4, -1).mean(1), atol=1e-5, rtol=1e-4
    )


def test_an_image_encoder_sees_each_frame_alone(preset: Preset, tmp_path: Path) -> None:
    size: dict[str, Any] = {
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
    }
    torch.manual_seed(0)
    model = DINOv3ViTModel(DINOv3ViTConfig(**size, num_register_tokens=4)).eval()
    model.save_pretrained(tmp_path)
    video = preset.video.model_copy(update={"encoder": "dinov3", "width": 48, "pooling": "grid2"})
    models = preset.models | {"video": ModelFiles(path=str(tmp_path))}
    encoder = VideoEncoder.from_pretrained(
        preset.model_copy(update={"video": video, "models": models})
    )
    frames = random_frames(17)
    found = encoder.encode(frames)
    assert found.shape == (17, 4, 48)
    torch.testing.assert_close(found[5:6], encoder.encode(frames[5:6]), atol=1e-5, rtol=1e-4)
    pixels = (
        torch.from_numpy(frames[:1]).float() / 255 - torch.tensor([0.485, 0.456, 0.406])
    ) / torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        patches = model(pixels.permute(0, 3, 1, 2)).last_hidden_state[
            :, 5:
        ]  # after class and 4 registers: [1, 16, 48]
    torch.testing.assert_close(
        found[0, 1], patches[0].view(4, 4, 48)[:2, 2:].mean((0, 1)), atol=1e-5, rtol=1e-4
    )
    with pytest.raises(ModelError, match="width 48"):
        type(encoder)(preset.video, encoder.model)


class SiglipEncoder(VideoEncoder):
    """An encoder of one's own, which a preset names as module:Class."""

    architecture = "SiglipVisionModel"
    frames_per_token = 1

    def tokens(self, pixels: Tensor) -> Tensor:
        return self.model(pixels).last_hidden_state


@pytest.fixture
def siglip(preset: Preset, tmp_path: Path) -> Preset:
    """A tiny SigLIP as published: its processor standardises by other constants than ImageNet's."""
    torch.manual_seed(0)
    config: Any = SiglipVisionConfig(
        hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=3,
        image_size=64, patch_size=16,
    )  # fmt: skip
    SiglipVisionModel(config).save_pretrained(tmp_path)
    SiglipImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path)
    changes = {"encoder": f"{__name__}:SiglipEncoder", "width": 48, "fps": 8}
    models = preset.models | {"video": ModelFiles(path=str(tmp_path))}
    video = preset.video.model_copy(update=changes)
    return preset.model_copy(update={"video": video, "models": models})


def test_pixels_are_standardised_as_the_encoders_own_processor_does(siglip: Preset) -> None:
    frames, folder = random_frames(4), siglip.model("video")
    encoder = VideoEncoder.from_pretrained(siglip)
    pixels = SiglipImageProcessor.from_pretrained(folder)(list(frames), return_tensors="pt")
    with torch.no_grad():
        theirs = encoder.model(**pixels).last_hidden_state.mean(1)
    torch.testing.assert_close(encoder.encode(frames)[:, 0], theirs, atol=1e-4, rtol=1e-3)
    assert encoder.mean == (0.5, 0.5, 0.5)
    assert siglip.video.token_rate == 8.0  # a token a frame; of V-JEPA2 it would be 4
    revision = VideoEncoder.revision(siglip)
    assert revision.endswith(":SiglipEncoder")
    (folder / "preprocessor_config.json").unlink()
    assert VideoEncoder.revision(siglip) != revision


@pytest.mark.parametrize(
    "published", ["{", "{}", '{"image_mean": [0.5], "image_std": [0.5]}', "[]", "scaled"]
)
def test_a_processor_that_does_not_say_how_is_refused(siglip: Preset, published: str) -> None:
    file = siglip.model("video") / "preprocessor_config.json"
    if published == "scaled":
        published = file.read_text().replace("0.00392156862745098", "1.0")
    file.write_text(published)
    with pytest.raises(ModelError, match="must say image_mean and image_std of pixels in 0"):
        VideoEncoder.from_pretrained(siglip)


def test_an_encoder_whose_tokens_are_of_another_length_is_refused(preset: Preset) -> None:
    sizes: dict[str, Any] = preset.untrained["vjepa2"] | {"tubelet_size": 4}
    config: Any = VJEPA2Config(**sizes)
    with pytest.raises(ModelError, match="tubelets are of 4 frames, not 2"):
        preset.video.family(preset.video, VJEPA2Model(config))


def test_an_unknown_encoder_is_refused_before_anything_is_loaded(
    preset: Preset, tmp_path: Path
) -> None:
    for name, message in (
        ("siglip", "no encoder 'siglip': choose one of vjepa2, dinov3"),
        ("no_such:Encoder", "No module named .no_such"),
    ):
        (tmp_path / "preset.toml").write_text(f'base = "toy"\n[video]\nencoder = "{name}"\n')
        with pytest.raises(ModelError, match=message):
            VideoEncoder.from_pretrained(load_preset(str(tmp_path)))


def test_a_short_last_segment_is_seen_with_the_frames_before_it(preset: Preset) -> None:
    """Two segments and ten frames, of which upstream's model gets three times 64; and ten alone."""
    model = VJEPA2Model.from_pretrained(preset.model("video"), dtype=torch.float32).eval()
    encoder, frames = VideoEncoder.from_pretrained(preset), random_frames(64 + 64 + 10)
    pixels = torch.from_numpy(frames).float() / 255
    pixels = (pixels - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])

    def theirs(first: int, end: int) -> Tensor:
        with torch.no_grad():
            tokens = model.get_vision_features(pixels[first:end].permute(0, 3, 1, 2)[None])[0]
        return tokens.view((end - first) // 2, 4, -1).mean(1)

    whole = torch.cat([theirs(0, 64), theirs(64, 128), theirs(74, 138)[-5:]])
    torch.testing.assert_close(encoder.encode(frames)[:, 0], whole, atol=1e-5, rtol=1e-4)
    short = encoder.encode(frames[:10])[:, 0]
    torch.testing.assert_close(short, theirs(0, 10), atol=1e-5, rtol=1e-4)


def test_wrong_frames_and_wrong_crop_are_refused(preset: Preset) -> None:
    encoder = VideoEncoder.from_pretrained(preset)
    for frames in (random_frames(63), random_frames(64, 32)):
        with pytest.raises(ModelError, match="frames must be"):
            encoder.encode(frames)
    with pytest.raises(ModelError, match="wrong positions"):
        type(encoder)(preset.video.model_copy(update={"crop": 96}), encoder.model)


@pytest.mark.parametrize("seconds", [0.01, 0.5, 3.99, 4.0, 12.0])
def test_frame_times_cover_the_clip_in_pairs(seconds: float) -> None:
    times = frame_times(seconds, 16)
    assert len(times) % 2 == 0
    assert times[-1] < seconds + 2 / 16
    assert len(times) / 16 >= seconds - 1e-9


def test_pooling_keeps_the_grids_means() -> None:
    tokens = torch.randn(3, 16, 16, 5)
    torch.testing.assert_close(pool(tokens, 1)[:, 0], tokens.mean((1, 2)))
    torch.testing.assert_close(pool(tokens, 64)[:, 1], tokens[:, 0:2, 2:4].mean((1, 2)))
    torch.testing.assert_close(pool(tokens, 256), tokens.flatten(1, 2))
    with pytest.raises(ModelError, match="grid of 16 x 16"):
        pool(tokens[:, :4, :4], 256)


def test_text_tokens_are_transformers_own(backbone: Backbone, preset: Preset) -> None:
    folder, prompt = preset.weights / "t5", "glass struck by a hammer"
    tokens = AutoTokenizer.from_pretrained(folder)(prompt, return_tensors="pt")
    with torch.no_grad():
        theirs = T5EncoderModel.from_pretrained(folder).float()(**tokens).last_hidden_state[0]
    ours = backbone.encode_text([prompt, "a longer prompt that pads the first one"])[0]
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)


def test_latents_are_the_posterior_that_the_librarys_bottleneck_samples(backbone: Backbone) -> None:
    audio = torch.from_numpy(RNG.standard_normal((2, 1, 6400), np.float32)) * 0.1
    mean, scale = backbone.codec.encode(audio)
    torch.manual_seed(0)
    noise = torch.randn_like(mean)
    torch.manual_seed(0)
    theirs = backbone.model.pretransform.encode(audio)
    torch.testing.assert_close(mean + scale * noise, theirs, atol=1e-5, rtol=1e-5)


def test_audio_that_is_no_multiple_of_a_latent_is_padded(
    backbone: Backbone, preset: Preset
) -> None:
    mean, _ = backbone.codec.encode(torch.zeros(1, 1, 2 * preset.downsampling_ratio + 1))
    assert mean.shape[-1] == 3
    assert backbone.codec.decode(mean).shape[-1] == 3 * preset.downsampling_ratio


def test_audiobox_scores_are_upstreams(preset: Preset) -> None:
    scorer = Audiobox.from_pretrained(preset)
    upstream: Any = object.__new__(AesPredictor)  # its constructor would download weights
    upstream.model, upstream.device, upstream.data_col, upstream.sample_rate = (
        scorer.model,
        "cpu",
        "path",
        16000,
    )
    from audiobox_aesthetics.model.aes import Normalize

    upstream.target_transform = {
        a: Normalize(**v) for a, v in scorer.model.target_transform.items()
    }
    clips = [RNG.standard_normal(n).astype(np.float32) * 0.1 for n in (16000, 64000, 200_000)]
    theirs = upstream.forward(
        [{"path": torch.from_numpy(clip)[None], "sample_rate": 16000} for clip in clips]
    )
    for ours, row in zip(scorer.score(clips), theirs, strict=True):
        assert ours == pytest.approx({axis.lower(): value for axis, value in row.items()}, abs=1e-4)


def test_imagebind_tells_clips_apart_and_not_batches(preset: Preset) -> None:
    network = ImageBind.from_pretrained(preset)
    count = len(network.window_times(4.0))
    shapes = ((count, 224, 300, 3), (count, 398, 224, 3))
    frames = [RNG.integers(0, 256, shape, np.uint8) for shape in shapes]
    audio = [RNG.standard_normal(n).astype(np.float32) for n in (64000, 20000)]
    clips = [
        (network.prepare_frames(f), network.prepare(a)) for f, a in zip(frames, audio, strict=True)
    ]
    both = network.compare(clips)
    assert all(-1 <= cosine <= 1 for cosine in both)
    assert both == pytest.approx([network.compare([clip])[0] for clip in clips], abs=1e-4)


def test_imagebind_crops_are_start_centre_and_end(preset: Preset) -> None:
    network = ImageBind(preset.imagebind)
    frames = np.zeros((2, 224, 300, 3), np.uint8)
    frames[:, :, :224] = 100
    left, centre, right = network.prepare_frames(frames)  # each [3, 2, 224, 224]
    assert left.unique().numel() == 3  # one value a colour channel
    assert centre[:, :, :, 0].unique().numel() == 3
    assert centre[0, 0, 0, -1] != centre[0, 0, 0, 0]
    assert (right[0, 0, 0] == right[0, 0, 0, 0]).sum() == 224 - 76
