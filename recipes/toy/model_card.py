"""Ships the toy preset's weights: takes what `foley demo --from-scratch` made and writes the model card.

uv run foley demo --from-scratch --home build
uv run python -m recipes.toy.model_card build
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from model.presets.preset import CONFIGS, load_preset
from model.weights.load import read_weights, save_weights
from recipes.toy.networks import settings_of
from recipes.toy.train_backbone import DitTraining, VaeTraining
from recipes.toy.train_video_encoder import VideoTraining
from recipes.toy.weights import LENGTHS, TRAINING_CLIPS, VIDEO_CLIPS

CARD = """# Weights of the toy preset

Made by this project for itself, with no data but procedural clips; under the project's own licence. They exist so that
`foley demo` runs anywhere without a download, and to prove that the bridge learns synchrony. They are good for nothing
else: they know four materials and no other sound.

| file | what it is | parameters | MB |
| --- | --- | --- | --- |
{files}

The T5 text encoder is tiny and *random* (seed 0). V-JEPA2 learned from pictures alone, without impact times: how, and
what it is worth, is in docs/toy-video-encoder.md.

## How they were made
```
uv run foley demo --from-scratch --home build
uv run python -m recipes.toy.model_card build
```
which wrote this card too, on {machine}, at commit {commit}, with torch {torch}.{provenance}

- V-JEPA2, {video_seconds} CPU-s: `{video}` on {video_clips} clips of 4 s; its patch projection stays random.
- VAE, {vae_seconds} CPU-s: `{vae}` on {clips} clips of 4 s.
- DiT, {dit_seconds} CPU-s: `{dit}` on latents of the same kind of clips; share of each length (s): `{lengths}`.
- Bridge: `{bridge}`, {steps} steps on the demo's train split.
- Scorers and evaluation networks: see the last section.

## Figures
VAE reconstruction of {r[clips]} unseen clips: onset F1 at 60 ms {r[f1_60ms]:.3f}, mean error {r[mae_ms]:.1f} ms,
material kept in {r[material_accuracy]:.0%}.

Generated sound of {held_out} held-out clips, against their known impact times:

| condition | F1 at 60 ms | F1 at 100 ms | mean absolute error, ms |
| --- | --- | --- | --- |
{sync}

Held-out v-loss: true video {v[true]:.4f}, no video {v[null]:.4f}, another clip's video {v[other]:.4f}.

With the prompt's material swapped, {s[material_accuracy]:.0%} of the sounds take the new one, at F1 {s[f1_60ms]:.3f}.

{evaluation}"""

#: The last section.
EVALUATION = """## Scorers and evaluation networks
Trained on procedural clips by `recipes/toy/networks.py` (part of `--from-scratch`; alone, `uv run python -m
recipes.toy.networks model/presets/toy/weights`):

{settings}

Measured on clips that none of them has seen, and CPU-seconds of each training:

{figures}

They know four materials, three scenes and one kind of picture, and nothing else. ImageBind tells clips apart by *when*
things happen, because the toy's pictures do not show what is struck: a swapped material leaves its cosine as it is.
"""


def ship(home: Path, target: Path) -> Path:
    """Copy weights and the newest bridge of a finished demo into `target` and write MODEL_CARD.md.

    Returns its path.
    """
    results: dict[str, Any] = json.loads((home / "reports" / "results.json").read_text())
    source = home / "models" / "toy"
    figures: dict[str, Any] = json.loads((source / "figures.json").read_text())
    shutil.copytree(
        source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("figures.json")
    )
    trained = home / "checkpoints" / results["checkpoint"] / "bridge.safetensors"
    with safe_open(trained, "pt") as file:
        save_weights(
            target / "bridge.safetensors",
            read_weights(trained),
            torch.float16,
            dict(file.metadata()),
        )
    card = target / "MODEL_CARD.md"
    card.write_text(model_card(results, figures, target))
    return card


def model_card(results: dict[str, Any], figures: dict[str, Any], weights: Path) -> str:
    """The model card: every figure in it comes from the run."""
    preset = load_preset("toy", weights)
    files = [_file_row(path, weights) for path in sorted(weights.rglob("*.safetensors"))]
    return CARD.format(
        files="\n".join(files),
        machine=f"{results['machine']['cores']} cores of {results['machine']['processor']}",
        commit=results["commit"],
        torch=results["versions"]["torch"],
        provenance="\n\n" + figures["provenance"] if "provenance" in figures else "",
        video=_settings(asdict(VideoTraining())),
        video_seconds=figures["video_cpu_seconds"],
        video_clips=VIDEO_CLIPS,
        vae=_settings(asdict(VaeTraining())),
        dit=_settings(asdict(DitTraining())),
        bridge=_settings(preset.train.model_dump()),
        vae_seconds=figures["vae_cpu_seconds"],
        dit_seconds=figures["dit_cpu_seconds"],
        clips=TRAINING_CLIPS,
        lengths=_settings({str(seconds): share for seconds, share in LENGTHS.items()}),
        steps=results["steps"],
        r=figures["reconstruction"],
        held_out=results["held_out_clips"],
        sync="\n".join(_sync_row(name, row) for name, row in results["sync"].items()),
        v=results["v_loss"],
        s=results["prompt_swap"],
        evaluation=evaluation_section(figures.get("evaluation", {})),
    )


def evaluation_section(figures: dict[str, Any]) -> str:
    """What is said of the scorers and evaluation networks."""
    settings = "\n".join(
        f"- {name}: `{_settings(values)}`" for name, values in settings_of().items()
    )
    return EVALUATION.format(
        settings=settings, figures="\n".join(f"- {k}: {_rounded(v)}" for k, v in figures.items())
    )


def _rounded(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_rounded(part)}" for name, part in value.items())
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def _file_row(path: Path, weights: Path) -> str:
    tensors = read_weights(path)
    count = sum(tensor.numel() for tensor in tensors.values())
    kind = {
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
    }[str(path.relative_to(weights))]
    return (
        f"| `{path.relative_to(weights)}` | {kind} | {count:,} | {path.stat().st_size / 1e6:.1f} |"
    )


def _settings(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _sync_row(name: str, row: dict[str, float]) -> str:
    titles = {"true": "true video", "other": "another clip's video", "none": "no video, text only"}
    return (
        f"| {titles[name]} | {row['f1_60ms']:.3f} | {row['f1_100ms']:.3f} | {row['mae_ms']:.1f} |"
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(
            "usage: python -m recipes.toy.model_card HOME (of a finished `foley demo --from-scratch`)"
        )
    print(ship(Path(sys.argv[1]), CONFIGS / "toy" / "weights"))
