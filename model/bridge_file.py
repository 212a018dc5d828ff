"""Bridge files: the trained layers, and all that must be as it was in training.

bridge.safetensors holds the weights alone; its metadata says which tokens, latents and models they
are for, so that a bridge is obeyed or refused and never runs on other inputs in silence.
"""

import json
from pathlib import Path
from typing import Literal, Self

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from model.backbone import Backbone
from model.bridge import Bridge
from model.presets.preset import Preset
from model.presets.settings import BridgeSettings, Seconds, Settings, VideoSettings, WindowSettings
from model.video_encoder import VideoEncoder
from model.weights.load import WeightsError, save_weights


class BridgeFacts(Settings):
    """What a bridge needs."""

    settings: BridgeSettings  # of its layers
    # which tokens it attends to: frames a second, segments, size, crop, pooling, width
    video: VideoSettings
    token_rate: float  # effective frames a second of these tokens
    latent_rate: float  # latent frames a second of the backbone
    objective: Literal["v", "rectified_flow"]  # what the backbone predicts: its diffusion objective
    backbone: str  # revision (content hash) of the frozen backbone
    encoder: str  # revision of the video encoder
    seconds: Seconds  # length of the sounds it was trained on (nine in ten are no longer)
    # of the canvas it was trained on, None for none (model/sampling/canvas.py)
    canvas_seconds: Seconds | None = None

    @classmethod
    def of(cls, preset: Preset, objective: str, seconds: float) -> Self:
        """Those of a bridge that is trained under a preset on sounds of so many seconds."""
        return cls.model_validate(
            {
                "settings": preset.bridge,
                "video": _anywhere(preset.video),
                "token_rate": preset.video.token_rate,
                "latent_rate": preset.latent_rate,
                "objective": objective,
                "backbone": Backbone.revision(preset),
                "encoder": VideoEncoder.revision(preset),
                "seconds": min(seconds, preset.window.canvas_seconds or seconds),
                "canvas_seconds": preset.window.canvas_seconds,
            }
        )

    def apply(self, preset: Preset, path: Path) -> Preset:
        """The preset, with layers, tokens and window as this bridge needs them.

        Raises WeightsError if the preset's backbone or encoder is another than it was trained on.
        """
        own = {"backbone": Backbone.revision(preset), "encoder": VideoEncoder.revision(preset)}
        for name, revision in own.items():
            if getattr(self, name) != revision:
                raise WeightsError(
                    f"{path} was trained on {name} {getattr(self, name)}, "
                    f"preset {preset.name!r} has {revision}"
                )
        video = self.video.model_copy(update={"encoder": preset.video.encoder})
        if video.token_rate != self.token_rate or preset.latent_rate != self.latent_rate:
            raise WeightsError(
                f"{path} was trained at {self.token_rate:g} video tokens and {self.latent_rate:g} "
                f"latents a second, preset {preset.name!r} has {video.token_rate:g} and "
                f"{preset.latent_rate:g}"
            )
        window, canvas = preset.window, self.canvas_seconds
        asked = window.seconds if "seconds" in window.model_fields_set else self.seconds
        seconds = min(asked, canvas or asked)
        overlap = window.overlap if seconds == window.seconds else min(window.overlap, seconds / 2)
        window = WindowSettings(seconds=seconds, overlap=overlap, canvas_seconds=canvas)
        changes = {"bridge": self.settings, "video": video, "window": window}
        return preset.model_copy(update=changes)

    def check_tokens(self, preset: Preset, path: Path) -> None:
        """Raises WeightsError where a preset's video tokens are others than this bridge's."""
        asked, own = (video.model_dump() for video in (_anywhere(preset.video), self.video))
        differing = [name for name, value in own.items() if asked[name] != value]
        if differing:
            facts = ", ".join(
                f"video.{name} = {own[name]} (here {asked[name]})" for name in differing
            )
            raise WeightsError(
                f"{path} was trained with {facts}: choose a preset with its values, or another "
                "checkpoint"
            )


def _anywhere(video: VideoSettings) -> VideoSettings:
    """The settings with an encoder's class of one's own named without its folder."""
    return video.model_copy(update={"encoder": video.encoder.rpartition("/")[2]})


def save_bridge(path: Path, bridge: Bridge, facts: BridgeFacts) -> None:
    """Write the bridge alone, with what it needs."""
    # One key, because the library writes several in any order, and the same bridge should be the
    # same bytes.
    text = json.dumps(facts.model_dump(mode="json"), sort_keys=True)
    save_weights(path, bridge.state_dict(), metadata={"bridge": text})


def read_bridge_facts(path: Path) -> BridgeFacts:
    """What a bridge file says that it needs; raises WeightsError if it is not one."""
    try:
        with safe_open(path, "pt") as file:
            return BridgeFacts.model_validate_json((file.metadata() or {})["bridge"])
    except ValidationError as error:
        missing = ", ".join(".".join(map(str, e["loc"])) for e in error.errors())
        raise WeightsError(
            f"{path} does not say all that it needs ({missing}): another version of this project "
            "wrote it; train it again"
        ) from None
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise WeightsError(f"{path} is not a bridge checkpoint of this project: {error}") from None
