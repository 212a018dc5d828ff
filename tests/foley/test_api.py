"""The Python API: light to import, a mistake is one line, and files hold the sound it gives."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

import foley
from pipeline.procedural import Corpus, sample_clip, write_corpus
from pipeline.procedural.writing import write_clip
from tests.foley.commands import ROOT, environment
from warehouse.files import file_sha256

PROMPT = "a ball bounces on wood"


def python(code: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, **options
    )


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    write_clip(sample_clip(3, 2.5), path)
    return path


@pytest.fixture(scope="module")
def generator() -> Any:
    return foley.load("toy", device="cpu")


def samples_of(path: Path) -> tuple[np.ndarray, int]:
    """Samples [channels, n] of a file's sound and their rate, as FFmpeg decodes them."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        frames = [frame.to_ndarray() for frame in container.decode(stream)]
        return np.concatenate(frames, axis=-1).reshape(stream.channels, -1), stream.rate


def test_importing_is_light() -> None:
    code = (
        "import sys, time\nbegan = time.process_time()\nimport foley\n"
        "took = time.process_time() - began\nimport json\n"
        "print(json.dumps([took, sorted({name.split('.')[0] for name in sys.modules})]))"
    )
    took, loaded = json.loads(python(code, cwd=ROOT).stdout)
    assert took < 0.3
    heavy = {"torch", "prefect", "duckdb", "numpy", "pyarrow", "pydantic", "av", "click"}
    assert heavy & set(loaded) == set()


@pytest.mark.parametrize("room", ["model", "pipeline", "flows", "warehouse"])
@pytest.mark.parametrize("package", [True, False])
def test_a_module_in_the_place_of_a_room_is_named(tmp_path: Path, room: str, package: bool) -> None:
    path = tmp_path / room / "__init__.py" if package else tmp_path / f"{room}.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text("")
    done = python("import foley", cwd=tmp_path, env=environment(PYTHONPATH=f"{tmp_path}:{ROOT}"))
    message = done.stderr.splitlines()[-1]
    assert message.startswith(f"ImportError: {path} takes the place of foley's own package")
    assert "rename it" in message


def test_loading_and_making_print_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        foley.load("toy", device="cpu").generate(None, PROMPT, seconds=0.5, steps=2)
    assert capfd.readouterr() == ("", "")


def test_a_sound_is_what_its_file_holds(generator: Any, video: Path, tmp_path: Path) -> None:
    sound = generator.generate(video, PROMPT, seed=4, steps=2)
    assert sound.audio.shape == (1, 2.5 * sound.sample_rate)
    assert sound.seconds == 2.5
    assert sound.save(tmp_path / "out.wav") == []
    samples, rate = samples_of(tmp_path / "out.wav")
    assert rate == sound.sample_rate == 16000
    scale = np.abs(samples).max() / np.abs(sound.audio).max()
    np.testing.assert_allclose(samples / scale, sound.audio, atol=1e-4)
    told = json.loads((tmp_path / "out.wav.json").read_text())
    assert told["sound"] == file_sha256(tmp_path / "out.wav")
    assert {name: told[name] for name in sound.provenance} == sound.provenance
    assert (told["prompt"], told["seed"], told["settings"]["steps"]) == (PROMPT, 4, 2)
    assert told["video"]["sha256"] == file_sha256(video)


def test_the_picture_is_kept_and_the_command_makes_the_same(
    generator: Any, video: Path, tmp_path: Path
) -> None:
    from pipeline.generation.dub import prepare
    from pipeline.generation.options import GenerateOptions

    generator.generate(str(video), PROMPT, seed=4, steps=2, cfg=2.0).save(tmp_path / "api.mp4")
    options = GenerateOptions(prompt=PROMPT, seed=4, steps=2, cfg=2.0, device="cpu")
    (result,) = prepare(video, tmp_path / "command.mp4", options, None).run(lambda *_: None)
    assert result.error is None
    api, command = (tmp_path / f"{name}.mp4" for name in ("api", "command"))
    assert api.read_bytes() == command.read_bytes()
    with av.open(str(api)) as ours, av.open(str(video)) as own:
        pictures = [[bytes(p) for p in c.demux(video=0)] for c in (ours, own)]
    assert pictures[0] == pictures[1]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda _, home: foley.load("large"), "no preset 'large'"),
        (lambda _, home: foley.load("toy", weights=home / "gone"), "gone"),
        (lambda _, home: foley.load("toy", checkpoint=home / "gone"), "gone"),
        (lambda g, home: g.generate(home / "gone.mp4", PROMPT), "gone.mp4"),
        (lambda g, home: g.generate(__file__, PROMPT), "test_api.py"),
        (lambda g, home: g.generate("clip.mp4", PROMPT, seed=-1), "seed"),
        (lambda _, home: foley.curate(home / "gone", home=home), "gone"),
        (lambda _, home: foley.curate(home / "empty", home=home), "no media file"),
        (lambda g, home: foley.curate(home / "videos", home=home, policy="loose"), "loose"),
        (lambda g, home: foley.curate(home / "videos", home=home, speed=3), "speed"),
        (lambda _, home: foley.train(home=home / "gone"), "foley curate"),
        (lambda _, home: foley.evaluate(home=home, seed=-1), "seed"),
        (lambda _, home: foley.catalog(home), "no catalog"),
        (lambda _, home: foley.features(home), "curate"),
    ],
)
def test_a_mistake_is_one_line(
    generator: Any, video: Path, tmp_path: Path, call: Any, words: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "videos").symlink_to(video.parent)
    with pytest.raises(foley.FoleyError, match=words) as caught:
        call(generator, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_sound_is_not_written_over_its_video(generator: Any, video: Path, tmp_path: Path) -> None:
    sound = generator.generate(video, PROMPT, steps=1)
    before = video.read_bytes()
    for out, words in (
        (video, "one of the files to read"),
        (tmp_path / "out.mp3", "must end in one of"),
    ):
        with pytest.raises(foley.FoleyError, match=words):
            sound.save(out)
    assert video.read_bytes() == before


@pytest.mark.slow
def test_a_folder_becomes_a_catalog_and_features(api: str, tmp_path: Path) -> None:
    """In a process of its own, as Prefect's settings are a process's."""
    write_corpus(tmp_path / "clips", Corpus(8, seconds=1.0, bad=()))
    code = f"""
import json
import foley
from torch.utils.data import DataLoader

home = {str(tmp_path / "home")!r}
curated = foley.curate({str(tmp_path / "clips")!r}, home=home, policy="all", workers=1)
train = "select count(*) from dataset_members where kept and split = 'train'"
kept = foley.catalog(home).sql(train).fetchall()[0][0]
features = foley.features(home)
batch = next(iter(DataLoader(features, batch_size=4)))
print(json.dumps([curated.dataset.counts, kept, len(features), features.arrow.count_rows(),
    list(batch["video_tokens"].shape), list(batch["clip_id"]), features.clip_ids[:4]]))
"""
    done = python(code, cwd=ROOT, env=environment())
    assert done.returncode == 0, done.stderr
    counts, kept, length, rows, shape, ids, first = json.loads(done.stdout.splitlines()[-1])
    assert kept == length == rows == counts["train"] > 0
    assert (shape[0], shape[2:], ids) == (4, [1, 96], first)
