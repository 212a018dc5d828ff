"""The shipped toy networks do what their card says, on files that none of them has seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from model.metrics.metrics import area_under_roc
from model.networks.audiobox import Audiobox
from model.networks.base import EvaluationNetwork
from model.networks.imagebind import ImageBind
from model.networks.panns import Cnn14
from model.networks.passt import Passt
from model.presets.preset import load_preset
from pipeline.media import read_audio
from pipeline.procedural import (
    FPS,
    MATERIALS,
    SIZE,
    ProceduralClip,
    render_audio,
    sample_clip,
    write_clip,
)
from pipeline.procedural.degrading import KINDS, degrade
from pipeline.scoring.imagebind import read_clip
from recipes.toy.networks import late, save, window
from recipes.toy.train_networks import Descent, small_pictures, token_targets, train_classifier
from tests.benchmarks.evaluation import evaluate_folders, mean_correlation, write_sounds

PRESET = load_preset("toy")
COUNT = 32


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[ProceduralClip, Path]]:
    """Clips of a seed of their own, as files."""
    folder = tmp_path_factory.mktemp("unseen")
    made = [sample_clip(81_000_000 + i) for i in range(COUNT)]
    for i, clip in enumerate(made):
        write_clip(clip, folder / f"{i}.mp4")
    return [(clip, folder / f"{i}.mp4") for i, clip in enumerate(made)]


@pytest.mark.slow
def test_imagebind_tells_a_mis_dubbed_clip_from_a_true_one(
    clips: list[tuple[ProceduralClip, Path]],
) -> None:
    network = ImageBind.from_pretrained(PRESET)
    times = network.window_times(4.0, FPS)
    media = [read_clip(path, times, SIZE, 224) for _, path in clips]  # as curation reads it
    seen, heard = (
        torch.from_numpy(np.concatenate([clip.features for clip in embedded]))
        for embedded in (network.watch([f for f, _ in media]), network.hear([s for _, s in media]))
    )
    own, other = (F.cosine_similarity(seen, h).numpy() for h in (heard, heard.roll(1, 0)))
    assert area_under_roc(own, other) >= 0.95


def test_audiobox_tells_a_degraded_sound_from_a_clean_one(
    clips: list[tuple[ProceduralClip, Path]],
) -> None:
    scorer = Audiobox.from_pretrained(PRESET)
    sounds = [read_audio(path, 16000) for _, path in clips]
    spoiled = [degrade(sound, KINDS[i % len(KINDS)], 0.6, i) for i, sound in enumerate(sounds)]
    clean, worse = ([row["pq"] for row in scorer.score(part)] for part in (sounds, spoiled))
    assert area_under_roc(clean, worse) >= 0.9


@pytest.mark.parametrize("kind", [Cnn14, Passt])
def test_the_classifiers_know_the_materials(
    clips: list[tuple[ProceduralClip, Path]], kind: type[EvaluationNetwork]
) -> None:
    network = kind.from_pretrained(PRESET)
    heard = network.hear([read_audio(path, network.sample_rate) for _, path in clips])
    said = [MATERIALS[int(np.argmax(h.logits))] for h in heard if h.logits is not None]
    assert np.mean([s == clip.material for s, (clip, _) in zip(said, clips, strict=True)]) >= 0.95


@pytest.mark.slow
def test_metrics_follow_known_damage(tmp_path: Path) -> None:
    names = ["true", "noise-30", "noise-0", "material-swapped", "another-clips-sound"]
    names += [f"shift{s:+.1f}" for s in (-2.0, -1.6, -1.2, -0.8, -0.4, 0.4, 0.8, 1.2, 1.6, 2.0)]
    found = evaluate_folders(tmp_path, *write_sounds(tmp_path, 8, names), PRESET)
    value = {
        name: {m: f["value"] for m, f in figures.items()} for name, figures in found.systems.items()
    }
    assert mean_correlation(found) >= 0.9  # DeSync with the shift
    for metric in ("fd_vgg", "fd_panns", "fd_passt"):
        assert value["true"][metric] < value["noise-30"][metric] < value["noise-0"][metric], metric
    for metric in ("kl_panns", "kl_passt"):
        assert value["true"][metric] < 0.1 < value["material-swapped"][metric], metric
    assert value["another-clips-sound"]["ib"] < value["true"]["ib"] - 0.2
    assert value["true"]["onset_f1"] > 0.9 > value["another-clips-sound"]["onset_f1"]


def test_a_kernel_learnt_on_small_pictures_sees_their_means_in_large_ones() -> None:
    torch.manual_seed(0)
    imagebind = ImageBind.build(PRESET).model
    stem = imagebind.modality_preprocessors["vision"].rgbt_stem.proj
    small = torch.rand(1, 3, 32, 16, 16)
    with small_pictures(imagebind, 16):
        before = stem[1](small)
    large = small.repeat_interleave(14, 3).repeat_interleave(14, 4)
    torch.testing.assert_close(stem[1](large), before, atol=1e-4, rtol=1e-3)


def test_training_leaves_the_spectrogram_alone_and_saves_it_whole(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Cnn14(**PRESET.evaluation["panns"])
    before = {key: value.clone() for key, value in network.state_dict().items()}
    sounds = torch.from_numpy(np.stack([render_audio(sample_clip(i)) for i in range(4)]))
    labels = torch.tensor([0, 1, 2, 3])
    losses = list(train_classifier(network, sounds, labels, 4, Descent(3, 4, warmup=1)))
    assert len(losses) == 3
    after = network.state_dict()
    assert not torch.equal(after["fc1.weight"], before["fc1.weight"])
    for key in ("spectrogram_extractor.stft.conv_real.weight", "logmel_extractor.melW"):
        assert torch.equal(after[key], before[key])
    save(network, tmp_path)
    loaded = Cnn14.from_pretrained(load_preset("toy", tmp_path)).state_dict()
    key = "spectrogram_extractor.stft.conv_real.weight"
    assert torch.equal(loaded[key].cpu(), before[key])


@pytest.mark.parametrize("kind", KINDS)
def test_degrading_grows_with_severity_and_stays_a_sound(kind: str) -> None:
    sound = render_audio(sample_clip(3))
    apart = [float(np.abs(degrade(sound, kind, s, 0) - sound).mean()) for s in (0.1, 0.5, 1.0)]  # type: ignore[arg-type]
    assert 0 < apart[0] < apart[1] < apart[2]
    worst = degrade(sound, kind, 1.0, 0)  # type: ignore[arg-type]
    assert worst.dtype == np.float32
    assert len(worst) == len(sound)
    assert np.abs(worst).max() <= 1
    np.testing.assert_array_equal(worst, degrade(sound, kind, 1.0, 0))  # type: ignore[arg-type]


def test_the_part_of_a_clip_and_its_late_sound_fit_together() -> None:
    clip = sample_clip(5, 8.0)
    part = window(clip, 2.0, 4.0)
    assert part.impacts == tuple(t - 2.0 for t in clip.impacts if 2 <= t < 6)
    sound = render_audio(clip)
    np.testing.assert_array_equal(late(sound, 0.0, cut=False), sound[2 * 16000 : 6 * 16000])
    np.testing.assert_array_equal(
        late(sound, 0.4, cut=False)[6400:], sound[2 * 16000 : 6 * 16000 - 6400]
    )
    assert not late(sound, 0.4, cut=True)[:6400].any()
    np.testing.assert_array_equal(
        late(sound, -0.4, cut=True)[:-6400], sound[2 * 16000 + 6400 : 6 * 16000]
    )


def test_token_targets_are_the_times_that_hold_an_impact() -> None:
    starts = torch.tensor([0.0, 0.1, 0.2])
    assert token_targets([0.05, 0.25], starts, 0.1).tolist() == [1, 0, 1]
    assert token_targets([], starts, 0.1).tolist() == [0, 0, 0]
