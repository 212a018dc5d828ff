"""The command line.

Mistakes are one clear line, queries only read, and formats can be read back.
"""

from __future__ import annotations

import csv
import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

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


def test_generate_from_a_file_that_is_not_there(tmp_path: Path) -> None:
    video = tmp_path / "gone.mp4"
    message = one_line_error(
        foley("generate", video, "--prompt", "metal", "--out", tmp_path / "out.mp4")
    )
    assert str(video) in message


def test_generate_from_a_file_that_is_no_video(tmp_path: Path) -> None:
    video, out = tmp_path / "page.mp4", tmp_path / "out.mp4"
    video.write_text("<!doctype html>")
    message = one_line_error(foley("generate", video, "--prompt", "metal", "--out", out))
    assert str(video) in message
    assert not out.exists()


def test_generate_onto_the_video_itself(tmp_path: Path) -> None:
    video = tmp_path / "video.mp4"
    video.write_bytes(b"precious")
    one_line_error(foley("generate", video, "--prompt", "metal", "--out", video))
    assert video.read_bytes() == b"precious"


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
    assert sorted(path.name for path in out.glob("*.flac")) == [
        "a.3.flac",
        "a.4.flac",
        "a.7.flac",
        "a.8.flac",
    ]


def test_generate_with_an_unknown_preset(home: Path, tmp_path: Path) -> None:
    arguments = ("--prompt", "metal", "--out", tmp_path / "out.mp4", "--preset", "large")
    message = one_line_error(foley("generate", home / "a.mp4", *arguments))
    assert "large" in message
    assert "toy" in message


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--policy", "lenient"), "lenient"),
        (("--policy", "gone.toml"), "gone.toml"),
        (("--preset", "large"), "large"),
    ],
)
def test_curate_with_a_wrong_name(home: Path, arguments: tuple[str, str], said: str) -> None:
    assert said in one_line_error(foley("curate", home, "--home", home / "other", *arguments))


def test_an_option_out_of_its_limits_is_refused(tmp_path: Path) -> None:
    done = foley("demo", "--clips", "1", "--home", tmp_path / "home")
    assert done.returncode == 2
    assert "--clips" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "home").exists()


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


def hear_ctrl_c() -> None:
    """As in a terminal.

    What a shell starts in the background, as it may have these tests, ignores SIGINT.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
def test_ctrl_c_stops_cleanly_and_the_next_run_goes_on(
    api: str, corpus: Path, tmp_path: Path
) -> None:
    from warehouse import Warehouse

    home = tmp_path / "home"
    arguments = ["curate", str(corpus), "--home", str(home), "--workers", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "foley.cli.main", *arguments],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_ctrl_c,  # noqa: PLW1509 (the child does nothing before it)
    )
    while not list(
        home.glob("commits/probe/*/*.parquet")
    ):  # the first stage is done, seven are to come
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert out == ""
    assert len(err.strip().splitlines()) == 1, err
    assert [run["state"] for run in Warehouse(home).records("runs")] == ["cancelled"]
    done = foley(*arguments)
    assert done.returncode == 0, done.stderr
    assert sorted(run["state"] for run in Warehouse(home).records("runs")) == [
        "cancelled",
        "completed",
    ]
