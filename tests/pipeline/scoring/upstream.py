"""Upstream's own preparation of media, run from the installed packages.

`imagebind/data.py` cannot be imported as it is: it asks PyTorchVideo for modules that no longer
import, decord for frames and torchaudio for a file's samples, which needs torchcodec by now. Here
it is run as it is written, with PyTorchVideo's own sampler, scaler and `get_clip`; only the
decoding of files is done by PyAV in decord's place, and by soundfile in torchaudio's.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import av
import numpy as np
import soundfile
import torch
import torchaudio
from audiobox_aesthetics.infer import AesPredictor
from audiobox_aesthetics.model.aes import Normalize
from torch import Tensor

from model.networks.imagebind import import_imagebind
from model.weights.lean_imports import bare_package


def frames_of(path: Any) -> np.ndarray:
    """Every frame of a video, as stored -> uint8 [T, H, W, 3]."""
    container: Any = av.open(path)
    with container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


class VideoReader:
    """What PyTorchVideo asks of decord."""

    def __init__(self, uri: Any, **_: Any) -> None:
        with av.open(uri, "r") as container:
            self.fps = float(container.streams.video[0].average_rate or 0)
        uri.seek(0)
        self.frames = torch.from_numpy(frames_of(uri))

    def __len__(self) -> int:
        return len(self.frames)

    def get_avg_fps(self) -> float:
        return self.fps

    def get_batch(self, indices: Sequence[int]) -> Tensor:
        return self.frames[list(indices)]


def read_samples(path: Path) -> tuple[Tensor, int]:
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return torch.from_numpy(samples.T.copy()), rate


def imagebind_inputs(video: Path, sound: Path) -> dict[str, Tensor]:
    """What ImageBind's own data.py makes of two files.

    Vision [1, 15, 3, 2, 224, 224], audio [1, 3, 1, 128, 204].
    """
    decord: Any = ModuleType("decord")
    decord.bridge = SimpleNamespace(set_bridge=lambda _: None)
    decord.VideoReader, decord.cpu = VideoReader, lambda _: None
    unused = {"decord": decord, "pkg_resources": ModuleType("pkg_resources")}
    import_imagebind()
    with patch.dict(sys.modules, unused), patch.object(torchaudio, "load", read_samples):
        package = bare_package("pytorchvideo")
        package.transforms = bare_package("pytorchvideo.transforms")
        package.transforms.__dict__.update(
            vars(import_module("pytorchvideo.transforms.transforms"))
        )
        bare_package("pytorchvideo.data", "clip_sampling", "encoded_video", "encoded_video_decord")
        data = import_module("imagebind.data")
        return {
            "vision": data.load_and_transform_video_data([str(video)], "cpu"),
            "audio": data.load_and_transform_audio_data([str(sound)], "cpu"),
        }


def aesthetics(model: Any, samples: Tensor, sample_rate: int) -> dict[str, float]:
    """What Audiobox Aesthetics' own predictor says of samples [channels, S].

    Its constructor would fetch weights.
    """
    predictor: Any = object.__new__(AesPredictor)
    predictor.model, predictor.device, predictor.data_col, predictor.sample_rate = (
        model,
        "cpu",
        "path",
        16000,
    )
    predictor.target_transform = {
        axis: Normalize(**scale) for axis, scale in model.target_transform.items()
    }
    return predictor.forward([{"path": samples, "sample_rate": sample_rate}])[0]
