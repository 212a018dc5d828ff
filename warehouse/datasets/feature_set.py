"""FeatureSet: joined, shuffled training arrays of a dataset split, as plain Parquet.

How its shards lie is described in layout.py, how they are read in feature_reader.py, and in which
order in epoch.py.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq

from warehouse.datasets.epoch import Epoch
from warehouse.datasets.feature_reader import (
    ArrayColumn,
    Arrays,
    DamagedShardError,
    Index,
    OpenShards,
    Reader,
)
from warehouse.datasets.layout import CRC, KEY, OWN, flags, order_of
from warehouse.errors import FoleyError, clear_os_errors
from warehouse.files import Json, read_json
from warehouse.rows.damage import set_aside_shard
from warehouse.rows.live import literal
from warehouse.schema import array_spec, is_array

if TYPE_CHECKING:
    from warehouse.home import Home

_GROUP = 64


def nested(values: np.ndarray) -> pa.Array:
    """Arrays [count, *shape] as fixed-size lists of lists of float32."""
    lists: object = pa.array(values.astype(np.float32).reshape(-1))
    for size in values.shape[:0:-1]:
        lists = pa.FixedSizeListArray.from_arrays(lists, size)
    return lists


class FeatureSet:
    """An immutable folder of feature shards: see :func:`warehouse.datasets.feature_build.build`."""

    def __init__(self, path: Path, meta: Json, home: Home | None = None) -> None:
        """Read the shards' footers.

        With `home` a shard that turns out damaged is set aside with all sets that hold it. Raises
        FoleyError when a shard is missing or not as it was written.
        """
        self.path, self.meta, self.id, self._home = path, meta, str(meta["id"]), home
        self._files = [path / shard["file"] for shard in meta["shards"]]
        for file, shard in zip(self._files, meta["shards"], strict=True):
            if not file.is_file() or file.stat().st_size != shard["bytes"]:
                advice = f"delete {path} and build it again"
                raise FoleyError(f"feature shard {file} is missing or damaged: {advice}")
        empty = pa.schema([pa.field("clip_id", pa.string())])
        stored = pq.read_schema(self._files[0]) if self._files else empty
        self.schema = pa.schema([f for f in stored if not f.name.startswith(OWN)])
        specs = {f.name: array_spec(f) for f in self.schema if is_array(f)}
        shapes = meta.get("shapes", {})  # those of the set, where a shard may be narrower
        self.columns = {
            name: ArrayColumn(dtype, tuple(shapes.get(name, shape)))
            for name, (dtype, shape) in specs.items()
        }
        self._index = Index(self._files, list(specs))
        self._shards = OpenShards(self._files)

    @staticmethod
    def open(path: str | Path, home: Home | None = None) -> FeatureSet:
        """Open a feature set. Raises FoleyError when there is none or a shard is damaged."""
        try:
            return FeatureSet(Path(path), read_json(Path(path) / "_features.json"), home)
        except (OSError, ValueError, KeyError, pa.ArrowException) as exc:
            advice = "build them again, or run foley verify --repair"
            raise FoleyError(f"features {path} are damaged ({exc}): {advice}") from exc

    def __len__(self) -> int:
        return len(self._order)

    @cached_property
    def _small(self) -> pa.Table:
        """The columns that hold no arrays, of all rows of all shards, and the CRCs of the others.

        A shard of an older foley has no CRCs: they are -1.
        """
        names = [name for name in self.schema.names if name not in self.columns]
        crcs = [CRC + name for name in self.columns]
        empty = pa.schema(
            [*map(self.schema.field, names), *(pa.field(n, pa.int64()) for n in crcs)]
        )
        tables = [empty.empty_table()]
        for file in self._files:
            table = self._read_twice(file, [*names, *crcs])
            for name in set(crcs).difference(table.column_names):
                table = table.append_column(name, pa.array(np.full(len(table), -1)))
            tables.append(table.select(empty.names).cast(empty))
        return pa.concat_tables(tables).combine_chunks()

    def _read_twice(self, file: Path, names: Sequence[str]) -> pa.Table:
        """Those columns of a shard that it has; damaged is what reads wrong twice."""
        with clear_os_errors(f"read {file}"):
            for again in (False, True):
                try:
                    with pq.ParquetFile(file, page_checksum_verification=True) as shard:
                        there = [name for name in names if name in shard.schema_arrow.names]
                        return shard.read(columns=there)
                except (OSError, pa.ArrowException) as exc:
                    if isinstance(exc, OSError) and exc.errno is not None:
                        raise  # of the system, such as too many open files
                    if again:
                        self._put_aside(file)
                        raise DamagedShardError(file, f"is damaged ({exc})") from exc
        raise AssertionError

    def _put_aside(self, shard: Path) -> None:
        if self._home is not None:
            set_aside_shard(self._home, shard)

    @cached_property
    def _order(self) -> np.ndarray:
        """Place of every row of the set among all rows of its shards."""
        shards = self.meta["shards"]
        if not any("linked" in shard for shard in shards):
            return np.arange(self._index.rows)  # it was written at once, and in order
        return order_of(self._small["clip_id"].to_pylist(), shards, self.meta["seed"])

    def rows(self, epoch: Epoch) -> list[np.ndarray]:
        """Row numbers of each batch of an epoch: a function of the epoch and of the clips alone."""
        pieces = np.split(np.arange(len(self)), range(self._group, len(self), self._group))
        row_bytes = sum(column.nbytes for column in self.columns.values())
        return epoch.batches(pieces, row_bytes, self.column(epoch.by) if epoch.by else None)

    @property
    def _group(self) -> int:
        """Rows that lie together in a set that was written at once."""
        return self.meta.get("group") or self._index.group_rows

    def column(self, name: str) -> np.ndarray:
        """A column of numbers, of every row. Raises FoleyError if there is none of that name."""
        if name not in self.schema.names or name in self.columns:
            raise FoleyError(f"these features have no column of numbers {name!r}")
        return self._small[name].to_numpy()[self._order]

    def batches(
        self, epoch: Epoch, start: int = 0, step: int = 1, columns: Sequence[str] | None = None
    ) -> Iterator[Arrays]:
        """Batches `start`, `start + step` and so on of an epoch.

        Yields clip_id and every other column: arrays [B, *shape] in their own dtype, numbers and
        texts [B]. Rank r of w takes start = r and step = w.
        """
        return self.read_batches(self.rows(epoch)[start::step], columns)

    def read_batches(
        self, batches: Sequence[np.ndarray], columns: Sequence[str] | None = None
    ) -> Iterator[Arrays]:
        """The values of each of these batches of row numbers.

        The system reads the next 1,024 clips ahead (512 MiB at most), and no more than a batch of
        arrays is held in memory.
        """
        with self._reader(columns) as reader:
            yield from reader.follow([self._order[rows] for rows in batches])

    def read(
        self, clip_ids: Sequence[str] | None = None, columns: Sequence[str] | None = None
    ) -> Arrays:
        """Values of the clips asked for, in that order (default: all, as stored).

        Raises FoleyError for unknown clips.
        """
        rows = np.arange(len(self))
        if clip_ids is not None:
            unknown = [clip for clip in clip_ids if clip not in self._row_of]
            if unknown:
                raise FoleyError(f"features {self.id} hold no clip {', '.join(unknown[:5])}")
            rows = np.array([self._row_of[clip] for clip in clip_ids], np.int64)
        with self._reader(columns) as reader:
            return reader.read(self._order[rows])

    @contextmanager
    def _reader(self, wanted: Sequence[str] | None) -> Generator[Reader]:
        every = self.schema.names
        names = list(dict.fromkeys(["clip_id", *(every if wanted is None else wanted)]))
        unknown = ", ".join(name for name in names if name not in every)
        if unknown:
            raise FoleyError(f"these features have no {unknown}; they have {', '.join(every)}")
        arrays = {name: self.columns[name] for name in names if name in self.columns}
        small = self._small.select([CRC + name if name in arrays else name for name in names])
        try:
            with Reader(self._shards, self._index, arrays, small) as reader:
                yield reader
        except DamagedShardError as exc:
            self._put_aside(exc.path)
            raise

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {clip: row for row, clip in enumerate(self.clip_ids())}

    def clip_ids(self) -> list[str]:
        """Ids of the clips in stored order."""
        return self._small["clip_id"].take(pa.array(self._order)).to_pylist()

    def table(
        self, clip_ids: Sequence[str] | None = None, columns: Sequence[str] | None = None
    ) -> pa.Table:
        """As :meth:`read`, as an Arrow table: arrays as nested lists of float32 of their shape."""
        found = self.read(clip_ids, columns)
        return pa.table({n: nested(v) if v.ndim > 1 else pa.array(v) for n, v in found.items()})

    def rows_sql(self) -> str:
        """SQL of the rows as they are stored, arrays as bytes of their shard's shape."""
        parts: list[str] = []
        for file, shard in zip(self._files, self.meta["shards"], strict=True):
            rows = f"read_parquet({literal(str(file))}, file_row_number = true)"
            unused = np.flatnonzero(~flags(shard)).tolist()
            where = f"where not list_contains({unused}, file_row_number)" if unused else ""
            parts.append(f"select * from {rows} {where}")
        return f"({' union all by name '.join(parts)})"

    @property
    def arrow(self) -> pyarrow.dataset.Dataset:
        """The rows as a pyarrow Dataset over the shards, arrays as bytes of their shard's shape."""
        fields = [
            pa.field(f.name, pa.binary(), metadata=f.metadata) if is_array(f) else f
            for f in pq.read_schema(self._files[0])
        ]
        files = [str(file) for file in self._files]
        dataset = pyarrow.dataset.dataset(files, pa.schema(fields), format="parquet")
        if any("used" in shard for shard in self.meta["shards"]):
            used = np.concatenate([flags(shard) for shard in self.meta["shards"]])
            keys = pa.concat_tables(pq.read_table(file, columns=[KEY]) for file in files)
            dataset = dataset.filter(pyarrow.dataset.field(KEY).isin(keys.filter(used)[KEY]))
        return dataset
