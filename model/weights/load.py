"""Strict loading of weights, which names what does not fit, and hashes that name a revision."""

import hashlib
import threading
import zipfile
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import numpy as np
import torch
from numpy._core import multiarray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model.weights.files import known_sha256, visible_files
from warehouse.errors import FoleyError

# NumPy arrays, which some published checkpoints hold beside their weights: data, and no code
_ARRAYS: list[Any] = [
    np.ndarray,
    np.dtype,
    *{type(np.dtype(kind)) for kind in "?bhilqBHILQefd"},
    (multiarray._reconstruct, "numpy.core.multiarray._reconstruct"),  # noqa: SLF001
    multiarray._reconstruct,  # noqa: SLF001
]

_BRING = "foley models fetch brings them, or give their folder with --weights"


class WeightsError(FoleyError, ValueError):
    """A weight file is missing, broken, or does not fit its model."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, or of a torch checkpoint without pickled code, by key.

    The file is mapped, not copied: a tensor takes memory when its values are read. Raises
    WeightsError if the file is missing or cannot be read.
    """
    if not path.is_file():
        raise WeightsError(f"no weights at {path}: {_BRING}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded = cast("dict[str, object]", _load_checkpoint(path))
    except (SafetensorError, RuntimeError, EOFError, OSError, UnpicklingError) as error:
        raise WeightsError(f"cannot read weights {path}: {_first_line(error)}") from None
    return cast("dict[str, Tensor]", loaded.get("state_dict", loaded.get("model", loaded)))


def _load_checkpoint(path: Path) -> object:
    with torch.serialization.safe_globals(_ARRAYS):
        return torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", maxsplit=1)[0]


def load_strict(module: nn.Module, weights: Mapping[str, Tensor], source: Path | str) -> None:
    """Copy `weights` into `module`, whose types they take.

    Every key must be there, none may be left over, and each must have the right shape: raises
    WeightsError naming the first keys that do not fit.
    """
    check_strict(module, weights, source)
    module.load_state_dict(dict(weights))


def check_strict(
    module: nn.Module, weights: Mapping[str, Tensor], source: Path | str, prefix: str = ""
) -> None:
    """What `load_strict` checks, without copying: the module may be on the meta device.

    Keys are named with `prefix`, as they are in the file.
    """
    own = module.state_dict()
    problems = [f"missing {prefix}{key}" for key in own if key not in weights]
    problems += [f"unexpected {prefix}{key}" for key in weights if key not in own]
    problems += [
        f"{prefix}{key} has shape {tuple(value.shape)}, the model wants {tuple(own[key].shape)}"
        for key, value in weights.items()
        if key in own and own[key].shape != value.shape
    ]
    _refuse(problems, type(module).__name__, source)


_BUILDING = threading.RLock()


@contextmanager
def without_values() -> Generator[None]:
    """Modules that are built here have no values of parameters, and take no memory; see below."""
    from accelerate import init_empty_weights

    with _BUILDING, init_empty_weights():  # it changes torch for the whole process
        yield


def load_mapped(
    module: nn.Module,
    path: Path,
    prefix: str = "",
    dtype_of: Callable[[str, Tensor], torch.dtype] = lambda *_: torch.float32,
) -> None:
    """Give a module that was built `without_values` those of a file, as strictly as `load_strict`.

    What has the right type stays in the file, mapped, and takes memory when it is first read (on a
    CPU), or none (once it is on another device). The rest is converted, one tensor at a time.

    Args:
        module: its keys are those of the file after `prefix`.
        path: a file of weights.
        prefix: what the keys of this module begin with; others are left alone.
        dtype_of: the type that a floating-point tensor gets, by its key and itself.
    """
    weights = {
        key.removeprefix(prefix): value
        for key, value in read_weights(path).items()
        if key.startswith(prefix)
    }
    check_strict(module, weights, path, prefix)
    for key, value in weights.items():
        if value.is_floating_point() and value.dtype != (dtype := dtype_of(key, value)):
            weights[key] = _read_one(path, prefix + key, value).to(dtype)
    # the library's VAE has a method of this name that takes other keys
    nn.Module.load_state_dict(module, weights, assign=True)


def _read_one(path: Path, key: str, value: Tensor) -> Tensor:
    """A tensor by a mapping of its own: what is read of it is let go with it."""
    if path.suffix != ".safetensors":
        return value
    with safe_open(path, "pt") as file:
        return file.get_tensor(key)


def check_folder(folder: Path) -> None:
    """Raises WeightsError where there is no folder of a transformers model."""
    if not (folder / "config.json").is_file():
        raise WeightsError(f"no weights at {folder}: {_BRING}")


def load_transformers(architecture: Any, folder: Path) -> Any:
    """A transformers model in float32 from a local folder, as strictly as `load_strict`.

    Raises WeightsError if the folder holds no such model, or naming the first keys that do not fit.
    """
    check_folder(folder)
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # its report of what does not fit is given as an error below
    logging.disable_progress_bar()
    try:
        model, info = architecture.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, output_loading_info=True,
            ignore_mismatched_sizes=True,
        )  # fmt: skip
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, UnpicklingError) as error:
        raise WeightsError(f"cannot read weights {folder}: {_first_line(error)}") from None
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
    problems = [f"missing {key}" for key in sorted(info["missing_keys"])]
    problems += [f"unexpected {key}" for key in sorted(info["unexpected_keys"])]
    problems += [
        f"{key} has shape {tuple(shape)}, the model wants {tuple(own)}"
        for key, shape, own in sorted(info["mismatched_keys"])
    ]
    _refuse(problems, architecture.__name__, folder)
    return model


def _refuse(problems: list[str], model: str, source: Path | str) -> None:
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise WeightsError(f"{source} does not fit {model}: {'; '.join(problems[:3])}{more}")


def save_weights(
    path: Path,
    weights: Mapping[str, Tensor],
    dtype: torch.dtype | None = None,
    metadata: dict[str, str] | None = None,
) -> None:
    """Write tensors as safetensors, floating-point ones as `dtype`, if given, with `metadata`."""

    def stored(value: Tensor) -> Tensor:
        value = value.detach().contiguous().cpu()
        return value.to(dtype) if dtype and value.is_floating_point() else value

    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: stored(value) for key, value in weights.items()}, path, metadata)


def files_revision(paths: Iterable[Path]) -> str:
    """Hash of the content and names of files (folders: of all files in them), in 16 hex digits."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        for file in visible_files(path) if path.is_dir() else [path]:
            if not file.is_file():
                raise WeightsError(f"no weights at {file}: {_BRING}")
            digest.update(file.name.encode() + b"\0")
            digest.update(bytes.fromhex(known_sha256(file)))
    return digest.hexdigest()[:16]
