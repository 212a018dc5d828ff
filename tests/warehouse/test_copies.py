"""Single copies to and from an address: what is seen meanwhile, flushed, and tried again."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.warehouse.test_exchange import finished
from tests.warehouse.toys import facts_of
from warehouse import Warehouse, compact
from warehouse.exchange import notes, transfer
from warehouse.exchange.copies import pull, push
from warehouse.exchange.object_store import Store
from warehouse.exchange.transfer import Exchanged, each


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    return finished(tmp_path_factory.mktemp("worked"))


def test_a_file_is_there_once_it_is_whole(tmp_path: Path) -> None:
    there: list[bool] = []

    class Watched(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            there.append((tmp_path / "a" / "file").exists())
            return super().read(size)

    Store(tmp_path.as_uri()).put(Watched(b"content"), "a/file")
    assert set(there) == {False}
    assert (tmp_path / "a" / "file").read_bytes() == b"content"


def test_what_was_copied_is_flushed(
    worked: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, flushed, fsync = tmp_path / "store", set[int](), os.fsync

    def seen(handle: int) -> None:
        flushed.add(os.fstat(handle).st_ino)
        fsync(handle)

    push(worked, store.as_uri())
    monkeypatch.setattr(os, "fsync", seen)
    other = Warehouse(tmp_path / "other")
    pull(other, store.as_uri())
    kinds = ("commits", "datasets", "features", "checkpoints")
    files = [p for kind in kinds for p in (other.home / kind).rglob("*.*") if p.is_file()]
    assert {file.suffix for file in files} == {".parquet", ".json", ".safetensors"}
    assert [file for file in files if file.stat().st_ino not in flushed] == []


def test_commits_come_one_by_one_where_what_replaced_them_is_damaged(
    worked: Warehouse, tmp_path: Path
) -> None:
    """An address that one home pushed to before it compacted and after."""
    store, home = tmp_path / "store", Warehouse(shutil.copytree(worked.home, tmp_path / "copy"))
    push(home, store.as_uri())
    compact(home, at_least=2)
    push(home, store.as_uri())
    merged = [*store.glob("commits/facts/*/c*.parquet")]
    merged = [path for path in merged if len(path.name.partition("-")[0]) == 17]
    [path] = merged
    path.write_bytes(path.read_bytes()[:-3])
    other = Warehouse(tmp_path / "other")
    assert pull(other, store.as_uri()).damaged == [path.relative_to(store).as_posix()]
    assert facts_of(other) == facts_of(worked)


def test_a_password_is_no_part_of_what_homes_have_in_common(worked: Warehouse) -> None:
    def common(address: str) -> Path:
        store: Any = SimpleNamespace(address=address)
        return notes._Common(worked, store)._path

    assert common("s3://key:secret@bucket/foley") == common("s3://key:other@bucket/foley")
    assert common("s3://bucket/foley") != common("s3://another/foley")


def test_a_fault_that_passes_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_WAITS", (0.0, 0.0))
    tries: dict[str, int] = {}

    def copy(name: str) -> int:
        tries[name] = tries.get(name, 0) + 1
        if name == "forbidden":
            raise PermissionError(name)
        if tries[name] < 3:
            raise OSError("slow down")
        return 5

    done = Exchanged()
    each(["a", "b"], copy, done)
    assert (done.files, done.bytes, tries) == (2, 10, {"a": 3, "b": 3})
    with pytest.raises(PermissionError):
        each(["forbidden"], copy, done)
    assert tries["forbidden"] == 1
