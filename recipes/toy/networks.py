"""Trains the toy preset's scorers and evaluation networks on procedural clips, and measures them on unseen ones.

Run by `foley demo --from-scratch`, or alone: `python -m recipes.toy.networks FOLDER` writes (or
writes again) these weights in a folder of toy weights. What each learns is what its metric needs:
which sound belongs to a picture (ImageBind), how degraded a sound is (Audiobox), what material is
struck (PANNs, PaSST, VGGish), and by how much the sound is late (Synchformer).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch
from torch import Tensor

from model.metrics.metrics import OFFSETS, area_under_roc
from model.networks.audiobox import Audiobox
from model.networks.base import EvaluationNetwork
from model.networks.imagebind import ImageBind
from model.networks.panns import Cnn14
from model.networks.passt import Passt
from model.networks.synchformer import Synchformer
from model.networks.vggish import VGGish
from model.presets.preset import Preset, load_preset
from model.weights.load import save_weights
from pipeline.procedural import (
    FPS,
    MATERIALS,
    SAMPLE_RATE,
    ProceduralClip,
    render_audio,
    render_frames,
    sample_clip,
)
from pipeline.procedural.degrading import KINDS, degrade
from recipes.toy.train_networks import (
    Descent,
    train_audiobox,
    train_classifier,
    train_imagebind,
    train_sync_halves,
    train_sync_transformer,
)

OnProgress = Callable[[str, int, int], None]

FIRST_SEED = 600_000_000  # beyond those of any corpus and of the backbone's training
UNSEEN = 50_000_000  # added to the seeds of clips that are only measured on
SECONDS = 4.0

CLASSIFIER = Descent(steps=250, batch_size=16)
IMAGEBIND = Descent(steps=900, batch_size=64, learning_rate=3e-3, warmup=50)
PICTURE = 16  # side of the pictures that ImageBind learns from
AUDIOBOX = Descent(steps=700, batch_size=16, learning_rate=3e-3)
SYNC_HALVES = Descent(steps=700, batch_size=32)
SYNC = Descent(steps=3000, batch_size=48, learning_rate=1e-3, warmup=100)
IMAGEBIND_CLIPS, SOUND_CLIPS, HALVES_CLIPS, SYNC_CLIPS, SYNC_OFFSETS = 1500, 512, 300, 900, 6


def clips_of(count: int, first: int, seconds: float = SECONDS) -> list[ProceduralClip]:
    """Procedural clips that no corpus holds."""
    return [sample_clip(FIRST_SEED + first + i, seconds) for i in range(count)]


def sounds_of(clips: Sequence[ProceduralClip], sample_rate: int = SAMPLE_RATE) -> Tensor:
    """Sounds [clips, S] at a rate, as files of the toy give them.

    Rendered at 16 kHz, then resampled.
    """
    waves = [render_audio(clip) for clip in clips]
    if sample_rate != SAMPLE_RATE:
        waves = [soxr.resample(wave, SAMPLE_RATE, sample_rate) for wave in waves]
    return torch.from_numpy(np.stack(waves))


def pictures_at(clip: ProceduralClip, times: np.ndarray) -> np.ndarray:
    """The pictures of a clip that a player shows at these times (s) -> uint8 [T, 64, 64, 3]."""
    frames = render_frames(clip)
    return frames[np.minimum((times * FPS + 1e-6).astype(int), len(frames) - 1)]


def save(network: EvaluationNetwork, folder: Path) -> None:
    """Write a network's weights in half precision, but for a spectrogram among them.

    It would hear its own noise.
    """
    weights = network.state_dict()
    whole = ("spectrogram_extractor.", "logmel_extractor.")
    halved = {
        key: value if key.startswith(whole) else half(value) for key, value in weights.items()
    }
    save_weights(folder / f"{network.name}.safetensors", halved)


def half(tensor: Tensor) -> Tensor:
    """In half precision, where it is a floating-point tensor."""
    return tensor.half() if tensor.is_floating_point() else tensor


def train_classifiers(preset: Preset, folder: Path, progress: OnProgress) -> dict[str, Any]:
    """PANNs, PaSST and VGGish on the materials.

    Their accuracy on unseen clips, where they classify.
    """
    figures: dict[str, Any] = {}
    clips, unseen = clips_of(SOUND_CLIPS, 0), clips_of(128, UNSEEN)
    for kind in (Cnn14, Passt, VGGish):
        torch.manual_seed(0)
        network = kind.build(preset)
        labels = torch.tensor([MATERIALS.index(clip.material) for clip in clips])
        report = lambda i, _, name=kind.name: progress(f"train {name}", i + 1, CLASSIFIER.steps)  # noqa: E731
        train_classifier(
            network, sounds_of(clips, kind.sample_rate), labels, len(MATERIALS), CLASSIFIER, report
        )
        save(network, folder)
        heard = network.hear(list(sounds_of(unseen, kind.sample_rate).numpy()))
        if heard[0].logits is not None:
            said = [MATERIALS[int(h.logits.argmax())] for h in heard if h.logits is not None]
            right = [name == clip.material for name, clip in zip(said, unseen, strict=True)]
            figures[f"{kind.name}_accuracy"] = float(np.mean(right))
    return figures


def moments(clips: Sequence[ProceduralClip], bins: int) -> Tensor:
    """When things happen in each clip.

    Its impacts over `bins` of time, blurred by 70 ms, without their mean.
    """
    at = (np.arange(bins) + 0.5) * SECONDS / bins
    found = np.stack(
        [np.exp(-((np.array(c.impacts)[:, None] - at) ** 2) / (2 * 0.07**2)).sum(0) for c in clips]
    )
    return torch.from_numpy(found - found.mean(1, keepdims=True)).float()


def train_toy_imagebind(preset: Preset, folder: Path, progress: OnProgress) -> dict[str, Any]:
    """ImageBind on clips' own pairs.

    How well its cosine tells a clip's sound from another clip's.
    """
    torch.manual_seed(0)
    network = ImageBind.build(preset).eval().requires_grad_(False)
    times = network.times(SECONDS)
    clips, unseen = clips_of(IMAGEBIND_CLIPS, 1_000_000), clips_of(96, UNSEEN + 1_000_000)
    small = [shrunk(pictures_at(clip, times)) for clip in clips]
    pictures = torch.from_numpy(np.stack(small)).permute(0, 4, 1, 2, 3).contiguous()
    mels = torch.stack([network.prepare(render_audio(clip))[0] for clip in clips])
    anchors = moments(clips, int(preset.imagebind["out_embed_dim"]))
    report = lambda i, _: progress("train imagebind", i + 1, IMAGEBIND.steps)  # noqa: E731
    train_imagebind(network.model, pictures, mels, anchors, IMAGEBIND, report)
    save_weights(folder / "imagebind.safetensors", network.model.state_dict(), torch.float16)
    seen, heard = (
        torch.from_numpy(np.concatenate([clip.features for clip in embedded]))
        for embedded in (
            network.watch([enlarged(pictures_at(clip, times)) for clip in unseen]),
            network.hear([render_audio(clip) for clip in unseen]),
        )
    )
    own, other = (
        torch.nn.functional.cosine_similarity(seen, h).numpy() for h in (heard, heard.roll(1, 0))
    )
    return {"imagebind_auc": area_under_roc(own, other)}


def shrunk(pictures: np.ndarray) -> np.ndarray:
    """Pictures [T, 64, 64, 3] at the side that ImageBind learns from, by the mean of what falls together."""
    tensor = torch.from_numpy(pictures).permute(0, 3, 1, 2).float()
    small = torch.nn.functional.interpolate(tensor, (PICTURE, PICTURE), mode="area")
    return small.permute(0, 2, 3, 1).round().byte().numpy()


def enlarged(pictures: np.ndarray, side: int = 224) -> np.ndarray:
    """Pictures [T, H, W, 3] at the side that ImageBind takes."""
    tensor = torch.from_numpy(pictures).permute(0, 3, 1, 2).float()
    large = torch.nn.functional.interpolate(tensor, (side, side), mode="bilinear")
    return large.permute(0, 2, 3, 1).round().byte().numpy()


def train_toy_audiobox(preset: Preset, folder: Path, progress: OnProgress) -> dict[str, Any]:
    """Audiobox on clean sounds and known degradations.

    How well PQ tells them apart on unseen clips.
    """
    torch.manual_seed(0)
    scorer = Audiobox.build(preset).eval().requires_grad_(False)
    model = scorer.model
    model.freeze_encoder, model.wavlm_model.feature_grad_mult = False, 1.0
    clips = clips_of(SOUND_CLIPS, 2_000_000)
    sounds = sounds_of(clips).numpy()
    density = np.array([len(clip.impacts) for clip in clips])

    def batch(generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        rng = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
        rows = rng.integers(len(clips), size=AUDIOBOX.batch_size)
        severity = np.where(rng.random(len(rows)) < 0.4, 0.0, rng.random(len(rows)))
        kinds = rng.choice(
            len(KINDS), p=(0.15, 0.3, 0.4, 0.15), size=len(rows)
        )  # the harder ones more often
        heard = [degrade(sounds[r], KINDS[k], s, int(rng.integers(2**31))) if s else sounds[r]
                 for r, k, s in zip(rows, kinds, severity, strict=True)]  # fmt: skip
        spoiled = torch.tensor(severity * 5 + (severity > 0), dtype=torch.float32)
        wanted = {
            axis: 8 - spoiled * share for axis, share in (("PQ", 1.0), ("CE", 0.8), ("CU", 0.9))
        }
        wanted["PC"] = torch.tensor(density[rows], dtype=torch.float32)
        return torch.from_numpy(np.stack(heard))[:, None], wanted

    train_audiobox(
        model, batch, AUDIOBOX, lambda i, _: progress("train audiobox", i + 1, AUDIOBOX.steps)
    )
    model.freeze_encoder = True
    save_weights(folder / "audiobox.safetensors", model.state_dict(), torch.float16)
    unseen = sounds_of(clips_of(96, UNSEEN + 2_000_000)).numpy()
    spoiled = [degrade(sound, KINDS[i % len(KINDS)], 0.6, i) for i, sound in enumerate(unseen)]
    clean = [row["pq"] for row in scorer.score(list(unseen))]
    return {
        "audiobox_auc": area_under_roc(clean, [row["pq"] for row in scorer.score(spoiled)]),
        "audiobox_auc_by_kind": {
            kind: area_under_roc(
                clean,
                [r["pq"] for r in scorer.score([degrade(s, kind, 0.6, 0) for s in unseen[:48]])],
            )
            for kind in KINDS
        },
    }


def window(clip: ProceduralClip, start: float, seconds: float) -> ProceduralClip:
    """The part of a clip from `start`, as a clip of its own: for its picture."""
    inside = [
        (t - start, s)
        for t, s in zip(clip.impacts, clip.strengths, strict=True)
        if start <= t < start + seconds
    ]
    return replace(
        clip,
        seconds=seconds,
        impacts=tuple(t for t, _ in inside),
        strengths=tuple(s for _, s in inside),
    )


def late(sound: np.ndarray, offset: float, cut: bool) -> np.ndarray:
    """The middle 4 s of an 8 s sound, `offset` s late.

    `cut`: as a file would be, with silence where it has nothing.
    """
    if not cut:
        first = round((2 - offset) * SAMPLE_RATE)
        return sound[first : first + round(SECONDS * SAMPLE_RATE)]
    own, shift = sound[2 * SAMPLE_RATE : 6 * SAMPLE_RATE], round(abs(offset) * SAMPLE_RATE)
    moved = np.zeros_like(own)
    if offset >= 0:
        moved[shift:] = own[: len(own) - shift]
    else:
        moved[: len(own) - shift] = own[shift:]
    return moved


def train_toy_sync(preset: Preset, folder: Path, progress: OnProgress) -> dict[str, Any]:
    """Synchformer on clips whose sound is late or early by a step of the grid."""
    torch.manual_seed(0)
    network = Synchformer.build(preset)
    times = network.times(SECONDS)
    clips = clips_of(HALVES_CLIPS, 3_000_000)
    pictures = torch.from_numpy(np.stack([pictures_at(clip, times) for clip in clips])).permute(
        0, 1, 4, 2, 3
    )
    mels = torch.stack([network.prepare(render_audio(clip)) for clip in clips])
    train_sync_halves(
        network, pictures, mels, [clip.impacts for clip in clips], SYNC_HALVES,
        lambda i, _: progress("train sync halves", i + 1, SYNC_HALVES.steps),
    )  # fmt: skip
    video, audio, classes = sync_tokens(
        network, clips_of(SYNC_CLIPS, 4_000_000, 8.0), SYNC_OFFSETS, progress
    )
    train_sync_transformer(
        network, video, audio, classes, SYNC, lambda i, _: progress("train sync", i + 1, SYNC.steps)
    )
    save(network, folder)
    video, audio, classes = sync_tokens(network, clips_of(96, UNSEEN + 4_000_000, 8.0), 4, progress)
    with torch.inference_mode():
        said = torch.stack(
            [network.compare(video, audio[:, k]).argmax(1) for k in range(audio.shape[1])], 1
        )
    apart = (said - classes).abs().float() * float(OFFSETS[1] - OFFSETS[0])
    return {
        "sync_mae_s": float(apart.mean()),
        "sync_within_a_step": float((apart < 0.21).float().mean()),
    }


def sync_tokens(
    network: Synchformer, clips: Sequence[ProceduralClip], offsets: int, progress: OnProgress
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens of the middle of 8 s clips [N, Nv, D], of their sound at some offsets [N, K, Na, D], and the classes."""
    rng = np.random.default_rng(len(clips))
    video: list[Tensor] = []
    audio: list[Tensor] = []
    classes = torch.from_numpy(rng.integers(len(OFFSETS), size=(len(clips), offsets)))
    for i, clip in enumerate(clips):
        seen = pictures_at(window(clip, 2.0, SECONDS), network.times(SECONDS))
        video.append(torch.from_numpy(network.watch([seen])[0].features))
        sound = render_audio(clip)
        heard = [late(sound, float(OFFSETS[c]), bool(rng.random() < 0.5)) for c in classes[i]]
        audio.append(torch.from_numpy(np.stack([e.features for e in network.hear(heard)])))
        progress("sync tokens", i + 1, len(clips))
    return torch.stack(video), torch.stack(audio), classes


STEPS = (train_classifiers, train_toy_imagebind, train_toy_audiobox, train_toy_sync)


def make_evaluation_weights(
    folder: Path, progress: OnProgress, steps: Sequence[Any] = STEPS
) -> dict[str, Any]:
    """Train and write all of them into `folder`.

    What was measured on the way, and the CPU-seconds of each.
    """
    preset = load_preset("toy", weights=folder)
    figures: dict[str, Any] = {}
    for step in steps:
        started = time.process_time()
        figures |= step(preset, folder, progress)
        figures[f"{step.__name__}_cpu_seconds"] = round(time.process_time() - started)
    return figures


def settings_of() -> dict[str, Any]:
    """How each was trained, for the model card."""
    return {
        "classifiers": asdict(CLASSIFIER),
        "imagebind": asdict(IMAGEBIND),
        "audiobox": asdict(AUDIOBOX),
        "sync halves": asdict(SYNC_HALVES),
        "sync": asdict(SYNC),
    }


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(
            "usage: python -m recipes.toy.networks FOLDER [classifiers|toy_imagebind|toy_audiobox|toy_sync ...]"
        )
    chosen = [
        step
        for step in STEPS
        if len(sys.argv) == 2 or step.__name__.removeprefix("train_") in sys.argv[2:]
    ]

    def show(what: str, done: int, total: int) -> None:
        """A line now and then."""
        if done % 50 == 0 or done == total:
            print(f"{what} {done}/{total}", file=sys.stderr, flush=True)

    print(json.dumps(make_evaluation_weights(Path(sys.argv[1]), show, chosen), indent=1))
