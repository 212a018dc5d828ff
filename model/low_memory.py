"""Sampling in less memory: the DiT's matrices in 8 bits, the other models away while it samples."""

from collections.abc import Generator
from contextlib import contextmanager
from importlib.util import find_spec

from torch import nn

from model.backbone import Backbone
from model.presets.settings import ModelError


def check_torchao() -> None:
    """Raise ModelError where torchao is not installed."""
    if find_spec("torchao") is None:
        raise ModelError("low memory takes torchao: uv sync --extra low-memory")


def quantise(dit: nn.Module) -> None:
    """Keep matrices of the DiT and the bridge in it as 8-bit integers, a scale a row (torchao).

    Raises ModelError where torchao is not installed.
    """
    check_torchao()
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(dit, Int8WeightOnlyConfig())


@contextmanager
def alone(backbone: Backbone) -> Generator[None]:
    """Let T5 go, which is read again for the next prompt, and have the VAE off the device."""
    device, codec = backbone.device, backbone.model.pretransform
    backbone.text_encoder.let_go()
    codec.to("cpu")
    try:
        yield
    finally:
        codec.to(device)
