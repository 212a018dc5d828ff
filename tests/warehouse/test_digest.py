"""Two homes have the same hashes where, and only where, they hold the same results."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from pipeline.curation.policy import select
from pipeline.stages.engine import fingerprints
from tests.warehouse.toys import POLICY, Text, Tokens, make_files, run_all, run_once, stages
from warehouse import Warehouse, compact
from warehouse.datasets.digest import digests


def hashes(home: Warehouse) -> dict[str, tuple[int, str]]:
    return {row["table"]: (row["rows"], row["md5"]) for row in digests(home)}


def made(folder: Path, clips: pa.Table, *parts: int) -> Warehouse:
    """A home whose clips came in parts, from last to first, each of them done before the next."""
    home = Warehouse(folder)
    for part in parts:
        home.ingest(clips.slice(part))
        run_once(home, [Text()])
    return home


def test_how_rows_came_to_be_does_not_count_and_what_they_say_does(tmp_path: Path) -> None:
    clips = make_files(tmp_path / "media", 12)
    first, second = made(tmp_path / "a", clips, 0), made(tmp_path / "b", clips, 7, 2, 0)
    assert hashes(first) == hashes(second)
    assert {*hashes(first)} == {"clips", "text", "all"}
    assert hashes(first)["text"][0] == 12
    compact(second)
    assert hashes(first) == hashes(second)

    copied = make_files(tmp_path / "copy", 12)
    path = Path(copied["path"][3].as_py())
    path.write_bytes(path.read_bytes()[:-1] + bytes([33]))  # another array of the same length
    other = made(tmp_path / "c", copied, 0)
    names = fingerprints(stages())
    for home in (first, other):
        run_all(home, stages())
        select(home, {stage: names[stage] for stage in ("facts", "text")}, POLICY)
    one, two = hashes(first), hashes(other)
    assert {table for table in one if one[table] != two[table]} == {
        *("clips", "facts", Tokens.name, "dataset toys", "all")
    }
    lengths = [
        home.rows("tokens", names["tokens"], columns=["n_tokens"]) for home in (first, other)
    ]
    assert lengths[0] == lengths[1]
