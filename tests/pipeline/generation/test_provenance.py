"""Where a sound comes from: in its sidecar, and in the catalog."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from model.bridge_file import read_bridge_facts
from pipeline.generation.dub import prepare
from pipeline.generation.generator import SoundGenerator
from pipeline.generation.options import GenerateOptions
from pipeline.generation.provenance import code_revision, kept_provenance, model_facts, sidecar_of
from pipeline.generation.requests import Request
from tests.pipeline.generation.making import PRESET, PROMPT, made, sampling, video
from warehouse import Warehouse, query, trace
from warehouse.files import file_sha256


def test_what_was_trained_last_makes_the_sound(tmp_path: Path) -> None:
    """Without a word of it the command takes the home's newest bridge, and the sidecar says so."""
    wh = Warehouse(tmp_path / "home")
    folder = wh.folder("checkpoints") / "mine"
    folder.mkdir()
    weights = load_file(PRESET.weights / "bridge.safetensors")
    weights = {name: value * 0.5 for name, value in weights.items()}
    facts = read_bridge_facts(PRESET.weights / "bridge.safetensors")
    save_file(weights, folder / "bridge.safetensors", {"bridge": facts.model_dump_json()})
    digest = file_sha256(folder / "bridge.safetensors")
    wh.write_record("checkpoints", "mine", {"preset": "toy", "steps": 1, "sha256": digest})
    source = video(tmp_path / "in.mp4", 12, 1.0)
    sounds: dict[str | None, str] = {}
    for name in (None, "shipped"):
        options = GenerateOptions(prompt=PROMPT, steps=2, device="cpu", checkpoint=name)
        out = tmp_path / f"{name}.wav"
        (made,) = prepare(source, out, options, wh.home).run(lambda *_: None)
        assert made.error is None
        said = json.loads(sidecar_of(out).read_text())
        assert said["checkpoint"] == ("mine" if name is None else None)
        sounds[name] = said["sound"]
    assert len(set(sounds.values())) == 2


def test_every_sound_tells_where_it_comes_from(generator: SoundGenerator, tmp_path: Path) -> None:
    source, out = video(tmp_path / "in.mp4", 25, 1.0), tmp_path / "out.wav"
    home = Warehouse(tmp_path / "home")
    made(generator, Request(source, out, PROMPT, 5, "speech"), home=home)
    told = json.loads(sidecar_of(out).read_text())
    assert told["sound"] == file_sha256(out)
    assert told["video"] == {"path": str(source), "sha256": file_sha256(source)}
    assert told["bridge"] == file_sha256(PRESET.weights / "bridge.safetensors")
    assert told["checkpoint"] is None
    asked = {
        key: told[key]
        for key in ("preset", "prompt", "negative_prompt", "seed", "device", "precision")
    }
    assert asked == {
        "preset": "toy", "prompt": PROMPT, "negative_prompt": "speech", "seed": 5, "device": "cpu",
        "precision": "float32",
    }  # fmt: skip
    assert told["settings"]["steps"] == 2
    assert told["settings"]["sampler"] == PRESET.sample.sampler
    home.publish()
    (row,) = query(home.home, "select sound, prompt, seed, checkpoint from generated").to_pylist()
    assert row == {"sound": told["sound"], "prompt": PROMPT, "seed": 5, "checkpoint": None}
    parents = {(row["kind"], row["id"]) for row in trace(home.home, str(out)).to_pylist()}
    assert ("file", file_sha256(source)) in parents
    assert ("bridge", told["bridge"]) in parents


def test_a_sound_of_a_checkpoint_leads_to_it_and_to_its_clip(tmp_path: Path) -> None:
    import pyarrow as pa

    home = Warehouse(tmp_path / "home")
    source, out = video(tmp_path / "in.mp4", 25, 1.0), tmp_path / "out.flac"
    home.ingest(
        pa.Table.from_pylist(
            [{"clip_id": "c", "path": str(source), "source": "test", "sha256": None}]
        )
    )
    shipped = PRESET.weights / "bridge.safetensors"
    record = {"preset": "toy", "steps": 500, "sha256": file_sha256(shipped)}
    home.write_record("checkpoints", "abc", record)
    bridge = home.folder("checkpoints") / "abc" / "bridge.safetensors"
    bridge.write_bytes(shipped.read_bytes())
    made(SoundGenerator(sampling(1), bridge, "cpu"), Request(source, out, PROMPT, 0), home=home)
    home.publish()
    parents = {(row["kind"], row["id"]) for row in trace(home.home, str(out)).to_pylist()}
    assert {("checkpoint", "abc"), ("clip", "c"), ("file", file_sha256(source))} <= parents


def test_a_bridge_that_was_replaced_is_not_the_checkpoint_beside_it(tmp_path: Path) -> None:
    bridge = tmp_path / "bridge.safetensors"
    bridge.write_bytes((PRESET.weights / "bridge.safetensors").read_bytes())
    facts, record = read_bridge_facts(bridge), tmp_path / "checkpoint.json"
    for digest, checkpoint in ((file_sha256(bridge), "abc"), ("0" * 64, None)):
        record.write_text(json.dumps({"id": "abc", "sha256": digest}))
        assert model_facts(PRESET, bridge, facts)["checkpoint"] == checkpoint


@pytest.mark.parametrize("before", [False, True])
def test_what_was_not_written_is_not_told_of(tmp_path: Path, before: bool) -> None:
    out = tmp_path / "out.wav"
    if before:
        sidecar_of(out).write_text("of the file that is there")
    with pytest.raises(ZeroDivisionError), kept_provenance(out, {"video": None}, None):
        raise ZeroDivisionError
    assert sidecar_of(out).exists() == before


def test_code_is_told_by_its_commit_and_whether_it_was_changed_since(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        own = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(tmp_path), *own, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init", "-q")
    (tmp_path / "a.py").write_text("1")
    git("add", "a.py")
    git("commit", "-qm", "first")
    commit = git("rev-parse", "HEAD")
    assert code_revision(tmp_path) == commit
    (tmp_path / "a.py").write_text("2")
    assert code_revision(tmp_path) == f"{commit}-dirty"
