"""A stage in bf16 gives nearly what it gives in float32, under a fingerprint of its own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.networks.panns import Cnn14
from model.presets.preset import Preset, load_preset
from pipeline.curation.stage_graph import StageGraph
from pipeline.evaluation.network_stages import sound_stages
from pipeline.media import probe
from pipeline.procedural import sample_clip, write_clip
from pipeline.stages.stage import Clip, Passed, Stage

TOY = load_preset("toy")


def preset(**precision: str) -> Preset:
    return Preset.model_validate(TOY.model_dump() | {"precision": precision})


def named(preset: Preset, name: str) -> Stage:
    return next(stage for stage in StageGraph(preset).stages if stage.name == name)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    path = tmp_path_factory.mktemp("clips") / "1.mp4"
    write_clip(sample_clip(1, 2.0), path)
    return {**vars(probe(path)), "clip_id": "1", "path": str(path), "prompt": "glass"}


def values(stage: Stage, clip: Clip, column: str) -> np.ndarray:
    stage.setup()
    with stage.running():
        (outcome,) = stage.process([clip])
    assert isinstance(outcome, Passed)
    data: Any = outcome.columns[column]
    array = np.frombuffer(data, np.float16) if isinstance(data, bytes) else np.array([data])
    return array.astype(np.float64)


@pytest.mark.parametrize(
    ("part", "stage", "column"),
    [
        ("video", "video_tokens", "video_tokens"),
        ("latents", "audio_latents", "latent_mean"),
        ("networks", "audiobox", "pq"),
    ],
)
def test_bf16_is_near_and_not_the_same(clip: Clip, part: str, stage: str, column: str) -> None:
    exact = values(named(TOY, stage), clip, column)
    # oneDNN 3.10 gets grouped convolutions of few channels wrong in bf16 on Intel's AMX, of which
    # the toy's Audiobox has one (docs/curation.md)
    with torch.backends.mkldnn.flags(enabled=part != "networks"):
        half = values(named(preset(**{part: "bf16"}), stage), clip, column)
    assert 0 < np.abs(half - exact).max() < 0.1 * np.abs(exact).max()


def test_precision_is_part_of_the_fingerprints_that_it_changes_and_of_no_other() -> None:
    usual = StageGraph(TOY).fingerprints
    assert StageGraph(preset(video="fp32", latents="fp32", networks="fp32")).fingerprints == usual
    for part, changed in (
        ("video", {"video_tokens"}),
        ("latents", {"audio_latents"}),
        ("networks", {"imagebind", "audiobox", "sync"}),
    ):
        found = StageGraph(preset(**{part: "bf16"})).fingerprints
        assert {name for name in usual if found[name] != usual[name]} == changed
    revisions = [
        {stage.model_revision for stage in sound_stages(one)}
        for one in (TOY, preset(networks="bf16"))
    ]
    assert f"{Cnn14.revision(TOY)} bf16" in revisions[1] - revisions[0]


def test_pooling_lengths_and_weights_are_part_of_the_fingerprints_of_features(
    tmp_path: Path,
) -> None:
    usual = StageGraph(TOY).feature_fingerprints
    weights = tmp_path / "weights"
    shutil.copytree(TOY.weights, weights)
    changed = weights / "vjepa2" / "config.json"
    changed.write_bytes(changed.read_bytes() + b" ")
    tokens, latents = {"video_tokens"}, {"audio_latents"}
    pooled = TOY.model_dump() | {"video": TOY.video.model_dump() | {"pooling": "grid2"}}
    for other, expected in (
        (Preset.model_validate(pooled), tokens),
        (TOY.model_copy(update={"max_seconds": 3.0}), tokens | latents),
        (TOY.model_copy(update={"weights": weights}), tokens),
    ):
        found = StageGraph(other).feature_fingerprints
        assert {name for name in usual if found[name] != usual[name]} == expected


def test_an_unknown_precision_is_refused(tmp_path: Path) -> None:
    (tmp_path / "preset.toml").write_text('base = "toy"\n[precision]\nvideo = "fp8"\n')
    with pytest.raises(Exception, match=r"precision\.video: Input should be 'fp32' or 'bf16'"):
        load_preset(str(tmp_path))
