"""Weight files: strict loading that names what does not fit, and content hashes that name a revision."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import numpy as np
import torch
from numpy._core import multiarray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

# NumPy arrays, which some published checkpoints hold beside their weights: data, and no code
_ARRAYS: list[Any] = [
    np.ndarray,
    np.dtype,
    *{type(np.dtype(kind)) for kind in "?bhilqBHILQefd"},
    (multiarray._reconstruct, "numpy.core.multiarray._reconstruct"),  # noqa: SLF001
    multiarray._reconstruct,  # noqa: SLF001
]


class WeightsError(ValueError):
    """A weight file is missing, broken, or does not fit its model."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, or of a torch checkpoint without pickled code, by key.

    Raises WeightsError if the file is missing or cannot be read.
    """
    if not path.is_file():
        raise WeightsError(f"no weights at {path}: give their folder with --weights, or train them")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(_ARRAYS):
            loaded = cast("dict[str, object]", torch.load(path, map_location="cpu", weights_only=True))
    except (SafetensorError, RuntimeError, EOFError, OSError, UnpicklingError) as error:
        raise WeightsError(f"cannot read weights {path}: {error}") from None
    return cast("dict[str, Tensor]", loaded.get("state_dict", loaded.get("model", loaded)))


def load_strict(module: nn.Module, weights: Mapping[str, Tensor], source: Path | str) -> None:
    """Copy `weights` into `module`; every key must be there, none may be left over, each of the right shape.

    Raises WeightsError naming the first keys that do not fit.
    """
    own = module.state_dict()
    problems = [f"missing {key}" for key in own if key not in weights]
    problems += [f"unexpected {key}" for key in weights if key not in own]
    problems += [
        f"{key} has shape {tuple(value.shape)}, the model wants {tuple(own[key].shape)}"
        for key, value in weights.items()
        if key in own and own[key].shape != value.shape
    ]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise WeightsError(f"{source} does not fit {type(module).__name__}: {'; '.join(problems[:3])}{more}")
    module.load_state_dict(dict(weights))


def save_weights(
    path: Path,
    weights: Mapping[str, Tensor],
    dtype: torch.dtype | None = None,
    metadata: dict[str, str] | None = None,
) -> None:
    """Write tensors as safetensors, floating-point ones cast to `dtype` if given, with text facts in the header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        key: value.detach().to(dtype if dtype and value.is_floating_point() else value.dtype).contiguous().cpu()
        for key, value in weights.items()
    }
    save_file(tensors, path, metadata)


def files_revision(paths: Iterable[Path]) -> str:
    """Hash of the content and names of files (folders: of all files in them), in 16 hex digits."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
            if not file.is_file():
                raise WeightsError(f"no weights at {file}")
            digest.update(file.name.encode() + b"\0")
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


def tensors_revision(weights: Mapping[str, Tensor]) -> str:
    """Hash of names and values of tensors, in 16 hex digits."""
    digest = hashlib.sha256()
    for key in sorted(weights):
        digest.update(key.encode() + b"\0")
        digest.update(weights[key].detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
