"""The nodes in ComfyUI itself: its server loads them and runs a graph, from a video to files.

ComfyUI is on no package index, so this is run where somebody has its source tree, by
COMFYUI=FOLDER COMFYUI_PYTHON=PYTHON uv run pytest tests/integrations
with a Python that has both its requirements and ours.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import av
import numpy as np
import pytest

from pipeline.media import decode_audio
from pipeline.procedural import sample_clip, write_clip
from tests.foley.commands import ROOT
from tests.operations.factory import free_port, until

COMFYUI, PYTHON = os.environ.get("COMFYUI"), os.environ.get("COMFYUI_PYTHON", "python")
ASKED = {"model": ["model", 0], "prompt": "a ball on wood", "seed": 5, "steps": 3, "cfg": -1.0}
SAVED = {
    "whole": ["whole", 0],
    "anew": ["anew", 0],
    "pictures": ["pictures", 0],
    "text": ["text", 0],
}
GRAPH: dict[str, tuple[str, dict[str, Any]]] = {
    "model": ("FoleyLoadModel", {"preset": "toy"}),
    "video": ("LoadVideo", {"file": "clip.mp4"}),
    "parts": ("GetVideoComponents", {"video": ["video", 0]}),
    "whole": ("FoleyGenerateSound", ASKED | {"video": ["video", 0]}),
    "pictures": ("FoleyGenerateSound", ASKED | {"images": ["parts", 0], "fps": ["parts", 2]}),
    "text": ("FoleyGenerateSound", ASKED | {"seconds": 1.5}),
    "anew": (
        "FoleyRedoSound",
        ASKED | {"seed": 6, "audio": ["whole", 0], "video": ["video", 0], "start": 1.0, "end": 1.5},
    ),
    **{
        f"save {name}": ("SaveAudio", {"audio": sound, "filename_prefix": name})
        for name, sound in SAVED.items()
    },
    "dubbed": (
        "CreateVideo", {"images": ["parts", 0], "fps": ["parts", 2], "audio": ["whole", 0]}
    ),
    "save": (
        "SaveVideo",
        {"video": ["dubbed", 0], "filename_prefix": "dubbed", "format": "auto", "codec": "auto"},
    ),
}  # fmt: skip


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """ComfyUI's server with our folder among its custom nodes."""
    (tmp_path / "custom_nodes").mkdir()
    (tmp_path / "custom_nodes" / "foley-control").symlink_to(ROOT / "integrations" / "comfyui")
    (tmp_path / "input").mkdir()
    write_clip(sample_clip(3, 2.5), tmp_path / "input" / "clip.mp4")
    port = free_port()
    options = ["--cpu", "--base-directory", str(tmp_path), "--port", str(port)]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [PYTHON, str(Path(str(COMFYUI)) / "main.py"), *options, "--disable-api-nodes"],
            env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=log, stderr=log,
        )  # fmt: skip
    address = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert process.poll() is None, (tmp_path / "log").read_text()
        try:
            return bool(asked(f"{address}/object_info/FoleyRedoSound"))
        except URLError:
            return False

    until(answers, 240, "ComfyUI answers")
    yield address
    process.terminate()
    process.wait()


def asked(address: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    with urlopen(
        Request(address, data, {"Content-Type": "application/json"}), timeout=60
    ) as answer:
        return json.load(answer)


@pytest.mark.skipif(COMFYUI is None, reason="COMFYUI=FOLDER says where its source tree is")
def test_a_graph_of_comfyui_is_run_to_its_files(server: str, tmp_path: Path) -> None:
    graph = {name: {"class_type": kind, "inputs": given} for name, (kind, given) in GRAPH.items()}
    prompt = asked(f"{server}/prompt", {"prompt": graph})["prompt_id"]
    history = f"{server}/history/{prompt}"
    until(lambda: asked(history), 240, "the graph is run")
    told = asked(history)[prompt]
    assert told["status"]["status_str"] == "success", told["status"]
    files = {path.name.partition("_")[0]: path for path in (tmp_path / "output").rglob("*.*")}
    sounds = {name: decode_audio(files[name]).samples[0] for name in SAVED}
    sizes = {name: len(sound) / 16_000 for name, sound in sounds.items()}
    assert sizes == {"whole": 2.5, "anew": 2.5, "pictures": 2.5, "text": 1.5}
    apart = np.abs(sounds["whole"] - sounds["anew"])
    assert max(apart[:16_000].max(), apart[24_000:].max()) < 2**-14  # of FLAC with 16 bits
    assert apart[16_000:24_000].max() > 0.01
    assert np.corrcoef(sounds["whole"], sounds["pictures"])[0, 1] > 0.9
    with av.open(str(files["dubbed"])) as dubbed:
        assert {stream.type for stream in dubbed.streams} == {"video", "audio"}
