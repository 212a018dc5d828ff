"""Sound for held-out clips from a checkpoint, under the conditions that evaluation compares."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
from scipy.io import wavfile

from model.device import default_device
from model.foley import FoleyControl, SoundRequest
from model.metrics.onsets import detect_onsets
from model.presets.preset import Preset
from model.types import Audio
from pipeline.features.video_tokens import tokens_from_bytes
from pipeline.procedural import MATERIALS, material_of, swap_material
from pipeline.stages.progress import advance
from pipeline.stages.stage import Clip, Outcome, Passed, Rejected, Stage
from pipeline.training.batches import DatasetFeatures
from warehouse import field

Condition = Literal["true", "other", "none", "swap"]
CONDITIONS: tuple[Condition, ...] = get_args(Condition)
CHUNK = 16  # clips sampled at once


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
    """A clip's own seed: the same under every condition, so that nothing else differs."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{clip_id}".encode()).digest()[:4], "big")


def other_material(material: str) -> str:
    """The material that a prompt is swapped to."""
    return MATERIALS[(MATERIALS.index(material) + 1) % len(MATERIALS)]  # type: ignore[arg-type]


def wav_bytes(audio: Audio, sample_rate: int) -> bytes:
    """A 16-bit WAV file of audio [channels, S]."""
    buffer = io.BytesIO()
    wavfile.write(buffer, sample_rate, (np.clip(audio.T, -1, 1) * 32767).astype("<i2"))
    return buffer.getvalue()


def wav_audio(data: bytes) -> tuple[Audio, int]:
    """Audio [channels, S] and sample rate of what `wav_bytes` gave."""
    sample_rate, samples = wavfile.read(io.BytesIO(data))
    return (np.atleast_2d(samples.T) / 32767).astype(np.float32), sample_rate


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
        #: Video tokens that a clip gets in place of its own, under condition "other".
        self.others = {clip: (tokens or {})[partner] for clip, partner in settings.partners}

    @property
    def model_revision(self) -> str:
        """The checkpoint's id: it covers backbone, encoder and training."""
        return self.settings.checkpoint

    def setup(self) -> None:
        """Load backbone and bridge."""
        self._foley = FoleyControl.from_pretrained(self.preset, self.bridge, default_device())

    def _request(self, clip: Clip) -> SoundRequest | None:
        """What the clip's sound is made from; None where no material is known to swap."""
        condition, prompt = self.settings.condition, clip["prompt"] or ""
        if condition == "swap":
            material = json.loads(clip["truth"] or "{}").get("material")
            if material not in MATERIALS:
                return None
            prompt = swap_material(prompt, other_material(material))
        data = self.others[clip["clip_id"]] if condition == "other" else clip["video_tokens"]
        return SoundRequest(
            prompt,
            float(clip["video_seconds"]),
            clip_seed(self.settings.seed, clip["clip_id"]),
            None if condition == "none" else tokens_from_bytes(self.preset, data),
        )

    def process(self, clips: Sequence[Clip]) -> list[Outcome]:
        """One sound a clip; under condition "swap", clips of no known material are rejected."""
        requests = [self._request(clip) for clip in clips]
        ready = [request for request in requests if request is not None]
        changes = {"cfg": self.settings.cfg, "steps": self.settings.steps}
        sampling = self.preset.sample.model_copy(update=changes)
        sounds: list[Audio] = []
        for start in range(0, len(ready), CHUNK):
            sounds += self._foley.generate(ready[start : start + CHUNK], sampling)
            advance(CHUNK)
        rows = (self._row(*pair) for pair in zip(sounds, ready, strict=True))
        return [Rejected("no material to swap") if r is None else next(rows) for r in requests]

    def _row(self, sound: Audio, request: SoundRequest) -> Passed:
        rate, mono = self.preset.sample_rate, sound.mean(0)
        data = wav_bytes(sound, rate)
        return Passed(
            {
                "sound": data,
                "sound_sha256": hashlib.sha256(data).hexdigest(),
                "sound_prompt": request.prompt,
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
    tokens = {row["clip_id"]: row["video_tokens"] for row in rows.to_pylist()}
    ids = sorted(tokens)
    partners = tuple(zip(ids, ids[1:] + ids[:1], strict=True))
    bridge = wh.folder("checkpoints") / checkpoint / "bridge.safetensors"
    sample = preset.sample

    def stage(condition: Condition) -> Generate:
        pairs = partners if condition == "other" else ()
        settings = GenerateSettings(
            checkpoint, condition, seed, sample.cfg, sample.steps, sample.sampler, pairs
        )
        return Generate(preset, bridge, settings, tokens)

    return [stage(condition) for condition in CONDITIONS]
