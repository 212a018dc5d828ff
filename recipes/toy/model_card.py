"""The toy's model card: every figure in it was measured while the weights were made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from model.presets.preset import load_preset
from model.weights.load import read_weights
from recipes.toy.recipe import FULL

CARD = """\
# Weights of the toy preset

Made by this project for itself, with no data but procedural clips; under the project's own licence
(Apache-2.0). They exist so that `foley demo` runs anywhere without a download, and to prove that
the bridge learns synchrony. They are good for nothing else: they know four materials and no other
sound.

| file | what it is | parameters | MB |
| --- | --- | --- | --- |
{files}

The T5 text encoder is tiny and *random* (seed 0). V-JEPA2 learned from pictures alone, without
impact times: how, and what it is worth, is in docs/toy.md.

## How they were made
```
uv run python -m recipes.toy all build
uv run python -m recipes.toy ship build
```
which wrote this card too, on {machine}, with torch {torch}, at commit
{commit}.{provenance}

- V-JEPA2, {seconds[V-JEPA2]} CPU-s: `{video}`, on {recipe.video_clips} clips; its patch
  projection stays random.
- VAE, {seconds[VAE]} CPU-s: `{vae}`, on {recipe.backbone_clips} clips.
- DiT, {seconds[DiT]} CPU-s: `{dit}`, on latents of the same kind of clips; share of each
  length (s): `{lengths}`.
- Bridge: `{bridge}`; {demo[steps]} steps on the demo's train split.
- PANNs, PaSST and VGGish, {seconds[PANNs, PaSST and VGGish]} CPU-s: `{classifiers}`.
- ImageBind, {seconds[ImageBind]} CPU-s: `{imagebind}`.
- Audiobox, {seconds[Audiobox]} CPU-s: `{audiobox}`.
- Synchformer, {seconds[Synchformer]} CPU-s: its halves `{sync_halves}`, then `{sync}`.

## Figures
VAE reconstruction of {vae_figures[clips]} unseen clips: onset F1 at 60 ms
{vae_figures[f1_60ms]:.3f}, mean error {vae_ms} ms, material kept in
{vae_figures[material_accuracy]:.0%}.

Generated sound of {demo[held_out_clips]} held-out clips, against their known impact times:

| condition | F1 at 60 ms | F1 at 100 ms | mean absolute error, ms |
| --- | --- | --- | --- |
{sync_rows}

Held-out v-loss: true video {demo[v_loss][true]:.4f}, no video {demo[v_loss][null]:.4f}, another
clip's video {demo[v_loss][other]:.4f}.

With the prompt's material swapped, {demo[prompt_swap][material_accuracy]:.0%} of the sounds take
the new one, at F1 {demo[prompt_swap][f1_60ms]:.3f}.

Scorers and evaluation networks, on clips that none of them has seen:

{network_rows}

They know four materials, three scenes and one kind of picture, and nothing else. ImageBind tells
clips apart by *when* things happen, because the toy's pictures do not show what is struck: a
swapped material leaves its cosine as it is.
"""

FILES = {
    "backbone.safetensors": "VAE, number conditioner and DiT, trained",
    "bridge.safetensors": "the bridge, trained",
    "audiobox.safetensors": "Audiobox Aesthetics, trained",
    "imagebind.safetensors": "ImageBind, trained",
    "panns.safetensors": "PANNs Cnn14_16k, trained",
    "passt.safetensors": "PaSST, trained",
    "vggish.safetensors": "VGGish, trained",
    "synchformer.safetensors": "Synchformer, trained",
    "t5/model.safetensors": "T5 encoder over bytes, random",
    "vjepa2/model.safetensors": "V-JEPA2, trained by itself",
}
CONDITIONS = {"true": "true video", "other": "another clip's video", "none": "no video, text only"}


def model_card(figures: Mapping[str, Any], weights: Path) -> str:
    """The card of the weights in a folder, from its figures.json."""
    demo = figures["demo"]
    trainings = ("video", "vae", "dit", "classifiers", "imagebind", "audiobox")
    settings = {name: asdict(getattr(FULL, name)) for name in (*trainings, "sync_halves", "sync")}
    settings["vae"] = {name: value for name, value in settings["vae"].items() if value is not None}
    settings["lengths"] = {str(seconds): share for seconds, share in FULL.lengths.items()}
    settings["bridge"] = load_preset("toy", weights).train.recipe()
    return CARD.format(
        files="\n".join(_file_row(weights, name) for name in sorted(FILES)),
        machine=demo["machine"],
        commit=demo["commit"],
        torch=demo["torch"],
        provenance="\n\n" + figures["provenance"] if "provenance" in figures else "",
        seconds=figures["cpu_seconds"],
        recipe=FULL,
        vae_figures=figures["reconstruction"],
        vae_ms=_ms(figures["reconstruction"]["mae_ms"]),
        demo=demo,
        sync_rows="\n".join(_sync_row(name, row) for name, row in demo["sync"].items()),
        network_rows=network_rows(figures["networks"]),
        **{name: _listed(values) for name, values in settings.items()},
    )


def network_rows(figures: Mapping[str, float | Mapping[str, float]]) -> str:
    """What scorers and evaluation networks are worth, as a list."""
    return "\n".join(f"- {name}: {_rounded(value)}" for name, value in figures.items())


def _file_row(weights: Path, name: str) -> str:
    path = weights / name
    count = sum(tensor.numel() for tensor in read_weights(path).values())
    return f"| `{name}` | {FILES[name]} | {count:,} | {path.stat().st_size / 1e6:.1f} |"


def _sync_row(name: str, row: Mapping[str, Any]) -> str:
    f1 = f"{row['f1_60ms']:.3f} | {row['f1_100ms']:.3f}"
    return f"| {CONDITIONS[name]} | {f1} | {_ms(row['mae_ms'])} |"


def _ms(value: float | None) -> str:
    return "none" if value is None else f"{value:.1f}"  # no onset was met


def _rounded(value: float | Mapping[str, float]) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {part:.3f}" for name, part in value.items())
    return f"{value:.3f}"


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
