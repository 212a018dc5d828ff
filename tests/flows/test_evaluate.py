"""The evaluate flow against a real API: files, records, an artifact, and no option dropped."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from pydantic import ValidationError

from flows.evaluate import evaluate
from flows.parameters import EvaluateParameters, SystemFolder
from pipeline.media import write_wav
from pipeline.procedural import SAMPLE_RATE, Corpus, render_audio, sample_clip, write_corpus
from warehouse import Warehouse


@pytest.mark.slow
def test_a_system_on_a_set_becomes_tables_records_and_an_artifact(api: str, tmp_path: Path) -> None:
    rows = write_corpus(tmp_path / "videos", Corpus(3, seed=79, bad=()))
    (tmp_path / "sounds").mkdir()
    for row in rows:
        audio = render_audio(sample_clip(row["truth"]["seed"]))
        write_wav(tmp_path / "sounds" / f"{Path(row['file']).stem}.wav", audio, SAMPLE_RATE)
    same = SystemFolder(name="same", folder=tmp_path / "sounds")
    parameters = EvaluateParameters(
        home=tmp_path / "home",
        on=tmp_path / "videos",
        systems=(same,),
        out=tmp_path / "out",
        resamples=5,
        workers=1,
    )
    first = evaluate(parameters)
    assert first.held_out is None
    assert first.table2 is not None
    assert {path.name for path in first.files.values()} == {
        "table2.md", "table2.html", "evaluation.json",
    }  # fmt: skip
    assert all(path.stat().st_size for path in first.files.values())
    assert first.table2.provenance["weights (content hash)"].keys() == {
        "panns", "passt", "vggish", "synchformer", "imagebind",
    }  # fmt: skip
    stages = first.table2.provenance["stages"]
    assert stages["watch_imagebind"]["scaling"] == "bicubic"
    assert stages["hear_imagebind"]["network"]["audio_clips"] == 1
    page = first.files["table2.html"].read_text()
    for hash in first.table2.provenance["weights (content hash)"].values():
        assert f"<dd>{hash}</dd>" in page
    assert all(f"<dt>fingerprints.{name}</dt>" in page for name in stages)
    wh = Warehouse(tmp_path / "home")
    assert [record["system"] for record in wh.records("evaluations")] == ["same"]
    again = evaluate(parameters)
    assert again.table2 is not None
    assert sum(count.batches for count in first.stages) > 0
    assert not any(count.batches for count in again.stages)
    assert again.table2.systems == first.table2.systems

    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    async def tables() -> list[str]:
        async with get_client() as client:
            found = await client.read_artifacts(
                artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["table-2"]))
            )
            return [str(artifact.data) for artifact in found]

    assert any("| same | 3 of 3 |" in text for text in asyncio.run(tables()))


def test_systems_are_given_as_name_and_folder(tmp_path: Path) -> None:
    (tmp_path / "b=c").mkdir()
    texts = [f"a={tmp_path}", f"d={tmp_path}/b=c"]
    parameters = EvaluateParameters.model_validate({"systems": texts})
    assert [(s.name, s.folder) for s in parameters.systems] == [
        ("a", tmp_path),
        ("d", tmp_path / "b=c"),
    ]
    for wrong, said in (
        ("plain", "NAME=FOLDER"),
        ("=x", "NAME=FOLDER"),
        (f"a={tmp_path}/nowhere", "does not point to a directory"),
    ):
        with pytest.raises(ValidationError, match=said):
            EvaluateParameters.model_validate({"systems": [wrong]})


SYSTEMS = ({"name": "a", "folder": "/"},)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out": "x", "limit": 3, "reference": "/"}, "reference goes with an evaluation set"),
        ({"name": "mine"}, "name goes with an evaluation set"),
        ({"out": "x"}, "out goes with Table 2: give table2"),
        ({"scaling": "bilinear"}, "scaling goes with Table 2"),
        ({"on": "/"}, "no system to evaluate"),
        ({"on": "/", "systems": SYSTEMS, "checkpoint": "c"}, "checkpoint goes with held-out clips"),
        ({"on": "/", "systems": SYSTEMS, "seed": 1}, "seed goes with held-out clips"),
    ],
)
def test_an_option_that_would_have_no_effect_is_refused(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        EvaluateParameters.model_validate({"home": "/nowhere"} | options)


@pytest.mark.parametrize(
    "options",
    [
        {"checkpoint": "c", "seed": 1},
        {"table2": True, "out": "x", "resamples": 0},
        {"systems": SYSTEMS, "out": "x", "scaling": "bilinear"},
        {"on": "/", "systems": SYSTEMS, "reference": "/", "limit": 3, "name": "n", "out": "x"},
    ],
)
def test_options_that_fit_together_are_taken(options: dict[str, object]) -> None:
    EvaluateParameters.model_validate({"home": "/nowhere"} | options)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a/b"], "'a/b' cannot name a system"),
        ([".a"], "cannot name a system"),
        (["original"], "is the videos' own sound"),
        (["a", "a"], "systems a and a are told apart by nothing"),
        (["a_b", "A-b"], "systems a_b and A-b are told apart by nothing but signs"),
    ],
)
def test_names_that_the_page_could_not_tell_apart_are_refused(names: list[str], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        EvaluateParameters.model_validate(
            {"home": "/nowhere", "systems": [{"name": n, "folder": "/"} for n in names]}
        )
