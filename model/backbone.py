"""The frozen text-to-audio backbone, of stable-audio-tools: VAE, conditioners and DiT.

Shapes: B clips, C latent channels, L latent frames, N text tokens of width D, S audio samples.
"""

import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.presets.preset import ModelError, Preset
from model.weights import load
from model.weights.lean_imports import import_stable_audio_tools

Conditioning = dict[str, tuple[Tensor, Tensor]]  # id -> (tokens [B, N, D], mask [B, N])


def bare_backbone(preset: Preset) -> Any:
    """The library's model, untrained and without its text encoder, which is not in its file."""
    import_stable_audio_tools()
    from stable_audio_tools import create_model_from_config

    config = preset.backbone_config
    conditioning = config["model"]["conditioning"]
    conditioning["configs"] = [entry for entry in conditioning["configs"] if entry["type"] != "t5"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # weight_norm and autocast deprecations of the library
        return create_model_from_config(config)


def build_backbone(preset: Preset) -> Any:
    """The library's model, untrained; its text encoder is read from its folder when it is asked.

    Raises WeightsError if there is no such folder.
    """
    model = bare_backbone(preset)
    model.conditioner.conditioners["prompt"] = _text_conditioner(preset)
    return model


def _text_conditioner(preset: Preset) -> Any:
    """The library's T5Conditioner with all but T5 itself.

    Its own constructor knows T5 by names of the hub, loads what fits and leaves the rest random.
    """
    import_stable_audio_tools()
    from stable_audio_tools.models.conditioners import Conditioner, T5Conditioner
    from transformers import T5Config

    conditioning = preset.backbone_config["model"]["conditioning"]
    (config,) = (e["config"] for e in conditioning["configs"] if e["type"] == "t5")
    folder = preset.model("text")
    load.check_folder(folder)
    width, output = T5Config.from_pretrained(folder).d_model, conditioning["cond_dim"]
    conditioner = T5Conditioner.__new__(T5Conditioner)
    Conditioner.__init__(conditioner, width, output, config.get("project_out", False))
    conditioner.max_length, conditioner.enable_grad = config.get("max_length", 128), False
    return conditioner


class TextEncoder:
    """T5 with the backbone's projection. T5 is read when the first text comes."""

    def __init__(self, conditioner: Any, folder: Path, device: torch.device | str) -> None:
        """`conditioner` is the library's, with or without T5; `folder` holds T5's weights."""
        self.conditioner, self.folder, self.device = conditioner, folder, device

    @classmethod
    def from_pretrained(cls, preset: Preset, device: str = "cpu") -> Self:
        """Load T5 and the projection alone, strictly; raises ModelError or WeightsError."""
        with load.without_values():
            conditioner = _text_conditioner(preset)
        load.load_mapped(conditioner, preset.model("backbone"), "conditioner.conditioners.prompt.")
        encoder = cls(conditioner, preset.model("text"), device)
        encoder.load()
        return encoder

    def load(self) -> None:
        """Read T5's weights and its tokenizer, unless they are there."""
        if "model" in vars(self.conditioner):
            return
        from transformers import T5EncoderModel

        self._load_tokenizer()
        model = load.load_transformers(T5EncoderModel, self.folder)
        for parameter in model.parameters():
            # the library loads T5 in half precision, which few CPUs compute well
            parameter.data = parameter.data.half().float()
        # beside the modules, as the library keeps it: T5 is in no file of the backbone's
        vars(self.conditioner)["model"] = model.eval().requires_grad_(False)

    def _load_tokenizer(self) -> None:
        if "tokenizer" in vars(self.conditioner):
            return
        from transformers import AutoTokenizer

        try:
            self.conditioner.tokenizer = AutoTokenizer.from_pretrained(self.folder)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ModelError(f"text encoder at {self.folder}: {reason}") from None

    def tokens(self, prompt: str) -> tuple[int, int]:
        """How many tokens a prompt has, and how many of them are taken; reads no weights."""
        self._load_tokenizer()
        count = len(self.conditioner.tokenizer(prompt).input_ids)
        return count, min(count, int(self.conditioner.max_length))

    def let_go(self) -> None:
        """Free the memory of T5."""
        vars(self.conditioner).pop("model", None)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> list[Tensor]:
        """Prompts -> text tokens, each [N, D] with N its own number of tokens."""
        self.load()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of autocast, whose old name the library uses
            tokens, mask = self.conditioner(list(prompts), self.device)
        return [row[keep].float() for row, keep in zip(tokens, mask.bool(), strict=True)]


class AudioCodec:
    """The backbone's VAE (the library's pretransform)."""

    def __init__(self, pretransform: Any, ratio: int) -> None:
        """`ratio` is the number of samples a latent frame."""
        self.pretransform, self.ratio = pretransform, ratio

    @classmethod
    def from_pretrained(cls, preset: Preset, device: str = "cpu") -> Self:
        """Load the VAE alone, strictly; raises WeightsError if it is missing or does not fit."""
        import_stable_audio_tools()
        from stable_audio_tools.models.factory import create_pretransform_from_config

        config = preset.backbone_config
        with warnings.catch_warnings(), load.without_values():
            warnings.simplefilter("ignore")  # weight_norm's deprecation
            pretransform = create_pretransform_from_config(
                config["model"]["pretransform"], config["sample_rate"]
            )
        load.load_mapped(pretransform, preset.model("backbone"), "pretransform.")
        return cls(pretransform.to(device).requires_grad_(False).eval(), preset.downsampling_ratio)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.pretransform.parameters()).device

    @torch.no_grad()
    def encode(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Audio -> its latents, as normal distributions.

        Args:
            audio: [B, channels, S] at the preset's rate, filled up to a whole latent frame here.

        Returns:
            Means and standard deviations, each [B, C, ceil(S / ratio)].
        """
        audio = F.pad(audio, (0, -audio.shape[-1] % self.ratio))
        raw = self.pretransform.model.encode(audio.to(self.device), skip_bottleneck=True)
        mean, scale = raw.float().chunk(2, dim=1)
        deviation = F.softplus(scale) + 1e-4  # as the library's VAE bottleneck does
        return mean / self.pretransform.scale, deviation / self.pretransform.scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, C, L] -> audio [B, channels, L * ratio], in the VAE's own precision."""
        with torch.autocast(self.device.type, enabled=False):
            return cast("Tensor", self.pretransform.decode(latents.to(self.device)))


class Backbone(nn.Module):
    """The frozen backbone of a preset, with the few operations that this project needs of it."""

    def __init__(self, preset: Preset, model: Any) -> None:
        super().__init__()
        self.preset, self.model = preset, model
        self.requires_grad_(False).eval()
        if (self.objective == "v") != (preset.sample.sampler in ("v-ddim", "dpmpp-3m-sde")):
            choice = "v-ddim or dpmpp-3m-sde" if self.objective == "v" else "euler or pingpong"
            raise ModelError(
                f"the backbone predicts {self.objective}: sample.sampler must be {choice}"
            )

    @classmethod
    def from_pretrained(cls, preset: Preset, matrices: torch.dtype = torch.float32) -> Self:
        """Load the weights (published layout of Stable Audio Open) strictly.

        `matrices` is the type of the DiT's weights; vectors, the VAE and T5 are float32. Raises
        ModelError or WeightsError if files are missing or do not fit.
        """

        def dtype_of(key: str, value: Tensor) -> torch.dtype:
            # norms and biases are small, and CPUs want them whole
            return matrices if key.startswith("model.") and value.ndim > 1 else torch.float32

        with load.without_values():
            model = build_backbone(preset)
        load.load_mapped(model, preset.model("backbone"), dtype_of=dtype_of)
        return cls(preset, model)

    @staticmethod
    def revision(preset: Preset) -> str:
        """Content hash of the backbone's weights and configuration."""
        models = (preset.model(name) for name in ("backbone", "text"))
        return load.files_revision([*models, preset.backbone_config_file])

    @property
    def dit(self) -> Any:
        """The diffusion transformer (stable_audio_tools.models.dit.DiffusionTransformer)."""
        return self.model.model.model

    @property
    def objective(self) -> str:
        """What the DiT predicts: "v", or "rectified_flow" (a distilled one, "rf_denoiser", too)."""
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

    @cached_property
    def silence(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation [C] of a latent frame of silence, with silence around it."""
        around = 32  # latent frames on either side: more than the VAE looks at
        samples = (2 * around + 1) * self.preset.downsampling_ratio
        nothing = torch.zeros(1, self.preset.audio_channels, samples)
        with torch.autocast(self.device.type, enabled=False):  # the same wherever it is first asked
            mean, scale = self.codec.encode(nothing)
        return mean[0, :, around], scale[0, :, around]

    @property
    def codec(self) -> AudioCodec:
        """The VAE."""
        return AudioCodec(self.model.pretransform, self.preset.downsampling_ratio)

    @property
    def text_encoder(self) -> TextEncoder:
        """T5, which is read when it is first used."""
        conditioner = self.model.conditioner.conditioners["prompt"]
        return TextEncoder(conditioner, self.preset.model("text"), self.device)

    def encode_text(self, prompts: Sequence[str]) -> list[Tensor]:
        """See TextEncoder.encode."""
        return self.text_encoder.encode(prompts)

    def conditioning(self, text: Sequence[Tensor], seconds: Sequence[float]) -> Conditioning:
        """What the DiT is conditioned on: tokens and mask of the prompt and of the times.

        Args:
            text: the text tokens [N, D] of each of B clips.
            seconds: the length of each.
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
        inputs = self.model.get_conditioning_inputs
        return inputs(conditioning) | (inputs(negative, negative=True) if negative else {})

    def forward(self, x: Tensor, t: Tensor, **kwargs: object) -> Tensor:
        """Noisy latents [B, C, L] at times t [B] in 0..1, and `inputs` -> velocity [B, C, L]."""
        # By default the library checkpoints every layer, in inference too: a third of the speed.
        return cast("Tensor", self.model.model(x, t, **({"use_checkpointing": False} | kwargs)))
