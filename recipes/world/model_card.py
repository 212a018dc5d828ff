"""The model card of the preset `world`: every figure in it was measured by a step of the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from model.presets.preset import load_preset
from model.weights.load import read_weights
from recipes.toy.model_card import network_rows
from recipes.world.weights import FULL

CARD = """\
# Weights of the preset `world`

Made by this project for itself, with no data but simulated worlds (`foley render`); under the
project's own licence (Apache-2.0). Tiny versions of the real architectures, in stereo at 16 kHz.
They know six materials that fall, hit, roll and slide, and nothing else.

| file | what it is | parameters | MB |
| --- | --- | --- | --- |
{files}

The T5 text encoder is tiny and *random* (seed 0). V-JEPA2 learned from pictures alone. What the
sound is worth, on worlds that nothing was trained on, is in docs/toy.md.

## How they were made
```
uv run --extra world python -m recipes.world all build
uv run --extra world python -m recipes.world ship build
```
on {machine}, at commit {commit}.{provenance}

- Clips are of 4 s; their numbers are those of the levels 1, 2, 3.
- V-JEPA2, {seconds[V-JEPA2]} CPU-s: `{video}`, on {recipe.video_clips} clips; its patch projection
  stays random.
- VAE, {seconds[VAE]} CPU-s: `{vae}`, on the single channels of {recipe.vae_clips} clips; it starts
  from the toy's, and is then there twice, once for each channel.
- DiT, {seconds[DiT]} CPU-s: `{dit}`, on {recipe.dit_clips} clips and, at other lengths (s), on so
  many of each level: {lengths}; as they are and with their channels swapped, a third of these with
  no prompt.
- Bridge, {seconds[bridge]} CPU-s: `{bridge}`, on {recipe.bridge_clips} clips, as they are and
  mirrored, half of these with no prompt; every second one, both ways, once more with a sound of
  other materials than are seen, which the prompt names.
- Its post-training, {seconds[preference]} CPU-s: `{preference}`, and otherwise as before, on
  {recipe.preference_clips} of its clips.
- ImageBind, {seconds[ImageBind]} CPU-s: `{imagebind}`, on {recipe.networks.imagebind_clips} clips
  of all levels, in pictures of {recipe.networks.imagebind_side} pixels a side.
- Audiobox, {seconds[Audiobox]} CPU-s: `{audiobox}`, on {recipe.networks.sounds} sounds of all
  levels, clean and with the flaws of a corpus.
- PANNs and VGGish, {seconds[PANNs, PaSST and VGGish]} CPU-s: `{classifiers}`, on the same number of
  clean sounds; their class is the material that is heard most.

## Figures of the VAE
Onset F1 at 60 ms of unseen clips against the truth of the simulation, and the share of hits off the
middle of the picture whose louder side is the right one:

| level | clips | onsets, true sound | through the VAE | sides, true sound | through the VAE |
| --- | --- | --- | --- | --- | --- |
{levels}

## Figures of the scorers and of PANNs
On {recipe.networks.unseen} clips that none has seen, of levels 1, 2, 3 in turn:

{network_rows}
"""

FILES = {
    "backbone.safetensors": "VAE, number conditioner and DiT, trained",
    "bridge.safetensors": "the bridge, trained, then by preference",
    "audiobox.safetensors": "Audiobox Aesthetics, trained",
    "imagebind.safetensors": "ImageBind, trained",
    "panns.safetensors": "PANNs Cnn14_16k, trained",
    "vggish.safetensors": "VGGish, trained",
    "t5/model.safetensors": "T5 encoder over bytes, random",
    "vjepa2/model.safetensors": "V-JEPA2, trained by itself",
}


def model_card(figures: Mapping[str, Any], weights: Path) -> str:
    """The card of the weights in a folder, from its figures.json."""
    settings = {name: _listed(asdict(getattr(FULL, name))) for name in ("video", "vae", "dit")}
    settings["bridge"] = _listed(load_preset("world", weights).train.recipe() | dict(FULL.train))
    settings["preference"] = _listed(FULL.preference)
    for name in ("imagebind", "audiobox", "classifiers"):
        settings[name] = _listed(asdict(getattr(FULL.networks, name)))
    rows = figures["reconstruction"].items()
    return CARD.format(
        files="\n".join(_file_row(weights, name) for name in sorted(FILES)),
        **figures["made"],
        provenance=" " + figures["provenance"] if "provenance" in figures else "",
        seconds=figures["cpu_seconds"],
        recipe=FULL,
        lengths=_listed({f"{seconds:g}": count for seconds, count in FULL.lengths.items()}),
        levels="\n".join(
            " | ".join([f"| {level} | {row['clips']}", *_quality(row)]) + " |"
            for level, row in rows
        ),
        network_rows=network_rows(figures["networks"]),
        **settings,
    )


def _quality(row: Mapping[str, Any]) -> list[str]:
    return [
        f"{row[sound][what]:.3f}"
        for what in ("onsets", "sides")
        for sound in ("true sound", "decoded")
    ]


def _file_row(weights: Path, name: str) -> str:
    path = weights / name
    count = sum(tensor.numel() for tensor in read_weights(path).values())
    return f"| `{name}` | {FILES[name]} | {count:,} | {path.stat().st_size / 1e6:.1f} |"


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items() if value is not None)
