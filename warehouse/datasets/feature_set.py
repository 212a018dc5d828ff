"""FeatureSet: joined, shuffled training arrays of a dataset split, as plain Parquet.

Array columns are fixed-size binary, uncompressed, one page a row group. So a value's place in the
file follows from the footer, and the reader fetches rows straight into the batch: one copy, no
decoding, bounded memory.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from warehouse.errors import FoleyError, clear_os_errors
from warehouse.files import read_json
from warehouse.schema import array_spec, is_array

Arrays = dict[str, np.ndarray]
_WINDOW = 256
_WINDOW_BYTES = 256 << 20
_AHEAD = 2
_OPEN_FILES = 64
_ADVICE = 128 << 10


@dataclass(frozen=True)
class ArrayColumn:
    """Dtype and shape of one clip's value in an array column."""

    dtype: str
    shape: tuple[int, ...]

    @cached_property
    def nbytes(self) -> int:
        """Bytes of one value."""
        return int(np.dtype(self.dtype).itemsize * np.prod(self.shape, dtype=np.int64))


class FeatureSet:
    """An immutable folder of feature shards: see :func:`warehouse.datasets.feature_build.build`."""

    def __init__(self, path: Path, meta: dict[str, Any]) -> None:
        """Read the shards' footers.

        Raises FoleyError when a shard is missing or not as it was written.
        """
        self.path, self.meta, self.id = path, meta, str(meta["id"])
        self._files = [path / shard["file"] for shard in meta["shards"]]
        for file, shard in zip(self._files, meta["shards"], strict=True):
            if not file.is_file() or file.stat().st_size != shard["bytes"]:
                advice = f"delete {path} and build it again"
                raise FoleyError(f"feature shard {file} is missing or damaged: {advice}")
        empty = pa.schema([pa.field("clip_id", pa.string())])
        self.schema = pq.read_schema(self._files[0]) if self._files else empty
        self.columns = {f.name: ArrayColumn(*array_spec(f)) for f in self.schema if is_array(f)}
        self._index = _Index(self._files, self.columns)

    @staticmethod
    def open(path: str | Path) -> FeatureSet:
        """Open a feature set. Raises FoleyError when there is none or a shard is damaged."""
        return FeatureSet(Path(path), read_json(Path(path) / "_features.json"))

    def __len__(self) -> int:
        return len(self._index.group)

    def steps(self, batch_size: int, world: int = 1, drop_last: bool = True) -> int:
        """Batches an epoch: the same for every rank with `drop_last`, else those of rank 0."""
        if drop_last:
            return len(self) // world // batch_size
        return math.ceil(math.ceil(len(self) / world) / batch_size)

    def batches(
        self,
        batch_size: int,
        seed: int = 0,
        epoch: int = 0,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
        drop_last: bool = True,
        columns: Sequence[str] | None = None,
    ) -> Iterator[Arrays]:
        """Shuffled batches of a rank, from batch number `start` on.

        Yields clip_id and every other column: arrays [B, *shape] in their own dtype, numbers and
        texts [B]. The order is a function of (seed, epoch, batch_size, rank, world) alone; ranks
        take disjoint clips. With `drop_last` all ranks give the same number of full batches, else
        every clip comes once. Clips are shuffled within windows of 256 clips (256 MiB at most) of
        row groups in random order; the system reads the next two windows ahead while this one is
        used, and no more than a batch is held in memory.
        """
        stream = self._index.stream(np.random.default_rng([seed, epoch]))
        rows = stream[self._share(batch_size, rank, world, drop_last)]
        row_bytes = max(1, sum(column.nbytes for column in self.columns.values()))
        window = max(1, min(_WINDOW, _WINDOW_BYTES // row_bytes) // batch_size) * batch_size
        first = start * batch_size // window
        parts = [rows[begin : begin + window] for begin in range(first * window, len(rows), window)]
        with _Reader(self._files, self._index, self.schema, columns) as reader:
            for part in parts[:_AHEAD]:
                reader.advise(self._index.groups(part))
            for number, part in enumerate(parts, first):
                reader.load(part)
                soon = parts[number - first + _AHEAD :][:1]
                ahead = self._index.groups(soon[0]) if soon else np.empty(0, np.int64)
                order = np.random.default_rng([seed, epoch, rank, number]).permutation(len(part))
                begins = range(max(0, start * batch_size - number * window), len(part), batch_size)
                # What is read ahead is asked for in equal shares between the batches.
                turns = np.linspace(0, len(ahead), len(begins) + 1).astype(int)
                for begin, a, b in zip(begins, turns[:-1], turns[1:], strict=True):
                    reader.advise(ahead[a:b])
                    yield reader.read(part[order[begin : begin + batch_size]])

    def _share(self, batch_size: int, rank: int, world: int, drop_last: bool) -> slice:
        """The rank's part of an epoch's rows."""
        if drop_last:
            begin = rank * (len(self) // world)
            return slice(begin, begin + self.steps(batch_size, world) * batch_size)
        bounds = np.linspace(0, len(self), world + 1).astype(np.int64)
        return slice(int(bounds[rank]), int(bounds[rank + 1]))

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
        with _Reader(self._files, self._index, self.schema, columns) as reader:
            reader.load(rows)
            return reader.read(rows)

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {clip: row for row, clip in enumerate(self.clip_ids())}

    def clip_ids(self) -> list[str]:
        """Ids of the clips in stored order."""
        tables = (pq.read_table(file, columns=["clip_id"]) for file in self._files)
        return [clip for table in tables for clip in table["clip_id"].to_pylist()]


class _Index:
    """Where every row lies: its row group, and the group's file and byte offsets by column."""

    def __init__(self, files: Sequence[Path], columns: Mapping[str, ArrayColumn]) -> None:
        places: list[tuple[int, int, int]] = []  # file, group within the file, rows
        scalars: list[tuple[int, int]] = []  # where the other columns begin, their bytes
        offsets: dict[str, list[int]] = {name: [] for name in columns}
        for number, file in enumerate(files):
            metadata = pq.read_metadata(file)
            names = [metadata.schema.column(i).name for i in range(metadata.num_columns)]
            for g in range(metadata.num_row_groups):
                group = metadata.row_group(g)
                places.append((number, g, group.num_rows))
                small = [group.column(i) for i, name in enumerate(names) if name not in columns]
                first = min(c.dictionary_page_offset or c.data_page_offset for c in small)
                scalars.append((first, sum(c.total_compressed_size for c in small)))
                for name, column in columns.items():
                    chunk = group.column(names.index(name))
                    offsets[name].append(_values_at(chunk, group.num_rows, column, file))
        self.places = np.array(places, np.int64).reshape(-1, 3)
        self.scalars = scalars
        self.columns = columns
        self.offsets = {name: np.array(places, np.int64) for name, places in offsets.items()}
        sizes = self.places[:, 2]
        self.starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self.group = np.repeat(np.arange(len(sizes)), sizes)

    def groups(self, rows: np.ndarray) -> np.ndarray:
        """Numbers of the row groups that hold these rows, sorted."""
        return np.unique(self.group[rows])

    def stream(self, rng: np.random.Generator) -> np.ndarray:
        """All row numbers [N], row groups in random order, rows of a group together."""
        order = rng.permutation(len(self.places))
        pieces = [np.arange(int(self.starts[g]), int(self.starts[g + 1])) for g in order]
        return np.concatenate(pieces) if pieces else np.empty(0, np.int64)


def _values_at(chunk: Any, rows: int, column: ArrayColumn, file: Path) -> int:
    """Byte offset of a column chunk's first value: its only page ends with the values."""
    end = chunk.data_page_offset + chunk.total_compressed_size
    start = end - rows * column.nbytes
    if chunk.compression != "UNCOMPRESSED" or not 0 < start - chunk.data_page_offset < 512:
        advice = "build the features again"
        raise FoleyError(f"feature shard {file} is not laid out as this reader expects: {advice}")
    return start


class _Reader:
    """Reads rows by number, straight into the arrays of a batch."""

    def __init__(
        self, files: Sequence[Path], index: _Index, schema: pa.Schema, wanted: Sequence[str] | None
    ) -> None:
        names = list(dict.fromkeys(["clip_id", *(schema.names if wanted is None else wanted)]))
        unknown = ", ".join(name for name in names if name not in schema.names)
        if unknown:
            raise FoleyError(
                f"these features have no {unknown}; they have {', '.join(schema.names)}"
            )
        self._files, self._index, self._schema = files, index, schema
        self._handles: dict[int, int] = {}
        self._arrays = {name: index.columns[name] for name in names if name in index.columns}
        self._scalars = [name for name in names if name not in index.columns]
        self._groups = self._bases = np.empty(0, np.int64)
        self._values: Arrays = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles.values():
            os.close(handle)
        self._handles.clear()

    def advise(self, groups: Iterable[int]) -> None:
        """Tell the system which row groups are wanted soon."""
        for g in groups:
            file, _, count = (int(n) for n in self._index.places[g])
            handle = self._handle(file)
            os.posix_fadvise(handle, *self._index.scalars[g], os.POSIX_FADV_WILLNEED)
            for name, column in self._arrays.items():
                start = int(self._index.offsets[name][g])
                # Linux reads no more than its read-ahead size of one advice: ask in parts.
                for part in range(start, start + count * column.nbytes, _ADVICE):
                    os.posix_fadvise(handle, part, _ADVICE, os.POSIX_FADV_WILLNEED)

    def load(self, rows: np.ndarray) -> None:
        """Load the scalar columns of the row groups that hold these rows."""
        self._groups = self._index.groups(rows)
        places = self._index.places[self._groups]
        self._bases = np.cumsum(places[:, 2]) - places[:, 2]
        tables: list[pa.Table] = []
        for file in np.unique(places[:, 0]):
            groups = places[places[:, 0] == file, 1].tolist()
            with pq.ParquetFile(self._files[int(file)]) as shard:
                tables.append(shard.read_row_groups(groups, columns=self._scalars))
        table = pa.concat_tables(tables) if tables else self._schema.empty_table()
        self._values = {name: table[name].to_numpy() for name in self._scalars}

    def read(self, rows: np.ndarray) -> Arrays:
        """The batch of these row numbers, in this order; they are among those loaded."""
        groups = self._index.group[rows]
        inside = rows - self._index.starts[groups]
        where = self._bases[np.searchsorted(self._groups, groups)] + inside
        batch: Arrays = {name: self._values[name][where] for name in self._scalars}
        for name, column in self._arrays.items():
            batch[name] = self._read_arrays(name, column, groups, inside)
        return batch

    def _read_arrays(
        self, name: str, column: ArrayColumn, groups: np.ndarray, inside: np.ndarray
    ) -> np.ndarray:
        out = np.empty((len(groups), *column.shape), column.dtype)
        flat = out.reshape(len(groups), -1).view(np.uint8)
        files = self._index.places[groups, 0].tolist()
        starts = (self._index.offsets[name][groups] + inside * column.nbytes).tolist()
        for row, file, start in zip(flat, files, starts, strict=True):
            if os.preadv(self._handle(file), [row.data], start) != column.nbytes:
                shard = self._files[file]
                raise FoleyError(f"feature shard {shard} ends too early: build the features again")
        return out

    def _handle(self, file: int) -> int:
        if file not in self._handles:
            if len(self._handles) >= _OPEN_FILES:
                os.close(self._handles.pop(next(iter(self._handles))))
            with clear_os_errors(f"read {self._files[file]}"):
                self._handles[file] = os.open(self._files[file], os.O_RDONLY)
        return self._handles[file]
