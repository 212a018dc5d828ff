"""ComfyUI's nodes keep to its published contract; what they give is what the package gives.

ComfyUI is on no package index, so a graph is walked as its executor does; test_comfyui_itself.py
runs it where somebody has it.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import foley
from integrations.comfyui import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS
from model.metrics.onsets import detect_onsets, sync_score
from pipeline.procedural import FPS, render_frames, sample_clip, write_clip

PROMPT = "a ball bounces on wood"
KINDS = {"STRING", "INT", "FLOAT", "VIDEO", "IMAGE", "AUDIO", "FOLEY_MODEL"}


class VideoFromFile:
    """The part of ComfyUI's VIDEO that its contract promises."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def save_to(self, path: str) -> None:
        shutil.copy(self.path, path)


def execute(name: str, **inputs: Any) -> tuple[Any, ...]:
    """Run a node as ComfyUI does: defaults of widgets are given, sockets without a link are not."""
    node = NODE_CLASS_MAPPINGS[name]
    asked = node.INPUT_TYPES()
    widgets = {
        key: kind[1]["default"] for part in asked.values() for key, kind in part.items() if kind[1:]
    }
    assert inputs.keys() <= {key for part in asked.values() for key in part}
    outputs = getattr(node(), node.FUNCTION)(**(widgets | inputs))
    assert len(outputs) == len(node.RETURN_TYPES)
    return outputs


@pytest.fixture(scope="module")
def model() -> Any:
    return execute("FoleyLoadModel")[0]


def test_nodes_say_what_they_take_and_give() -> None:
    assert NODE_DISPLAY_NAME_MAPPINGS.keys() == NODE_CLASS_MAPPINGS.keys()
    for node in NODE_CLASS_MAPPINGS.values():
        asked = node.INPUT_TYPES()
        assert asked.keys() <= {"required", "optional"}
        kinds = {kind[0] for part in asked.values() for kind in part.values()}
        assert kinds | set(node.RETURN_TYPES) <= KINDS
        assert node.CATEGORY


def test_a_video_gets_the_sound_that_the_package_makes(model: Any, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write_clip(sample_clip(3, 2.5), path)
    (sound,) = execute("FoleyGenerateSound", model=model, prompt=PROMPT, seed=5,
                       video=VideoFromFile(path))  # fmt: skip
    expected = foley.load("toy").generate(path, PROMPT, seed=5)
    assert sound["sample_rate"] == expected.sample_rate
    np.testing.assert_array_equal(sound["waveform"][0].numpy(), expected.audio)


def test_pictures_are_heard_in_time_at_their_own_rate(model: Any) -> None:
    clip = sample_clip(800_000_004)
    frames = torch.from_numpy(render_frames(clip)).float() / 255
    (sound,) = execute(
        "FoleyGenerateSound", model=model, prompt=clip.prompt, images=frames, fps=FPS
    )
    assert sound["waveform"].shape == (1, 1, round(clip.seconds * sound["sample_rate"]))
    onsets = detect_onsets(sound["waveform"][0].mean(0).numpy(), sound["sample_rate"])
    assert sync_score([np.array(clip.impacts)], [onsets]).f1_60ms > 0.7


def test_a_stretch_is_made_anew_and_the_rest_stays(model: Any, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write_clip(sample_clip(3, 2.5), path)
    seen = {"model": model, "prompt": PROMPT, "video": VideoFromFile(path), "steps": 3}
    (sound,) = execute("FoleyGenerateSound", **seen, seed=5)
    (anew,) = execute("FoleyRedoSound", **seen, audio=sound, seed=6, start=1.0, end=1.5)
    apart = (anew["waveform"] - sound["waveform"]).abs()[0].amax(0).numpy()
    assert apart[:16_000].max() < 2**-20  # of 24 bits
    assert apart[24_000:].max() < 2**-20
    assert apart[16_000:24_000].max() > 0.01


def test_text_alone_is_as_long_as_it_is_asked_for(model: Any) -> None:
    (sound,) = execute("FoleyGenerateSound", model=model, prompt=PROMPT, seconds=1.5, steps=2)
    assert sound["waveform"].shape[-1] == 1.5 * sound["sample_rate"]
