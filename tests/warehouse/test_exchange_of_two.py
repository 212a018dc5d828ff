"""Two homes that push to one address: neither takes back what the other did."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from foley.cli.main import cli
from pipeline.curation.policy import select
from pipeline.stages.engine import fingerprints
from tests.warehouse.test_exchange import HASHES, finished, homes
from tests.warehouse.toys import POLICY, facts_of, run_all, stages
from warehouse import FoleyError, Warehouse
from warehouse.datasets.feature_build import FeatureRequest, build
from warehouse.exchange.copies import pull, push
from warehouse.exchange.object_store import Store

#: Stages whose fingerprints follow from the gain.
GAINED = [name for name, other in fingerprints(stages(gain=3.0)).items() if other != HASHES[name]]


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    return finished(tmp_path_factory.mktemp("worked"))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def folder(place: Path) -> str:
    return place.as_uri()


def notes(place: Path) -> dict[str, bytes]:
    """What was planned and selected last, in a home or at an address."""
    found = [*place.glob("commits/*/CURRENT"), *place.glob("datasets/*.json")]
    return {path.relative_to(place).as_posix(): path.read_bytes() for path in found}


def test_a_push_never_takes_back_what_another_home_planned_and_selected(
    worked: Warehouse, place: Path, tmp_path: Path
) -> None:
    first, second = homes(worked, tmp_path)
    push(first, place.as_uri())
    pull(second, place.as_uri())
    run_all(first, stages(gain=2.0))
    select(first, fingerprints(stages(gain=2.0)), POLICY)
    push(first, place.as_uri())
    newer = notes(place)
    assert newer == notes(first.home) != notes(second.home)
    assert push(second, place.as_uri()).differing == [], "it has changed nothing"
    assert notes(place) == newer

    run_all(second, stages(gain=3.0))
    mine = notes(second.home)
    changed = sorted(f"commits/{name}/CURRENT" for name in GAINED)
    for _ in range(2):
        assert sorted(push(second, place.as_uri()).differing) == changed
        assert notes(place) == newer
    assert sorted(pull(second, place.as_uri()).differing) == changed
    kept = {name: mine[name] for name in changed}
    assert notes(second.home) == newer | kept, "what it has changed stays, and the rest is taken"
    assert facts_of(second, 2.0) == facts_of(first, 2.0)
    assert push(second, place.as_uri()).differing == [], "it has seen what it replaces"
    assert notes(place) == notes(second.home)
    assert pull(first, place.as_uri()).differing == []
    assert notes(first.home) == notes(second.home)


def test_the_commands_name_what_two_homes_changed(
    worked: Warehouse, place: Path, tmp_path: Path
) -> None:
    first, second = homes(worked, tmp_path)
    push(first, place.as_uri())
    run_all(second, stages(gain=3.0))
    for command, code in (("push", 1), ("push", 1), ("pull", 0), ("push", 0)):
        done = CliRunner().invoke(cli, [command, place.as_uri(), "--home", str(second.home)])
        assert done.exit_code == code, done.output
        expected = "facts/CURRENT: this home and another changed it" in done.output
        assert expected == ((command, code) != ("push", 0))


def test_a_push_that_another_one_overtook_says_so(
    worked: Warehouse, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = homes(worked, tmp_path)
    push(first, place.as_uri())
    run_all(first, stages(gain=2.0))
    put = Store.put

    def overtaken(store: Store, source: Any, path: str) -> None:
        put(store, source, path)
        if path == "commits/facts/CURRENT":  # the other had read it before
            put(store, io.BytesIO(b"0123456789abcdef"), path)

    monkeypatch.setattr(Store, "put", overtaken)
    assert push(first, place.as_uri()).differing == ["commits/facts/CURRENT"]


def test_homes_that_scan_one_folder_have_not_changed_its_source(
    worked: Warehouse, place: Path, tmp_path: Path
) -> None:
    first, second = homes(worked, tmp_path)
    for number, wh in enumerate((first, second)):
        wh.write_record("sources", "a", {"name": "a", "removed": False, "scanned_at": number})
        assert push(wh, place.as_uri()).differing == []
    first.write_record("sources", "a", {"name": "a", "removed": True, "scanned_at": 2})
    push(first, place.as_uri())
    assert pull(second, place.as_uri()).differing == []
    assert second.record("sources", "a")["removed"]


def test_what_rotted_at_an_address_is_mended_by_a_push_that_reads_it(
    worked: Warehouse, place: Path
) -> None:
    push(worked, place.as_uri())
    whole = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    rotten = [path for path in whole if path.suffix in (".parquet", ".safetensors")]
    for path in rotten:
        path.write_bytes(whole[path][:-1] + bytes([whole[path][-1] ^ 1]))
    assert push(worked, place.as_uri()).files == 0, "nothing is read unless it is asked for"
    assert push(worked, place.as_uri(), verify=True).files == len(rotten)
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == whole
    assert push(worked, place.as_uri(), verify=True).files == 0


def test_a_feature_set_that_lies_in_other_files_there_stays_as_it_is(
    worked: Warehouse, place: Path, tmp_path: Path
) -> None:
    """One home made the set at once, the other grew it from a smaller one."""
    first, second = homes(worked, tmp_path)
    sets: list[str] = []
    for wh, counts in ((first, (21,)), (second, (14, 21))):
        shutil.rmtree(wh.home / "features")
        wh.folder("features")
        for count in counts:
            ids = worked.dataset("toys").clip_ids()[:count]
            dataset = select(wh, HASHES, POLICY, f"n{count}", clip_ids=ids)
            request = FeatureRequest(dataset, HASHES, ["tokens", "level"], None)
            sets.append(build(wh, request).id)
    assert sets[0] == sets[2]
    push(first, place.as_uri())
    there = place / "features" / sets[0]
    before = {path.name: path.read_bytes() for path in there.iterdir()}
    assert before.keys() != {path.name for path in second.features(sets[0]).path.iterdir()}
    push(second, place.as_uri())
    assert {path.name: path.read_bytes() for path in there.iterdir()} == before
    other = Warehouse(tmp_path / "other")
    assert pull(other, place.as_uri()).damaged == []
    assert sorted(other.features(sets[0]).clip_ids()) == sorted(first.features(sets[0]).clip_ids())


def test_two_versions_of_one_number_clash_and_a_newer_one_is_followed(
    worked: Warehouse, folder: str, tmp_path: Path
) -> None:
    first, second = homes(worked, tmp_path)
    push(first, folder)
    pull(second, folder)
    ids = second.dataset("toys").clip_ids()[:9]
    newer = select(first, HASHES, POLICY, clip_ids=ids)
    push(first, folder)
    pull(second, folder)
    assert second.dataset("toys").version == newer.version
    select(first, HASHES, POLICY, clip_ids=ids[:5])
    mine = select(second, HASHES, POLICY, clip_ids=ids[:4])
    push(first, folder)
    push(second, folder, ["features"])  # what is not of a dataset is no matter of its number
    for copy in (push, pull):
        with pytest.raises(FoleyError, match=rf"{mine.version} here and .* clash"):
            copy(second, folder)


def test_half_a_note_is_not_taken_over_and_a_whole_one_mends_it(
    worked: Warehouse, folder: str, tmp_path: Path
) -> None:
    push(worked, folder)
    place = Path(folder.removeprefix("file://"))
    note = next(place.glob("commits/*/*/stage.json"))
    current = next(place.glob("commits/*/CURRENT"))
    whole = note.read_bytes(), current.read_bytes()
    note.write_bytes(whole[0][:9])
    current.write_bytes(b"")
    other = Warehouse(tmp_path / "other")
    damaged = pull(other, folder).damaged
    assert sorted(damaged) == sorted(p.relative_to(place).as_posix() for p in (note, current))
    (other.home / damaged[0]).parent.mkdir(parents=True, exist_ok=True)
    (other.home / damaged[0]).write_bytes(b"")  # as an older foley took it over
    note.write_bytes(whole[0])
    current.write_bytes(whole[1])
    assert pull(other, folder).damaged == []
    assert (other.home / note.relative_to(place)).read_bytes() == whole[0]
    assert (other.home / current.relative_to(place)).read_bytes() == whole[1]
    again = pull(other, folder)
    assert (again.files, again.damaged) == (0, [])
