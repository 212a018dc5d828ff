"""Builds a FeatureSet: join, shuffle, pad, write."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from warehouse.commits import Descriptor, writer_options
from warehouse.datasets.feature_set import FeatureSet
from warehouse.errors import FoleyError
from warehouse.files import identity_hash, new_folder, write_file
from warehouse.rows.live import Listings, run_checked, sources
from warehouse.rows.read import Selection, gather, locate
from warehouse.schema import array_spec, is_array

if TYPE_CHECKING:
    from warehouse.datasets.versions import Dataset
    from warehouse.home import Home

pc: Any = pyarrow.compute  # its functions are made at import, so type checkers do not see them

_BLOCK = 64
_WINDOW = 1024
_WINDOW_BYTES = 256 << 20
_SHARD_BYTES = 1 << 30
_GROUP = 64
_GROUP_BYTES = 64 << 20

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class FeatureRequest:
    """Which features to join: columns of the stages in `fingerprints`, for clips of a dataset.

    None stands for all splits, and for no subset. `seed` decides in which order clips are written.
    """

    dataset: Dataset
    fingerprints: Mapping[str, str]
    columns: Sequence[str]
    split: str | None = "train"
    subset: str | None = None
    seed: int = 0


def build(home: Home, request: FeatureRequest, progress: Progress | None = None) -> FeatureSet:
    """Write the feature set of a dataset's split, or open it when it exists.

    Its id is a hash of the dataset version, the split, the columns, the fingerprints of the stages
    that they come from, the clips that have them all, and the seed. Arrays whose shape differs from
    clip to clip are padded with zeros to the largest. Members without a passed row in one of the
    stages are left out and counted in `meta["missing"]`. Raises FoleyError for an unknown column
    and when no clip is left.
    """
    columns = _columns_by_stage(home, request)
    stages = [descriptor for descriptor, _ in columns if descriptor.stage != "clips"]
    used = {descriptor.stage: descriptor.fingerprint for descriptor in stages}
    dataset, split = request.dataset, request.split
    wanted = dataset.clip_ids(split, request.subset)
    meta: dict[str, Any] = {
        "dataset": dataset.version,
        "split": split,
        "subset": request.subset,
        "seed": request.seed,
        "columns": list(request.columns),
        "fingerprints": used,
    }

    def work(listings: Listings) -> Path:
        passed = Selection(clip_ids=wanted)
        places = [locate(home, listings, descriptor, passed) for descriptor, _ in columns]
        schemas = [(descriptor.all_columns, names) for descriptor, names in columns]
        join = _Join(schemas, _shuffled_together(places, request.seed), request.columns)
        clips = join.places[0]["clip_id"].to_pylist()
        if not clips:
            which = f"{dataset.version} ({split or 'all splits'})"
            raise FoleyError(f"no clip of {which} passed {', '.join(used)}")
        id_ = f"{dataset.name}-{split or 'all'}-{identity_hash([meta, clips])[:12]}"
        target = home.folder("features") / id_
        if not (target / "_features.json").exists():
            note = {"id": id_, **meta, "clips": len(clips), "missing": len(wanted) - len(clips)}
            with new_folder(home.tmp, target) as folder:
                note["shards"] = _write_shards(folder, join, note, progress)
                text = json.dumps(note, indent=1).encode()
                write_file(folder, lambda handle: handle.write(text), folder / "_features.json")
        return target

    return FeatureSet.open(run_checked(home, sources(*stages), work))


def _columns_by_stage(home: Home, request: FeatureRequest) -> list[tuple[Descriptor, list[str]]]:
    """The stages that give the columns, each with their names; `clips` comes first."""
    clips = home.descriptor("clips", "source")
    descriptors = [clips, *(home.descriptor(*item) for item in request.fingerprints.items())]
    names: dict[str, list[str]] = {"clips": ["clip_id"]}
    for column in request.columns:
        owners = [d.stage for d in descriptors if column in d.columns.names]
        if not owners and column != "clip_id":
            stages = ", ".join(request.fingerprints)
            raise FoleyError(f"no planned stage among {stages} has a column {column!r}")
        if column != "clip_id":
            names.setdefault(owners[0], []).append(column)
    stages = {descriptor.stage: descriptor for descriptor in descriptors}
    return [(stages[stage], columns) for stage, columns in names.items()]


def _shuffled_together(places: Sequence[pa.Table], seed: int) -> list[pa.Table]:
    """The places of the clips that all stages have, in the same random order."""
    common = set.intersection(*(set(table["clip_id"].to_pylist()) for table in places))
    ids, order = pa.array(sorted(common), pa.string()), pa.array(_shuffled(len(common), seed))
    return [table.filter(pc.is_in(table["clip_id"], ids)).take(order) for table in places]


def _shuffled(count: int, seed: int) -> np.ndarray:
    """A random order [count] that still reads commits in pieces: blocks mixed over windows."""
    rng = np.random.default_rng(seed)
    order = np.arange(count)
    blocks = [order[b * _BLOCK : (b + 1) * _BLOCK] for b in rng.permutation(-(-count // _BLOCK))]
    order = np.concatenate([order[:0], *blocks])
    for begin in range(0, count, _WINDOW):
        rng.shuffle(order[begin : begin + _WINDOW])
    return order


def _windows(count: int, size: int) -> Iterator[tuple[int, int]]:
    return ((begin, min(count, begin + size)) for begin in range(0, count, size))


@dataclass(frozen=True)
class _Join:
    """Columns of several stages side by side.

    `stages` are the schema of each stage and the names of its columns, `places` where its rows of
    the clips lie, in writing order, and `columns` those that are written.
    """

    stages: Sequence[tuple[pa.Schema, Sequence[str]]]
    places: Sequence[pa.Table]
    columns: Sequence[str]

    @property
    def count(self) -> int:
        """Number of clips."""
        return self.places[0].num_rows

    def read(self, begin: int, end: int, only: str | None = None) -> dict[str, pa.ChunkedArray]:
        """Rows begin..end of the columns, or of one of them, by name."""
        values: dict[str, pa.ChunkedArray] = {}
        for (schema, own), places in zip(self.stages, self.places, strict=True):
            names = [name for name in own if only in (None, name)]
            if names:
                rows = gather(places.slice(begin, end - begin), schema, names)
                values |= {name: rows[name] for name in names}
        return values

    @cached_property
    def fields(self) -> dict[str, pa.Field]:
        """The columns as the stages declare them, by name."""
        return {name: schema.field(name) for schema, own in self.stages for name in own}

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every array column as declared, -1 replaced by the largest that there is."""
        shapes: dict[str, tuple[int, ...]] = {}
        for name, column in self.fields.items():
            if is_array(column):
                dtype, shape = array_spec(column)
                unit = np.dtype(dtype).itemsize * _product(n for n in shape if n != -1)
                largest = self._longest(name) // unit if -1 in shape else 0
                shapes[name] = tuple(largest if n == -1 else n for n in shape)
        return shapes

    def _longest(self, name: str) -> int:
        """Bytes of the longest value of an array column."""
        longest = 0
        for begin, end in _windows(self.count, _BLOCK):
            values = self.read(begin, end, only=name)[name]
            longest = max(longest, pc.max(pc.binary_length(values)).as_py() or 0)
        return longest

    def schema(self, note: Mapping[str, Any]) -> pa.Schema:
        """Columns as they are written: clip_id, arrays as padded fixed-size binary at the end."""
        written: list[pa.Field] = []
        for name in dict.fromkeys(["clip_id", *self.columns]):
            column = self.fields[name]
            if is_array(column):
                dtype, declared = array_spec(column)
                free = declared.index(-1) if -1 in declared else 0
                shape = json.dumps(list(self.shapes[name])).encode()
                metadata = {**(column.metadata or {}), b"shape": shape, b"free": b"%d" % free}
                width = np.dtype(dtype).itemsize * _product(self.shapes[name])
                column = pa.field(name, pa.binary(width), nullable=False, metadata=metadata)
            written.append(column)
        written.sort(key=is_array)  # the small columns side by side, to be read in one piece
        return pa.schema(written, metadata={b"foley": json.dumps(dict(note)).encode()})

    def table(self, begin: int, end: int, schema: pa.Schema) -> pa.Table:
        """Rows begin..end of all columns, padded."""
        values = self.read(begin, end)
        arrays: list[Any] = [
            _padded(values[f.name], f, self.shapes[f.name])
            if f.name in self.shapes
            else values[f.name]
            for f in schema
        ]
        return pa.table(arrays, schema=schema)


def _product(sizes: Any) -> int:
    return int(np.prod(list(sizes), dtype=np.int64))


def _write_shards(
    folder: Path, join: _Join, note: Mapping[str, Any], progress: Progress | None
) -> list[dict[str, Any]]:
    """Write all rows as shards of about 1 GiB; returns their names, rows and bytes."""
    schema = join.schema(note)
    row_bytes = max(1, sum(f.type.byte_width for f in schema if is_array(f)))
    group = max(1, min(_GROUP, _GROUP_BYTES // row_bytes))
    window = max(group, min(_WINDOW, _WINDOW_BYTES // row_bytes) // group * group)
    per_shard = max(window, _SHARD_BYTES // row_bytes // window * window)
    # One page a row group, so that a value's place follows from the footer.
    page: dict[str, Any] = {"data_page_size": (1 << 31) - 1, "write_batch_size": group}
    options = writer_options(schema) | page
    shards: list[dict[str, Any]] = []
    for begin, end in _windows(join.count, per_shard):
        path = folder / f"{len(shards):05d}.parquet"
        with pq.ParquetWriter(path, schema, **options) as writer:
            for first, last in _windows(end - begin, window):
                rows = join.table(begin + first, begin + last, schema)
                writer.write_table(rows, row_group_size=group)
                if progress:
                    progress(begin + last, join.count)
        with open(path, "rb") as handle:
            os.fsync(handle.fileno())
        shards.append({"file": path.name, "rows": end - begin, "bytes": path.stat().st_size})
    return shards


def _padded(values: pa.ChunkedArray, column: pa.Field, shape: tuple[int, ...]) -> pa.Array:
    """Values as fixed-size binary, zero-padded at the end of the dimension that varies."""
    dtype, _ = array_spec(column)
    free = int((column.metadata or {}).get(b"free", b"0"))
    unit_shape = [-1 if i == free else n for i, n in enumerate(shape)]
    out = np.zeros((len(values), *shape), dtype)
    for i, value in enumerate(values):
        raw = value.as_buffer()
        if raw is None:
            advice = "correct the stage that writes it"
            raise FoleyError(f"column {column.name} is empty for a clip that passed: {advice}")
        array = np.frombuffer(raw, dtype).reshape(unit_shape)
        out[(i, *(slice(0, n) for n in array.shape))] = array
    return pa.Array.from_buffers(column.type, len(values), [None, pa.py_buffer(out.tobytes())])
