"""Which device a model runs on."""

import torch

from model.presets.settings import ModelError, Precision


def choose_device(name: str = "auto") -> str:
    """The device of a name; `auto` is cuda where there is one, else cpu. Raises ModelError."""
    if name != "auto" and torch.device(name.partition(":")[0]).type not in ("cpu", "cuda"):
        raise ModelError(f"device {name!r}: give auto, cpu, cuda or cuda:N")
    available = torch.cuda.is_available()
    if name.startswith("cuda") and not available:
        raise ModelError(
            f"device {name!r} was asked for, but torch finds no CUDA device here: use --device cpu"
        )
    if name == "auto":
        return "cuda" if available else "cpu"
    return name


def sampling_dtype(device: str) -> torch.dtype:
    """The precision that the DiT samples in: half of a GPU's memory and time, exact on a CPU."""
    return torch.bfloat16 if device.startswith("cuda") else torch.float32


def autocast(precision: Precision, device: torch.device | str) -> torch.autocast:
    """Run forwards of a float32 model in this type of numbers, on this device."""
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=precision == "bf16")
