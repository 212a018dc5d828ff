"""Nodes of foley-control for ComfyUI: this folder, linked into ComfyUI's `custom_nodes`.

ComfyUI's Python needs the package itself: `uv pip install --config-file uv.toml .` in it. They keep
to the node contract that ComfyUI publishes (INPUT_TYPES, RETURN_TYPES, FUNCTION; IMAGE
[B, H, W, 3] in 0..1, AUDIO {"waveform": [B, C, S], "sample_rate"}, VIDEO an object with `save_to`),
and ComfyUI 0.19.3 ran them (tests/integrations).
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import foley

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.generation.generator import GeneratedSound, SoundGenerator

FACE = "foley-control"
Sound = dict[str, Any]  # AUDIO


class Video(Protocol):
    """What is used of ComfyUI's VIDEO."""

    def save_to(self, path: str) -> None:
        """Write a video file, trimmed as it is."""


class LoadModel:
    """A preset's models and a bridge."""

    CATEGORY = FACE
    RETURN_TYPES: ClassVar = ("FOLEY_MODEL",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 (ComfyUI's name)
        """What the node is asked with."""
        text = ("STRING", {"default": ""})
        return {
            "required": {"preset": ("STRING", {"default": "toy"})},
            "optional": {"checkpoint": text, "home": text, "weights": text},
        }

    def load(
        self, preset: str, checkpoint: str = "", home: str = "", weights: str = ""
    ) -> tuple[SoundGenerator]:
        """Load them; what is empty is as in `foley.load`."""
        return (
            foley.load(
                preset, checkpoint=checkpoint or None, home=home or None, weights=weights or None
            ),
        )


class GenerateSound:
    """Sound for a video, for pictures at a frame rate, or of a text alone."""

    CATEGORY = FACE
    RETURN_TYPES: ClassVar = ("AUDIO",)
    FUNCTION = "generate"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 (ComfyUI's name)
        """What the node is asked with; 0 steps, and a guidance below 0, are the preset's."""
        return {
            "required": {
                "model": ("FOLEY_MODEL",),
                "prompt": ("STRING", {"default": "", "multiline": True}),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**31 - 1}),
                "steps": ("INT", {"default": 0, "min": 0, "max": 10_000}),
                "cfg": ("FLOAT", {"default": -1.0, "min": -1.0, "max": 100.0, "step": 0.1}),
            },
            "optional": {
                "negative_prompt": ("STRING", {"default": "", "multiline": True}),
                "video": ("VIDEO",),
                "images": ("IMAGE",),
                "fps": ("FLOAT", {"default": 24.0, "min": 1.0, "max": 240.0}),
                "seconds": ("FLOAT", {"default": 8.0, "min": 0.1, "max": 3600.0}),
            },
        }

    def generate(
        self,
        model: SoundGenerator,
        prompt: str,
        *,
        video: Video | None = None,
        images: Tensor | None = None,
        fps: float = 24.0,
        seconds: float = 8.0,
        **options: Any,
    ) -> tuple[Sound]:
        """The sound; `seconds` is its length where there is neither video nor images."""
        options = _given(options)
        with TemporaryDirectory() as folder:
            path = _file(Path(folder), video, images, fps)
            if path is None:
                options["seconds"] = seconds
            return (_audio(model.generate(path, prompt, **options)),)


class RedoSound:
    """A stretch of a video's sound made anew, and the rest kept."""

    CATEGORY = FACE
    RETURN_TYPES: ClassVar = ("AUDIO",)
    FUNCTION = "redo"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 (ComfyUI's name)
        """As for the sound; from `start` to `end`, in seconds."""
        seconds = ("FLOAT", {"default": 0.0, "min": 0.0, "max": 3600.0, "step": 0.01})
        asked = GenerateSound.INPUT_TYPES()
        needed = {"audio": ("AUDIO",), "video": ("VIDEO",), "start": seconds, "end": seconds}
        negative = asked["optional"]["negative_prompt"]
        return {"required": asked["required"] | needed, "optional": {"negative_prompt": negative}}

    def redo(
        self,
        model: SoundGenerator,
        prompt: str,
        *,
        audio: Sound,
        video: Video,
        start: float,
        end: float,
        **options: Any,
    ) -> tuple[Sound]:
        """The sound with its stretch made anew; as long as the picture."""
        from pipeline.media import Muxing, mux

        with TemporaryDirectory() as folder:
            path = _file(Path(folder), video, None, 0.0)
            assert path is not None
            with_sound, samples = (
                path.with_name("with-sound.mov"),
                audio["waveform"][0].cpu().numpy(),
            )
            mux(path, samples, audio["sample_rate"], with_sound, Muxing(pcm=True))
            stretch = f"{start:g}-{end:g}"
            return (_audio(model.generate(with_sound, prompt, redo=stretch, **_given(options))),)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """Without what stands for the preset's own."""
    return options | {
        "steps": options.get("steps") or None,
        "cfg": None if options.get("cfg", -1.0) < 0 else options["cfg"],
        "negative_prompt": options.get("negative_prompt") or None,
    }


def _audio(sound: GeneratedSound) -> Sound:
    import torch

    return {"waveform": torch.from_numpy(sound.audio)[None], "sample_rate": sound.sample_rate}


def _file(folder: Path, video: Video | None, images: Tensor | None, fps: float) -> Path | None:
    """A file of what is to be seen, if anything is."""
    if video is not None:
        path = folder / "video.mp4"
        video.save_to(str(path))
        return path
    return None if images is None else _encode(folder / "images.mov", images, fps)


def _encode(path: Path, images: Tensor, fps: float) -> Path:
    """Pictures [B, H, W, 3] in 0..1 as a video without loss."""
    import av

    rate = Fraction(fps).limit_denominator(1001)
    frames = (images.clamp(0, 1) * 255).round().byte().cpu().numpy()
    with av.open(str(path), "w") as out:
        stream = out.add_stream("png", rate=rate)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "rgb24"
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = number, 1 / rate
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))
    return path


NODE_CLASS_MAPPINGS = {
    "FoleyLoadModel": LoadModel,
    "FoleyGenerateSound": GenerateSound,
    "FoleyRedoSound": RedoSound,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "FoleyLoadModel": "Foley: load model",
    "FoleyGenerateSound": "Foley: generate sound",
    "FoleyRedoSound": "Foley: make a stretch anew",
}
