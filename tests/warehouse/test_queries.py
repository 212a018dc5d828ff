"""The catalog is what docs/queries.md says, and every part of it says what it is."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from pipeline.curation.gates import Condition, Gate
from pipeline.curation.policy import Policy, select
from pipeline.stages.engine import fingerprints
from pipeline.stages.stage import Clip, Outcome, Passed, Stage
from tests.warehouse.toys import Facts, Gain, Tokens, make_files, run_all
from warehouse import FoleyError, Warehouse, field, query, status, trace
from warehouse.datasets.feature_build import FeatureRequest, build

DOCS = Path(__file__).parents[2] / "docs" / "queries.md"
QUERIES = re.findall(r"```sql\n(.*?)```", DOCS.read_text(), re.DOTALL)


class Scores(Stage):
    """Scores that follow from the clip's number."""

    def __init__(self, name: str, columns: tuple[str, ...], upstream: tuple[str, ...] = ()) -> None:
        self.name, self.upstream = name, upstream
        self.schema = pa.schema(
            [field(column, pa.float64(), f"toy {column}") for column in columns]
        )

    def process(self, clips: Sequence[Clip]) -> list[Outcome]:
        return [
            Passed({f.name: int(c["clip_id"][4:]) / 60 + i for i, f in enumerate(self.schema)})
            for c in clips
        ]


class Generate(Stage):
    """A sound a clip, by a checkpoint."""

    name = "generate"
    settings = Gain()
    model_revision = "bridge-1"  # type: ignore[assignment]
    schema = pa.schema([field("sound_sha256", pa.string(), "hash of the sound")])

    def process(self, clips: Sequence[Clip]) -> list[Outcome]:
        return [
            Passed({"sound_sha256": hashlib.sha256(c["clip_id"].encode()).hexdigest()})
            for c in clips
        ]


@pytest.fixture(scope="module")
def wh(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    folder = tmp_path_factory.mktemp("catalog")
    warehouse = Warehouse(folder / "home")
    warehouse.ingest(make_files(folder / "media", 60))
    scores = [
        Scores("silence", ("silent_share",)),
        Scores("imagebind", ("imagebind",), ("silence",)),
    ]
    scores += [Scores("audiobox", ("ce", "cu", "pc", "pq"), ("silence",))]
    pipeline = [*scores, Facts(Gain(2.0)), Facts(), Tokens(), Generate()]
    run_all(warehouse, [Facts(Gain(2.0))])
    pipeline = [*scores, Facts(), Tokens(), Generate()]
    for stage in pipeline:
        stage.batch_size = 30
    run_all(warehouse, pipeline)
    stage_hashes = fingerprints(pipeline)
    judged = {name: stage_hashes[name] for name in ("silence", "imagebind", "facts")}
    for limit in (0.2, 0.4):
        gates = (
            Gate("silence", (Condition("silent_share", below=0.9),)),
            Gate("alignment", (Condition("imagebind", at_least=limit),)),
        )
        dataset = select(warehouse, judged, Policy("toys", 1, gates, val=0.2, test=0.2))
    features = build(
        warehouse, FeatureRequest(dataset, stage_hashes, ["tokens", "n_tokens"], split=None)
    )
    record = {
        "dataset": dataset.version,
        "features": features.id,
        "steps": 7,
        "losses": [[6, 0.7], [7, 0.5]],
        "preset": "toy",
    }
    warehouse.write_record("checkpoints", "bridge-1", record)
    warehouse.write_record("evaluations", "eval-1", {"checkpoint": "bridge-1", "system": "ours"})
    warehouse.write_record(
        "runs", "run-1", {"flow": "curate", "state": "Completed", "seconds": 1.5}
    )
    warehouse.publish()
    return warehouse


def rows(wh: Warehouse, sql: str) -> list[dict[str, Any]]:
    return query(wh.home, sql).to_pylist()


@pytest.mark.parametrize("sql", QUERIES, ids=[str(i) for i in range(1, len(QUERIES) + 1)])
def test_worked_queries_run_and_find_something(wh: Warehouse, sql: str) -> None:
    found = query(wh.home, sql, features=rows(wh, "select id from features")[0]["id"]).to_pylist()
    assert bool(found) != ("splits from dataset_members" in sql)


def test_everything_in_the_catalog_has_a_comment(wh: Warehouse) -> None:
    silent = rows(
        wh,
        """select table_name as name, '' as column_name from duckdb_tables() where comment is null
        union all select view_name, '' from duckdb_views() where not internal and comment is null
        union all select table_name, column_name from duckdb_columns()
        where not internal and comment is null""",
    )
    assert silent == []


def test_a_stage_view_shows_the_current_live_rows_and_history_all(wh: Warehouse) -> None:
    level = rows(wh, "select level from facts where clip_id = 'clip0003'")
    assert level == [{"level": 3.0}]
    old = rows(
        wh,
        "select level, current, live from history.facts where clip_id = 'clip0003' order by level",
    )
    assert old == [
        {"level": 3.0, "current": True, "live": True},
        {"level": 6.0, "current": False, "live": True},
    ]


def test_the_funnel_adds_up_and_agrees_with_status(wh: Warehouse) -> None:
    funnel = {row["stage"]: row for row in rows(wh, "from funnel")}
    for stage in status(wh).stages:
        row = funnel[stage.stage]
        assert row["reached"] == row["passed"] + row["rejected"] + row["failed"] + row["waiting"]
        shown = ("reached", "passed", "rejected", "failed", "quarantined", "waiting", "fingerprint")
        assert {name: row[name] for name in shown} == {name: getattr(stage, name) for name in shown}
    assert funnel["tokens"]["reached"] == funnel["facts"]["passed"]


def test_lineage_leads_from_a_sound_to_its_address(wh: Warehouse, tmp_path: Path) -> None:
    sound = tmp_path / "renamed.wav"
    sound.write_bytes(b"clip0010")
    found = trace(wh.home, str(sound)).to_pylist()
    assert found == trace(wh.home, hashlib.sha256(b"clip0010").hexdigest()).to_pylist()
    steps = {row["kind"]: row["id"] for row in found}
    clip = rows(wh, "from clips where clip_id = 'clip0010'")[0]
    assert steps["checkpoint"] == "bridge-1"
    assert steps["dataset"] == wh.dataset("toys").version
    assert (steps["clip"], steps["file"], steps["url"]) == ("clip0010", clip["sha256"], clip["url"])
    with pytest.raises(FoleyError, match="nothing called"):
        trace(wh.home, "no such thing")


def test_lineage_of_a_retake_is_the_chain_of_its_sounds(wh: Warehouse) -> None:
    made = {"prompt": "rain", "bridge": "b", "checkpoint": None, "video_sha256": "clip"}
    records = {
        "first": {"path": "/a.wav", "options": {"like": {"path": "hit.wav", "sha256": "hit"}}},
        "second": {"earlier": {"sha256": "first"}, "options": {"redo": "1-2"}},
        "third": {
            "earlier": {"sha256": "second"}, "options": {"redo": "0-1"}, "video_sha256": None
        },
        "fourth": {"earlier": {"sha256": "theirs"}, "options": {"redo": "0-1"}},
    }  # fmt: skip
    for seed, (sound, own) in enumerate(records.items(), 1):
        wh.write_record("sounds", sound, made | {"sound": sound, "seed": seed} | own)
    wh.publish()
    found = trace(wh.home, "third").to_pylist()
    assert [
        (row["depth"], row["id"], row["detail"]) for row in found if row["kind"] == "sound"
    ] == [
        (0, "third", "rain, seed 3, 0-1 s anew"),
        (1, "second", "rain, seed 2, 1-2 s anew"),
        (2, "first", "rain, seed 1: /a.wav"),
    ]
    assert {(row["id"], row["of"]) for row in found if row["kind"] == "file"} == {
        ("clip", "second"), ("hit", "first"),
    }  # fmt: skip
    assert None not in {row["id"] for row in found}
    kinds = {row["id"]: row["kind"] for row in trace(wh.home, "fourth").to_pylist()}
    assert kinds["theirs"] == "file"


def test_lineage_of_a_training_names_a_checkpoint_or_the_hash_of_a_bridge_file(
    tmp_path: Path,
) -> None:
    wh = Warehouse(tmp_path)
    made = {"steps": 7, "preset": "toy", "created_at": "2026-02-01T00:00:00+00:00"}
    before = {"sha256": "0b0b99", "created_at": "2026-01-01T00:00:00+00:00"}
    wh.write_record("checkpoints", "bridge-1", made | before)
    ours = made | {"parent": "bridge-1", "parent_sha256": "0bad"}
    theirs = made | {"parent": "5a5a", "parent_sha256": "5a5a77"}
    copied = made | {"parent": "0b0b", "parent_sha256": "0b0b99"}  # a copy of what was made here
    wh.write_record("checkpoints", "ours", ours)
    wh.write_record("checkpoints", "theirs", theirs)
    wh.write_record("checkpoints", "copied", copied)
    # a training that changed nothing is not its own parent
    same = {"parent": "7c7c", "parent_sha256": "7c7c11", "sha256": "7c7c11"}
    wh.write_record("checkpoints", "still", made | same)
    wh.publish()
    parents = {
        child: [
            (row["kind"], row["id"])
            for row in trace(wh.home, child).to_pylist()
            if row["of"] == child and row["kind"] in ("bridge", "checkpoint") and row["depth"]
        ]
        for child in ("ours", "theirs", "copied", "still")
    }
    assert parents == {
        "ours": [("checkpoint", "bridge-1")],
        "theirs": [("bridge", "5a5a77")],
        "copied": [("checkpoint", "bridge-1")],
        "still": [("bridge", "7c7c11")],
    }


def test_records_keep_what_has_no_column_of_its_own(wh: Warehouse) -> None:
    [row] = rows(wh, "select steps, record from checkpoints")
    assert row["steps"] == 7
    assert json.loads(row["record"])["losses"][-1] == [7, 0.5]
    [query_11] = [sql for sql in QUERIES if "as loss" in sql]
    assert [row["loss"] for row in rows(wh, query_11)] == ["0.5"]


@pytest.mark.parametrize(
    "sql",
    [
        "drop table clips",
        "select nonsense",
        "copy clips to '/tmp/x.csv'",
        "update clips set url = ''",
    ],
)
def test_the_catalog_is_read_only_and_mistakes_are_clear(wh: Warehouse, sql: str) -> None:
    with pytest.raises(FoleyError):
        query(wh.home, sql)


def test_a_catalog_that_was_never_published_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(FoleyError, match="no catalog"):
        query(tmp_path, "from clips")


def test_features_of_other_settings_name_the_command_that_makes_them(wh: Warehouse) -> None:
    with pytest.raises(FoleyError, match="nothing went through tokens as 0a1b: run foley curate"):
        wh.rows("tokens", "0a1b")


def test_publishing_without_news_leaves_the_file_alone(wh: Warehouse) -> None:
    before = (wh.home / "catalog.duckdb").stat().st_ino
    wh.publish()
    assert (wh.home / "catalog.duckdb").stat().st_ino == before


def test_an_open_reader_keeps_its_view_while_a_new_catalog_comes(wh: Warehouse) -> None:
    with duckdb.connect(str(wh.home / "catalog.duckdb"), read_only=True) as con:
        count = "select count(*) from runs"
        before = con.execute(count).fetchall()
        wh.write_record("runs", "run-2", {"flow": "train"})
        wh.publish()
        assert con.execute(count).fetchall() == before
    assert rows(wh, count) == [{"count_star()": before[0][0] + 1}]


def test_an_empty_warehouse_can_be_published(tmp_path: Path) -> None:
    wh = Warehouse(tmp_path)
    wh.publish()
    assert query(tmp_path, "select count(*) as n from funnel").to_pylist() == [{"n": 0}]
