"""The toy's bridge: `foley demo` trains it on its own clips, and measures what it is worth."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open

from model.weights.load import read_weights, save_weights
from recipes.toy.recipe import Figures, Recipe

SHOWN = ("steps", "held_out_clips", "sync", "v_loss", "prompt_swap", "commit")  # in the card


def make_bridge(folder: Path, recipe: Recipe) -> None:
    """Run the demo in FOLDER/demo with FOLDER's weights, and take its bridge and its figures."""
    from foley.cli.launch import run_flow

    run_flow("demo", folder / "demo", {"weights": folder.absolute(), **recipe.demo})
    take_bridge(folder, folder / "demo")


def take_bridge(folder: Path, home: Path) -> None:
    """Write the bridge of a finished demo in half precision, and the demo's figures."""
    results = json.loads((home / "reports" / "results.json").read_text())
    trained = home / "checkpoints" / results["checkpoint"] / "bridge.safetensors"
    with safe_open(trained, "pt") as file:
        facts = dict(file.metadata())
    save_weights(folder / "bridge.safetensors", read_weights(trained), torch.float16, facts)
    machine = f"{results['machine']['cores']} cores of {results['machine']['processor']}"
    shown = {name: results[name] for name in SHOWN}
    Figures(folder).add("demo", shown | {"machine": machine, "torch": results["versions"]["torch"]})
