"""Sound from a checkpoint for the held-out clips of a dataset, under the conditions that evaluation compares."""

from __future__ import annotations

import hashlib
import io
import json
import wave
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from model.device import default_device
from model.foley import FoleyControl
from model.metrics.onsets import detect_onsets
from model.presets.preset import Preset
from pipeline.procedural import MATERIALS, material_of, swap_material
from pipeline.stages.progress import tick
from pipeline.stages.stage import Clip, Outcome, Passed, Rejected, Stage
from pipeline.training.batches import DatasetFeatures
from warehouse import field

Condition = Literal["true", "other", "none", "swap"]
CONDITIONS: tuple[Condition, ...] = ("true", "other", "none", "swap")
CHUNK = 16  # clips sampled at once
Audio = npt.NDArray[np.float32]


@dataclass(frozen=True)
class GenerateSettings:
    """Everything that decides a sound beside the clip and the weights."""

    checkpoint: str
    condition: Condition
    seed: int
    cfg: float
    steps: int
    sampler: str
    partners: tuple[tuple[str, str], ...]  # whose video each clip gets, under condition "other"


def clip_seed(seed: int, clip_id: str) -> int:
    """A clip's own seed.

    The same under every condition, so that conditions differ in nothing but themselves.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}:{clip_id}".encode()).digest()[:4], "big")


def other_material(material: str) -> str:
    """The material that a prompt is swapped to."""
    return MATERIALS[(MATERIALS.index(material) + 1) % len(MATERIALS)]  # type: ignore[arg-type]


def wav_bytes(audio: Audio, sample_rate: int) -> bytes:
    """A 16-bit WAV file of audio [channels, S]."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(len(audio))
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes((np.clip(audio.T, -1, 1) * 32767).astype("<i2").tobytes())
    return buffer.getvalue()


def wav_audio(data: bytes) -> tuple[Audio, int]:
    """Audio [channels, S] and sample rate of what `wav_bytes` gave."""
    with wave.open(io.BytesIO(data)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(
            -1, file.getnchannels()
        )
        return (samples.T / 32767).astype(np.float32), file.getframerate()


class Generate(Stage):
    """Sound for each clip under one condition, and what an ear would note of it."""

    version = 1
    upstream = ("video_tokens",)
    reads = ("sha256", "prompt")
    batch_size = 64
    schema = pa.schema(
        [
            field("sound", pa.large_binary(), "the generated sound, a 16-bit WAV file"),
            field("sound_sha256", pa.string(), "SHA-256 of that file"),
            field("sound_prompt", pa.string(), "the prompt that it was generated for"),
            field("onsets", pa.string(), "onset times found in it, JSON list of seconds"),
            field("material", pa.string(), "procedural material that it resembles most"),
        ]
    )

    def __init__(
        self,
        preset: Preset,
        bridge: Path,
        settings: GenerateSettings,
        tokens: Mapping[str, bytes] | None = None,
    ) -> None:
        self.name = f"generate_{settings.condition}"
        self.preset = preset
        self.bridge = bridge
        self.settings = settings
        self.tokens = tokens or {}  # video tokens of the partners

    @property
    def model_revision(self) -> str:
        """The checkpoint's id: it covers backbone, encoder and training."""
        return self.settings.checkpoint

    def setup(self) -> None:
        """Load backbone and bridge."""
        self._foley = FoleyControl.from_pretrained(self.preset, self.bridge, default_device())

    def _video(self, clip: Clip) -> Any:
        import torch

        if self.settings.condition == "none":
            return None
        own = clip["video_tokens"]
        data = (
            self.tokens[dict(self.settings.partners)[clip["clip_id"]]]
            if self.settings.condition == "other"
            else own
        )
        video = self.preset.video
        shape = (-1, video.tokens_per_frame, video.width)
        return torch.from_numpy(np.frombuffer(data, np.float16).reshape(shape).astype(np.float32))

    def _prompt(self, clip: Clip) -> str | None:
        """The prompt to generate for.

        None where the material cannot be swapped, since none is known.
        """
        prompt: str = clip["prompt"] or ""
        if self.settings.condition != "swap":
            return prompt
        material = json.loads(clip["truth"] or "{}").get("material")
        return swap_material(prompt, other_material(material)) if material in MATERIALS else None

    def process(self, clips: Sequence[Clip]) -> list[Outcome]:
        """One sound a clip; under condition "swap", clips of no known material are rejected."""
        prompts = [self._prompt(clip) for clip in clips]
        ready = [
            (clip, prompt)
            for clip, prompt in zip(clips, prompts, strict=True)
            if prompt is not None
        ]
        rows: list[Passed] = []
        for start in range(0, len(ready), CHUNK):
            rows += self._chunk(*zip(*ready[start : start + CHUNK], strict=True))
            tick(CHUNK)
        made = iter(rows)
        return [
            Rejected("no material to swap") if prompt is None else next(made) for prompt in prompts
        ]

    def _chunk(self, clips: Sequence[Clip], prompts: Sequence[str]) -> list[Passed]:
        sounds = self._foley.generate(
            [self._video(clip) for clip in clips],
            prompts,
            [float(clip["video_seconds"]) for clip in clips],
            [clip_seed(self.settings.seed, clip["clip_id"]) for clip in clips],
            cfg=self.settings.cfg,
            steps=self.settings.steps,
        )
        return [self._row(sound, prompt) for sound, prompt in zip(sounds, prompts, strict=True)]

    def _row(self, sound: Audio, prompt: str) -> Passed:
        rate = self.preset.sample_rate
        data = wav_bytes(sound, rate)
        mono = sound.mean(0)
        return Passed(
            {
                "sound": data,
                "sound_sha256": hashlib.sha256(data).hexdigest(),
                "sound_prompt": prompt,
                "onsets": json.dumps([round(t, 4) for t in detect_onsets(mono, rate).tolist()]),
                "material": material_of(mono, rate),
            }
        )


def generation_stages(data: DatasetFeatures, checkpoint: str, seed: int = 0) -> list[Stage]:
    """One stage a condition, for the `test` split of a dataset."""
    wh, preset = data.wh, data.preset
    rows = wh.rows(
        "video_tokens",
        data.fingerprints["video_tokens"],
        columns=["clip_id", "video_tokens"],
        clip_ids=sorted(data.dataset.clip_ids(split="test")),
    )
    tokens: dict[str, bytes] = dict(
        zip(*(rows[name].to_pylist() for name in ("clip_id", "video_tokens")), strict=True)
    )
    ids = sorted(tokens)
    partners = tuple(zip(ids, ids[1:] + ids[:1], strict=True))
    bridge = wh.folder("checkpoints") / checkpoint / "bridge.safetensors"
    sample = preset.sample
    stages: list[Stage] = []
    for condition in CONDITIONS:
        other = condition == "other"
        settings = GenerateSettings(
            checkpoint,
            condition,
            seed,
            sample.cfg,
            sample.steps,
            sample.sampler,
            partners if other else (),
        )
        stages.append(Generate(preset, bridge, settings, tokens if other else None))
    return stages
