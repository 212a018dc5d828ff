"""Imports of libraries that do far more on import than is needed of them, without the rest.

A short command such as `foley generate` spends most of its time importing.
"""

import sys
import types
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from io import StringIO
from typing import Any
from unittest.mock import patch

import torch


def bare_package(name: str, *modules: str) -> Any:
    """A package with only some of its modules imported: its own `__init__` is not run."""
    if name not in sys.modules:
        spec = find_spec(name)
        assert spec is not None
        package = types.ModuleType(name)
        package.__path__ = list(spec.submodule_search_locations or [])
        sys.modules[name] = package
    for module in modules:
        setattr(sys.modules[name], module, import_module(f"{name}.{module}"))
    return sys.modules[name]


def import_k_diffusion() -> Any:
    """k-diffusion's samplers, without its image augmentation, CLIP and FID."""
    return bare_package("k_diffusion", "utils", "sampling", "external")


def import_stable_audio_tools() -> None:
    """stable-audio-tools' models, without the compiler for a mask that none here uses."""

    def uncompiled(function: Callable[..., object], **_: Any) -> Callable[..., Any]:
        return function

    import_k_diffusion()
    if "stable_audio_tools.models.transformer" not in sys.modules:
        # it prints which libraries are missing
        with patch.object(torch, "compile", uncompiled), redirect_stdout(StringIO()):
            import_module("stable_audio_tools.models.transformer")
