"""Homes on two machines that share an object store: S3 over a real socket, with faults."""

from __future__ import annotations

import hashlib
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterable
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from click.testing import CliRunner
from pyarrow import fs

from foley.cli.main import cli
from pipeline.curation.policy import select
from pipeline.stages.engine import fingerprints
from tests.warehouse.toys import POLICY, facts_of, make_files, run_all, stages
from warehouse import FoleyError, Warehouse, compact, query, verify
from warehouse.datasets.feature_build import FeatureRequest, build
from warehouse.exchange.copies import pull, push
from warehouse.exchange.object_store import Store

HASHES = fingerprints(stages())


def finished(folder: Path) -> Warehouse:
    """30 clips, all stages done, a dataset, features, a bridge."""
    wh = Warehouse(folder / "home")
    wh.ingest(make_files(folder / "media", 30))
    pipeline = stages()
    for stage in pipeline:
        stage.batch_size = 10
    run_all(wh, pipeline)
    build(wh, FeatureRequest(select(wh, HASHES, POLICY), HASHES, ["tokens", "level"], None))
    wh.write_record("checkpoints", "one", {"sha256": hashlib.sha256(b"weights").hexdigest()})
    (wh.home / "checkpoints" / "one" / "bridge.safetensors").write_bytes(b"weights")
    wh.write_record("evaluations", "e", {"score": 1})
    return wh


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    return finished(tmp_path_factory.mktemp("worked"))


@pytest.fixture(scope="module")
def bucket() -> Generator[str]:
    """Address of a bucket; every eleventh request is refused, as S3 does when it is busy."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    number, inner = count(), DomainDispatcherApplication(create_backend_app)

    def faulty(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if next(number) % 11 == 9:
            start("503 Slow Down", [("Content-Type", "application/xml")])
            return [b"<Error><Code>SlowDown</Code></Error>"]
        return inner(environ, start)

    server = make_server("127.0.0.1", 0, faulty, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    keys = {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in keys.items():
            patch.setenv(name, value)
        end = f"endpoint_override=127.0.0.1:{server.port}&scheme=http&region=us-east-1"
        files, _ = fs.FileSystem.from_uri(f"s3://bucket/?{end}&allow_bucket_creation=true")
        files.create_dir("bucket")
        yield f"s3://bucket/foley?{end}"
    server.shutdown()
    thread.join()


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return f"file://{tmp_path / 'store'}"


def test_a_machine_gets_all_that_another_one_did(
    worked: Warehouse, bucket: str, tmp_path: Path
) -> None:
    push(worked, bucket)
    assert push(worked, bucket).files == 0
    other = Warehouse(tmp_path / "home")
    pull(other, bucket)
    assert pull(other, bucket).files == 0, "all is here"
    assert facts_of(other) == facts_of(worked)
    assert other.dataset("toys").members(None) == worked.dataset("toys").members(None)
    [id_] = [path.name for path in (worked.home / "features").iterdir()]
    for name, values in worked.features(id_).read().items():
        assert np.array_equal(other.features(id_).read()[name], values)
    assert verify(other) == []
    assert other.record("checkpoints", "one") == worked.record("checkpoints", "one")
    assert other.records("evaluations") == worked.records("evaluations")
    other.publish()
    assert query(other.home, "select count(*) as n from facts").to_pylist() == [{"n": 30}]


def homes(worked: Warehouse, folder: Path) -> tuple[Warehouse, Warehouse]:
    """The worked home on two machines."""
    first, second = (Warehouse(shutil.copytree(worked.home, folder / n)) for n in "ab")
    return first, second


def test_machines_that_did_different_clips_end_with_the_same_rows(
    worked: Warehouse, folder: str, tmp_path: Path
) -> None:
    """Both compact, one more than once, and a third machine gets no commit that was replaced."""
    first, second = homes(worked, tmp_path)
    for number, wh in enumerate((first, second)):
        wh.ingest(make_files(tmp_path / "media", 10, 100 * (number + 1)))
        run_all(wh, stages())
        push(wh, folder)
    compact(second, at_least=2)
    second.ingest(make_files(tmp_path / "media", 1, 300))
    run_all(second, stages())
    push(second, folder)
    compact(second, at_least=2)
    for wh in (second, first, second, first):
        push(wh, folder)
        pull(wh, folder)
    third = Warehouse(tmp_path / "c")
    pull(third, folder)
    ids = [f"clip{i:04d}" for i in [*range(30), *range(100, 110), *range(200, 210), 300]]
    for wh in (first, second, third):
        assert wh.clips(["path"])["clip_id"].to_pylist() == ids
        assert [row["clip_id"] for row in facts_of(wh)["facts"]] == ids
        assert verify(wh) == []
    for stage, fingerprint in third.commits_folders():
        kinds = [len(c.id) == 17 for c in third.listing(stage, fingerprint).good]
        assert sum(kinds) == 1, "what replaced all that the second machine had merged"
    assert facts_of(third) == facts_of(second)


def test_a_copy_that_is_killed_goes_on_and_shows_nothing_that_is_half(
    worked: Warehouse, folder: str, tmp_path: Path
) -> None:
    code = f"""if True:
        import os, signal, threading
        from warehouse import Warehouse
        from warehouse.exchange import copies
        put, left, guard = copies.Store.put, [6], threading.Lock()
        def dying(store, source, path):
            store._files.create_dir((store._root + "/" + path).rpartition("/")[0])
            with guard:
                left[0] -= 1
                if not left[0]:  # in the middle of a file
                    with store._files.open_output_stream(store._root + "/" + path) as out:
                        out.write(source.read(9))
                        out.flush()
                        os.kill(os.getpid(), signal.SIGKILL)
                return put(store, source, path)
        copies.Store.put = dying
        copies.push(Warehouse({str(worked.home)!r}), {folder!r})
    """
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    early = Warehouse(tmp_path / "early")
    [half] = pull(early, folder).damaged
    assert half.startswith("commits/")
    push(worked, folder)
    assert pull(early, folder).damaged == []
    assert facts_of(early) == facts_of(worked)


def test_what_is_damaged_is_copied_neither_way(
    worked: Warehouse, folder: str, tmp_path: Path
) -> None:
    first, second = homes(worked, tmp_path)
    shutil.rmtree(second.home)
    victims = [
        *first.home.glob("commits/facts/*/*.parquet"),
        *first.home.glob("datasets/*/members.parquet"),
        *first.home.glob("features/*/*.parquet"),
        *first.home.glob("checkpoints/*/bridge.safetensors"),
    ]
    push(first, folder)
    there = Path(folder.removeprefix("file://"))
    for victim in victims:
        path = there / victim.relative_to(first.home)
        raw = path.read_bytes()
        path.write_bytes(raw[:9] + bytes([raw[9 % len(raw)] ^ 4]) + raw[10:])
    second = Warehouse(second.home)
    names = {victim.relative_to(first.home).as_posix() for victim in victims}
    told = set(pull(second, folder).damaged)
    assert {name for name in told if name.startswith("commits")} == {
        n for n in names if "commits" in n
    }
    assert sorted({name.split("/")[0] for name in told}) == [
        "checkpoints",
        "commits",
        "datasets",
        "features",
    ]
    assert verify(second) == []
    for victim in victims[:1]:  # a flip here, too, goes nowhere
        victim.write_bytes(victim.read_bytes()[:-1] + b"x")
        [told] = push(Warehouse(first.home), f"{folder}2").damaged
        assert told == victim.relative_to(first.home).as_posix()
        assert not Path(f"{there}2", told).exists()


def test_only_what_is_asked_for_is_copied(worked: Warehouse, folder: str, tmp_path: Path) -> None:
    push(worked, folder, ["datasets", "features/"])
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == ["datasets", "features"]
    [id_] = [path.name for path in (worked.home / "features").iterdir()]
    other = Warehouse(tmp_path / "other")
    pull(other, folder, [f"features/{id_}"])
    assert len(other.features(id_)) == len(worked.features(id_))
    assert other.datasets() == []


def test_the_commands_say_what_was_copied_and_what_cannot_be(
    worked: Warehouse, folder: str, tmp_path: Path
) -> None:
    def run(*command: str) -> Any:
        return CliRunner().invoke(cli, command)

    done = run("push", folder, "--home", str(worked.home))
    assert (done.exit_code, "copied" in done.output) == (0, True)
    done = run("pull", folder, "--home", str(tmp_path / "other"))
    assert done.exit_code == 0, done.output
    assert query(tmp_path / "other", "select count(*) as n from clips").to_pylist() == [{"n": 30}]
    for address in ("nothing", "http://example.org/x"):
        failed = run("push", address, "--home", str(worked.home))
        assert isinstance(failed.exception, FoleyError), address
        assert address in str(failed.exception)
    for only in ([], ["features/none"]):
        empty = run("pull", f"{folder}{'' if only else '2'}", *only, "--home", str(tmp_path / "e"))
        assert f"there is nothing{' that starts' if only else ' in'}" in str(empty.exception)
    failed = run("push", "file:///proc/no/folder", "--home", str(worked.home))
    assert "cannot copy from or to file:///proc/no/folder" in str(failed.exception)


def test_a_home_is_no_address_to_push_to(worked: Warehouse, tmp_path: Path) -> None:
    """Pushing a home into itself emptied what it opened for writing."""
    before = {path: path.read_bytes() for path in worked.home.rglob("*.json")}
    link = tmp_path / "link"
    link.symlink_to(worked.home)
    for place in (worked.home, worked.home / "sub", worked.home.parent, link):
        with pytest.raises(FoleyError, match="is this home, or lies in it or around it"):
            push(worked, f"file://{place}")
    other = Warehouse(tmp_path / "other")
    with pytest.raises(FoleyError, match="is a home itself"):
        push(worked, f"file://{other.home}")
    assert before
    assert {path: path.read_bytes() for path in worked.home.rglob("*.json")} == before


def test_an_address_may_hold_signs_as_they_are(tmp_path: Path) -> None:
    """A person types them; pyarrow wants a space as %20."""
    for name in ("my disk", "my%20disk", "größe"):
        assert Store(f"file://{tmp_path}/{name}").folder == tmp_path / unquote(name)


def test_what_is_not_there_is_not_pushed(worked: Warehouse, folder: str) -> None:
    with pytest.raises(FoleyError, match="nothing that starts with features/none"):
        push(worked, folder, ["features/none"])


def test_a_damaged_shard_is_not_pushed(worked: Warehouse, folder: str, tmp_path: Path) -> None:
    home = Warehouse(shutil.copytree(worked.home, tmp_path / "copy"))
    shard = next(home.home.glob("features/*/*.parquet"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    done = push(home, folder)
    assert done.damaged == [shard.parent.relative_to(home.home).as_posix()]
    assert not list(Path(folder.removeprefix("file://")).glob("features/*/*"))


def test_a_damaged_compacted_commit_costs_itself(
    worked: Warehouse, folder: str, tmp_path: Path
) -> None:
    home = Warehouse(shutil.copytree(worked.home, tmp_path / "copy"))
    compact(home)
    push(home, folder)
    place = Path(folder.removeprefix("file://"))
    compacted = next(place.glob("commits/*/*/c*.parquet"))
    compacted.write_bytes(compacted.read_bytes()[:-3])
    other = Warehouse(tmp_path / "other")
    assert pull(other, folder).damaged == [compacted.relative_to(place).as_posix()]
    assert list(other.home.glob("features/*/*"))
