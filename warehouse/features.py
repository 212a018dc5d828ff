"""FeatureSet: the joined, shuffled training arrays of one dataset split, as Parquet that any tool can read.

Array columns are fixed-size binary, plain and uncompressed, one page a row group. So a value's place in the file
follows from the footer, and the reader fetches rows straight into the batch: one copy, no decoding, no growth of memory.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from warehouse.errors import FoleyError, clear_os_errors
from warehouse.files import read_json
from warehouse.schema import array_spec, is_array

if TYPE_CHECKING:
    from warehouse.datasets import Dataset
    from warehouse.store import Warehouse

Arrays = dict[str, np.ndarray]
_BUFFER_BYTES = 256 << 20
_OPEN_FILES = 64


@dataclass(frozen=True)
class Column:
    """Dtype and shape of one clip's value in an array column."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of one value."""
        return int(np.dtype(self.dtype).itemsize * np.prod(self.shape, dtype=np.int64))


class FeatureSet:
    """An immutable folder of feature shards. Open with :meth:`open` or make with :meth:`build`."""

    def __init__(self, path: Path, meta: dict[str, Any]) -> None:
        """Read the shards' footers. Raises FoleyError when a shard is missing or not as it was written."""
        self.path, self.meta, self.id = path, meta, str(meta["id"])
        self._files = [path / shard["file"] for shard in meta["shards"]]
        for file, shard in zip(self._files, meta["shards"], strict=True):
            if not file.is_file() or file.stat().st_size != shard["bytes"]:
                raise FoleyError(f"feature shard {file} is missing or damaged: delete {path} and build it again")
        self.schema = pq.read_schema(self._files[0]) if self._files else pa.schema([pa.field("clip_id", pa.string())])
        self.columns = {f.name: Column(*array_spec(f)) for f in self.schema if is_array(f)}
        self._index = _Index(self._files, self.columns)

    @staticmethod
    def build(
        wh: Warehouse,
        dataset: Dataset,
        fps: Mapping[str, str],
        columns: Sequence[str],
        split: str | None = "train",
        subset: str | None = None,
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> FeatureSet:
        """Join columns of clips and stages a clip, shuffle, and write them once: see warehouse.feature_build.build."""
        from warehouse.feature_build import build

        return build(wh, dataset, fps, columns, split, subset, seed, progress)

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
        each = math.ceil(len(self) / world)
        return math.ceil(each / batch_size)

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

        Yields clip_id and every other column: arrays [B, *shape] in their own dtype, numbers and texts [B]. The order
        is a function of (seed, epoch, batch_size, rank, world) alone; ranks take disjoint clips. With `drop_last` all
        ranks give the same number of full batches, else every clip comes once. At most a buffer of 256 MiB is looked
        ahead, and no more than a batch is held.
        """
        stream = self._index.stream(np.random.default_rng([seed, epoch]))
        if drop_last:
            each = len(self) // world
            mine = stream[rank * each : (rank + 1) * each]
            mine = mine[: len(mine) // batch_size * batch_size]
        else:
            bounds = np.linspace(0, len(self), world + 1).astype(np.int64)
            mine = stream[bounds[rank] : bounds[rank + 1]]
        window = max(1, min(1024, _BUFFER_BYTES // self._row_bytes()) // batch_size) * batch_size
        reader = _Reader(self._files, self._index, self.columns, self.schema, columns)
        with reader:
            for begin in range(start * batch_size // window * window, len(mine), window):
                part = mine[begin : begin + window]
                reader.prepare(part)
                part = part[np.random.default_rng([seed, epoch, rank, begin]).permutation(len(part))]
                for i in range(max(0, start * batch_size - begin), len(part), batch_size):
                    yield reader.read(part[i : i + batch_size])

    def read(self, clip_ids: Sequence[str] | None = None, columns: Sequence[str] | None = None) -> Arrays:
        """Values of the clips asked for, in that order (default: all, as stored). FoleyError for unknown clips."""
        rows = np.arange(len(self))
        if clip_ids is not None:
            where = {clip: i for i, clip in enumerate(self.clip_ids())}
            unknown = [clip for clip in clip_ids if clip not in where]
            if unknown:
                raise FoleyError(f"features {self.id} hold no clip {', '.join(unknown[:5])}")
            rows = np.array([where[clip] for clip in clip_ids], np.int64)
        with _Reader(self._files, self._index, self.columns, self.schema, columns) as reader:
            reader.prepare(rows)
            return reader.read(rows)

    def clip_ids(self) -> list[str]:
        """Ids of the clips in stored order."""
        return [
            clip for file in self._files for clip in pq.read_table(file, columns=["clip_id"])["clip_id"].to_pylist()
        ]

    def _row_bytes(self) -> int:
        return max(1, sum(column.nbytes for column in self.columns.values()))


class _Index:
    """Where every row lies: its row group, and the group's file and byte offsets by column."""

    def __init__(self, files: Sequence[Path], columns: Mapping[str, Column]) -> None:
        places: list[tuple[int, int, int]] = []  # file, group within the file, rows
        offsets: dict[str, list[int]] = {name: [] for name in columns}
        for number, file in enumerate(files):
            metadata = pq.read_metadata(file)
            names = [metadata.schema.column(i).name for i in range(metadata.num_columns)]
            for g in range(metadata.num_row_groups):
                group = metadata.row_group(g)
                places.append((number, g, group.num_rows))
                for name, column in columns.items():
                    offsets[name].append(_values_at(group.column(names.index(name)), group.num_rows, column, file))
        self.places = np.array(places, np.int64).reshape(-1, 3)
        self.offsets = {name: np.array(found, np.int64) for name, found in offsets.items()}
        sizes = self.places[:, 2]
        self.starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self.group = np.repeat(np.arange(len(sizes)), sizes)

    def stream(self, rng: np.random.Generator) -> np.ndarray:
        """All row numbers [N], row groups in random order, rows of a group together."""
        order = rng.permutation(len(self.places))
        pieces = [np.arange(self.starts[g], self.starts[g + 1]) for g in order]
        return np.concatenate(pieces) if pieces else np.empty(0, np.int64)


def _values_at(chunk: Any, rows: int, column: Column, file: Path) -> int:
    """Byte offset of a column chunk's first value: its only page ends with the values."""
    end = chunk.data_page_offset + chunk.total_compressed_size
    start = end - rows * column.nbytes
    if chunk.compression != "UNCOMPRESSED" or not 0 < start - chunk.data_page_offset < 512:
        raise FoleyError(f"feature shard {file} is not laid out as this reader expects: build the features again")
    return start


class _Reader:
    """Reads rows by number, straight into the arrays of a batch."""

    def __init__(
        self,
        files: Sequence[Path],
        index: _Index,
        columns: Mapping[str, Column],
        schema: pa.Schema,
        wanted: Sequence[str] | None,
    ) -> None:
        names = list(dict.fromkeys(["clip_id", *(wanted if wanted is not None else schema.names)]))
        unknown = [name for name in names if name not in schema.names]
        if unknown:
            raise FoleyError(f"these features have no {', '.join(unknown)}; they have {', '.join(schema.names)}")
        self._files, self._index, self._handles = files, index, dict[int, int]()
        self._arrays = {name: columns[name] for name in names if name in columns}
        self._scalars = [name for name in names if name not in columns]
        self._tables: dict[int, pa.Table] = {}

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles.values():
            os.close(handle)
        self._handles.clear()

    def prepare(self, rows: np.ndarray) -> None:
        """Tell the system which row groups come next, and load their scalar columns."""
        groups = np.unique(self._index.group[rows])
        kept = {int(g): self._tables[int(g)] for g in groups if int(g) in self._tables}
        by_file: dict[int, list[int]] = {}
        for g in groups:
            file, _, count = (int(n) for n in self._index.places[g])
            for name, column in self._arrays.items():
                start = int(self._index.offsets[name][g])
                os.posix_fadvise(self._handle(file), start, count * column.nbytes, os.POSIX_FADV_WILLNEED)
            if int(g) not in kept:
                by_file.setdefault(file, []).append(int(g))
        for file, missing in by_file.items():
            with pq.ParquetFile(self._files[file]) as shard:
                for g in missing:
                    kept[g] = shard.read_row_group(int(self._index.places[g, 1]), columns=self._scalars)
        self._tables = kept

    def read(self, rows: np.ndarray) -> Arrays:
        """The batch of these row numbers, in this order."""
        groups = self._index.group[rows]
        inside = rows - self._index.starts[groups]
        batch: Arrays = {}
        for name in self._scalars:
            cells = [self._tables[int(g)][name][int(i)].as_py() for g, i in zip(groups, inside, strict=True)]
            batch[name] = np.array(cells) if cells and isinstance(cells[0], int | float) else np.array(cells, object)
        for name, column in self._arrays.items():
            batch[name] = self._read_arrays(name, column, groups, inside)
        return batch

    def _read_arrays(self, name: str, column: Column, groups: np.ndarray, inside: np.ndarray) -> np.ndarray:
        out = np.empty((len(groups), *column.shape), column.dtype)
        flat = out.reshape(len(groups), -1).view(np.uint8) if column.nbytes else out.reshape(len(groups), 0)
        files = self._index.places[groups, 0]
        starts = self._index.offsets[name][groups] + inside * column.nbytes
        for i in range(len(groups)):
            handle = self._handle(int(files[i]))
            if column.nbytes and os.preadv(handle, [flat[i]], int(starts[i])) != column.nbytes:
                raise FoleyError(f"feature shard {self._files[int(files[i])]} ends too early: build the features again")
        return out

    def _handle(self, file: int) -> int:
        if file not in self._handles:
            if len(self._handles) >= _OPEN_FILES:
                os.close(self._handles.pop(next(iter(self._handles))))
            with clear_os_errors(f"read {self._files[file]}"):
                self._handles[file] = os.open(self._files[file], os.O_RDONLY)
        return self._handles[file]
