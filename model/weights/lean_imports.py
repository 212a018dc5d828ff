"""Imports of libraries that do far more on import than is needed of them, without that.

A short command such as `foley generate` spends most of its time importing. What is left out here is
never called.
"""

from __future__ import annotations

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
    """A package with only some of its modules imported.

    Its own `__init__`, which imports all, is not run.
    """
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
    """stable-audio-tools' models, without the compiler that they load for an attention mask that no model here uses."""

    def uncompiled(function: Callable[..., Any], **_: Any) -> Callable[..., Any]:
        return function

    import_k_diffusion()
    if "stable_audio_tools.models.transformer" not in sys.modules:
        with (
            patch.object(torch, "compile", uncompiled),
            redirect_stdout(StringIO()),
        ):  # it prints what is missing
            import_module("stable_audio_tools.models.transformer")
