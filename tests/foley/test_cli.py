"""The command line.

Mistakes are one clear line, queries only read, and formats can be read back.
"""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from foley.cli.output import train
from pipeline.training.checkpoints import Checkpoint
from tests.foley.commands import ROOT, environment, foley, one_line_error


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a published catalog of two clips, one of which cannot be read."""
    from pipeline.procedural import sample_clip, write_clip
    from warehouse import Warehouse

    folder = tmp_path_factory.mktemp("home")
    write_clip(sample_clip(1, 1.0), folder / "a.mp4")
    rows = [
        {"clip_id": name, "path": str(folder / f"{name}.mp4"), "source": "test"}
        for name in ("a", "gone")
    ]
    warehouse = Warehouse(folder)
    warehouse.ingest(pa.Table.from_pylist(rows))
    warehouse.publish()
    return folder


def test_help_names_every_command() -> None:
    done = foley("--help")
    assert done.returncode == 0
    for command in ("demo", "curate", "train", "evaluate", "generate", "sql", "status"):
        assert f"\n  {command} " in done.stdout


def test_generate_from_a_file_that_is_no_video(tmp_path: Path) -> None:
    video, out = tmp_path / "page.mp4", tmp_path / "out.mp4"
    video.write_text("<!doctype html>")
    asked = ("--prompt", "metal", "--takes", "3", "--out", out)  # which is said once for all
    message = one_line_error(foley("generate", video, *asked))
    assert str(video) in message
    assert not out.exists()


def test_generate_onto_the_video_itself(tmp_path: Path) -> None:
    video = tmp_path / "video.mp4"
    video.write_bytes(b"precious")
    one_line_error(foley("generate", video, "--prompt", "metal", "--out", video))
    assert video.read_bytes() == b"precious"


@pytest.mark.slow
def test_generate_from_a_csv_makes_what_can_be_made(home: Path, tmp_path: Path) -> None:
    table, out = tmp_path / "jobs.csv", tmp_path / "out"
    (tmp_path / "bad.mp4").write_text("<!doctype html>")
    table.write_text(
        f"video,prompt,seed\n{home / 'a.mp4'},metal,3\nbad.mp4,metal,3\n{home / 'a.mp4'},wood,7\n"
    )
    done = foley(
        "generate",
        table,
        "--out",
        out,
        "--fast",
        "--takes",
        "2",
        "--format",
        "flac",
        "--home",
        home,
    )
    assert done.returncode == 1, done
    assert done.stderr.count("bad.mp4") == 1  # for both of its takes
    assert done.stderr.index("load models: 1 preset in") < done.stderr.index("generate: started")
    assert sorted(path.name for path in out.glob("*.flac")) == [
        "a.3.flac",
        "a.4.flac",
        "a.7.flac",
        "a.8.flac",
    ]


#: What cannot be, and what the refusal names. FOLDER holds a video and an empty folder.
REFUSED = [
    ("demo --clips 1", "--clips"),
    ("demo --nonsense", "--nonsense"),
    ("demo --home FOLDER/a.mp4", "a.mp4"),
    ("nonsense", "nonsense"),
    ("download gone.csv", "gone.csv"),
    ("download youtube", "youtube"),
    ("download kinetics700 --splits all", "all"),
    ("download kinetics700 --template {nonsense}", "{nonsense}"),
    ("curate --home FOLDER/new", "foley curate FOLDER"),
    ("curate --home FOLDER/home --sources x", "no source 'x'"),
    ("curate FOLDER --name a/b --home FOLDER/home", "cannot name one of the sources"),
    ("source add FOLDER/gone --home FOLDER/new", "gone"),
    ("source remove x --home FOLDER/home", "no source 'x'"),
    ("curate FOLDER/gone", "gone: no such folder"),
    ("curate FOLDER/empty", "empty: no media file"),
    ("curate FOLDER --policy lenient", "lenient"),
    ("curate FOLDER --policy gone.toml", "gone.toml"),
    ("curate FOLDER --preset large", "large"),
    ("curate FOLDER --weights FOLDER/gone", "gone"),
    ("curate FOLDER --dataset a/b", "dataset"),
    ("curate FOLDER --device cuda:99", "cuda:99"),
    ("curate FOLDER --runner dask --cluster x --device cpu", "cluster"),
    ("evaluate --home FOLDER/home --device tpu", "tpu"),
    ("curate FOLDER --set fps=8", "section.name=value"),
    ("train --home FOLDER/home --set train.batch=2", "train.batch=2"),
    ("train --home FOLDER/home --set train.preference=0.3", "name it by --from"),
    ("train --home FOLDER/home --stages sft --set train.learning_rate=1", "sft of the recipe has"),
    ("train --home FOLDER/home --stages finish", "pretrain, sft"),
    ("train --home FOLDER/home --optimiser", "start from"),
    ("train --home FOLDER/new", "foley curate FOLDER"),
    ("train --home FOLDER/home", "foley curate FOLDER"),
    ("train --home FOLDER/home --dataset other", "other"),
    ("ablate everything", "everything"),
    ("ablate pooling --home FOLDER/home", "foley curate FOLDER"),
    ("evaluate --home FOLDER/home --on FOLDER/gone", "gone"),
    ("evaluate --home FOLDER/home --system mine", "NAME=FOLDER"),
    ("evaluate --home FOLDER/home --on FOLDER --reference FOLDER/gone", "gone"),
    ("generate FOLDER/gone.mp4 --prompt x --out FOLDER/out.mp4", "gone.mp4"),
    ("generate FOLDER/a.mp4 --prompt x --out FOLDER/out.txt", "out.txt"),
    ("generate FOLDER/a.mp4 --out FOLDER/out.mp4", "--prompt"),
    ("generate FOLDER/a.mp4 --prompt x --out FOLDER/out.mp4 --device gpu", "gpu"),
    ("generate FOLDER/a.mp4 --prompt x --out FOLDER/out.mp4 --device cuda:99", "cuda:99"),
    ("generate FOLDER/a.mp4 --prompt x --out FOLDER/out.mp4 --preset large", "toy"),
    ("generate FOLDER/a.mp4 --prompt x --out FOLDER/out.mp4 --checkpoint FOLDER/gone", "gone"),
    ("generate FOLDER/a.mp4 --prompt x --out FOLDER/out.mp4 --fast --steps 3", "--steps"),
    ("generate FOLDER/a.mp4 --prompt x --out FOLDER/out.mp4 --set sample.cfg=loud", "cfg=loud"),
    ("generate --seconds nan --prompt x --out FOLDER/out.wav", "nan is not in the range 0.1<=x<="),
    ("generate --seconds inf --prompt x --out FOLDER/out.wav", "inf is not in the range 0.1<=x<="),
    ("generate --seconds -3 --prompt x --out FOLDER/out.wav", "-3.0 is not in the range 0.1<=x<="),
    ("generate FOLDER/a.mp4 --prompt x --out FOLDER/out.mp4 --mix nan", "'--mix': nan is not in"),
    (
        "generate FOLDER/a.mp4 --like x --strength 0 --out FOLDER/o.wav",
        "0.0 is not in the range 0<",
    ),
    ("generate FOLDER/a.csv --redo 0-1 --out FOLDER/out", "--redo is of one earlier sound"),
    ("generate --redo 0-1 --out FOLDER/out.wav", "--redo is of one earlier sound: name its file"),
    ("generate file://FOLDER/my%20clip.mp4 --prompt x --out FOLDER/out.mp4", "/my clip.mp4"),
    ("generate https://a.example/b.mp4 --prompt x --out FOLDER/out.mp4", "is no file on this"),
    ("generate --seconds 1 --prompt x --keep-audio --out FOLDER/out.wav", "--keep-audio"),
    ("render FOLDER/a.mp4/worlds", "a.mp4"),
    ("studio --device mps", "give auto, cpu, cuda or cuda:N"),
    ("studio --home FOLDER/home --host 0.0.0.0", "PREFECT_SERVER_API_AUTH_STRING"),
    ("studio --home FOLDER/home --preset large", "toy"),
    ("evaluate --home FOLDER/home --checkpoint gone", "no checkpoint 'gone'"),
    ("up --home FOLDER/home --port 0", "--port"),
    ("down --home FOLDER/a.mp4", "a.mp4"),
    ("models fetch --preset large", "large"),
]
ONE_AFTER_ANOTHER = """
import contextlib, io, json, sys
from foley.cli.main import main
for arguments in json.load(sys.stdin):
    sys.argv[1:], error = arguments, io.StringIO()
    with contextlib.redirect_stderr(error), contextlib.suppress(SystemExit):
        main()
    print(json.dumps([error.getvalue(), [m for m in ("torch", "prefect") if m in sys.modules]]))
"""


def test_what_cannot_be_is_refused_before_anything_is_started(home: Path, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").symlink_to(home / "a.mp4")
    (tmp_path / "empty").mkdir()
    (tmp_path / "home").symlink_to(home)
    commands = [line.replace("FOLDER", str(tmp_path)).split() for line, _ in REFUSED]
    done = subprocess.run(
        [sys.executable, "-c", ONE_AFTER_ANOTHER],
        cwd=ROOT,
        env=environment(FOLEY_HOME=str(tmp_path / "other")),
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        check=False,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    for (line, named), (error, imported) in zip(REFUSED, answers, strict=True):
        (message,) = error.splitlines()
        assert message.startswith("foley: "), line
        assert named in message, (line, message)
        assert imported == [], line
    assert done.returncode == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "empty", "home"]
    assert not (home / "prefect").exists()


def test_a_source_without_a_clip_is_added_with_a_doubt(tmp_path: Path) -> None:
    (tmp_path / "wrong").mkdir()
    done = foley("source", "add", tmp_path / "wrong", "--home", tmp_path / "home")
    assert done.returncode == 0
    assert "foley source remove wrong takes it back" in done.stderr
    listed = foley("source", "list", "--home", tmp_path / "home", "--format", "json")
    assert [row["name"] for row in json.loads(listed.stdout)] == ["wrong"]


def test_sql_before_anything_was_curated(tmp_path: Path) -> None:
    assert str(tmp_path) in one_line_error(foley("sql", "select 1", "--home", tmp_path))


def test_sql_that_is_wrong(home: Path) -> None:
    assert "nonsense" in one_line_error(foley("sql", "select nonsense from clips", "--home", home))


@pytest.mark.parametrize(
    "query",
    [
        "delete from clips",
        "drop table clips",
        "create table mine as select 1",
        "copy clips to '{}/copy.csv'",
    ],
)
def test_sql_that_writes_is_refused_and_changes_nothing(home: Path, query: str) -> None:
    before = (home / "catalog.duckdb").read_bytes()
    one_line_error(foley("sql", query.format(home), "--home", home))
    assert (home / "catalog.duckdb").read_bytes() == before
    assert not (home / "copy.csv").exists()


def test_sql_formats_hold_the_same_rows(home: Path) -> None:
    query = "select clip_id, status, error from clips order by clip_id"
    found = json.loads(foley("sql", query, "--home", home, "--format", "json").stdout)
    assert [(row["clip_id"], row["status"]) for row in found] == [
        ("a", "passed"),
        ("gone", "failed"),
    ]
    rows = csv.DictReader(
        io.StringIO(foley("sql", query, "--home", home, "--format", "csv").stdout)
    )
    assert list(rows) == [{name: value or "" for name, value in row.items()} for row in found]
    table = foley("sql", query, FOLEY_HOME=str(home)).stdout.splitlines()
    assert table[0].split() == ["clip_id", "status", "error"]
    assert len(table) == 2 + len(found)


def test_sql_writes_files_that_hold_the_rows(home: Path, tmp_path: Path) -> None:
    query = "select clip_id, status from clips order by clip_id"
    for name in ("rows.csv", "rows.parquet", "rows.json"):
        assert foley("sql", query, "--home", home, "--output", tmp_path / name).returncode == 0
    want = [("a", "passed"), ("gone", "failed")]
    for name in ("rows.csv", "rows.parquet", "rows.json"):
        assert duckdb.execute(f"from '{tmp_path / name}'").fetchall() == want
    assert "rows.txt" in one_line_error(
        foley("sql", query, "--home", home, "--output", tmp_path / "rows.txt")
    )
    assert "gone" in one_line_error(
        foley("sql", query, "--home", home, "--output", tmp_path / "gone" / "rows.csv")
    )


def test_status_counts_the_clips(home: Path) -> None:
    done = foley("status", "--home", home)
    assert done.returncode == 0
    assert done.stdout.startswith("1 clips, 1 that cannot be read")


def test_status_of_a_home_that_is_not_there(tmp_path: Path) -> None:
    assert str(tmp_path / "nothing") in one_line_error(
        foley("status", "--home", tmp_path / "nothing")
    )
    assert not (tmp_path / "nothing").exists()


def test_a_training_says_what_an_epoch_took_of_its_clips() -> None:
    record: dict[str, Any] = {"dataset": "main-0001", "steps": 7}
    epoch = {"clips": 1200, "clips_an_epoch": 1196, "sound_cut": 0.141}
    plain = Checkpoint("id", Path("bridge.safetensors"), record, trained=True)
    assert train(plain) == "checkpoint id of dataset main-0001\nbridge.safetensors"
    text = train(replace(plain, record=record | {"epoch": epoch}))
    assert "an epoch takes 1,196 of 1,200 clips and cuts off 14.1% of their sound" in text
    assert text.endswith("\nbridge.safetensors")
