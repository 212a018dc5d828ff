"""The warehouse at full size: 700,000 clips x 8 stages of synthetic rows, 4,096 rows a commit.

    python -m tests.benchmarks.warehouse [--clips N]

Wall and CPU seconds side by side: on a machine that does other work, CPU seconds over the number of
cores is the honest figure. Ratios are against the budgets of the project, but for the catalog: that
is against writing the same rows as bare tables in the same run.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from pipeline.curation.policy import load_policy, select
from pipeline.stages.engine import fingerprints, plan
from pipeline.stages.stage import Clip, Outcome, Stage
from warehouse import Warehouse, field, query, status
from warehouse.rows.live import hash_sql, input_sql
from warehouse.schema import CLIPS, SPINE

Figure = dict[str, Any]
CLIPS_COUNT, PER_COMMIT = 700_000, 4096
_COLUMNS = {
    "probe": ("duration", "fps"),
    "silence": ("silent_share", "peak_dbfs"),
    "imagebind": ("imagebind",),
    "audiobox": ("ce", "cu", "pc", "pq"),
    "video_tokens": ("n_video_tokens",),
    "audio_latents": ("n_latents",),
    "text_embeddings": ("n_text_tokens",),
    "generate_true": ("onsets",),
}
_UPSTREAM = {
    "silence": ("probe",),
    "imagebind": ("silence",),
    "audiobox": ("silence",),
    "video_tokens": ("probe",),
    "audio_latents": ("silence",),
    "generate_true": ("video_tokens", "text_embeddings"),
}


class Synthetic(Stage):
    """A stage whose rows are made up."""

    def __init__(self, name: str) -> None:
        self.name, self.upstream = name, _UPSTREAM.get(name, ())
        self.reads = ("prompt",) if name == "text_embeddings" else ("sha256",)  # type: ignore[misc]
        self.schema = pa.schema([field(column, pa.float32(), column) for column in _COLUMNS[name]])

    def process(self, clips: Sequence[Clip]) -> list[Outcome]:
        raise NotImplementedError


def warehouse(clips: int = CLIPS_COUNT) -> Iterator[Figure]:
    """No-op run, work list, selection, publication, status."""
    stages = [Synthetic(name) for name in _COLUMNS]
    fps = fingerprints(stages)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        fill(Warehouse(home), stages, clips)
        wh = Warehouse(home)
        yield from _timed("verified no-op run", lambda: nothing(wh, stages, fps), "s", 5.0)
        yield from _timed("work list of one stage", lambda: plan(wh, stages[2], fps), "s", 5.0)
        judged = {name: fps[name] for name in ("probe", "silence", "imagebind", "audiobox")}
        select(wh, judged, "mova")
        yield from _timed("re-selection", lambda: select(wh, judged, "strict"), "s", 3.0)
        fresh = Warehouse(home)
        yield from _timed(
            "re-selection in a new process",
            lambda: select(fresh, judged, load_policy("hunyuan")),
            "s",
            3.0,
        )
        bare = _bare(wh, stages, fps, Path(folder) / "bare.duckdb")
        yield from _timed(
            "catalog publish",
            wh.publish,
            "s",
            bare,
            "the same rows as bare tables in one DuckDB file",
        )
        yield from _timed(
            "catalog publish, no news", wh.publish, "s", bare, "the same rows as bare tables"
        )
        fill(wh, stages, clips // 100, clips)
        yield from _timed(
            "catalog publish, 1% news", wh.publish, "s", bare, "the same rows as bare tables"
        )
        _make_sounds(wh, 5000)
        wh.publish()
        _make_sounds(wh, 5001)
        yield from _timed("catalog publish, one sound more than 5,000", wh.publish, "s", 1.0)
        yield from _timed("funnel query", lambda: query(home, "from funnel"), "s", 1.0)
        yield from _timed("status", lambda: status(wh), "s", 5.0)
        corpus = wh.clips(["path", "source", "source_video", "url", "label", "prompt"])
        known = Warehouse(home)
        yield from _timed("ingest of a known corpus", lambda: _known(known, corpus), "s", 10.0)


def _make_sounds(wh: Warehouse, count: int) -> None:
    """Write records of sounds, but not so that they survive a power cut: that takes minutes."""
    for number in range(count):
        path = wh.record_path("sounds", f"sound{number:05d}")
        if not path.exists():
            record = {"sound": f"{number:064x}", "prompt": "a drop", "seed": number, "seconds": 8.0}
            path.write_text(json.dumps(record | {"id": path.stem, "checkpoint": "bridge"}))


def _known(wh: Warehouse, corpus: pa.Table) -> None:
    """Ingest clips that are there; raises when one is not seen as known."""
    result = wh.ingest(corpus)
    if result.unchanged != corpus.num_rows:
        raise AssertionError(result)


def _timed(
    name: str, do: Callable[[], object], unit: str, budget: float, against: str = "budget"
) -> Iterator[Figure]:
    """Seconds of one call with their ratio to a budget or a reference, and its peak of memory."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that of the call
    before = _resident("VmRSS")
    wall, cpu = time.perf_counter(), time.process_time()
    do()
    figures = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    peak = _resident("VmHWM") - before
    yield {"name": f"{name} (memory)", "value": round(peak), "unit": "MB", "better": "lower"}
    for kind, value in figures.items():
        ratio = round(value / budget, 3) if kind == "wall" else None
        yield {
            "name": f"{name} ({kind})",
            "value": round(value, 3),
            "unit": unit,
            "better": "lower",
            "against": against if ratio is not None else None,
            "ratio": ratio,
        }


def _resident(field: str) -> float:
    """MB of memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1e3


def nothing(wh: Warehouse, stages: list[Synthetic], fps: dict[str, str]) -> None:
    """Plan every stage; raises when there is anything to do."""
    for stage in stages:
        if plan(wh, stage, fps).todo:
            raise AssertionError(f"{stage.name} has work left")


def fill(wh: Warehouse, stages: list[Synthetic], count: int, first: int = 0) -> None:
    """Write the clips from number `first` on and one passed row a clip and stage."""
    file = wh.home / "media"
    if not file.exists():
        file.write_bytes(bytes(1000))
    constant = {"path": str(file), "mtime_ns": file.stat().st_mtime_ns}
    fps = fingerprints(stages)
    reads = {}
    for stage in stages:
        plan(wh, stage, fps)
        reads[stage.name] = wh.descriptor(stage.name, fps[stage.name]).reads
    with duckdb.connect() as con:
        con.execute(f"""create table base as select
            format('{{:011x}}_{{:06d}}', i, i * 7 % 600) as clip_id, sha256(clip_id) as sha256,
            'a prompt for ' || clip_id as prompt
            from range({first}, {first + count}) t(i) order by clip_id""")
        for begin in range(0, count, PER_COMMIT):
            piece = f"(from base limit {PER_COMMIT} offset {begin})"
            inputs = ", ".join(
                f"{input_sql([hash_sql(c) for c in columns])} as input_{name}"
                for name, columns in reads.items()
            )
            table = con.sql(
                f"select *, {input_sql(())} as input_clips, {inputs} from {piece}"
            ).to_arrow_table()
            id_ = f"{first + begin:016x}"
            wh.commit("clips", "source", id_, _rows(table, "clips", CLIPS, id_, constant))
            for stage in stages:
                rows = _rows(table, stage.name, stage.schema, id_, constant)
                wh.commit(stage.name, fps[stage.name], id_, rows)


def _rows(
    base: pa.Table, name: str, own: pa.Schema, id_: str, constant: dict[str, Any]
) -> pa.Table:
    """Spine and made-up columns for the clips of `base`."""
    count, rng = base.num_rows, np.random.default_rng(int(id_, 16))
    constant = constant | {
        "generation": 0,
        "status": "passed",
        "attempt": 1,
        "seconds": 0.1,
        "commit": id_,
        "source": "made up",
    }
    constant |= {"committed_at": datetime.now(UTC), "bytes": 1000, "label": "label"}
    columns: list[Any] = []
    for column in [*SPINE, *own]:
        if column.name == "input":
            columns.append(base[f"input_{name}"])
        elif column.name in base.column_names:
            columns.append(base[column.name])
        elif column.name in ("url", "source_video"):
            columns.append(base["clip_id"])
        elif column.name in constant or not pa.types.is_floating(column.type):
            columns.append(pa.array([constant.get(column.name)] * count, column.type))
        else:
            columns.append(pa.array(rng.random(count, np.float32) * 10, column.type))
    return pa.table(columns, schema=pa.schema([*SPINE, *own]))


def _bare(wh: Warehouse, stages: list[Synthetic], fps: dict[str, str], path: Path) -> float:
    """Seconds to copy the same rows into tables of a DuckDB file, and nothing more."""
    begun = time.perf_counter()
    with duckdb.connect(str(path)) as con:
        for name, fingerprint in {"clips": "source", **fps}.items():
            con.execute(
                f"create table {name} as from read_parquet({wh.listing(name, fingerprint).files!r})"
            )
        con.execute("checkpoint")
    return time.perf_counter() - begun


def main() -> None:
    """Print one JSON line a figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", type=int, default=CLIPS_COUNT)
    for figure in warehouse(parser.parse_args().clips):
        print(json.dumps(figure), flush=True)


if __name__ == "__main__":
    main()
