"""Every step of the recipe of worlds runs, and what it writes makes stereo sound."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from model.backbone import Backbone, bare_backbone
from model.foley import FoleyControl
from model.metrics.onsets import detect_onsets, sync_score
from model.networks.imagebind import ImageBind
from model.networks.panns import Cnn14
from model.networks.vggish import VGGish
from model.presets.preset import CONFIGS, load_preset
from model.sampling.request import SoundRequest
from model.video_encoder import VideoEncoder
from model.weights.files import BRIDGE_FILE
from pipeline.world import WorldClip, sample_world
from pipeline.world.materials import NAMES
from recipes.toy.__main__ import cli as toy
from recipes.world.__main__ import FIGURES, STEPS, cli
from recipes.world.bridge import PRETRAINED, cached_features
from recipes.world.clips import FIRST_SEED, RATE, Shard, of_other_materials, write_shard
from recipes.world.model_card import model_card
from recipes.world.networks import Known, RenderedLesson, UnseenLesson
from recipes.world.stereo import make_stereo
from warehouse.files import Json

SHIPPED = CONFIGS / "world" / "weights"


@pytest.mark.slow
def test_the_steps_make_weights_that_make_stereo_sound(tmp_path: Path) -> None:
    for step in STEPS:
        done = CliRunner().invoke(cli, [step, str(tmp_path), "--quick"], catch_exceptions=False)
        assert done.exit_code == 0, done.output
    preset = load_preset("world", weights=tmp_path)
    request = SoundRequest("a metal ball", 4.0, 0, torch.randn(48, 4, 96))
    [sound] = FoleyControl.from_pretrained(preset).generate([request])
    assert sound.shape == (2, 64_000)
    assert np.abs(sound).max() > 0
    for kind in (ImageBind, Cnn14, VGGish):
        assert kind.from_pretrained(preset).hear([sound.mean(0)])[0].features.size
    trained, pretrained = ((tmp_path / name).read_bytes() for name in (BRIDGE_FILE, PRETRAINED))
    assert trained != pretrained
    again = CliRunner().invoke(cli, ["preference", str(tmp_path), "--quick"])
    assert again.exit_code == 0, again.output
    assert (tmp_path / BRIDGE_FILE).read_bytes() == trained  # it begins with the pretrained one
    card = (tmp_path / "MODEL_CARD.md").read_text()
    measured = json.loads((tmp_path / "figures.json").read_text())
    assert f"VAE, {measured['cpu_seconds']['VAE']} CPU-s" in card


def test_the_shipped_card_is_that_of_the_recipe() -> None:
    figures = json.loads(FIGURES.read_text())
    assert (SHIPPED / "MODEL_CARD.md").read_text() == model_card(figures, SHIPPED)


def test_the_vae_is_a_mono_one_for_each_channel() -> None:
    stereo = bare_backbone(load_preset("world")).pretransform.model
    mono = Backbone.from_pretrained(load_preset("toy")).model.pretransform.model
    make_stereo(mono, stereo)
    sounds = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 1, 6400))).float() * 0.1
    with torch.no_grad():
        means, scales = mono.encoder(mono.pretransform.encode(sounds)).chunk(2, dim=1)
        both = stereo.encoder(stereo.pretransform.encode(sounds.transpose(0, 1)))
        wanted = torch.cat([means.flatten(0, 1), scales.flatten(0, 1)])[None]
        assert torch.allclose(both, wanted, atol=1e-4)
        made = stereo.decode(means.flatten(0, 1)[None])
        assert torch.allclose(made[0], mono.decode(means)[:, 0], atol=1e-5)
    assert not torch.allclose(made[0, 0], made[0, 1], atol=1e-2)


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Shard:
    """Two rendered worlds of several things."""
    made = Shard(tmp_path_factory.mktemp("worlds"), level=2, first=0, count=2)
    write_shard(made)
    return made


def test_a_second_sound_is_of_other_materials_with_the_same_hits(shard: Shard) -> None:
    clip = WorldClip(FIRST_SEED, 2)
    other = of_other_materials(clip.world)
    for world in (WorldClip(FIRST_SEED + i, 2).world for i in range(20)):
        pairs = zip(world.things, of_other_materials(world).things, strict=True)
        assert all(a.material != b.material and a.colour == b.colour for a, b in pairs)
    truth = shard.truths()[0]
    assert all(
        f"a {thing.material} {thing.shape}" in truth["other_prompt"] for thing in other.things
    )
    [sound] = shard.other_sounds()
    assert sound.shape == shard.sound(0).shape
    assert not np.allclose(sound, shard.sound(0), atol=0.05)
    found = [detect_onsets(of.mean(0), RATE) for of in (shard.sound(0), sound)]
    assert sync_score([np.array(truth["impacts"])], [found[1]]).f1_60ms > 0.6


def test_a_bridge_learns_from_clips_mirrored_ones_and_other_sounds(shard: Shard) -> None:
    """Row by row: own 0 and 1, mirrored 0 and 1, other 0, mirrored other 0."""
    backbone = Backbone.from_pretrained(load_preset("world"))
    features = cached_features(backbone, [shard])
    frames, sounds = shard.frames(), torch.from_numpy(shard.sounds())
    encoder = VideoEncoder.from_pretrained(load_preset("world"))
    flipped = encoder.encode(np.ascontiguousarray(frames[0][:, :, ::-1]))
    video = [encoder.encode(frames[0]), encoder.encode(frames[1]), flipped]
    for row, of in enumerate((0, 1, 2, None, 0, 2)):
        if of is not None:
            torch.testing.assert_close(features.video[row], video[of])
    other = torch.from_numpy(shard.other_sounds())
    wanted = [sounds, sounds.flip(1), other, other.flip(1)]  # channels swapped as the picture is
    means, scales = zip(*map(backbone.codec.encode, wanted), strict=True)
    torch.testing.assert_close(features.latent_mean, torch.cat(means), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(features.latent_scale, torch.cat(scales), atol=1e-5, rtol=1e-5)
    first, second = shard.truths()
    told = ["", second["prompt"], first["prompt"], "", *[first["other_prompt"]] * 2]
    for row, text in zip(features.text, backbone.encode_text(told), strict=True):
        torch.testing.assert_close(row, text)


def test_the_material_of_a_world_is_the_one_that_is_heard_most() -> None:
    @dataclass(frozen=True)
    class Told(Known):
        events: list[Json]

        @property
        def truth(self) -> Json:
            return {"floor": "wood", "events": self.events, "seed": 0, "level": 2}

    def hit(materials: tuple[str, str], speed: float, heard: bool = True) -> Json:
        return {"kind": "hit", "materials": [*materials], "speed": speed, "heard": heard}

    floor, both = hit(("wood", "glass"), 1.0), hit(("rubber", "glass"), 0.5)
    assert Told([floor]).material == "glass"  # not that of the floor
    assert Told([floor, hit(("metal", "rubber"), 2.0)]).material in {"metal", "rubber"}
    assert Told([floor, hit(("metal", "rubber"), 2.0, heard=False)]).material == "glass"
    assert Told([hit(("wood", "rubber"), 1.2), both, floor]).material == "rubber"
    assert Told([]).material == sample_world(0, 2).things[0].material


def test_a_lesson_that_was_rendered_says_what_its_clip_says(shard: Shard) -> None:
    for number in range(shard.count):
        lesson = RenderedLesson(shard, number)
        clip = UnseenLesson(WorldClip(FIRST_SEED + number, 2))
        assert (lesson.impacts, lesson.material) == (clip.impacts, clip.material)
        np.testing.assert_allclose(lesson.sound(), clip.sound(), atol=1e-3)


@pytest.mark.slow
def test_the_shipped_classifiers_know_the_material_of_worlds_that_they_have_not_heard() -> None:
    """Of chance they would be right in a sixth."""
    preset = load_preset("world")
    clips = [UnseenLesson(WorldClip(545_000_000 + i, 1)) for i in range(36)]  # of no corpus
    materials = np.array([clip.material for clip in clips])
    assert (materials == [clip.clip.world.things[0].material for clip in clips]).all()
    sounds = [clip.sound() for clip in clips]
    heard = Cnn14.from_pretrained(preset).hear(sounds)
    said = [NAMES[int(np.argmax(one.logits))] for one in heard if one.logits is not None]
    assert (materials == said).mean() >= 0.8
    features = np.stack(
        [one.features.mean(0) for one in VGGish.from_pretrained(preset).hear(sounds)]
    )
    apart = np.linalg.norm(features[:, None] - features, axis=-1) + np.diag([np.inf] * len(clips))
    assert (materials == materials[apart.argmin(1)]).mean() >= 0.6  # the nearest other's


@pytest.mark.parametrize("recipe", [cli, toy])
def test_a_folder_that_is_no_recipes_is_told_in_one_line(
    recipe: click.Command, tmp_path: Path
) -> None:
    shipped = sorted(path for name in ("toy", "world") for path in (CONFIGS / name).rglob("*"))
    (tmp_path / "private.txt").write_text("not a weight")
    steps = {"ship": "has no MODEL_CARD.md, figures.json,", "card": "figures.json has no '"}
    if recipe is cli:
        steps["dit"] = "no weights at .*; here the steps before this one make them"
    for step, said in steps.items():
        done = CliRunner().invoke(recipe, [step, str(tmp_path)])
        assert done.exit_code == 2, done.output
        assert re.search(said, done.output)
    done = CliRunner().invoke(recipe, ["card", str(tmp_path / "private.txt" / "x")])
    assert (done.exit_code, "takes no folder" in done.output) == (2, True)
    assert shipped == sorted(p for name in ("toy", "world") for p in (CONFIGS / name).rglob("*"))
