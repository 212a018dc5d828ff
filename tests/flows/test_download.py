"""`foley download` against a mirror on loopback, and `foley curate` of what it brought."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.parameters import DownloadParameters
from pipeline.curation.registry import registered, scan_source
from pipeline.curation.sources import folder_source
from tests.foley.commands import foley, one_line_error
from tests.pipeline.download.mirror import Faults, Mirror, layout
from warehouse import FoleyError, Warehouse

pytestmark = pytest.mark.usefixtures("api")


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[tuple[Mirror, str]]:
    (tmp_path / "made").mkdir()
    server = Mirror(layout(tmp_path / "made"))
    yield server, server.start()
    server.stop()


def test_download_then_curate(tmp_path: Path, mirror: tuple[Mirror, str]) -> None:
    from flows.download import download

    server, base = mirror
    del server.files["train/k700_train_002.tar.gz"]
    server.faults = Faults(left=3, drop_at=lambda n: n // 2)
    home, folder = tmp_path / "home", tmp_path / "k700"
    parameters = DownloadParameters(
        home=home, source="kinetics700", folder=folder, base_url=base, template="{label}!"
    )
    result = download(parameters)
    assert (result.units, result.fetched, result.clips, len(result.failed)) == (5, 4, 13, 1)
    assert "HTTP 404" in str(result.failed[0][1])
    assert (result.without_video, result.without_row) == (4, 1)
    details = json.loads((folder / "download.json").read_text())
    assert any("AppleDouble" in why for _, why in next(iter(details["left_out"].values())))
    listing = folder_source(folder).clips.to_pylist()
    assert len(listing) == 13
    assert {row["split"] for row in listing} == {"train", "val", "test"}
    drums = next(row for row in listing if row["label"] == "playing drums")
    assert (drums["prompt"], drums["source_video"][0]) == ("playing drums!", "-")
    sent = len(server.log)
    again = download(parameters)
    assert (again.fetched, again.clips) == (0, 13)
    assert not [path for path, _, _ in server.log[sent:] if ".tar" in path]
    (source,) = registered(Warehouse(home))
    assert (source.name, source.kind, source.place) == ("k700", "kinetics700", folder)
    assert scan_source(Warehouse(home), source).result.new == 13
    twin = parameters.model_copy(update={"folder": tmp_path / "b" / "k700"})
    with pytest.raises(FoleyError, match=r"k700 is there already .* --name b-k700"):
        download(twin)
    assert not [path for path, _, _ in server.log[sent:] if ".tar" in path]


def test_one_class_after_the_other(
    tmp_path: Path, mirror: tuple[Mirror, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.download import download

    server, base = mirror
    folder = tmp_path / "k700"

    def of(label: str) -> DownloadParameters:
        chosen = DownloadParameters(
            home=tmp_path / "home", source="kinetics700", folder=folder, base_url=base
        )
        return chosen.model_copy(update={"classes": (label,), "splits": ("train",)})

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.download.units.RESERVE", 1 << 60)
        with pytest.raises(FoleyError, match="make room"):
            download(of("clapping"))
    assert not [path for path, _, size in server.log if ".tar" in path and size]
    assert (download(of("clapping")).fetched, download(of("clapping")).fetched) == (3, 0)
    assert download(of("playing drums")).fetched == 1
    listed = [row["label"] for row in folder_source(folder).clips.to_pylist()]
    assert sorted(listed) == ["clapping"] * 3 + ["playing drums"] * 3


@pytest.mark.slow
def test_a_list_of_addresses(tmp_path: Path, mirror: tuple[Mirror, str]) -> None:
    server, base = mirror
    (tmp_path / "mine").mkdir()
    clip = next((tmp_path / "made").glob("*.mp4"))
    server.files["a clip.mp4"] = clip.read_bytes()
    rows = [
        f"{base}a%20clip.mp4,,a dog,val",
        f"{base}gone.mp4,,nothing,train",
        f",{clip},a cat,train",
    ]
    rows.append("s3://bucket/a.mp4,,a bear,train")
    (tmp_path / "mine" / "list.csv").write_text("url,path,caption,split\n" + "\n".join(rows) + "\n")
    done = foley(
        "download", tmp_path / "mine" / "list.csv", tmp_path / "out", "--home", tmp_path / "home"
    )
    assert done.returncode == 0, done.stderr
    assert "2 clips; 1 fetched" in done.stdout
    assert "gone.mp4: HTTP 404" in done.stdout
    assert "s3://bucket/a.mp4: no address that can be fetched" in done.stdout
    found = {row["prompt"]: row for row in folder_source(tmp_path / "out").clips.to_pylist()}
    assert set(found) == {"a dog", "a cat"}
    assert Path(found["a dog"]["path"]).read_bytes() == clip.read_bytes()
    assert found["a dog"]["split"] == "val"


@pytest.mark.slow
def test_mistakes_are_one_line(tmp_path: Path, mirror: tuple[Mirror, str]) -> None:
    home = ["--home", str(tmp_path / "home")]
    assert "give kinetics700" in one_line_error(foley("download", "kinetics", *home))
    (tmp_path / "a.csv").write_text("name\nx\n")
    assert "neither a url nor a file" in one_line_error(
        foley("download", tmp_path / "a.csv", *home)
    )
    wrong = ["--base-url", mirror[1], "--classes", "flying"]
    assert "no class is called 'flying'" in one_line_error(
        foley("download", "kinetics700", *home, *wrong)
    )
