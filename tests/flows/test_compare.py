"""The compare flow against a real API: files, records, an artifact, and nothing computed twice."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from pydantic import ValidationError

from flows.compare import compare
from flows.parameters import CompareParameters, SystemFolder
from foley.cli.launch import named_folders
from pipeline.media import write_wav
from pipeline.procedural import SAMPLE_RATE, Corpus, render_audio, sample_clip, write_corpus
from warehouse import FoleyError, Warehouse


@pytest.mark.slow
def test_a_system_on_a_set_becomes_tables_records_and_an_artifact(api: str, tmp_path: Path) -> None:
    rows = write_corpus(tmp_path / "videos", Corpus(3, seed=79, bad=()))
    (tmp_path / "sounds").mkdir()
    for row in rows:
        audio = render_audio(sample_clip(row["truth"]["seed"]))
        write_wav(tmp_path / "sounds" / f"{Path(row['file']).stem}.wav", audio, SAMPLE_RATE)
    same = SystemFolder(name="same", folder=tmp_path / "sounds")
    parameters = CompareParameters(
        home=tmp_path / "home",
        on=tmp_path / "videos",
        systems=(same,),
        out=tmp_path / "out",
        resamples=5,
        workers=1,
    )
    first = compare(parameters)
    assert {path.name for path in first.files.values()} == {
        "table2.md", "table2.html", "evaluation.json",
    }  # fmt: skip
    assert all(path.stat().st_size for path in first.files.values())
    assert first.found.provenance["weights (content hash)"].keys() == {
        "panns", "passt", "vggish", "synchformer", "imagebind",
    }  # fmt: skip
    stages = first.found.provenance["stages"]
    assert stages["watch_imagebind"]["scaling"] == "bicubic"
    assert stages["hear_imagebind"]["network"]["audio_clips"] == 1
    page = first.files["table2.html"].read_text()
    for hash in first.found.provenance["weights (content hash)"].values():
        assert f"<dd>{hash}</dd>" in page
    assert all(f"<dt>fingerprints.{name}</dt>" in page for name in stages)
    wh = Warehouse(tmp_path / "home")
    assert [record["system"] for record in wh.records("evaluations")] == ["same"]
    again = compare(parameters)
    assert sum(count.batches for count in first.stages) > 0
    assert not any(count.batches for count in again.stages)
    assert again.found.systems == first.found.systems

    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    async def tables() -> list[str]:
        async with get_client() as client:
            found = await client.read_artifacts(
                artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["table-2"]))
            )
            return [str(artifact.data) for artifact in found]

    assert any("| same | 3 of 3 |" in text for text in asyncio.run(tables()))


def test_systems_are_given_as_name_and_folder() -> None:
    assert named_folders(["a=b/c", "d=e=f"]) == [
        {"name": "a", "folder": "b/c"},
        {"name": "d", "folder": "e=f"},
    ]
    for wrong in ("plain", "=x"):
        with pytest.raises(FoleyError, match="NAME=FOLDER"):
            named_folders([wrong])


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
        CompareParameters.model_validate(
            {"home": "/nowhere", "systems": [{"name": n, "folder": "x"} for n in names]}
        )
