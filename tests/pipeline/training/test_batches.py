"""What training and validation read of clips of unequal lengths: all of them, and no padding."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from model.presets.preset import Preset
from model.presets.settings import TrainSettings
from model.sampling.canvas import Canvas
from model.training.feature_batch import FeatureBatch
from pipeline.training.batches import SplitBatches, epoch_facts, micro_batches
from pipeline.training.video_scale import video_scale
from tests.pipeline.small import Curated, with_training
from warehouse import FeatureSet
from warehouse.datasets.epoch import Epoch


@pytest.fixture
def features(untrained: Curated, preset: Preset) -> FeatureSet:
    return untrained.data(preset).split("train")


def steps(features: FeatureSet, preset: Preset, mine: range, first: int, count: int) -> list[bytes]:
    """The first clip's latents of each micro-batch: no two clips have the same."""
    canvas = Canvas.of(preset)
    found = micro_batches(features, preset.train, canvas, mine, first)
    return [batch.latent_mean.numpy().tobytes() for batch in islice(found, count * len(mine))]


def whole(features: FeatureSet, batch: FeatureBatch) -> list[int]:
    """Which rows of the set the clips of a batch are, of whose latents it holds the beginning."""
    means = features.read()["latent_mean"].astype(np.float32)
    mine = batch.latent_mean.numpy()
    return [
        next(i for i, mean in enumerate(means) if np.array_equal(mean[:, : row.shape[1]], row))
        for row in mine
    ]


def test_an_epoch_takes_every_clip_as_long_as_the_shortest_of_its_batch(
    features: FeatureSet, preset: Preset
) -> None:
    arrays, canvas = features.read(), Canvas.of(preset)
    counts = arrays["n_latents"]
    assert len(set(counts.tolist())) > 2
    settings = preset.train.model_copy(update={"batch_size": 3})
    taken: list[int] = []
    batches = micro_batches(features, settings, canvas, range(1), 0)
    for batch in islice(batches, len(features) // 3):
        rows = whole(features, batch)
        shortest = counts[rows].min()
        assert batch.latent_mean.shape[-1] == shortest
        assert batch.latents.tolist() == [shortest] * 3
        most = int(np.ceil(shortest / 25 * 8))
        assert batch.frames.tolist() == np.minimum(arrays["n_video_tokens"][rows], most).tolist()
        assert batch.video.shape[1] == max(batch.frames)
        for i, row in enumerate(rows):
            video = arrays["video_tokens"][row, : batch.video.shape[1]].astype(np.float32)
            assert np.array_equal(batch.video[i].numpy(), video)
            own = arrays["audio_seconds"][row]
            assert batch.seconds[i] == (shortest / 25 if shortest < counts[row] else own)
            assert len(batch.text[i]) == arrays["n_text_tokens"][row]
        taken += rows
    assert len(taken) == len(set(taken)) == len(features) // 3 * 3


def test_processes_share_steps_that_are_those_of_one_and_go_on_where_they_stopped(
    features: FeatureSet, preset: Preset
) -> None:
    """Over the ends of epochs, and where a step takes more batches than an epoch has."""
    for shares in (2, 4, 32):
        wide = with_training(preset, batch_size=2, micro_batches=shares, seed=5)
        alone = steps(features, wide, range(shares), 0, 4)
        assert len(set(alone)) > 2
        for world in (2, shares):
            parts = [steps(features, wide, range(r, shares, world), 0, 4) for r in range(world)]
            per = shares // world
            together = [parts[i % world][i // world] for i in range(4 * shares)]
            assert together == alone
            assert steps(features, wide, range(1, shares, world), 3, 1) == parts[1][3 * per :]
    few = with_training(preset, batch_size=100)  # more than there are clips
    batch = next(micro_batches(features, few.train, Canvas.of(few), range(1), 0))
    assert len(batch.video) == len(features)


def test_every_epoch_and_every_seed_has_an_order_of_its_own(
    features: FeatureSet, preset: Preset
) -> None:
    first, other = (with_training(preset, batch_size=2, seed=seed) for seed in (0, 1))
    count = len(features) // 2
    order = steps(features, first, range(1), 0, 2 * count)
    assert order[:count] != order[count:]
    assert order[:count] != steps(features, other, range(1), 0, count)


def test_a_subset_is_one_of_what_is_trained_on_alone(untrained: Curated, preset: Preset) -> None:
    data = untrained.data(preset)
    assert replace(data, subset="ablation").split("test").id == data.split("test").id
    few = replace(data, limit=2)
    assert few.batches("test").clips == 2 < data.batches("test").clips
    assert few.held_out_name != data.held_out_name


def test_what_an_epoch_leaves_out_and_cuts_off_is_said(
    features: FeatureSet, preset: Preset
) -> None:
    counts, canvas = features.column("n_latents"), Canvas.of(preset)
    settings = preset.train.model_copy(update={"batch_size": 3})
    facts = epoch_facts(features, settings, canvas)
    rows = features.rows(Epoch(3, seed=settings.seed, by="n_latents"))
    kept = sum(counts[batch].min() * 3 for batch in rows)
    taken = sum(counts[batch].sum() for batch in rows)
    assert facts == {
        "clips": len(features),
        "clips_an_epoch": len(features) // 3 * 3,
        "sound_cut": round(1 - kept / taken, 5),
    }
    assert 0 < facts["sound_cut"] < 0.3
    one: TrainSettings = settings.model_copy(update={"batch_size": 1})
    assert epoch_facts(features, one, canvas)["sound_cut"] == 0
    assert epoch_facts(features, settings, replace(canvas, seconds=2.0))["sound_cut"] == 0


def test_validation_reads_every_clip_in_its_own_length(untrained: Curated, preset: Preset) -> None:
    data = untrained.data(preset)
    features, batches = data.split("test"), data.batches("test")
    assert isinstance(batches, SplitBatches)
    seen: list[int] = []
    for batch in batches:
        rows = whole(features, batch)
        assert batch.latents.tolist() == features.column("n_latents")[rows].tolist()
        assert set(batch.latents.tolist()) == {batch.latent_mean.shape[-1]}
        seen += rows
    assert sorted(seen) == list(range(len(features)))
    assert batches.clips == len(features)
    assert data.batches("test", 2).clips == 2
    assert torch.equal(batches[-1].video, batches[len(batches) - 1].video)


def test_the_scale_of_video_is_of_real_tokens_and_measured_once(
    features: FeatureSet, tmp_path: Path
) -> None:
    arrays = features.read(columns=["video_tokens", "n_video_tokens"])
    counts = arrays["n_video_tokens"].tolist()
    assert min(counts) < max(counts)  # there is padding
    real = np.concatenate(
        [row[:n, 0] for row, n in zip(arrays["video_tokens"], counts, strict=True)]
    ).astype(np.float64)
    file = features.path / "_video_scale.json"
    file.unlink(missing_ok=True)
    mean, std = video_scale(features, tmp_path)
    np.testing.assert_allclose(mean.numpy(), real.mean(0), rtol=1e-6)
    np.testing.assert_allclose(std.numpy(), real.std(0, ddof=1), rtol=1e-6)
    kept = json.loads(file.read_text())
    assert (kept["clips"], kept["tokens"]) == (len(features), len(real))
    file.write_text(json.dumps(kept | {"mean": [1.0] * len(mean)}))
    assert video_scale(features, tmp_path)[0].tolist() == [1.0] * len(mean)
    file.unlink()
