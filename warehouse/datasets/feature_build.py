"""Building a FeatureSet: join, shuffle, pad, write."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from warehouse.commits import Listing, writer_options
from warehouse.datasets.feature_set import FeatureSet
from warehouse.errors import FoleyError
from warehouse.files import new_folder, write_file
from warehouse.rows.live import run_checked
from warehouse.rows.read import gather, locate
from warehouse.schema import array_spec, is_array

if TYPE_CHECKING:
    from warehouse.datasets.versions import Dataset
    from warehouse.home import Home

_BLOCK = 64
_WINDOW = 1024
_WINDOW_BYTES = 256 << 20
_SHARD_BYTES = 1 << 30
_GROUP = 64
_GROUP_BYTES = 64 << 20

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class _Source:
    """A stage that columns are taken from, and the places of the chosen clips in its commits, in writing order."""

    schema: pa.Schema
    names: list[str]
    places: pa.Table

    def read(self, begin: int, end: int) -> pa.Table:
        return gather(self.places.slice(begin, end - begin), self.schema, self.names)


def build(
    wh: Home,
    dataset: Dataset,
    fps: Mapping[str, str],
    columns: Sequence[str],
    split: str | None = "train",
    subset: str | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> FeatureSet:
    """Write the feature set of a dataset's split, or open it when it exists.

    Its id is a hash of the dataset version, the split, the columns, the fingerprints of the stages
    that they come from, the clips that have them all, and the seed. Arrays whose shape differs from
    clip to clip are padded with zeros to the largest. Members without a passed row in one of the
    stages are left out and counted in `meta["missing"]`. Raises FoleyError for an unknown column
    and when no clip is left.
    """
    homes = _homes(wh, fps, columns)
    used = {stage: fps[stage] for stage in homes if stage != "clips"}
    wanted = dataset.clip_ids(split, subset)
    meta: dict[str, Any] = {
        "dataset": dataset.version,
        "split": split,
        "subset": subset,
        "seed": seed,
    }
    meta |= {"columns": list(columns), "fingerprints": used}

    def work(listings: dict[str, Listing]) -> Path:
        parts = _sources(wh, listings, homes, used, wanted, seed)
        clips = parts[0].places["clip_id"].to_pylist()
        if not clips:
            raise FoleyError(
                f"no clip of {dataset.version} ({split or 'all splits'}) passed {', '.join(used)}"
            )
        digest = hashlib.sha256(json.dumps([meta, clips], sort_keys=True).encode()).hexdigest()
        id_ = f"{dataset.name}-{split or 'all'}-{digest[:12]}"
        target = wh.folder("features") / id_
        if not (target / "_features.json").exists():
            note = {"id": id_, **meta, "clips": len(clips), "missing": len(wanted) - len(clips)}
            with new_folder(wh.tmp, target) as folder:
                note["shards"] = _write_shards(folder, parts, columns, note, progress)
                text = json.dumps(note, indent=1).encode()
                write_file(folder, lambda handle: handle.write(text), folder / "_features.json")
        return target

    sources = {"clips": ("clips", "source"), **{stage: (stage, fp) for stage, fp in used.items()}}
    return FeatureSet.open(run_checked(wh, sources, work))


def _homes(wh: Home, fps: Mapping[str, str], columns: Sequence[str]) -> dict[str, list[str]]:
    """Which columns come from which stage; `clips` is always among them."""
    homes: dict[str, list[str]] = {"clips": ["clip_id"]}
    descriptors = {"clips": wh.descriptor("clips", "source")}
    descriptors |= {stage: wh.descriptor(stage, fp) for stage, fp in fps.items()}
    for column in columns:
        found = [stage for stage, d in descriptors.items() if column in d.columns.names]
        if not found and column != "clip_id":
            raise FoleyError(f"no planned stage among {', '.join(fps)} has a column {column!r}")
        if column != "clip_id":
            homes.setdefault(found[0], []).append(column)
    return homes


def _sources(
    wh: Home,
    listings: dict[str, Listing],
    homes: Mapping[str, list[str]],
    used: Mapping[str, str],
    wanted: Sequence[str],
    seed: int,
) -> list[_Source]:
    """The stages with the places of the clips that all of them have, shuffled alike."""
    found: dict[str, tuple[pa.Schema, pa.Table]] = {}
    for stage in homes:
        descriptor = wh.descriptor(stage, used.get(stage, "source"))
        found[stage] = (descriptor.all_columns, locate(wh, listings, descriptor, "passed", wanted))
    common = set(wanted)
    for _, places in found.values():
        common &= set(places["clip_id"].to_pylist())
    order = _shuffled(len(common), seed)
    parts: list[_Source] = []
    for stage, (schema, places) in found.items():
        inside = [clip in common for clip in places["clip_id"].to_pylist()]
        chosen = places.filter(pa.array(inside, pa.bool_())).take(pa.array(order))
        parts.append(_Source(schema, homes[stage], chosen))
    return parts


def _shuffled(count: int, seed: int) -> np.ndarray:
    """A random order [count] that still reads commits in pieces.

    Blocks of neighbours, mixed over windows.
    """
    rng = np.random.default_rng(seed)
    blocks = rng.permutation(-(-count // _BLOCK))
    order = np.concatenate(
        [np.arange(b * _BLOCK, min(count, (b + 1) * _BLOCK)) for b in blocks]
        or [np.empty(0, np.int64)]
    )
    for begin in range(0, count, _WINDOW):
        rng.shuffle(order[begin : begin + _WINDOW])
    return order.astype(np.int64)


def _windows(count: int, size: int) -> Iterator[tuple[int, int]]:
    return ((begin, min(count, begin + size)) for begin in range(0, count, size))


def _write_shards(
    folder: Path,
    parts: Sequence[_Source],
    columns: Sequence[str],
    note: Mapping[str, Any],
    progress: Callable[[int, int], None] | None,
) -> list[dict[str, Any]]:
    """Write all rows as shards of about 1 GiB; returns their names, rows and bytes."""
    count = parts[0].places.num_rows
    shapes = _shapes(parts)
    schema = _schema(parts, columns, shapes, note)
    row_bytes = max(1, sum(f.type.byte_width for f in schema if is_array(f)))
    group = max(1, min(_GROUP, _GROUP_BYTES // row_bytes))
    window = max(group, min(_WINDOW, _WINDOW_BYTES // row_bytes) // group * group)
    per_shard = max(window, _SHARD_BYTES // row_bytes // window * window)
    shards: list[dict[str, Any]] = []
    for begin, end in _windows(count, per_shard):
        path = folder / f"{len(shards):05d}.parquet"
        options: dict[str, Any] = writer_options(schema) | {
            "data_page_size": (1 << 31) - 1,
            "write_batch_size": group,
        }
        with pq.ParquetWriter(path, schema, **options) as writer:
            for a, b in _windows(end - begin, window):
                writer.write_table(
                    _window(parts, begin + a, begin + b, schema, shapes), row_group_size=group
                )
                if progress:
                    progress(begin + b, count)
        with open(path, "rb") as handle:
            os.fsync(handle.fileno())
        shards.append({"file": path.name, "rows": end - begin, "bytes": path.stat().st_size})
    return shards


def _shapes(parts: Sequence[_Source]) -> Shapes:
    """Shape of every array column: the declared one, with -1 replaced by the largest found."""
    shapes: Shapes = {}
    for part in parts:
        fields = [part.schema.field(name) for name in part.names]
        for column in (f for f in fields if is_array(f)):
            dtype, shape = array_spec(column)
            if -1 in shape:
                shape = _largest(part, column.name, dtype, shape)
            shapes[column.name] = shape
    return shapes


def _largest(part: _Source, name: str, dtype: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    import pyarrow.compute

    pc: Any = pyarrow.compute
    single = _Source(part.schema, [name], part.places)
    unit = int(np.dtype(dtype).itemsize * np.prod([n for n in shape if n != -1], dtype=np.int64))
    largest = 0
    for begin, end in _windows(part.places.num_rows, _BLOCK):
        largest = max(largest, pc.max(pc.binary_length(single.read(begin, end)[name])).as_py() or 0)
    return tuple(largest // unit if n == -1 else n for n in shape)


def _schema(
    parts: Sequence[_Source], columns: Sequence[str], shapes: Shapes, note: Mapping[str, Any]
) -> pa.Schema:
    """Columns as they are written.

    Clip_id first, arrays as fixed-size binary with their padded shape.
    """
    fields = {name: part.schema.field(name) for part in parts for name in part.names}
    written: list[pa.Field] = []
    for name in dict.fromkeys(["clip_id", *columns]):
        column = fields[name]
        if is_array(column):
            dtype, declared = array_spec(column)
            free = declared.index(-1) if -1 in declared else 0
            width = int(np.dtype(dtype).itemsize * np.prod(shapes[name], dtype=np.int64))
            metadata = {
                **(column.metadata or {}),
                b"shape": json.dumps(list(shapes[name])).encode(),
            }
            metadata[b"free"] = str(free).encode()
            column = pa.field(name, pa.binary(width), nullable=False, metadata=metadata)
        written.append(column)
    written.sort(
        key=is_array
    )  # numbers and texts side by side, so that they are read ahead in one piece
    return pa.schema(written, metadata={b"foley": json.dumps(dict(note)).encode()})


def _window(
    parts: Sequence[_Source], begin: int, end: int, schema: pa.Schema, shapes: Shapes
) -> pa.Table:
    """Rows begin..end of all sources side by side, padded."""
    found: dict[str, pa.ChunkedArray] = {}
    for part in parts:
        table = part.read(begin, end)
        for name in part.names:
            found[name] = table[name]
    arrays: list[Any] = []
    for column in schema:
        values = found[column.name]
        arrays.append(
            _padded(values, column, shapes[column.name]) if column.name in shapes else values
        )
    return pa.table(arrays, schema=schema)


def _padded(values: pa.ChunkedArray, column: pa.Field, shape: tuple[int, ...]) -> pa.Array:
    """Values as fixed-size binary, zero-padded at the end of the dimension that varies."""
    dtype, _ = array_spec(column)
    out = np.zeros((len(values), *shape), dtype)
    unit_shape = [-1 if i == _free(column, shape) else n for i, n in enumerate(shape)]
    for i, value in enumerate(values):
        raw = value.as_buffer()
        if raw is None:
            raise FoleyError(
                f"column {column.name} is empty for a clip that passed: mend the stage that writes it"
            )
        array = np.frombuffer(raw, dtype).reshape(unit_shape)
        out[(i, *(slice(0, n) for n in array.shape))] = array
    return pa.Array.from_buffers(column.type, len(values), [None, pa.py_buffer(out.tobytes())])


def _free(column: pa.Field, shape: tuple[int, ...]) -> int:
    """Which dimension varied before padding (the first when none did)."""
    return int((column.metadata or {}).get(b"free", b"0")) if shape else 0
