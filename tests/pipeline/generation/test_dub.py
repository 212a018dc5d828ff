"""`foley generate`.

Sound under any video, as long as it, with the picture untouched, and where it comes from.
"""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from model.presets.preset import ModelError, Preset, load_preset
from pipeline.generation.dub import Dubbed, dub
from pipeline.generation.generator import SoundGenerator, choose_device
from pipeline.generation.provenance import sidecar_of
from pipeline.generation.requests import GenerateOptions, Request
from pipeline.media import probe, read_audio
from tests.pipeline.media.samples import write_sample
from warehouse import Warehouse, query, trace
from warehouse.files import file_sha256

PRESET = load_preset("toy")
PROMPT = "a ball bounces on wood"


def sampling(steps: int) -> Preset:
    """The toy preset, with so many sampling steps."""
    return GenerateOptions(steps=steps).load_preset()


@pytest.fixture(scope="module")
def generator() -> SoundGenerator:
    return SoundGenerator(sampling(2), device="cpu")


def video(path: Path, fps: float, seconds: float) -> Path:
    write_sample(path, [i / fps for i in range(round(seconds * fps))], None)
    return path


def pictures(path: Path) -> list[tuple[bytes, Fraction]]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        tick = stream.time_base or Fraction(1)
        return [(bytes(p), p.pts * tick) for p in container.demux(stream) if p.pts is not None]


def made(
    generator: SoundGenerator, *requests: Request, home: Warehouse | None = None
) -> list[Dubbed]:
    return list(dub(requests, lambda: generator, 3, home))


@pytest.mark.parametrize(
    ("fps", "seconds"), [(12, 2.0), (24, 1.5), (29.97, 3.0), (60, 5.0), (23.976, 13.0)]
)
def test_sound_is_as_long_as_the_picture_at_any_frame_rate(
    generator: SoundGenerator, tmp_path: Path, fps: float, seconds: float
) -> None:
    source, out = video(tmp_path / "in.mp4", fps, seconds), tmp_path / "out.mp4"
    (found,) = made(generator, Request(source, out, PROMPT, 3))
    duration = probe(source).duration
    assert duration is not None
    assert round(found.seconds * PRESET.sample_rate) == round(duration * PRESET.sample_rate)
    assert pictures(out) == pictures(source)
    heard = read_audio(out, PRESET.sample_rate)
    assert len(heard) == pytest.approx(duration * PRESET.sample_rate, abs=2)
    assert np.abs(heard).max() > 0


def test_uneven_frame_times_are_no_obstacle(generator: SoundGenerator, tmp_path: Path) -> None:
    times = np.cumsum([0, *np.random.default_rng(0).uniform(0.01, 0.12, 40)]).tolist()
    source = tmp_path / "vfr.mp4"
    write_sample(source, times, None)
    (found,) = made(generator, Request(source, tmp_path / "out.mkv", PROMPT, 3))
    assert found.seconds == pytest.approx(probe(source).duration, abs=1e-3)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp4", ".mkv"])
def test_the_same_seed_gives_the_same_bytes(
    generator: SoundGenerator, tmp_path: Path, suffix: str
) -> None:
    source = video(tmp_path / "in.mp4", 25, 1.0)
    first, second, other = (tmp_path / f"{name}{suffix}" for name in "abc")
    made(generator, Request(source, first, PROMPT, 3))
    made(SoundGenerator(sampling(2), device="cpu"), Request(source, second, PROMPT, 3))
    made(generator, Request(source, other, PROMPT, 4))
    assert first.read_bytes() == second.read_bytes() != other.read_bytes()


def test_a_batch_gives_what_each_gives_alone_and_bad_files_cost_their_own(
    generator: SoundGenerator, tmp_path: Path
) -> None:
    short, other, long = (
        video(tmp_path / f"{i}.mp4", 25, seconds) for i, seconds in enumerate((1.0, 1.0, 2.0))
    )
    bad, cut = tmp_path / "bad.mp4", tmp_path / "cut.mkv"
    bad.write_text("<!doctype html>")
    write_sample(cut, [i / 25 for i in range(100)], None)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    videos = (short, bad, long, cut, short, other, tmp_path / "gone.mp4", short, short, long)
    requests = [Request(v, tmp_path / f"{i}.wav", PROMPT, i) for i, v in enumerate(videos)]
    steps: list[tuple[int, int]] = []
    together = list(dub(requests, lambda: generator, 3, on_step=lambda *step: steps.append(step)))
    assert len(together) == len(requests)
    for found in together:
        request = found.request
        if request.video in (bad, cut, tmp_path / "gone.mp4"):
            assert found.error is not None
            assert request.video.name in found.error
            assert "\n" not in found.error
            assert not request.out.exists()
            continue
        assert found.error is None
        alone = tmp_path / f"alone.{request.seed}.wav"
        made(generator, Request(request.video, alone, PROMPT, request.seed))
        batched, single = (read_audio(path, PRESET.sample_rate) for path in (request.out, alone))
        np.testing.assert_allclose(batched, single, atol=2e-3)
    assert steps[-1][0] == steps[-1][1] == 8 * 2
    assert steps == sorted(steps, key=lambda step: step[0])


def test_a_video_is_encoded_once_however_many_takes(
    generator: SoundGenerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = video(tmp_path / "one.mp4", 25, 1.0), video(tmp_path / "two.mp4", 25, 1.0)
    encode, seen = generator.encoder.encode, list[int]()

    def counted(frames: np.ndarray) -> torch.Tensor:
        seen.append(len(frames))
        return encode(frames)

    monkeypatch.setattr(generator.encoder, "encode", counted)
    requests = [
        Request(v, tmp_path / f"{v.stem}.{i}.wav", PROMPT, i) for v in (one, two) for i in range(5)
    ]
    found = made(generator, *requests)
    assert [f.error for f in found] == [None] * 10
    assert len({path.read_bytes() for path in tmp_path.glob("*.wav")}) == 10
    assert len(seen) == 2


def test_no_usable_video_loads_no_model(tmp_path: Path) -> None:
    def load() -> SoundGenerator:
        raise AssertionError("not needed")

    (found,) = dub([Request(tmp_path / "gone.mp4", tmp_path / "o.wav", PROMPT, 0)], load)
    assert found.error is not None


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
    home.write_record("checkpoints", "abc", {"preset": "toy", "steps": 500})
    bridge = home.folder("checkpoints") / "abc" / "bridge.safetensors"
    bridge.write_bytes((PRESET.weights / "bridge.safetensors").read_bytes())
    made(SoundGenerator(sampling(1), bridge, "cpu"), Request(source, out, PROMPT, 0), home=home)
    home.publish()
    parents = {(row["kind"], row["id"]) for row in trace(home.home, str(out)).to_pylist()}
    assert {("checkpoint", "abc"), ("clip", "c"), ("file", file_sha256(source))} <= parents


def test_a_device_that_is_not_there_is_named() -> None:
    assert choose_device("cpu") == "cpu"
    assert choose_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="--device cpu"):
            choose_device("cuda")
