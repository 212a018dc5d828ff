"""Which weights of a preset are there, and whether they fit, without memory for the large ones."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from torch import nn

from model.backbone import bare_backbone
from model.hub.fetch import Lock, Pin, difference, read_lock
from model.presets.networks import NETWORKS, ModelFiles
from model.presets.preset import Preset
from model.presets.settings import ModelError
from model.video_encoder import VideoEncoder
from model.weights import load
from model.weights.files import file_sha256, visible_files


@dataclass(frozen=True)
class ModelState:
    """What the folder of weights holds of one model."""

    model: str
    files: ModelFiles
    state: Literal["as fetched", "local", "missing", "changed", "does not fit"]  # local: by hand
    bytes: int = 0
    sha256: str | None = None  # of the weights file
    revision: str | None = None
    parameters: int | None = None
    problem: str | None = None


def check(preset: Preset) -> list[ModelState]:
    """What is there of each model, against the lock and the architecture; raises ModelError."""
    lock = read_lock(preset.weights)
    return [_check_one(preset, name, lock) for name in preset.models]


def _check_one(preset: Preset, name: str, lock: Lock) -> ModelState:
    files, path = preset.models[name], preset.model(name)
    weights = path / "model.safetensors" if path.is_dir() else path
    if not weights.is_file():
        fetch = f": foley models fetch brings them from {files.source}" if files.source else ""
        return ModelState(name, files, "missing", problem=f"no weights at {weights}{fetch}")
    pin, sha256 = lock.sources.get(files.source or "", Pin()), file_sha256(weights)
    size = sum(file.stat().st_size for file in (visible_files(path) if path.is_dir() else [path]))
    state = ModelState(
        name, files, "as fetched" if pin.files else "local", size, sha256, pin.revision
    )
    problem = _other_revision(files, pin) or difference(preset.weights, pin, {weights: sha256})
    if problem:
        return replace(state, state="changed", problem=problem)
    try:
        return replace(state, parameters=parameters(preset, name))
    except (load.WeightsError, ModelError) as error:
        return replace(state, state="does not fit", problem=str(error))


def _other_revision(files: ModelFiles, pin: Pin) -> str | None:
    """That the preset asks for another commit than was fetched; of a tag only the hub knows."""
    asked = files.revision or ""
    if not pin.revision or not re.fullmatch("[0-9a-f]{40}", asked) or asked == pin.revision:
        return None
    return (
        f"{files.repo} was fetched at {pin.revision[:12]}, "
        f"the preset asks for {asked[:12]}: fetch it again"
    )


def parameters(preset: Preset, name: str) -> int:
    """Parameters of a model; raises WeightsError or ModelError if its weights do not fit."""
    path = preset.model(name)
    match name:
        case "backbone":
            module = on_meta(lambda: bare_backbone(preset))
            load.check_strict(module, load.read_weights(path), path)
        case "text":
            from transformers import T5EncoderModel

            module = load.load_transformers(T5EncoderModel, path)
        case "video":
            module = VideoEncoder.from_pretrained(preset).model
        case _:
            kind = NETWORKS[name].load_class()
            network = (
                kind.build(preset) if kind.needs_memory else on_meta(lambda: kind.build(preset))
            )
            network.check(preset)
            module = network.body
    return count(module)


def count(module: nn.Module) -> int:
    """Parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


M = TypeVar("M", bound=nn.Module)


def on_meta(build: Callable[[], M]) -> M:
    """The module that `build` makes, without values; buffers have some while it is built."""
    with load.without_values():
        return build().to("meta")
