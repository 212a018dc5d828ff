"""The toy's scorers and evaluation networks: trained on procedural clips, measured on unseen ones.

What each learns is what its metric needs: which sound belongs to a picture (ImageBind), how
degraded a sound is (Audiobox), what material is struck (PANNs, PaSST, VGGish), and by how much the
sound is late (Synchformer).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
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
from model.types import Audio
from model.weights.load import save_weights
from pipeline.procedural import SAMPLE_RATE, ProceduralClip, render_audio
from recipes.toy.lessons import (
    PROCEDURAL,
    SECONDS,
    UNSEEN,
    Lesson,
    Lessons,
    ProceduralLesson,
    clips_of,
    resized,
    sounds_of,
    spoiled,
)
from recipes.toy.recipe import Figures, NetworksRecipe, Recipe, train
from recipes.toy.train_networks import (
    train_audiobox,
    train_classifier,
    train_imagebind,
    train_sync_halves,
    train_sync_transformer,
)


def save(network: EvaluationNetwork, folder: Path) -> None:
    """Write a network's weights in half precision, except its spectrogram: it would add noise."""
    whole = ("spectrogram_extractor.", "logmel_extractor.")
    weights = network.state_dict()
    for key, value in weights.items():
        if value.is_floating_point() and not key.startswith(whole):
            weights[key] = value.half()
    save_weights(folder / f"{network.name}.safetensors", weights)


def make_classifiers(
    preset: Preset, recipe: NetworksRecipe, figures: Figures, lessons: Lessons
) -> None:
    """PANNs, PaSST and VGGish learn the materials; those that classify are measured by accuracy.

    Those of them that the preset has.
    """
    kinds = [kind for kind in (Cnn14, Passt, VGGish) if kind.name in preset.networks]
    clips, classes = lessons.clips(recipe.sounds, 0), lessons.classes
    unseen = lessons.clips(recipe.unseen, UNSEEN)
    labels = torch.tensor([classes.index(clip.material) for clip in clips])
    with figures.timed("PANNs, PaSST and VGGish"):
        for kind in kinds:
            torch.manual_seed(0)
            network = kind.build(preset)
            sounds, settings = sounds_of(clips, kind.sample_rate), recipe.classifiers
            losses = train_classifier(network, sounds, labels, len(classes), settings)
            train(kind.name, settings.steps, losses)
            save(network, preset.weights)
            embedded = network.hear(list(sounds_of(unseen, kind.sample_rate).numpy()))
            right = [
                classes[int(heard.logits.argmax())] == clip.material
                for heard, clip in zip(embedded, unseen, strict=True)
                if heard.logits is not None
            ]
            if right:
                figures.add("networks", {f"{kind.name}, accuracy": float(np.mean(right))})


def moments(clips: Sequence[Lesson], bins: int) -> Tensor:
    """When things happen in each clip -> [clips, bins]: impacts blurred by 70 ms, of mean 0."""
    at = (np.arange(bins) + 0.5) * SECONDS / bins
    rows = [
        np.exp(-((np.array(clip.impacts)[:, None] - at) ** 2) / (2 * 0.07**2)).sum(0)
        for clip in clips
    ]
    density = np.stack(rows)
    return torch.from_numpy(density - density.mean(1, keepdims=True)).float()


def make_imagebind(
    preset: Preset, recipe: NetworksRecipe, figures: Figures, lessons: Lessons
) -> None:
    """ImageBind learns clips' own pairs; is a clip's cosine higher than with another's sound?"""
    torch.manual_seed(0)
    network = ImageBind.build(preset).eval().requires_grad_(False)
    times = network.times(SECONDS)
    clips = lessons.clips(recipe.imagebind_clips, 1_000_000)
    with figures.timed("ImageBind"):
        # filled, not stacked: what is kept between large arrays that come and go breaks the heap up
        side = recipe.imagebind_side
        pictures = torch.empty(len(clips), 3, len(times), side, side, dtype=torch.uint8)
        for row, clip in zip(pictures, clips, strict=True):
            row.copy_(torch.from_numpy(resized(clip.pictures(times), side)).permute(3, 0, 1, 2))
        mels = torch.stack([network.prepare(clip.sound())[0] for clip in clips])
        anchors = moments(clips, int(preset.imagebind["out_embed_dim"]))
        losses = train_imagebind(network.model, pictures, mels, anchors, recipe.imagebind)
        train("imagebind", recipe.imagebind.steps, losses)
        save_weights(preset.model("imagebind"), network.model.state_dict(), torch.float16)
        unseen = lessons.clips(recipe.unseen, UNSEEN + 1_000_000)
        seen = network.watch([resized(clip.pictures(times), 224) for clip in unseen])
        heard = network.hear([clip.sound() for clip in unseen])
    video, audio = (
        torch.from_numpy(np.concatenate([clip.features for clip in half])) for half in (seen, heard)
    )
    own = F.cosine_similarity(video, audio).numpy()
    other = F.cosine_similarity(video, audio.roll(1, 0)).numpy()
    auc = area_under_roc(own, other)
    figures.add("networks", {"ImageBind, area under ROC of own and other sounds": auc})


def make_audiobox(
    preset: Preset, recipe: NetworksRecipe, figures: Figures, lessons: Lessons
) -> None:
    """Audiobox learns clean sounds and known damage; does its PQ tell them apart?"""
    torch.manual_seed(0)
    scorer = Audiobox.build(preset).eval().requires_grad_(False)
    model = scorer.model
    model.freeze_encoder, model.wavlm_model.feature_grad_mult = False, 1.0
    clips = lessons.clips(recipe.sounds, 2_000_000)
    sounds, flaws = sounds_of(clips).numpy(), [*lessons.flaws]
    density = np.array([len(clip.impacts) for clip in clips])

    def batch(generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        rng = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
        rows = rng.integers(len(clips), size=recipe.audiobox.batch_size)
        severity = np.where(rng.random(len(rows)) < 0.4, 0.0, rng.random(len(rows)))
        kinds = rng.choice(len(flaws), p=[*lessons.flaws.values()], size=len(rows))
        heard = [
            spoiled(sounds[r], flaws[k], s, int(rng.integers(2**31))) if s else sounds[r]
            for r, k, s in zip(rows, kinds, severity, strict=True)
        ]
        damage = torch.tensor(severity * 5 + (severity > 0), dtype=torch.float32)
        scores = {axis: 8 - damage * by for axis, by in (("PQ", 1.0), ("CE", 0.8), ("CU", 0.9))}
        scores["PC"] = torch.tensor(density[rows], dtype=torch.float32)
        return torch.from_numpy(np.stack(heard))[:, None], scores

    with figures.timed("Audiobox"):
        train("audiobox", recipe.audiobox.steps, train_audiobox(model, batch, recipe.audiobox))
        model.freeze_encoder = True
        path = preset.model("audiobox")
        save_weights(path, model.state_dict(), torch.float16)
        scale = json.dumps({"target_transform": model.target_transform}, indent=1)
        path.with_suffix(".json").write_text(scale + "\n")
        unseen = list(sounds_of(lessons.clips(recipe.unseen, UNSEEN + 2_000_000)).numpy())
        clean = [row["pq"] for row in scorer.score(unseen)]

        def auc(damaged: list[Audio]) -> float:
            return area_under_roc(clean, [row["pq"] for row in scorer.score(damaged)])

        all_kinds = auc([spoiled(s, flaws[i % len(flaws)], 0.6, i) for i, s in enumerate(unseen)])
        by_kind = {kind: auc([spoiled(s, kind, 0.6, 0) for s in unseen[:48]]) for kind in flaws}
    what = "Audiobox, area under ROC of clean and degraded sounds"
    figures.add("networks", {what: all_kinds, f"{what} by kind": by_kind})


def window(clip: ProceduralClip, start: float, seconds: float) -> ProceduralClip:
    """The part of a clip from `start`, as a clip of its own: for its picture."""
    inside = [i for i, t in enumerate(clip.impacts) if start <= t < start + seconds]
    impacts = tuple(clip.impacts[i] - start for i in inside)
    strengths = tuple(clip.strengths[i] for i in inside)
    return replace(clip, seconds=seconds, impacts=impacts, strengths=strengths)


def late(sound: Audio, offset: float, cut: bool) -> Audio:
    """The middle 4 s of an 8 s sound, `offset` s late; `cut`: silence where a file has nothing."""
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


def make_synchformer(preset: Preset, recipe: Recipe, figures: Figures, _: Lessons) -> None:
    """Synchformer learns clips whose sound is late or early by a step of its grid."""
    torch.manual_seed(0)
    network = Synchformer.build(preset)
    times = network.times(SECONDS)
    with figures.timed("Synchformer"):
        clips = clips_of(recipe.sync_halves_clips, 3_000_000)
        frames = np.stack([ProceduralLesson(clip).pictures(times) for clip in clips])
        pictures = torch.from_numpy(frames).permute(0, 1, 4, 2, 3)
        mels = torch.stack([network.prepare(render_audio(clip)) for clip in clips])
        impacts = [clip.impacts for clip in clips]
        losses = train_sync_halves(network, pictures, mels, impacts, recipe.sync_halves)
        train("synchformer's halves", recipe.sync_halves.steps, losses)
        clips = clips_of(recipe.sync_clips, 4_000_000, 8.0)
        tokens = sync_tokens(network, clips, recipe.sync_offsets)
        losses = train_sync_transformer(network, *tokens, recipe.sync)
        train("synchformer", recipe.sync.steps, losses)
        save(network, preset.weights)
        unseen = clips_of(recipe.unseen, UNSEEN + 4_000_000, 8.0)
        video, audio, classes = sync_tokens(network, unseen, 4)
        with torch.inference_mode():
            logits = [network.compare(video, audio[:, k]) for k in range(audio.shape[1])]
    predicted = torch.stack([row.argmax(1) for row in logits], 1)
    error = (predicted - classes).abs().float() * float(OFFSETS[1] - OFFSETS[0])
    measured = {
        "Synchformer, mean error in s": float(error.mean()),
        "Synchformer, share within a step of 0.2 s": float((error < 0.21).float().mean()),
    }
    figures.add("networks", measured)


def sync_tokens(
    network: Synchformer, clips: Sequence[ProceduralClip], offsets: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens of the middle of 8 s clips, with their sound at several offsets.

    Returns:
        Tokens of pictures [clips, Nv, D], those of sounds [clips, offsets, Na, D], and the classes
        of the offsets [clips, offsets].
    """
    rng = np.random.default_rng(len(clips))
    video: list[Tensor] = []
    audio: list[Tensor] = []
    classes = torch.from_numpy(rng.integers(len(OFFSETS), size=(len(clips), offsets)))
    for clip, row in zip(clips, classes, strict=True):
        pictures = ProceduralLesson(window(clip, 2.0, SECONDS)).pictures(network.times(SECONDS))
        video.append(torch.from_numpy(network.watch([pictures])[0].features))
        sound = render_audio(clip)
        shifted = [late(sound, float(OFFSETS[c]), bool(rng.random() < 0.5)) for c in row]
        audio.append(torch.from_numpy(np.stack([one.features for one in network.hear(shifted)])))
    return torch.stack(video), torch.stack(audio), classes


NETWORKS: dict[str, Any] = {
    "classifiers": make_classifiers,
    "imagebind": make_imagebind,
    "audiobox": make_audiobox,
    "synchformer": make_synchformer,
}


def make_networks(folder: Path, recipe: Recipe, only: Sequence[str] = ()) -> None:
    """Train, measure and write all networks, or those named in `only`, into `folder`."""
    preset = load_preset("toy", weights=folder)
    for name, make in NETWORKS.items():
        if not only or name in only:
            make(preset, recipe, Figures(folder), PROCEDURAL)
