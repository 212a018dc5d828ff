"""Scores and features of files against upstream's own preparation and the same weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import VJEPA2Model
from transformers.models.vjepa2.video_processing_vjepa2 import VJEPA2VideoProcessor

from model.backbone import Backbone, bare_backbone
from model.networks.audiobox import Audiobox
from model.networks.imagebind import ImageBind
from model.presets.preset import CONFIGS, Preset, load_preset
from model.presets.settings import ImageBindViews
from model.weights.load import save_weights
from pipeline.features.audio_latents import AudioLatents
from pipeline.features.text_embeddings import TextEmbeddings
from pipeline.features.video_tokens import VideoTokens
from pipeline.media import Framing, decode_audio, probe, read_audio, read_frames, write_wav
from pipeline.procedural import write_media
from pipeline.scoring.audiobox import AudioboxScore
from pipeline.scoring.imagebind import ImageBindScore, read_clip
from pipeline.stages.stage import Clip, Passed, Stage
from tests.pipeline.scoring.upstream import aesthetics, frames_of, imagebind_inputs, read_samples

TOY = load_preset("toy")
RATE = 16000


def scene(seconds: float, fps: float, width: int, height: int) -> np.ndarray:
    """Pictures with edges that move, so that another frame or another crop is another picture."""
    t, y, x = np.ogrid[: round(seconds * fps), :height, :width]
    waves = [np.sin((x + 3 * t) / 9 + phase) * np.cos((y - 2 * t) / 7) for phase in (0.0, 2.0, 4.0)]
    return ((np.stack(waves, -1) + 1) * 120).astype(np.uint8)


def chirp(seconds: float, rate: int = RATE) -> np.ndarray:
    t = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(0).standard_normal(len(t)) * 0.02
    return (0.3 * np.sin(2 * np.pi * (200 + 300 * t) * t) + noise).astype(np.float32)


def two_chirps(seconds: float, rate: int) -> np.ndarray:
    """Two channels that differ, float32 [2, n]."""
    return np.stack([chirp(seconds, rate), chirp(seconds, rate)[::-1] * np.float32(0.5)]).astype(
        np.float32
    )


def clip_of(path: Path, **more: Any) -> Clip:
    """A clip as the stages get it: with the columns of the probe."""
    return {"clip_id": path.stem, "path": str(path), **vars(probe(path)), **more}


def columns(stage: Stage, clip: Clip) -> dict[str, Any]:
    stage.setup()
    (found,) = stage.process([clip])
    assert isinstance(found, Passed), found
    return dict(found.columns)


@pytest.fixture(scope="module")
def small_imagebind(tmp_path_factory: pytest.TempPathFactory) -> Preset:
    """A small ImageBind with random weights, and with the published one's windows and patches."""
    shapes = {
        "video_frames": 2,
        "kernel_size": [2, 14, 14],
        "audio_kernel_size": 16,
        "audio_stride": 10,
    }
    published = {
        "imagebind": TOY.imagebind | shapes | {"audio_target_len": 204},
        "imagebind_views": ImageBindViews(),
    }
    preset = TOY.model_copy(update=published | {"weights": tmp_path_factory.mktemp("imagebind")})
    torch.manual_seed(0)
    save_weights(preset.model("imagebind"), ImageBind.build(preset).body.state_dict())
    return preset


@pytest.mark.parametrize(
    ("seconds", "fps", "width", "height"),
    [
        (5.32, 25, 340, 256),
        (3.1, 30, 180, 240),
        (1.375, 16, 64, 64),
    ],  # wide; upright; small and shorter than a window
)
def test_imagebind_scores_a_file_as_upstream(
    small_imagebind: Preset, tmp_path: Path, seconds: float, fps: float, width: int, height: int
) -> None:
    video, sound = tmp_path / "a.mp4", tmp_path / "a.wav"
    write_media(video, scene(seconds, fps, width, height), chirp(seconds), fps, RATE)
    write_wav(sound, read_audio(video, RATE), RATE)
    clip = clip_of(video)
    theirs = imagebind_inputs(video, sound)
    network = ImageBind.from_pretrained(small_imagebind)
    times = network.window_times(clip["duration"], clip["fps"])
    frames, _ = read_clip(video, times, min(width, height), 224)
    torch.testing.assert_close(
        network.prepare_frames(frames), theirs["vision"][0], atol=1e-4, rtol=0
    )
    heard = network.prepare(read_samples(sound)[0][0].numpy())
    torch.testing.assert_close(heard, theirs["audio"][0], atol=1e-4, rtol=0)
    with torch.inference_mode():
        embedded = network.model(theirs)
    expected = F.cosine_similarity(embedded["vision"], embedded["audio"]).item()
    found = columns(ImageBindScore(small_imagebind), clip)
    assert found["imagebind"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("rate", [RATE, 44100])
def test_audiobox_scores_a_file_as_upstream(tmp_path: Path, rate: int) -> None:
    path = tmp_path / "a.wav"
    write_wav(path, two_chirps(12.5, rate), rate)  # two windows, two channels
    model = Audiobox.from_pretrained(TOY).model
    theirs = aesthetics(model, *read_samples(path))
    ours = columns(AudioboxScore(TOY), {"clip_id": "a", "path": str(path)})
    # to 16 kHz upstream resamples with torchaudio and we with soxr: they part in the last band
    # under 8 kHz
    apart = 1e-4 if rate == RATE else 0.05
    assert ours == pytest.approx({axis.lower(): score for axis, score in theirs.items()}, abs=apart)


def close_as_halves(found: bytes, expected: Tensor, shape: tuple[int, ...]) -> None:
    """Stored values are the expected ones up to their rounding to float16."""
    halves = torch.from_numpy(np.frombuffer(found, np.float16).reshape(shape).copy()).float()
    torch.testing.assert_close(halves, expected, atol=1e-4, rtol=2**-11)


def test_video_tokens_of_a_file_are_those_of_transformers_own_processor_and_model(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.mp4"
    write_media(
        path, scene(4.0, 16, 96, 64), chirp(4.0), 16, RATE
    )  # of the encoder's height: nothing is resized
    processor = VJEPA2VideoProcessor(crop_size=64, do_resize=False)
    pixels = processor(list(frames_of(str(path))), return_tensors="pt")["pixel_values_videos"]
    model = VJEPA2Model.from_pretrained(TOY.model("video"), dtype=torch.float32).eval()
    with torch.inference_mode():
        grid = model.get_vision_features(pixels)[0].unflatten(
            0, (32, 2, 2)
        )  # [32, 2, 2, 96]: kept if asked for
    for pooling, expected in (("frame", grid.mean((1, 2))[:, None]), ("grid2", grid.flatten(1, 2))):
        preset = TOY.model_copy(update={"video": TOY.video.model_copy(update={"pooling": pooling})})
        found = columns(VideoTokens(preset), clip_of(path))
        close_as_halves(found["video_tokens"], expected, tuple(expected.shape))
        np.testing.assert_allclose(
            np.frombuffer(found["video_times"], np.float32), (np.arange(32) + 0.5) / 8
        )


@pytest.mark.parametrize(("width", "height"), [(340, 256), (240, 320)])
def test_resized_pictures_are_those_of_transformers_own_processor_to_a_pixel(
    tmp_path: Path, width: int, height: int
) -> None:
    path = tmp_path / "a.mp4"
    write_media(path, scene(0.25, 16, width, height), None)
    theirs = VJEPA2VideoProcessor(do_normalize=False)(
        list(frames_of(str(path))), return_tensors="pt"
    )
    theirs = theirs["pixel_values_videos"][0].permute(0, 2, 3, 1)  # [4, 256, 256, 3]
    video = load_preset("paper").video
    ours = (
        torch.from_numpy(
            read_frames(path, np.arange(4) / 16, Framing(video.short_side, video.crop)).copy()
        )
        / 255
    )
    apart = (ours - theirs).abs().mean()
    for axis in (1, 2):  # the crop comes first here, at an even place, and then the scaling
        shifted = (theirs.roll(2, axis) - theirs).narrow(axis, 2, 254)
        assert apart < shifted.abs().mean()


@pytest.fixture(scope="module")
def stereo(tmp_path_factory: pytest.TempPathFactory) -> Preset:
    """The toy preset on a backbone of 44.1 kHz and two channels with random weights."""
    folder = tmp_path_factory.mktemp("stereo")
    config = json.loads((CONFIGS / "toy" / "backbone.json").read_text())
    config |= {"sample_rate": 44100, "audio_channels": 2}
    vae = config["model"]["pretransform"]["config"]
    vae["io_channels"] = vae["pretransform"]["config"]["channels"] = 2
    vae["encoder"]["config"]["in_channels"] = vae["decoder"]["config"]["out_channels"] = 32
    (folder / "backbone.json").write_text(json.dumps(config))
    (folder / "preset.toml").write_text(
        'base = "toy"\n[models.backbone]\npath = "stereo.safetensors"\n'
    )
    (folder / "stereo.safetensors").touch()
    preset = load_preset(str(folder))
    torch.manual_seed(0)
    save_weights(preset.model("backbone"), bare_backbone(preset).state_dict())
    return preset


@pytest.mark.parametrize(("channels", "rate"), [(1, 16000), (2, 44100)])
def test_latents_of_a_file_are_those_of_stable_audio_tools_own_encoder(
    stereo: Preset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: int, rate: int
) -> None:
    path = tmp_path / "a.wav"
    write_wav(path, two_chirps(13.0, rate)[:channels], rate)
    found = columns(AudioLatents(stereo), {"clip_id": "a", "path": str(path), "duration": 13.0})
    samples = soxr.resample(decode_audio(path, max_seconds=12.0).samples.T, rate, 44100).T
    sound = torch.from_numpy(samples.copy()).expand(2, -1)  # 12 s of two channels
    sound = F.pad(sound, (0, -sound.shape[-1] % 640))
    pretransform = Backbone.from_pretrained(stereo).model.pretransform
    with torch.inference_mode():  # its bottleneck gives mean + deviation x noise
        monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
        mean = pretransform.encode(sound[None])[0]
        monkeypatch.setattr(torch, "randn_like", torch.ones_like)
        scale = pretransform.encode(sound[None])[0] - mean
    assert mean.shape == (16, found["n_latents"])
    close_as_halves(found["latent_mean"], mean, tuple(mean.shape))
    close_as_halves(found["latent_scale"], scale, tuple(scale.shape))
    assert found["audio_seconds"] == 12.0
    times = np.frombuffer(found["latent_times"], np.float32)
    np.testing.assert_allclose(times, (np.arange(len(times)) + 0.5) * 640 / 44100, rtol=1e-6)


def test_text_tokens_are_those_of_stable_audio_tools_own_conditioner(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from stable_audio_tools.models.conditioners import T5Conditioner

    folder = str(TOY.model("text"))  # which the conditioner does not know
    monkeypatch.setattr(T5Conditioner, "T5_MODELS", [folder])
    monkeypatch.setattr(T5Conditioner, "T5_MODEL_DIMS", {folder: TOY.untrained["t5"]["d_model"]})
    prompts = ["glass struck by a hammer", "", "a ball that bounces on wood, then stops"]
    clips = [{"clip_id": str(i), "prompt": prompt} for i, prompt in enumerate(prompts)]
    stage = TextEmbeddings(TOY)
    stage.setup()
    conditioner: Any = T5Conditioner
    theirs = conditioner(TOY.text_width, folder, max_length=64)
    theirs.model.float()  # it loads half precision
    tokens, mask = theirs(prompts, "cpu")
    for outcome, row, kept in zip(stage.process(clips), tokens, mask, strict=True):
        assert isinstance(outcome, Passed)
        expected = row[kept]
        close_as_halves(outcome.columns["text_tokens"], expected, tuple(expected.shape))
