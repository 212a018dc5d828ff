"""Sound for held-out clips from a checkpoint, under the conditions that evaluation compares."""

import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
from scipy.io import wavfile

from model.bridge_file import read_bridge_facts
from model.foley import FoleyControl, SoundRequest
from model.metrics.onsets import detect_onsets
from model.presets.preset import Preset
from model.types import Audio
from model.weights.device import choose_device, sampling_dtype
from model.weights.files import weights_bytes
from pipeline.features.video_tokens import tokens_from_bytes
from pipeline.procedural import material_of
from pipeline.stages.progress import advance
from pipeline.stages.stage import Clip, Outcome, Passed, Rejected, Stage
from pipeline.training.batches import DatasetFeatures
from pipeline.training.checkpoints import Checkpoint
from warehouse import FoleyError, field
from warehouse.files import Json

#: What a sound is made from: the clip's prompt with its own, another's or no video; a prompt of
#: another material with its own video; and its own video alone, without text.
Condition = Literal["true", "other", "none", "swap", "video"]
CONDITIONS: tuple[Condition, ...] = get_args(Condition)
CHUNK = 16  # clips sampled at once

TokensOf = Callable[[Sequence[str]], Mapping[str, Clip]]  # clip ids -> rows of video tokens


@dataclass(frozen=True)
class GenerateSettings:
    """Everything that decides a sound beside the clip and the weights."""

    checkpoint: str
    condition: Condition
    seed: int
    sample: Json  # sampler, steps, guidance, sigmas
    window: Mapping[str, float]
    machine: tuple[str, str]  # kind of device, and precision of the DiT
    partners: tuple[tuple[str, str], ...]  # whose video each clip gets, under condition "other"


def clip_seed(seed: int, clip_id: str) -> int:
    """A clip's own seed: the same under every condition, so that nothing else differs."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{clip_id}".encode()).digest()[:4], "big")


def truth_of(clip: Clip) -> Json:
    """What is known of a clip; nothing of most, or of one whose truth is no object."""
    truth = json.loads(clip["truth"] or "{}")
    return truth if isinstance(truth, dict) else {}


def swap_of(truth: Json) -> Json | None:
    """Another material, and the prompt for it; None where none is known."""
    swap = truth.get("swap")
    return swap if isinstance(swap, dict) and swap.keys() >= {"material", "prompt"} else None


def is_world(truth: Json) -> bool:
    """Whether a clip is known to be of a world: what is heard, in which acts, and what differs."""
    return truth.keys() >= {"events", "acts", "change"}


def shows_material(truth: Json) -> bool:
    """Whether a clip's picture shows what it is made of, as that of a world of one thing does."""
    return is_world(truth) and "material" in truth and swap_of(truth) is not None


def wav_bytes(audio: Audio, sample_rate: int) -> bytes:
    """A 16-bit WAV file of audio [channels, S]."""
    buffer = io.BytesIO()
    wavfile.write(buffer, sample_rate, (np.clip(audio.T, -1, 1) * 32767).astype("<i2"))
    return buffer.getvalue()


def wav_audio(data: bytes) -> tuple[Audio, int]:
    """Audio [channels, S] and sample rate of what `wav_bytes` gave."""
    sample_rate, samples = wavfile.read(io.BytesIO(data))
    return (np.atleast_2d(samples.T) / 32767).astype(np.float32), sample_rate


def onsets_text(mono: Audio, sample_rate: int) -> str:
    """Onset times of a sound, as rows hold them: a JSON list of seconds."""
    return json.dumps([round(t, 4) for t in detect_onsets(mono, sample_rate).tolist()])


class Generate(Stage):
    """Sound for each clip under one condition, and what an ear would note of it."""

    version = 2
    scope = "asked"
    upstream = ("video_tokens",)
    reads = ("sha256", "prompt", "truth")
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
        tokens_of: TokensOf | None = None,
    ) -> None:
        self.name = f"generate_{settings.condition}"
        self.preset = preset
        self.bridge = bridge
        self.settings = settings
        #: Reads the tokens that clips get in place of their own, under condition "other".
        self.tokens_of = tokens_of

    @property
    def model_revision(self) -> str:
        """The checkpoint's id: it covers backbone, encoder and training."""
        return self.settings.checkpoint

    @property
    def weights(self) -> int:
        """Those of backbone, text encoder and bridge."""
        models = (self.preset.model("backbone"), self.preset.model("text"), self.bridge)
        return sum(map(weights_bytes, models))

    def setup(self) -> None:
        """Load backbone and bridge."""
        device, dtype = choose_device(), sampling_dtype(choose_device())
        self._foley = FoleyControl.from_pretrained(self.preset, self.bridge).to(device, dtype)

    def _others(self, clips: Sequence[Clip]) -> dict[str, bytes]:
        """Video tokens that each clip gets in place of its own."""
        ids = {clip["clip_id"] for clip in clips}
        partners = {clip: partner for clip, partner in self.settings.partners if clip in ids}
        tokens = self.tokens_of(sorted({*partners.values()})) if self.tokens_of else {}
        return {clip: tokens[partner]["video_tokens"] for clip, partner in partners.items()}

    def _request(self, clip: Clip, others: Mapping[str, bytes]) -> SoundRequest | None:
        """What the clip's sound is made from; None where no material is known to swap."""
        condition, truth = self.settings.condition, truth_of(clip)
        prompt = "" if condition == "video" else clip["prompt"] or ""
        if condition == "swap":
            if not (swap := swap_of(truth)):
                return None
            prompt = swap["prompt"]
        data = others[clip["clip_id"]] if condition == "other" else clip["video_tokens"]
        return SoundRequest(
            prompt,
            float(clip["video_seconds"]),
            # of a pair the same noise: what differs in the sounds then comes from the pictures
            clip_seed(self.settings.seed, truth.get("pair") or clip["clip_id"]),
            None if condition == "none" else tokens_from_bytes(self.preset, data),
        )

    def process(self, clips: Sequence[Clip]) -> list[Outcome]:
        """One sound a clip; under condition "swap", clips of no known material are rejected."""
        others = self._others(clips)
        requests = [self._request(clip, others) for clip in clips]
        ready = [request for request in requests if request is not None]
        made: list[Passed] = []
        for start in range(0, len(ready), CHUNK):
            part = ready[start : start + CHUNK]
            made += self._rows(list(zip(self._foley.generate(part), part, strict=True)))
            advance(len(part))
        rows = iter(made)
        return [Rejected("no material to swap") if r is None else next(rows) for r in requests]

    def _rows(self, made: Sequence[tuple[Audio, SoundRequest]]) -> list[Passed]:
        """What is kept of each sound."""
        return [self._row(*pair) for pair in made]

    def _row(self, sound: Audio, request: SoundRequest) -> Passed:
        rate, mono = self.preset.sample_rate, sound.mean(0)
        data = wav_bytes(sound, rate)
        return Passed(
            {
                "sound": data,
                "sound_sha256": hashlib.sha256(data).hexdigest(),
                "sound_prompt": request.prompt,
                "onsets": onsets_text(mono, rate),
                "material": material_of(mono, rate),
            }
        )


def generation_stages(data: DatasetFeatures, checkpoint: Checkpoint, seed: int = 0) -> list[Stage]:
    """One stage a condition, for the held-out clips of a dataset.

    Its video alone is a condition where it is known what material is seen.
    """
    preset = data.preset
    passed = [*data.rows("video_tokens", (), data.held_out_clips())]
    clips = data.wh.clips(["clip_id", "source_video", "truth"], passed).to_pylist()
    partners = other_videos({row["clip_id"]: row["source_video"] for row in clips})
    settings = generate_settings(preset, checkpoint, seed)
    # when they are needed: those of all would fill the memory
    tokens_of = partial(data.rows, "video_tokens", ("video_tokens",))

    def stage(condition: Condition) -> Generate:
        pairs = tuple(partners.items()) if condition == "other" else ()
        own = replace(settings, condition=condition, partners=pairs)
        return Generate(preset, checkpoint.path, own, tokens_of)

    seen = any(shows_material(truth_of(clip)) for clip in clips)
    return [stage(condition) for condition in CONDITIONS if seen or condition != "video"]


def generate_settings(
    preset: Preset, checkpoint: Checkpoint, seed: int, condition: Condition = "true"
) -> GenerateSettings:
    """All that decides the sounds of a checkpoint on this machine under one condition."""
    device = choose_device()
    fitted = read_bridge_facts(checkpoint.path).apply(preset, checkpoint.path)
    return GenerateSettings(
        checkpoint=checkpoint.id,
        condition=condition,
        seed=seed,
        sample=preset.sample.model_dump(exclude={"fast_steps", "compile"}),
        window=fitted.window.model_dump(),
        machine=(device.partition(":")[0], str(sampling_dtype(device)).removeprefix("torch.")),
        partners=(),
    )


def other_videos(sources: Mapping[str, str]) -> dict[str, str]:
    """For each clip (id -> source video) the next one, in the order of ids, of another video.

    Raises FoleyError where all are of one video.
    """
    ids = sorted(sources)
    partners: dict[str, str] = {}
    for i, clip in enumerate(ids):
        after = (ids[(i + step) % len(ids)] for step in range(1, len(ids)))
        other = next((id for id in after if sources[id] != sources[clip]), None)
        if other is None:
            raise FoleyError(
                f"the held-out clips are all of one video ({sources[clip]}): nothing to compare "
                "with; select clips of several videos"
            )
        partners[clip] = other
    return partners
