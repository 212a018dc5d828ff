"""Several sounds at once: what is there already, and the new sound of a mix by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.sampling.request import SoundRequest
from pipeline.generation.dub import Dubbed, prepare
from pipeline.generation.generator import SoundGenerator
from pipeline.generation.listing import requests_for
from pipeline.generation.options import GenerateOptions
from pipeline.generation.provenance import sidecar_of
from tests.pipeline.generation.making import FAST, dubbed, samples
from tests.pipeline.media.samples import write_sample
from warehouse.errors import FoleyError


def test_a_batch_that_was_stopped_goes_on(generator: SoundGenerator, tmp_path: Path) -> None:
    """What is whole and made of the same is left; what is damaged or asked otherwise is made."""
    folder, out = tmp_path / "in", tmp_path / "in" / "out"
    folder.mkdir()
    for name in "abc":
        write_sample(folder / f"{name}.mp4", [i / 12 for i in range(6)], None)
    options = GenerateOptions.model_validate(FAST)

    def again(options: GenerateOptions) -> dict[str, bool]:
        found = [*prepare(folder, out, options, None).run(lambda *_: None, lambda _: generator)]
        assert [f.error for f in found] == [None] * 3
        assert [f.seconds for f in found] == pytest.approx([0.5] * 3)
        return {f.request.out.stem: f.before for f in found}

    first = next(
        prepare(folder, out, options, None).run(lambda *_: None, lambda _: generator)
    )  # as Ctrl-C leaves it
    assert [path.name for path in out.glob("*.mp4")] == [first.request.out.name]
    assert again(options) == {"a": True, "b": False, "c": False}
    (out / "b.mp4").write_bytes(b"cut short")
    sidecar_of(out / "c.mp4").unlink()
    assert again(options) == {"a": True, "b": False, "c": False}
    assert again(options) == {"a": True, "b": True, "c": True}
    assert again(options.model_copy(update={"overwrite": True})) == dict.fromkeys("abc", False)
    write_sample(folder / "a.mp4", [i / 24 for i in range(12)], None)
    assert again(options) == {"a": False, "b": True, "c": True}
    assert again(options.model_copy(update={"steps": 3})) == dict.fromkeys("abc", False)


def test_a_mix_and_its_stem_are_sampled_once(
    generator: SoundGenerator, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stem is what the command gives without the mix."""
    asked = GenerateOptions.model_validate(
        FAST | {"mix": -6.0, "sample_rate": 48_000, "stem": True, "takes": 3, "batch": 2}
    )
    steps = list[tuple[int, int]]()
    sampled, generate = list[int](), generator.foley.generate

    def seen(requests: list[SoundRequest], *rest: Any) -> Any:
        sampled.append(len(requests))
        return generate(requests, *rest)

    def run() -> dict[str, Dubbed]:
        made = prepare(source, tmp_path / "mix.wav", asked, None).run(
            lambda *step: steps.append(step), lambda _: generator
        )
        return {found.request.out.name: found for found in made}

    monkeypatch.setattr(generator.foley, "generate", seen)
    found = run()
    assert sampled == [2, 1]
    assert steps[-1] == (3 * 2, 3 * 2)
    assert sorted(found) == sorted(f"mix.{i}{x}" for i in range(3) for x in (".wav", ".stem.wav"))
    assert [one.error for one in found.values()] == [None] * 6
    dubbed(generator, source, tmp_path / "plain.wav", sample_rate=48_000, seed=2)
    stem, plain = samples(tmp_path / "mix.2.stem.wav"), samples(tmp_path / "plain.wav")
    np.testing.assert_array_equal(stem, plain)  # made alone, both
    own = samples(source)[:, : stem.shape[1]]
    mix = stem * 10 ** (-6 / 20) + own
    np.testing.assert_allclose(samples(tmp_path / "mix.2.wav"), mix, atol=1e-4)
    assert all(one.before for one in run().values())


def test_a_stem_is_beside_something_else(source: Path, tmp_path: Path) -> None:
    ask = GenerateOptions(prompt="rain", stem=True)
    found = requests_for(source, tmp_path / "o.mov", ask).sounds
    assert [request.out.name for request in found] == ["o.mov", "o.stem.wav"]
    with pytest.raises(FoleyError, match=r"o\.wav is the new sound by itself already"):
        requests_for(source, tmp_path / "o.wav", ask)
