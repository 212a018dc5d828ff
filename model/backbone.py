"""The frozen text-to-audio backbone, of stable-audio-tools: VAE, conditioners and DiT.

Shapes: B clips, C latent channels, L latent frames, N text tokens of width D, S audio samples.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.presets.preset import ModelError, Preset
from model.weights.lean_imports import import_stable_audio_tools
from model.weights.load import files_revision, load_strict, load_transformers, read_weights

Conditioning = dict[str, tuple[Tensor, Tensor]]  # id -> (tokens [B, N, D], mask [B, N])


def _prepare_text_conditioner(config: dict[str, Any], folder: Path) -> None:
    """Let the T5 conditioner take a local folder, by adding it to the table of names that it takes.

    The conditioner would load what fits and leave the rest random, or download, so the weights are
    checked here first.
    """
    import_stable_audio_tools()
    from stable_audio_tools.models.conditioners import T5Conditioner
    from transformers import T5EncoderModel

    for entry in config["model"]["conditioning"]["configs"]:
        if entry["type"] == "t5":
            width = load_transformers(T5EncoderModel, folder).config.d_model
            entry["config"]["t5_model_name"] = str(folder)
            T5Conditioner.T5_MODELS.append(str(folder))
            T5Conditioner.T5_MODEL_DIMS[str(folder)] = width


def build_backbone(preset: Preset) -> Any:
    """stable-audio-tools' model for the preset.

    Text encoder from its weights, everything else untrained.
    """
    config = preset.backbone_config
    _prepare_text_conditioner(config, preset.model("text"))
    try:
        return create_backbone(config)
    except (OSError, ValueError) as error:
        text = preset.model("text")
        raise ModelError(f"text encoder at {text}: {str(error).strip().splitlines()[0]}") from None


def create_backbone(config: dict[str, Any]) -> Any:
    """stable-audio-tools' model for a configuration."""
    import_stable_audio_tools()
    from stable_audio_tools import create_model_from_config

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # weight_norm and autocast deprecations of the library
        return create_model_from_config(config)


class Backbone(nn.Module):
    """The frozen backbone of a preset, with the few operations that this project needs of it."""

    def __init__(self, preset: Preset, model: Any) -> None:
        super().__init__()
        self.preset = preset
        self.model = model
        self.requires_grad_(False).eval()
        if (self.objective == "v") != (preset.sample.sampler in ("v-ddim", "dpmpp-3m-sde")):
            choice = "v-ddim or dpmpp-3m-sde" if self.objective == "v" else "euler or pingpong"
            raise ModelError(
                f"the backbone predicts {self.objective}: sample.sampler must be {choice}"
            )
        for conditioner in model.conditioner.conditioners.values():
            if hasattr(conditioner, "tokenizer"):
                # the library loads T5 in half precision, which few CPUs compute well
                conditioner.model.float()

    @classmethod
    def from_pretrained(cls, preset: Preset) -> Backbone:
        """Load the weights (published layout of Stable Audio Open) strictly.

        Raises ModelError or WeightsError if files are missing or do not fit.
        """
        path = preset.model("backbone")
        weights = read_weights(path)
        model = build_backbone(preset)
        load_strict(model, weights, path)
        return cls(preset, model)

    @staticmethod
    def revision(preset: Preset) -> str:
        """Content hash of the backbone's weights and configuration."""
        paths = [preset.model("backbone"), preset.backbone_config_file, preset.model("text")]
        return files_revision(paths)

    @property
    def dit(self) -> Any:
        """The diffusion transformer (stable_audio_tools.models.dit.DiffusionTransformer)."""
        return self.model.model.model

    @property
    def objective(self) -> str:
        """What the DiT predicts.

        "v", or "rectified_flow" (which a distilled backbone, "rf_denoiser", predicts too).
        """
        return "v" if self.model.diffusion_objective == "v" else "rectified_flow"

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.dit.parameters()).device

    def compile_blocks(self, backend: str = "inductor") -> None:
        """Run the DiT's blocks, with a bridge's layers in them, through torch.compile.

        One graph serves all blocks. Done in place, so that the keys of weights stay as they are;
        the first forward of each shape compiles.
        """
        for block in self.dit.transformer.layers:
            block.compile(backend=backend)

    @torch.no_grad()
    def encode_audio(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Audio -> its latents, as the VAE's normal distributions.

        Args:
            audio: [B, channels, S] at the preset's rate, filled up to a whole latent frame here.

        Returns:
            Means and standard deviations, each [B, C, ceil(S / ratio)].

        """
        audio = F.pad(audio, (0, -audio.shape[-1] % self.preset.downsampling_ratio))
        pretransform = self.model.pretransform
        raw = pretransform.model.encode(audio.to(self.device), skip_bottleneck=True)
        mean, scale = raw.chunk(2, dim=1)
        deviation = F.softplus(scale) + 1e-4  # as the library's VAE bottleneck does
        return mean / pretransform.scale, deviation / pretransform.scale

    @torch.no_grad()
    def decode_audio(self, latents: Tensor) -> Tensor:
        """Latents [B, C, L] -> audio [B, channels, L * ratio], in the VAE's own precision."""
        with torch.autocast(self.device.type, enabled=False):
            return cast("Tensor", self.model.pretransform.decode(latents.to(self.device)))

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> list[Tensor]:
        """Prompts -> text tokens, each [N, D] with N its own number of tokens."""
        tokens, mask = self.model.conditioner.conditioners["prompt"](list(prompts), self.device)
        return [row[keep].float() for row, keep in zip(tokens, mask.bool(), strict=True)]

    def conditioning(self, text: Sequence[Tensor], seconds: Sequence[float]) -> Conditioning:
        """What the DiT is conditioned on.

        Args:
            text: the text tokens [N, D] of each of B clips.
            seconds: the length of each.

        Returns:
            Tokens and mask of the prompt and of each of the conditioners of time.

        """
        conditioners, device = self.model.conditioner.conditioners, self.device
        length = conditioners["prompt"].max_length
        # zeros after the text, as the library's T5Conditioner gives
        tokens = torch.stack([F.pad(row, (0, 0, 0, length - len(row))) for row in text])
        counts = torch.tensor([len(row) for row in text], device=device)
        mask = torch.arange(length, device=device) < counts[:, None]
        conditioning: Conditioning = {"prompt": (tokens.to(device), mask)}
        for name, conditioner in conditioners.items():
            if name != "prompt":
                values = [0.0] * len(seconds) if name == "seconds_start" else list(seconds)
                conditioning[name] = tuple(conditioner(values, device))
        return conditioning

    def inputs(
        self, conditioning: Conditioning, negative: Conditioning | None = None
    ) -> dict[str, Any]:
        """The DiT's arguments for a conditioning, and for the negative one that guidance leaves."""
        kwargs = self.model.get_conditioning_inputs(conditioning)
        if negative is not None:
            kwargs |= self.model.get_conditioning_inputs(negative, negative=True)
        return kwargs

    def forward(self, x: Tensor, t: Tensor, **kwargs: Any) -> Tensor:
        """Noisy latents [B, C, L] at times t [B] in 0..1 -> velocity [B, C, L].

        The rest is from `inputs`.
        """
        # By default the library checkpoints every layer, in inference too: a third of the speed.
        return cast("Tensor", self.model.model(x, t, **({"use_checkpointing": False} | kwargs)))
